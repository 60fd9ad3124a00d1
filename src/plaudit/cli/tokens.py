"""What a run's tokenizer makes of the data: lengths, tokens per word, and which tokens are learned."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.algorithms import reward_model, sft
from plaudit.batches import Sequences
from plaudit.config import Config
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.models.chat import without_refused
from plaudit.models.loading import model_without_weights, window
from plaudit.models.tokenizer import Runs, Tokenizer, collate
from plaudit.records import Text
from plaudit.training.prompts import training_prompts, warn_of_skipped
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

MOST = 10_000  # records of a kind that are measured: more take minutes and change no figure that is shown
_TEXTS = 500  # whose words are counted
# Of a language that is in a vocabulary. Film sentences have 1.5 tokens a word with movie-gpt2 and 1.2 with smollm2,
# English prose with numbers and punctuation 2.0 and 1.6, French and German, which neither has seen, 2.1 to 3.0,
# Russian 12 and 5.
TOKENS_PER_WORD = 2.5
UNKNOWN = 0.01  # share of unknown tokens: a letter that the vocabulary lacks is in more than one word of a hundred
# Chinese and Japanese are written without spaces. A word has about two of these characters.
_WORD = re.compile(r"([\u3040-\u30ff\u3400-\u9fff]{1,2})|[^\s\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens of some records."""

    name: str
    tokens: list[int]
    limit: int | None = None  # from which on they are left out

    @property
    def over(self) -> int:
        """How many are over the limit."""
        return sum(n > self.limit for n in self.tokens) if self.limit is not None else 0

    def cells(self) -> list[str]:
        """Number, median, 95% quantile, longest, limit, and how many are over it."""
        quantiles = [f"{np.quantile(self.tokens, q, method='higher'):,.0f}" for q in (0.5, 0.95, 1.0)]
        limits = ["", ""] if self.limit is None else [f"{self.limit:,}", f"{self.over:,}"]
        return [f"{len(self.tokens):,}", *quantiles, *limits]


@dataclass(frozen=True)
class Measured:
    """The training records as a tokenizer reads them."""

    tokenizer: Tokenizer
    lengths: list[Lengths]
    per_word: float
    warnings: list[str]
    demonstrations: list[Runs]  # what SFT reads, and learns: see `Tokenizer.demonstration`
    judged: list[reward_model.PreferenceExample]


def measure(config: Config) -> Measured:
    """The training records of a run with these settings as its tokenizer reads them.

    Raises:
        ModelError: the model's tokenizer or its config cannot be opened.
        DataError: the chat template refuses every conversation.
    """
    run = Run(Path(os.devnull), config)
    tokenizer, limit = open_tokenizer(run, config.model), window(model_without_weights(config.model))
    part, lengths, warnings = _first(run.data.train), [], []

    def add(name: str, tokens: list[int], limit: int | None = None) -> Lengths:
        lengths.append(Lengths(name, tokens, limit))
        return lengths[-1]

    demonstrations: list[Runs] = []
    if part.demonstrations:
        demonstrations, dropped = sft.tokenise(part.demonstrations, tokenizer, sys.maxsize)
        if any(d.prompt for d in part.demonstrations) or any(len(runs) > 2 for runs in demonstrations):
            add("sft: prompts", [sum(map(len, runs[::2])) for runs in demonstrations])
            add("sft: responses", [sum(map(len, runs[1::2])) for runs in demonstrations])
            whole = add("sft: together", [*map(sft.length, demonstrations)], min(config.sft.max_tokens, limit))
        else:
            whole = add("sft: texts", [*map(sft.length, demonstrations)], min(config.sft.max_tokens, limit))
        warnings.append(_left_out("sft", whole, dropped))
    judged: list[reward_model.PreferenceExample] = []
    if part.judged:
        judged, dropped = reward_model.tokenise(part, tokenizer, sys.maxsize, config.reward_model.ties)
        most = max(len(example.texts) for example in judged)
        kind = {1: "reward model: texts", 2: "reward model: longer one"}.get(most, "reward model: longest")
        longest = add(kind, [max(e.lengths) for e in judged], min(config.reward_model.max_tokens, limit))
        warnings.append(_left_out("reward_model", longest, dropped))
    prompts, skipped = training_prompts(run, tokenizer)
    warnings.append(warn_of_skipped(run, skipped))
    if prompts:
        room = max(0, limit - config.ppo.max_new_tokens)
        answered, refused = without_refused(prompts[:MOST], tokenizer.prompt)
        warnings.append(warn_of_skipped(run, refused))
        asked = add("ppo: prompts", [*map(len, answered)], room)
        if asked.over:
            warnings.append(
                f"{asked.over:,} prompts leave no room in the window of {limit} tokens for a response of "
                f"ppo.max_new_tokens = {config.ppo.max_new_tokens}; lower it, or shorten the prompts"
            )
    per_word, unknown = words_and_unknown(tokenizer, _texts(part))
    if per_word > TOKENS_PER_WORD:
        warnings.append(
            f"{per_word:.1f} tokens per word: the vocabulary of {config.model} does not fit this language; a model "
            f"that fits has fewer than {TOKENS_PER_WORD}; choose one with --model"
        )
    if unknown > UNKNOWN:
        warnings.append(
            f"{unknown:.0%} of the tokens are unknown to {config.model}, which cannot read or write them; choose "
            "another --model"
        )
    return Measured(tokenizer, lengths, per_word, [*filter(None, warnings)], demonstrations, judged)


def words_and_unknown(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[float, float]:
    """Tokens per word of some texts, and the share of the tokens that are unknown ones."""
    words = tokens = unknown = 0
    for text in texts:
        ids = tokenizer.pieces(text)
        words, tokens = words + len(_WORD.findall(text)), tokens + len(ids)
        unknown += ids.count(tokenizer.hf.unk_token_id)
    return tokens / max(words, 1), unknown / max(tokens, 1)


def spans(runs: Runs, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The text of a record, special tokens included, in parts: each with whether a loss is computed on its tokens."""
    batch: Sequences = collate([runs], tokenizer.pad_id)
    ids, learned = batch.ids[0].tolist(), batch.loss_mask[0].tolist()
    learned[0] = False  # nothing predicts the first token
    found: list[tuple[list[int], bool]] = []
    for id, of_response in zip(ids, learned, strict=True):
        if not found or found[-1][1] != of_response:
            found.append(([], of_response))
        found[-1][0].append(id)
    return [(_decoded(tokenizer, part), of_response) for part, of_response in found]


def some_judged(judged: list[reward_model.PreferenceExample]) -> list[reward_model.PreferenceExample]:
    """The first good and the first bad one of labelled texts; otherwise the first one."""
    if len(judged[0].texts) > 1:
        return judged[:1]
    good, bad = ([e for e in judged if (e.judgement.weight >= 0.5) == side][:1] for side in (True, False))
    return good + bad


def responses_of(example: reward_model.PreferenceExample, tokenizer: Tokenizer) -> list[tuple[str, list[Any]]]:
    """Each text of a judgement: what people said about it, and its parts as in `spans`."""
    judgement = example.judgement
    share, number = judgement.weight, len(example.texts)
    if number == 1:
        titles = [f"label {share:g}"]
    elif number == 2:
        better = share >= 0.5
        titles = ["preferred", "other"] if better else ["other", "preferred"]
        titles = ["tie", "tie"] if share == 0.5 else titles
    else:
        titles = [f"place {place}" for place in range(1, number + 1)]
    return [(title, spans(runs, tokenizer)) for title, runs in zip(titles, example.texts, strict=True)]


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _first(part: Part) -> Part:
    """The first records of each kind; their order is that of a hash, so they are a sample."""
    kinds = {name: records[:MOST] for name, records in vars(part).items()}
    return replace(part, **kinds)


def _left_out(stage: str, found: Lengths, dropped: dict[str, int]) -> str:
    """The line with which a run would warn, or refuse the data."""
    try:
        return sft.check_dropped(len(found.tokens) - found.over, dropped | {"too long": found.over}, stage)
    except DataError as error:
        return str(error)


def _texts(part: Part) -> list[str]:
    """What people wrote in the first records."""
    found: list[Text] = [each.prompt for each in part.to_answer[:_TEXTS]]
    for d in part.demonstrations[:_TEXTS]:
        found += [d.prompt, d.response]
    for c in part.comparisons[:_TEXTS]:
        found += [c.prompt, c.response_a, c.response_b]
    for labelled in part.labelled[:_TEXTS]:
        found += [labelled.prompt, labelled.text]
    for ranking in part.rankings[:_TEXTS]:
        found += [ranking.prompt, *ranking.responses]
    each = ([text] if isinstance(text, str) else [message.content for message in text] for text in found)
    return [text for texts in each for text in texts if text]
