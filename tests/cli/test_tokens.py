"""`plaudit data` shows the tokens that are trained on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import BAD, GOOD, make_lm, make_tokenizer_of

from plaudit.algorithms import reward_model, sft
from plaudit.cli import main, tokens
from plaudit.cli.layers import fit
from plaudit.config import build, given
from plaudit.models.loading import load_tokenizer, save
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.training.run import Run

TEXTS = [f"film {i} {text}" for i in range(40) for text in GOOD + BAD]


def _turns(text: str, i: int) -> list[dict[str, str]]:
    words = ("user", f"Is {i} good?"), ("assistant", text), ("user", f"And {i + 1}?"), ("assistant", "Yes.")
    return [{"role": role, "content": content} for role, content in words]


LAYOUTS = {
    "labelled texts": lambda text, i: {"text": text, "label": i % 2},
    "plain texts": lambda text, i: {"text": text},
    "prompts and responses": lambda text, i: {"prompt": f"What of {i}?", "response": text},
    "conversations": lambda text, i: {"messages": _turns(text, i)},
    "comparisons": lambda text, i: {"prompt": f"What of {i}?", "chosen": text, "rejected": "No, " * (i % 7) + text},
    "comparisons of messages": lambda text, i: {"chosen": _turns(text, i), "rejected": _turns(text + " or not", i)},
    "rankings": lambda text, i: {"prompt": f"What of {i}?", "ranked_responses": [text, "So so.", "No."]},
}


@pytest.fixture(params=LAYOUTS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(LAYOUTS[request.param](text, i)) for i, text in enumerate(TEXTS)))
    return path


def test_what_is_shown_is_what_is_trained(
    data: Path, tiny_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = str(tmp_path / "model")
    save(make_lm(window=256), tiny_tokenizer, tmp_path / "model")
    known = {"data.name": str(data), "model": model}
    of_stage = {each.name.partition(":")[0]: each.tokens for each in tokens.measure(fit(known)).lengths}
    limit, most = (int(np.median(of_stage.get(stage, [40]))) for stage in ("sft", "reward model"))
    flags = ["--model", model, "--sft.max-tokens", str(limit), "--reward-model.max-tokens", str(most)]
    assert main(["data", str(data), *flags]) == 0
    out = capsys.readouterr().out
    config = fit(given(known | {"sft.max_tokens": limit, "reward_model.max_tokens": most}))
    found, train = tokens.measure(config), Run(tmp_path, config).data.train
    tokenizer = load_tokenizer(model)
    rows = {line[2:27].strip(): line[27:].replace(",", "").split() for line in out.splitlines() if line[2:27].strip()}
    whole, _ = sft.tokenise(train.demonstrations, tokenizer, sys.maxsize)
    assert found.demonstrations == whole
    for runs in whole[:2]:
        mask = collate([runs], 0).loss_mask[0].tolist()
        ids = [id for run in runs for id in run]
        learned = tokenizer.hf.decode([id for id, of in zip(ids[1:], mask[1:], strict=True) if of])
        parts = tokens.spans(runs, tokenizer)
        assert "".join(text for text, of in parts if of) == learned
        assert "".join(text for text, _ in parts) == tokenizer.hf.decode(ids)
    short, left_out = sft.tokenise(train.demonstrations, tokenizer, limit)
    over = left_out["too long"]
    name = "sft: together" if "sft: prompts" in rows else "sft: texts"
    lengths = sorted(map(sft.length, whole))
    assert rows[name][0] == str(len(short) + over)
    assert rows[name][3:] == [str(lengths[-1]), str(limit), str(over)]
    assert (
        sum(n < int(rows[name][1]) for n in lengths)
        <= len(lengths) / 2
        <= sum(n <= int(rows[name][1]) for n in lengths)
    )
    if train.judged:
        (judged,) = [row for title, row in rows.items() if title.startswith("reward model: ")]
        _, dropped = reward_model.tokenise(train, tokenizer, most, "half")
        assert judged[-2:] == [str(most), str(dropped["too long"])]
        examples, _ = reward_model.tokenise(train, tokenizer, sys.maxsize, "half")
        assert [e.texts for e in found.judged] == [e.texts for e in examples]
    shown = re.findall(r"(?m)^  .*\[\[(.*)\]\]$", out)
    assert shown
    assert all(text.endswith("<|endoftext|>") for text in shown)


def test_both_sides_of_a_comparison_are_shown(
    tmp_path: Path, tiny_model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"What of {i}?", "chosen": "It is good.", "rejected": "It is bad."} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["data", str(tmp_path / "pairs.jsonl"), "--model", tiny_model_folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    (chosen,) = [line for line in lines if line.startswith("  preferred ")]
    (rejected,) = [line for line in lines if line.startswith("  other ")]
    assert chosen.endswith("[[ It is good.<|endoftext|>]]")
    assert rejected.endswith("[[ It is bad.<|endoftext|>]]")
    assert lines[-1] == f"Next: plaudit run --data {tmp_path / 'pairs.jsonl'} --model {tiny_model_folder}"


def test_on_a_terminal_what_is_learned_is_green_and_lines_fit(
    tmp_path: Path, tiny_model_folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"What of {i}?", "response": t}) for i, t in enumerate(TEXTS)))
    assert main(["data", str(path), "--model", tiny_model_folder]) == 0
    out = capsys.readouterr().out
    assert "[[" not in out
    assert re.search(r"\x1b\[32m *film \d", out)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    lines = [line for line in plain.splitlines() if not line.startswith("warning: ") and str(tmp_path) not in line]
    assert [line for line in lines if len(line) > 80] == []


RUSSIAN = ["Это замечательный фильм, я посмотрю его ещё раз.", "Скучно и длинно, жаль потраченного времени."]


def test_a_vocabulary_that_does_not_fit_the_language_is_named() -> None:
    tokenizer = load_tokenizer("movie-gpt2")
    english, _ = tokens.words_and_unknown(tokenizer, GOOD + BAD)
    assert 1.0 <= english < 2.0 < tokens.TOKENS_PER_WORD
    assert tokens.words_and_unknown(tokenizer, RUSSIAN)[0] > 2 * tokens.TOKENS_PER_WORD
    assert tokens.words_and_unknown(tokenizer, ["这部电影很好看，我很喜欢。"])[0] > tokens.TOKENS_PER_WORD
    words = Tokenizer.of(make_tokenizer_of("words"))  # one token a word, but all of them unknown
    assert tokens.words_and_unknown(words, GOOD + BAD)[1] == 0.0
    assert tokens.words_and_unknown(words, RUSSIAN) == (1.0, 1.0)


def test_the_warnings_are_those_of_the_data_and_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"{text} {i}"}) for i, text in enumerate(RUSSIAN * 40)))
    (warning,) = [w for w in tokens.measure(build({"data.name": str(path)})).warnings if "per word" in w]
    assert "the vocabulary of movie-gpt2 does not fit this language" in warning
    config = build({"data.name": str(path), "sft.max_tokens": 8})
    assert any("raise sft.max_tokens" in line for line in tokens.measure(config).warnings)


def test_a_model_that_cannot_be_opened_leaves_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    assert main(["data", str(path), "--model", str(tmp_path / "none")]) == 1
    seen = capsys.readouterr()
    assert "plain texts" in seen.out
    assert "--no-tokens" in seen.err
    assert seen.err.strip().count("\n") == 0
