"""DPO, KTO and best-of-n: policies that learn from a fixed set of responses."""

import dataclasses
import itertools
import json
import math
import re
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from plaudit import open_run
from plaudit.algorithms import best_of_n, dpo, kto
from plaudit.batches import number_of_rows, select_rows
from plaudit.config import build, to_toml
from plaudit.data.splits import Part
from plaudit.errors import ConfigError, DataError, RewardError, RunError
from plaudit.models.tokenizer import collate
from plaudit.pipeline import check, steps
from plaudit.records import Comparison, Demonstration, LabelledText, Ranking
from plaudit.rewards import sources_of
from plaudit.training import dist
from plaudit.training.drawn import Drawn, draw
from plaudit.training.models import Models
from plaudit.training.offline import nats_of
from plaudit.training.run import Run

ALGORITHMS = {"dpo": dpo.dpo, "kto": kto.kto, "best_of_n": best_of_n.best_of_n}
SMALL = {"responses": 64, "group_size": 4, "epochs": 1, "batch_size": 8, "max_new_tokens": 16, "save_every": 2}


@pytest.fixture
def make(tmp_path, finished_run, tiny_config):
    """A function that makes a run with a trained SFT model and reward model."""

    def make(stage, name="run", engine="auto", **settings):
        part = dataclasses.replace(getattr(tiny_config, stage), **SMALL | settings)
        for needed in ("sft", "reward_model"):
            shutil.copytree(finished_run / needed, tmp_path / name / needed)
        return Run(tmp_path / name, dataclasses.replace(tiny_config, engine=engine, **{stage: part}))

    return make


def low_letters(prompts, responses):
    """The share of the letters a to m in each response."""
    return [sum(c in "abcdefghijklm" for c in response) / max(len(response), 1) for response in responses]


def same(prompts, responses):
    return [0.0] * len(responses)


def drawn(run, stage):
    return [json.loads(line) for line in (run.folder(stage) / "drawn.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ALGORITHMS)
def test_the_responses_are_those_of_the_sft_model_in_groups_to_one_prompt(make, stage):
    run = make(stage)
    list(ALGORITHMS[stage](run, low_letters))
    rows = drawn(run, stage)
    prompts = [row["prompt"] for row in rows]
    assert len(rows) == 64
    assert all(len({*prompts[i : i + 4]}) == 1 for i in range(0, 64, 4))
    assert len({*prompts}) > 4
    assert len({row["response"] for row in rows}) > 16
    for row in rows:
        assert row["score"] == pytest.approx(low_letters([], [row["response"]])[0], abs=1e-6)
    models = Models.load(run, stage, reward_model=False)
    texts = [(row["prompt_ids"], row["response_ids"]) for row in rows]
    before = nats_of(models.policy, texts, models.tokenizer.pad_id, run.device, 1.0)
    trained = Models.load(run, stage, stage=stage, reward_model=False)
    after = nats_of(trained.policy, texts, models.tokenizer.pad_id, run.device, 1.0)
    assert np.abs(np.subtract(before, after)).max() > 1e-3


@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("stage", ALGORITHMS)
def test_the_score_rises_on_an_easy_reward(make, stage, engine):
    run = make(stage, engine=engine, responses=512, group_size=8, epochs=8, lr=3e-3, save_every=1000)
    list(ALGORITHMS[stage](run, low_letters))
    assert AutoModelForCausalLM.from_pretrained(run.folder(stage)).config.model_type == "gpt2"
    before = np.mean([row["score"] for row in drawn(run, stage)])
    again = dataclasses.replace(run.config.best_of_n, responses=256, group_size=2)
    policy = Run(run.path, dataclasses.replace(run.config, best_of_n=again))
    shutil.rmtree(run.folder("best_of_n"), ignore_errors=True) if stage != "best_of_n" else None
    models = Models.load(policy, stage, stage=stage, reward_model=False)
    if stage == "best_of_n":
        (run.folder(stage) / "drawn.json").unlink()
    found = draw(policy, "best_of_n", models, low_letters)
    assert found.summary["scale"]["mean"] > before + 0.1


@pytest.mark.parametrize("stage", ALGORITHMS)
def test_resumed_it_equals_an_uninterrupted_run_byte_for_byte(make, stage):
    """Both with the run's reward model, past a checkpoint, and without one."""
    whole, stopped, early = (make(stage, name, batch_size=4) for name in ("whole", "stopped", "early"))
    total = len(list(ALGORITHMS[stage](whole)))
    for run, count in ((stopped, 3), (early, 1)):
        reports = ALGORITHMS[stage](run)
        list(itertools.islice(reports, count))
        reports.close()
        first = 3 if count == 3 else 1
        assert [report.step for report in ALGORITHMS[stage](run)] == [*range(first, total + 1)]
        for name in ("model.safetensors", "metrics.jsonl", "drawn.jsonl"):
            pair = [(r.folder(stage) / name).read_bytes() for r in (whole, run)]
            assert pair[0] == pair[1], name


@pytest.mark.parametrize("stage", ALGORITHMS)
def test_microbatches_change_nothing(make, stage):
    """Also KTO's, whose loss depends on all responses of a batch."""
    losses = []
    for size in (0, 3):
        run = make(stage, f"run {size}", microbatch_size=size)
        losses.append([report.metrics["loss"] for report in ALGORITHMS[stage](run)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_training_begins_at_the_sft_model(make, stage):
    first = next(iter(ALGORITHMS[stage](make(stage))))
    assert first.metrics["loss"] == pytest.approx({"dpo": math.log(2), "kto": 0.5}[stage], abs=1e-4)


def test_the_pair_of_a_group_is_its_best_and_its_worst():
    group = [Drawn(([1], [k]), score) for k, score in enumerate([0.2, 0.9, -1.0, 0.9])]
    pair = dpo.best_and_worst(group)
    assert (pair.texts, pair.weight) == ((([1], [1]), ([1], [2])), 1.0)
    assert dpo.best_and_worst([Drawn(([1], [k]), 0.5) for k in range(4)]) is None


def test_best_of_n_keeps_the_best_and_its_control_any():
    groups = [[Drawn(([g], [k]), float(k == g % 4)) for k in range(4)] for g in range(400)]
    best, control = (best_of_n.kept(groups, keep, 1) for keep in ("best", "random"))
    assert [text[1][0] for text in best] == [g % 4 for g in range(400)]
    assert [text[0] for text in control] == [[g] for g in range(400)]
    shares = np.bincount([text[1][0] for text in control], minlength=4) / 400
    assert np.abs(shares - 0.25).max() < 0.08


@pytest.mark.parametrize(("stage", "words"), [("dpo", "nothing to compare"), ("kto", "the same mark")])
def test_a_reward_that_never_differs_is_refused(make, stage, words):
    with pytest.raises(DataError, match=words):
        list(ALGORITHMS[stage](make(stage, missing_eos_penalty=0.0), same))


def test_responses_are_whole_groups():
    with pytest.raises(ConfigError, match=r"dpo.responses = 100 is not a multiple of dpo.group_size = 8"):
        build({"dpo.responses": 100})


@pytest.mark.parametrize("loss", ["ipo", "simpo"])
def test_label_smoothing_of_a_loss_that_has_none_is_refused(loss):
    line = f"dpo.label_smoothing = 0.1: dpo.loss = {loss} has no smoothing; set dpo.label_smoothing = 0"
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        build({"dpo.label_smoothing": 0.1, "dpo.loss": loss})
    assert build({"dpo.label_smoothing": 0.1}).dpo.label_smoothing == 0.1
    assert build({"dpo.loss": loss}).dpo.loss == loss


@pytest.mark.parametrize("stage", ALGORITHMS)
def test_all_of_it_is_checked_and_run_by_the_pipeline(make, stage):
    run = make(stage)
    (run.path / "config.toml").write_text(to_toml(run.config, {}))
    assert not check(run.config, run.path, (stage, "evaluation"))
    reports = list(steps(run, (stage, "evaluation")))
    assert {report.stage for report in reports} == {stage, "evaluation"}
    assert json.loads((run.path / "evaluation.json").read_text())[stage]["score_mean"] is not None
    checks = json.loads((run.path / "doctor.json").read_text())[stage]
    assert {"ratio after a step", "weights that learn", "initial KL"} <= {entry["name"] for entry in checks}
    assert all(entry["ok"] for entry in checks if entry["stops"])


PROMPTS = [
    f"the {thing}" for thing in ("cast", "plot", "film", "scene", "story", "joke", "song", "end", "start", "hero")
]


def people(kind):
    """Data in which somebody has judged responses: "is good" is better than "is bad"."""
    demonstrations = [Demonstration(prompt, text) for prompt in PROMPTS for text in ("is good", "is bad")]
    if kind == "comparisons":
        return [*demonstrations, *(Comparison(p, "is bad", "is good", "b") for p in PROMPTS)]
    if kind == "rankings":
        return [*demonstrations, *(Ranking(p, ("is good", "is fine", "is bad")) for p in PROMPTS)]
    return [
        *demonstrations,
        *(LabelledText(t, float(t == "is good"), p) for p in PROMPTS for t in ("is good", "is bad")),
    ]


@pytest.mark.parametrize(("stage", "kind"), [("dpo", "comparisons"), ("dpo", "rankings"), ("kto", "labels")])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "simpo"])
def test_what_people_judged_needs_no_reward(tmp_path, tiny_model_folder, stage, kind, loss):
    if stage == "kto" and loss != "sigmoid":
        pytest.skip("a loss of DPO")
    settings = {
        "model": tiny_model_folder, "device": "cpu", "dtype": "float32", "sft.epochs": 2, "sft.lr": 1e-2,
        "prompt_max": 3, "dpo.loss": loss, ("dpo.simpo_beta" if loss == "simpo" else "dpo.beta"): 0.5, "kto.beta": 0.5,
        **{f"{s}.{name}": value for s in ("dpo", "kto")
           for name, value in {"epochs": 20, "lr": 3e-3, "max_new_tokens": 8, "train_layers": 0}.items()},
    }  # fmt: skip
    run = open_run(tmp_path / "run", people(kind), settings)
    assert run.reads_judgements(stage)
    reports = list(steps(run, ("sft", stage)))
    assert reports[-1].metrics["accuracy"] == 1.0
    assert run.needs(stage) == ("sft",)
    assert not (run.folder(stage) / "drawn.jsonl").exists()
    assert run.summary(stage)["source"] == "data"
    models = Models.load(run, stage, stage=stage, reward_model=False)
    texts = [models.tokenizer.demonstration(p, t) for p in PROMPTS for t in ("is good", "is bad")]
    nats = nats_of(models.policy, texts, models.tokenizer.pad_id, run.device, 1.0)
    start = Models.load(run, stage, reward_model=False)
    before = nats_of(start.policy, texts, models.tokenizer.pad_id, run.device, 1.0)
    gained = np.subtract(nats, before).reshape(-1, 2)
    assert (gained[:, 0] > gained[:, 1]).all()


def test_data_without_judgements_of_that_kind_is_refused(make):
    with pytest.raises(DataError, match=r"no comparisons and no rankings; use --dpo\.source drawn"):
        list(dpo.dpo(make("dpo", source="data")))


def test_which_data_an_algorithm_learns_from_by_itself():
    labels = (LabelledText("good", 1.0, "the film"),)
    pairs = (Comparison("a", "b", "c", "a"),)
    assert not dpo.can_learn_from(Part(labelled=labels))
    assert dpo.can_learn_from(Part(labelled=labels, comparisons=pairs))
    assert kto.can_learn_from(Part(labelled=labels))
    assert not kto.can_learn_from(Part(labelled=labels, comparisons=pairs))
    assert not kto.can_learn_from(Part(labelled=(LabelledText("good", 1.0),)))


def test_a_mismatched_response_fits_into_the_window():
    texts = [([1, 2], [3, 4, 5]), ([6], [7]), ([8, 9], [10], [11], [12, 13])]
    assert kto.mismatched(texts, 4) == [([1, 2], [7]), ([6], [12, 13]), ([8, 9, 10, 11], [])]
    assert kto.mismatched(texts, 9)[2] == ([8, 9, 10, 11], [3, 4, 5])


def test_a_tie_counts_as_half_right_and_teaches_that_both_are_equal(tiny_tokenizer, make):
    run = make("dpo")
    models = Models.load(run, "dpo", reward_model=False)
    texts = [tiny_tokenizer.demonstration("the cast", text) for text in ("is good", "is bad")]
    nats = nats_of(models.policy, texts, tiny_tokenizer.pad_id, run.device, run.config.dpo.temperature)
    pairs = [dpo.Pair(tuple(texts), 0.5, tuple(nats)), dpo.Pair(tuple(texts), 1.0, (nats[0] - 3, nats[1]))]
    batch = dpo.collate_pairs(pairs, tiny_tokenizer.pad_id)
    settings = dataclasses.replace(run.config.dpo, beta=1.0)
    (loss, count), figures = dpo.pair_loss(models.policy, batch, settings)
    assert count == number_of_rows(batch) == 2
    assert loss.item() == pytest.approx(math.log(2) + math.log1p(math.exp(-3)), abs=1e-4)
    assert figures["accuracy"].item() == 1.5
    assert figures["margin"].item() == pytest.approx(3, abs=1e-4)
    single = select_rows(batch, torch.tensor([1]))
    assert dpo.pair_loss(models.policy, single, settings)[0][0].item() == pytest.approx(
        math.log1p(math.exp(-3)), abs=1e-4
    )


def test_simpo_compares_means(tiny_tokenizer, make):
    run = make("dpo")
    models = Models.load(run, "dpo", reward_model=False)
    texts = tuple(tiny_tokenizer.demonstration("the cast", text) for text in ("is good and more than that", "is bad"))
    settings = dataclasses.replace(run.config.dpo, loss="simpo", simpo_beta=2.0, simpo_margin=0.3)
    batch = dpo.collate_pairs([dpo.Pair(texts, 1.0)], tiny_tokenizer.pad_id)
    nats = nats_of(models.policy, texts, tiny_tokenizer.pad_id, run.device, settings.temperature)
    first, second = (value / len(text[-1]) for value, text in zip(nats, texts, strict=True))
    (loss, _), _ = dpo.pair_loss(models.policy, batch, settings)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-(2 * (first - second) - 0.3))), abs=1e-4)
    assert collate(texts, tiny_tokenizer.pad_id).loss_mask.sum(1).tolist() == [len(text[-1]) for text in texts]


def test_what_was_drawn_before_a_stop_is_not_drawn_again(make):
    """A reward function fails in the second part of the responses; with another one that works, the first stays."""
    calls = []

    def fails(prompts, responses):
        calls.append(len(responses))
        if len(calls) == 2:
            raise ValueError("no")
        return low_letters(prompts, responses)

    run, whole = (make("dpo", name, responses=400, group_size=8) for name in ("run", "whole"))
    with pytest.raises(RewardError):
        list(dpo.dpo(run, fails))
    assert len((run.folder("dpo") / "drawn.jsonl").read_text().splitlines()) == 256
    list(dpo.dpo(run, fails))
    assert calls.count(256) == 1  # the parts of the second call are those in which the failing text was sought
    list(dpo.dpo(whole, low_letters))
    assert drawn(run, "dpo") == drawn(whole, "dpo")


def test_half_a_line_is_drawn_again_and_a_damaged_file_is_refused(make):
    run = make("dpo", responses=400, group_size=8, batch_size=4)
    reports = dpo.dpo(run, low_letters)
    next(reports)
    reports.close()
    path, record = run.folder("dpo") / "drawn.jsonl", run.folder("dpo") / "drawn.json"
    before = path.read_bytes()
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "sha256"}))
    path.write_bytes(before[: len(before) * 4 // 5])
    next(dpo.dpo(run, low_letters))
    assert path.read_bytes() == before
    path.write_bytes(before[:-1])
    with pytest.raises(RunError, match="missing or changed since it was drawn"):
        next(dpo.dpo(run, low_letters))


def test_another_reward_is_scored_anew(make):
    run = make("dpo")
    for reward in (low_letters, lambda prompts, responses: [float(len(r)) for r in responses]):
        reports = dpo.dpo(run, reward)
        next(reports)
        reports.close()
        assert [row["score"] for row in drawn(run, "dpo")] == pytest.approx(
            reward([], [row["response"] for row in drawn(run, "dpo")])
        )


def test_a_single_response_is_compared_with_no_kl(make):
    run = make("kto", batch_size=1, responses=8)
    assert all(report.metrics["kl_mismatched"] == 0 for report in kto.kto(run, low_letters))


def test_the_texts_of_one_batch_are_forgotten_after_it(make):
    """Otherwise the activations of KTO's mismatched texts would grow with every step."""
    run = make("kto", engine="fast", train_layers=1, responses=128, batch_size=8)
    models = Models.load(run, "kto")
    sizes = [len(cache._rollout) for _ in kto.kto(run, low_letters, models) for cache in models.engine._caches.values()]
    assert sizes
    assert max(sizes) <= 16


def test_what_people_judged_does_not_depend_on_the_reward(tmp_path, tiny_model_folder):
    settings = {"model": tiny_model_folder, "device": "cpu", "dtype": "float32", "prompt_max": 3}
    run = open_run(tmp_path / "run", people("comparisons"), settings)
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, reward=("model=2",)))
    sources = sources_of(low_letters)
    assert (
        run.inputs("dpo")["fingerprint"]
        == run.inputs("dpo", sources)["fingerprint"]
        == other.inputs("dpo")["fingerprint"]
    )
    assert run.inputs("ppo")["fingerprint"] != run.inputs("ppo", sources)["fingerprint"]


def test_texts_that_are_all_too_long_name_the_setting_of_the_method(tmp_path, tiny_model_folder):
    settings = {"model": tiny_model_folder, "device": "cpu", "dpo.max_tokens": 4, "sft.epochs": 0, "prompt_max": 3}
    run = open_run(tmp_path / "run", people("comparisons"), settings)
    with pytest.raises(DataError, match=r"raise dpo\.max_tokens"):
        check(run.config, run.path, ("sft", "dpo"))


@contextmanager
def on_another_host(*paths):
    """Only what rank 0 does for all ranks sees these files, and nothing is written."""
    places = {path: path.with_name(f"hidden {path.name}") for path in paths}

    def hide():
        for path, place in places.items():
            path.rename(place)

    def show():
        for path, place in places.items():
            place.rename(path)

    def on_main(call):
        show()
        try:
            return call()
        finally:
            hide()

    hide()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "on_main", on_main)
        patch.setattr("plaudit.files._writes", False)
        yield
    show()


def test_a_rank_that_does_not_see_what_was_drawn_gets_it_from_rank_0(make, monkeypatch):
    run = make("dpo", responses=400, group_size=8)
    models = Models.load(run, "dpo")
    found = draw(run, "dpo", models, low_letters)
    path, record = run.folder("dpo") / "drawn.jsonl", run.folder("dpo") / "drawn.json"
    with on_another_host(path, record):
        assert draw(run, "dpo", models, low_letters).groups == found.groups

    # All ranks draw the part that is missing, and no other.
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:300]))
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "sha256"}))
    parts = []
    monkeypatch.setattr("plaudit.training.drawn._part", lambda *arguments: parts.append(arguments[-1]) or [])
    with on_another_host(path, record):
        draw(run, "dpo", models, low_letters)
    assert parts == [1]
