import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from plaudit.algorithms.reward_model import collate_examples, preference_loss, reward_model, tokenise
from plaudit.algorithms.sft import sft
from plaudit.config import build
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import RewardModel
from plaudit.models.tokenizer import collate
from plaudit.records import Comparison, LabelledText
from plaudit.training.run import Run


def _part(labelled=(), comparisons=()):
    return Part(labelled=tuple(labelled), demonstrations=(), comparisons=tuple(comparisons))


def test_labels_and_choices_become_weights(tiny_tokenizer):
    examples, _ = tokenise(_part([LabelledText("a joy", 1), LabelledText("a chore", 0)]), tiny_tokenizer, 64)
    assert [example.weight for example in examples] == [1.0, 0.0]
    pairs = [Comparison("the cast", "is good", "is bad", choice) for choice in ("a", "b", "tie")]
    examples, _ = tokenise(_part(comparisons=pairs), tiny_tokenizer, 64)
    assert [example.weight for example in examples] == [1.0, 0.0, 0.5]
    batch = collate_examples(examples, tiny_tokenizer)
    assert tiny_tokenizer.text(batch.chosen.ids[0][batch.chosen.attention_mask[0]].tolist()) == "the cast is good"
    assert tiny_tokenizer.text(batch.rejected.ids[0][batch.rejected.attention_mask[0]].tolist()) == "the cast is bad"


def test_data_with_neither_labels_nor_comparisons_is_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="neither labels nor comparisons"):
        tokenise(_part(), tiny_tokenizer, 64)


def test_a_reward_model_learns_from_labels_and_is_opened_by_transformers(cpu_run, tiny_tokenizer):
    list(sft(cpu_run))
    list(reward_model(cpu_run))
    summary = json.loads((cpu_run.folder("reward_model") / "summary.json").read_text())
    assert summary["kind"] == "labels"
    assert summary["accuracy"] > 0.95
    low, high = summary["accuracy_ci95"]
    assert low < summary["accuracy"] <= high

    model = AutoModelForSequenceClassification.from_pretrained(cpu_run.folder("reward_model")).eval()
    assert model.config.num_labels == 1
    texts = [
        tiny_tokenizer.demonstration("", text) for text in ("film 123 a joy to watch", "film 123 a chore to watch")
    ]
    batch = collate(texts, tiny_tokenizer.pad_id)
    with torch.no_grad():
        good, bad = model(input_ids=batch.ids, attention_mask=batch.attention_mask.long()).logits[:, 0].tolist()
    assert good > 0 > bad


def test_a_reward_model_learns_from_comparisons(tmp_path, tiny_model_folder):
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
    list(sft(run))
    list(reward_model(run))
    summary = run.summary("reward_model")
    assert summary["kind"] == "comparisons"
    assert summary["accuracy"] > 0.9


def test_the_loss_is_that_of_transformers_logits_and_a_tie_counts_as_half_right(tiny_model_folder, tiny_tokenizer):
    classifier = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1).eval()
    classifier.config.pad_token_id = tiny_tokenizer.pad_id
    model = RewardModel(classifier, PlainEngine())
    sides = [("is good", "is bad", "a"), ("is a joy", "is a chore", "b"), ("is fine", "is so so", "tie")]
    pairs = [Comparison("the cast", first, second, choice) for first, second, choice in sides]
    examples, _ = tokenise(_part(comparisons=pairs), tiny_tokenizer, 64)
    (total, count), figures, logits = preference_loss(model, collate_examples(examples, tiny_tokenizer))
    with torch.no_grad():
        alone = [
            [classifier(torch.tensor([prompt + response])).logits[0, 0].double() for prompt, response in example.texts]
            for example in examples
        ]
    gaps = torch.stack([first - second for first, second in alone])
    p = torch.sigmoid(gaps)
    by_hand = -(p[0].log() + (1 - p[1]).log() + (p[2].log() + (1 - p[2]).log()) / 2)
    assert total.item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert count == 3
    assert logits.tolist() == pytest.approx(gaps.tolist(), abs=1e-5)
    assert figures["accuracy"] == (gaps[0] > 0).float() + (gaps[1] < 0).float() + 0.5
