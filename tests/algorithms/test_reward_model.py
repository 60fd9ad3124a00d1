import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from plaudit.algorithms.reward_model import batch_of, judgements
from plaudit.algorithms.sft import sft
from plaudit.config import build
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.models.states import FrozenStates
from plaudit.models.tokenizer import collate
from plaudit.records import Comparison, LabelledText
from plaudit.training.run import Run


def _part(labelled=(), comparisons=()):
    return Part(labelled=tuple(labelled), demonstrations=(), comparisons=tuple(comparisons))


def test_labels_and_choices_become_weights(tiny_lm, tiny_tokenizer, tmp_path):
    judged, _ = judgements(_part([LabelledText("a joy", 1), LabelledText("a chore", 0)]), tiny_tokenizer, 64)
    assert [j.weight for j in judged] == [1.0, 0.0]
    pairs = [Comparison("the cast", "is good", "is bad", choice) for choice in ("a", "b", "tie")]
    judged, _ = judgements(_part(comparisons=pairs), tiny_tokenizer, 64)
    assert [j.weight for j in judged] == [1.0, 0.0, 0.5]
    states = FrozenStates(tiny_lm, 0, [], nullcontext, tmp_path)  # nothing is frozen
    batch = batch_of(judged, np.arange(3), states, tiny_tokenizer)
    assert tiny_tokenizer.text(batch.chosen.ids[0][batch.chosen.attention_mask[0]].tolist()) == "the cast is good"
    assert tiny_tokenizer.text(batch.rejected.ids[0][batch.rejected.attention_mask[0]].tolist()) == "the cast is bad"


def test_data_without_judgements_is_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="neither labels nor comparisons"):
        judgements(_part(), tiny_tokenizer, 64)


def test_a_reward_model_learns_from_labels_and_is_opened_by_transformers(cpu_run, tiny_config, tiny_tokenizer):
    list(sft(tiny_config, cpu_run))
    list(reward_model(tiny_config, cpu_run))
    summary = json.loads((cpu_run.folder("reward_model") / "summary.json").read_text())
    assert summary["kind"] == "labels"
    assert summary["accuracy"] > 0.95
    low, high = summary["accuracy_ci95"]
    assert low < summary["accuracy"] <= high

    model = AutoModelForSequenceClassification.from_pretrained(cpu_run.folder("reward_model")).eval()
    assert model.config.num_labels == 1
    texts = [tiny_tokenizer.demonstration("", t) for t in ("film 3 a joy to watch", "film 3 a chore to watch")]
    batch = collate(texts, tiny_tokenizer.pad_id)
    with torch.no_grad():
        good, bad = model(input_ids=batch.ids, attention_mask=batch.attention_mask.long()).logits[:, 0].tolist()
    assert good > 0 > bad


def test_a_reward_model_learns_from_comparisons(tmp_path, tiny_config, tiny_model_folder):
    rows = [
        {"prompt": f"film {i} is", "chosen": f"a joy number {i % 7}", "rejected": f"a chore number {i % 5}"}
        for i in range(200)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = build(
        {"model": tiny_model_folder, "data": str(tmp_path / "pairs.jsonl"), "device": "cpu", "dtype": "float32",
         "sft.epochs": 1, "reward_model.lr": 5e-3, "reward_model.batch_size": 16, "reward_model.epochs": 2}
    )  # fmt: skip
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft", "reward_model"))
    list(sft(config, run))
    list(reward_model(config, run))
    summary = run.summary("reward_model")
    assert summary["kind"] == "comparisons"
    assert summary["accuracy"] > 0.9
