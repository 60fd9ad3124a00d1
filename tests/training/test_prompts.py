"""Prompts as the settings cut them: in words or in tokens."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import BAD, GOOD, KINDS, make_tokenizer_of

from plaudit import pipeline
from plaudit.config import build
from plaudit.data.prompts import cut_prompts
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.models.tokenizer import Tokenizer
from plaudit.records import Demonstration
from plaudit.training.prompts import counted_prompts, evaluation_prompts, training_prompts
from plaudit.training.run import Run

TOKENIZERS = {kind: Tokenizer.of(make_tokenizer_of(kind)) for kind in KINDS}
SEVERAL = st.lists(st.sampled_from([*" ".join(GOOD + BAD).split(), "naïve", "фильм", "東京", "🎬", "</s>", "x\ny"]))


def with_settings(run, **general):
    return Run(run.path, dataclasses.replace(run.config, **general))


@pytest.mark.parametrize("kind", KINDS)
@given(words=SEVERAL, n=st.integers(1, 9))
def test_a_beginning_of_a_text_has_the_first_tokens_of_the_text_or_is_empty(kind, words, n):
    tokenizer, text = TOKENIZERS[kind], " ".join(words)
    ids = tokenizer.pieces(text)[:n]
    prompt = tokenizer.beginning(ids)
    if prompt:
        assert tokenizer.prompt(prompt)[-len(ids) :] == ids
        assert len(tokenizer.prompt(prompt)) == len(ids) + (tokenizer.bos_id is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_most_beginnings_of_ordinary_sentences_can_be_written(kind):
    tokenizer = TOKENIZERS[kind]
    found = [tokenizer.beginning(tokenizer.pieces(text)[:n]) for text in GOOD + BAD for n in range(1, 5)]
    assert sum(map(bool, found)) >= 0.8 * len(found)


def test_half_a_character_is_no_prompt():
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.pieces("a 🎬")
    assert tokenizer.beginning(ids) == "a 🎬"
    assert tokenizer.beginning(ids[:-1]) == ""


def test_prompts_in_tokens_are_first_tokens_of_the_texts(finished_run, tiny_tokenizer):
    run = with_settings(Run.existing(finished_run), prompt_unit="tokens", prompt_min=3, prompt_max=6)
    ids, skipped = counted_prompts(run, tiny_tokenizer)
    texts = [tiny_tokenizer.prompt(d.response) for d in run.data.prompts.demonstrations]
    assert sum(skipped.values()) < 0.5 * len(texts)  # this vocabulary has the space before a digit as a token
    assert {5, 6, 7} <= {len(prompt) for prompt in ids} <= {4, 5, 6, 7}  # with bos
    assert all(any(text[: len(prompt)] == prompt and len(text) > len(prompt) for text in texts) for prompt in ids)
    held = evaluation_prompts(run, tiny_tokenizer)
    assert held
    assert set(held).isdisjoint(training_prompts(run, tiny_tokenizer)[0])
    assert {len(tiny_tokenizer.prompt(text)) for text in held} <= {4, 5, 6, 7}


def test_a_prompt_that_other_seeds_train_on_is_not_held_out_from_them(tiny_tokenizer, tmp_path):
    run = Run(tmp_path, build({}))  # sentences of film reviews; the seed decides where a prompt ends
    of_seeds = [set(training_prompts(run, tiny_tokenizer, seed)[0]) for seed in (1, 2, 3)]
    alone, together = (set(evaluation_prompts(run, tiny_tokenizer, seeds)) for seeds in ((), (1, 2, 3)))
    assert not alone & of_seeds[0]
    assert alone & (of_seeds[1] | of_seeds[2])
    assert together == alone - set().union(*of_seeds)


def test_prompts_that_cannot_be_written_are_counted_and_refused_if_none_is_left(
    finished_run, tiny_tokenizer, monkeypatch
):
    run = with_settings(Run.existing(finished_run), prompt_unit="tokens", prompt_min=3, prompt_max=6)
    total = len(counted_prompts(run, tiny_tokenizer)[0])
    write = Tokenizer.beginning
    monkeypatch.setattr(Tokenizer, "beginning", lambda tokenizer, ids: write(tokenizer, ids) if sum(ids) % 4 else "")
    kept, skipped = counted_prompts(run, tiny_tokenizer)
    assert 0 < len(kept) < total
    (number,) = skipped.values()
    expected = f"{number} prompts whose text has other tokens, of 43 texts; they are skipped"
    changed = dataclasses.replace(run.config, evaluation=dataclasses.replace(run.config.evaluation, judge="none"))
    assert expected in pipeline.check(changed, run.path, ("ppo",))
    monkeypatch.setattr(Tokenizer, "beginning", lambda tokenizer, ids: "")
    with pytest.raises(DataError, match="of no text are the tokens of a prompt; use prompt_unit = words"):
        counted_prompts(run, tiny_tokenizer)


def test_prompts_are_cut_from_texts_of_enough_words_only(finished_run, tiny_tokenizer):
    texts = ["one two three four five", "six seven eight nine ten eleven"]
    part = Part(labelled=(), demonstrations=tuple(Demonstration("", text) for text in texts), comparisons=())
    assert len(cut_prompts(part, 2, 3, 1)) == len(cut_prompts(part, 2, 3, 1, from_words=5)) == 2
    (prompt,) = cut_prompts(part, 2, 3, 1, from_words=6)
    assert texts[1].startswith(prompt)
    asked = Part(labelled=(), demonstrations=(Demonstration("Why?", "Because."),), comparisons=())
    assert cut_prompts(asked, 2, 3, 1, from_words=50) == ["Why?"]  # it is not cut
    run = with_settings(Run.existing(finished_run), prompt_from_words=50)
    with pytest.raises(DataError, match="no text of 50 words or more is long enough for a prompt of 2 words; lower"):
        counted_prompts(run, tiny_tokenizer)
    counts = [len(training_prompts(with_settings(run, prompt_from_words=least), tiny_tokenizer)[0]) for least in (7, 0)]
    assert 0 < counts[0] < counts[1]
