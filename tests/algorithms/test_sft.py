import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import GOOD, make_lm
from transformers import AutoModelForCausalLM

from plaudit.algorithms import sft as module
from plaudit.algorithms.sft import check_perplexity, number_of_targets, perplexity, sft, sft_loss, tokenise
from plaudit.errors import DataError, TrainingError
from plaudit.models.fast.engine import FastEngine
from plaudit.models.layers import freeze_lower_layers
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import collate
from plaudit.records import Demonstration
from plaudit.training.optimizer import accumulate


@pytest.fixture
def pairs(tiny_tokenizer):
    return [tiny_tokenizer.demonstration("", text) for text in GOOD]


def by_hand(model, pairs):
    """(nats, tokens) of each text alone, with transformers."""
    out = []
    for prompt, response in pairs:
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        out.append((F.cross_entropy(logits, torch.tensor(response), reduction="sum").item(), len(response)))
    return out


@pytest.fixture(params=["plain", "fast"])
def policy(request, tmp_path, tiny_lm):
    """A policy of which one of two layers learns."""
    freeze_lower_layers(tiny_lm, 1)
    engine = PlainEngine() if request.param == "plain" else FastEngine(torch.float32, tmp_path)
    engine.prepare(tiny_lm)
    return Policy(tiny_lm, engine, value_head=False)


def test_the_loss_is_the_sum_over_the_response_tokens_of_each_text_alone(policy, tiny_tokenizer, pairs):
    pairs = [*pairs, tiny_tokenizer.demonstration("the cast", "is a chore")]
    batch = collate(pairs, tiny_tokenizer.pad_id)
    with torch.no_grad():
        total, count = sft_loss(policy, batch)
        nats, tokens = zip(*by_hand(policy.lm, pairs), strict=True)
    assert total.item() == pytest.approx(sum(nats), rel=1e-5)
    assert count.item() == number_of_targets(batch) == sum(tokens)


def test_perplexity_depends_on_neither_batches_nor_engine(policy, tiny_tokenizer, pairs):
    many = pairs * 20  # more than one batch
    policy.engine.remember(policy.lm, [[*prompt, *response] for prompt, response in many])
    with torch.no_grad():
        nats, tokens = zip(*by_hand(policy.lm, pairs), strict=True)
    found = perplexity(policy, many, tiny_tokenizer, torch.device("cpu"))
    assert found == pytest.approx(math.exp(sum(nats) / sum(tokens)), 1e-4)


def test_texts_that_are_too_long_are_left_out_and_counted(tiny_tokenizer):
    some = (Demonstration("", "a joy"), Demonstration("", "a joy to watch " * 20))
    short, dropped = tokenise(some, tiny_tokenizer, 16)
    assert len(short) == 1
    assert dropped == {"too long": 1}
    with pytest.raises(DataError, match="none of 2 demonstrations has at most 2 tokens"):
        tokenise(some, tiny_tokenizer, 2)


def test_sft_learns_where_a_text_ends(cpu_run, tiny_tokenizer):
    reports = list(sft(cpu_run))
    assert [r.step for r in reports] == list(range(1, reports[0].total + 1))
    summary = json.loads((cpu_run.folder("sft") / "summary.json").read_text())
    assert summary["perplexity"] < 0.5 * summary["perplexity_before"]

    model = AutoModelForCausalLM.from_pretrained(cpu_run.folder("sft")).eval()
    prompt, response = tiny_tokenizer.demonstration("", "film 7 a joy to watch")
    with torch.no_grad():
        p = model(torch.tensor([prompt + response])).logits.softmax(-1)[0, :, tiny_tokenizer.eos_id]
    assert p[-2] > 0.2  # after the last word the end is likely
    assert p[:-2].max() < 0.5 * p[-2]  # and before it is not


def test_a_loss_that_is_not_finite_stops_training(tiny_tokenizer):
    policy = Policy(make_lm(), PlainEngine(), value_head=False)
    with torch.no_grad():
        policy.lm.transformer.wte.weight[5] = math.nan
    batch = collate([([0], [5, 0])], tiny_tokenizer.pad_id)
    with pytest.raises(TrainingError, match="sft step 1: the loss is nan"):
        accumulate(batch, 0, lambda b: (sft_loss(policy, b), {}), 2, "sft step 1")


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [(50.0, 20.0, ""), (50.0, 50.0, ""), (500.0, 400.0, ""), (50.0, 60.0, "from 50 to 60"), (50.0, 299.0, "to 299")],
)
def test_an_sft_that_makes_the_model_worse_gives_a_warning(before, after, word):
    line = check_perplexity(before, after, vocabulary=300)
    assert line.startswith("SFT made the model worse: ") if word else line == ""
    assert word in line


@pytest.mark.parametrize("after", [301.0, 1e9, math.inf, math.nan])
def test_an_sft_that_is_worse_than_a_guess_is_stopped(after):
    with pytest.raises(
        TrainingError, match=r"sft: SFT made the model worse: .* a guess among 300 tokens; lower sft.lr"
    ):
        check_perplexity(50.0, after, vocabulary=300)


def test_a_diverging_run_ends_in_one_line_and_leaves_no_model(cpu_run):
    settings = dataclasses.replace(cpu_run.config.sft, lr=1.0, epochs=1)
    run = dataclasses.replace(cpu_run, config=dataclasses.replace(cpu_run.config, sft=settings))
    with pytest.raises(TrainingError, match=r"^sft( step \d+)?: .*lower (sft.lr|the learning rate)"):
        list(sft(run))
    assert not run.complete("sft")
    assert not (run.folder("sft") / "model.safetensors").exists()


def test_a_run_that_makes_the_model_worse_says_so_with_its_last_step(cpu_run, monkeypatch):
    found = iter([20.0, 30.0])
    monkeypatch.setattr(module, "perplexity", lambda *_: next(found))
    reports = list(sft(cpu_run))
    assert [report.step for report in reports] == list(range(1, reports[-1].total + 1))
    assert [report.warnings for report in reports[:-1]] == [()] * (len(reports) - 1)
    assert reports[-1].warnings[0].endswith("from 20 to 30; lower sft.lr or sft.epochs")
    assert cpu_run.complete("sft")


def test_a_perplexity_beyond_every_float_is_infinite_and_no_error(policy, pairs, tiny_tokenizer):
    with torch.no_grad():
        policy.lm.transformer.ln_f.weight.fill_(1e5)
    assert perplexity(policy, pairs, tiny_tokenizer, torch.device("cpu")) == math.inf
