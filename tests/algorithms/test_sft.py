import json
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from tiny import GOOD, make_lm

from plaudit.algorithms.sft import loss_of, perplexity, sft, tokenise
from plaudit.errors import DataError
from plaudit.models.states import FrozenStates
from plaudit.models.tokenizer import collate
from plaudit.records import Demonstration


@pytest.fixture
def pairs(tiny_tokenizer):
    return [tiny_tokenizer.demonstration("", text) for text in GOOD]


def _by_hand(model, pairs):
    """(nats, tokens) of each text on its own, through transformers' plain forward."""
    out = []
    for prompt, response in pairs:
        ids = torch.tensor([prompt + response])
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
        out.append((F.cross_entropy(logits, torch.tensor(response), reduction="sum").item(), len(response)))
    return out


def test_the_loss_is_the_mean_over_response_tokens_of_each_text_on_its_own(cpu_run, tiny_lm, tiny_tokenizer, pairs):
    pairs = [*pairs, tiny_tokenizer.demonstration("the cast", "is a chore")]
    with torch.no_grad():
        loss = loss_of(tiny_lm, collate(pairs, tiny_tokenizer.pad_id), cpu_run).item()
        nats, tokens = zip(*_by_hand(tiny_lm, pairs), strict=True)
    assert loss == pytest.approx(sum(nats) / sum(tokens), abs=1e-5)


def test_perplexity_depends_neither_on_batching_nor_on_what_is_kept(tmp_path, cpu_run, tiny_lm, tiny_tokenizer, pairs):
    many = pairs * 20  # more than one batch
    with torch.no_grad():
        nats, tokens = zip(*_by_hand(tiny_lm, pairs), strict=True)
    for depth in (0, 1):
        texts = [[*prompt, *response] for prompt, response in many]
        states = FrozenStates(tiny_lm, depth, texts, nullcontext, tmp_path)
        found = perplexity(tiny_lm, many, states, tiny_tokenizer, cpu_run)
        assert found == pytest.approx(math.exp(sum(nats) / sum(tokens)), 1e-4)


def test_long_texts_are_left_out_and_counted(tiny_tokenizer):
    some = (Demonstration("", "a joy"), Demonstration("", "a joy to watch " * 20))
    short, too_long = tokenise(some, tiny_tokenizer, 16)
    assert len(short) == 1
    assert too_long == 1
    with pytest.raises(DataError, match="none of 2 demonstrations has at most 2 tokens"):
        tokenise(some, tiny_tokenizer, 2)


def test_the_end_of_a_text_is_learned(cpu_run, tiny_config, tiny_tokenizer):
    reports = list(sft(tiny_config, cpu_run))
    assert [r.step for r in reports] == list(range(1, reports[0].total + 1))
    summary = json.loads((cpu_run.folder("sft") / "summary.json").read_text())
    assert summary["perplexity"] < 0.5 * summary["perplexity_before"]

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(cpu_run.folder("sft")).eval()
    prompt, response = tiny_tokenizer.demonstration("", "film 7 a joy to watch")
    with torch.no_grad():
        p = model(torch.tensor([prompt + response])).logits.softmax(-1)[0, :, tiny_tokenizer.eos_id]
    assert p[-2] > 0.2  # after the last word the end is likely
    assert p[:-2].max() < 0.5 * p[-2]  # and before it is not


def test_what_is_not_finite_stops_the_stage(cpu_run, tiny_tokenizer, pairs):
    from plaudit.errors import TrainingError
    from plaudit.training import optimizer as optim

    model = make_lm()
    with torch.no_grad():
        model.transformer.wte.weight[5] = math.nan
    batch = collate([([0], [5, 0])], tiny_tokenizer.pad_id)
    with pytest.raises(TrainingError, match="loss is nan"):
        optim.step(loss_of(model, batch, cpu_run), model, optim.adamw(model, 0.1), 1.0, "sft step 1")
