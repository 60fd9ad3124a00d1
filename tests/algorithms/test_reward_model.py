import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from plaudit.algorithms.reward_model import collate_examples, predict, preference_loss, reward_model, tokenise
from plaudit.algorithms.sft import sft
from plaudit.config import build
from plaudit.data.splits import Part
from plaudit.errors import DataError
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import RewardModel
from plaudit.models.tokenizer import collate
from plaudit.records import Comparison, LabelledText, Ranking
from plaudit.training.run import Run


def _part(labelled=(), comparisons=()):
    return Part(labelled=tuple(labelled), demonstrations=(), comparisons=tuple(comparisons))


def test_labels_and_choices_become_weights(tiny_tokenizer):
    examples, _ = tokenise(_part([LabelledText("a joy", 1), LabelledText("a chore", 0)]), tiny_tokenizer, 64)
    assert [example.judgement.weight for example in examples] == [1.0, 0.0]
    pairs = [
        Comparison(cast, "is good", "is bad", choice)
        for cast, choice in (("the cast", "a"), ("he", "b"), ("she", "tie"))
    ]
    examples, _ = tokenise(_part(comparisons=pairs), tiny_tokenizer, 64)
    assert [example.judgement.weight for example in examples] == [1.0, 0.0, 0.5]
    batch = collate_examples(examples, tiny_tokenizer)
    sides = zip(batch.ids[0], batch.attention_mask[0], strict=True)
    texts = [tiny_tokenizer.text(ids[mask].tolist()) for ids, mask in sides]
    assert texts == ["the cast is good", "the cast is bad"]


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


@pytest.fixture
def model(tiny_model_folder, tiny_tokenizer):
    classifier = AutoModelForSequenceClassification.from_pretrained(tiny_model_folder, num_labels=1).eval()
    classifier.config.pad_token_id = tiny_tokenizer.pad_id
    return RewardModel(classifier, PlainEngine())


def alone(model, examples):
    """The logit of each text, computed without a batch."""
    with torch.no_grad():
        return [
            [model.classifier(torch.tensor([p + r])).logits[0, 0].double() for p, r in example.texts]
            for example in examples
        ]


def test_the_loss_is_that_of_transformers_logits_and_a_tie_counts_as_half_right(model, tiny_tokenizer):
    sides = [("is good", "is bad", "a"), ("is a joy", "is a chore", "b"), ("is fine", "is so so", "tie")]
    pairs = [Comparison("the cast", first, second, choice) for first, second, choice in sides]
    examples, _ = tokenise(_part(comparisons=pairs), tiny_tokenizer, 64)
    (total, count), figures = preference_loss(model, collate_examples(examples, tiny_tokenizer))
    gaps = torch.stack([first - second for first, second in alone(model, examples)])
    p = torch.sigmoid(gaps)
    by_hand = -(p[0].log() + (1 - p[1]).log() + (p[2].log() + (1 - p[2]).log()) / 2)
    assert total.item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert count == 3
    assert figures["accuracy"] == (gaps[0] > 0).float() + (gaps[1] < 0).float() + 0.5
    flat = np.array([score for pair in alone(model, examples) for score in pair])
    assert predict(model, examples, tiny_tokenizer, torch.device("cpu")) == pytest.approx(flat, abs=1e-5)


def test_pairs_and_longer_rankings_share_a_batch(model, tiny_tokenizer):
    ranked = Ranking("the cast", ("is good", "is fine", "is bad"))
    pair = Comparison("the film", "is good", "is a chore to watch", "b", margin=2.0)
    examples, _ = tokenise(Part(comparisons=(pair,), rankings=(ranked,)), tiny_tokenizer, 64)
    (total, count), figures = preference_loss(model, collate_examples(examples, tiny_tokenizer, margin=0.5))
    (first, second), (a, b, c) = alone(model, examples)
    of_pair = -torch.sigmoid(second - first - 1.0).log()
    of_ranking = -(a.exp() / (a.exp() + b.exp() + c.exp()) * b.exp() / (b.exp() + c.exp())).log()
    assert total.item() == pytest.approx((of_pair + of_ranking).item(), abs=1e-5)
    assert count == 2
    right = float(second > first) + ((a > b).float() + (a > c).float() + (b > c).float()) / 3
    assert figures["accuracy"].item() == pytest.approx(float(right))


def test_ties_are_halves_or_left_out(tiny_tokenizer):
    pairs = [Comparison(f"film {i}", "is good", "is bad", choice) for i, choice in enumerate(("a", "tie", "b", "tie"))]
    kept, dropped = tokenise(_part(comparisons=pairs), tiny_tokenizer, 64, "half")
    assert ([e.judgement.weight for e in kept], dropped) == ([1, 0.5, 0, 0.5], {"too long": 0})
    kept, dropped = tokenise(_part(comparisons=pairs), tiny_tokenizer, 64, "drop")
    assert ([e.judgement.weight for e in kept], dropped["tie"]) == ([1, 0], 2)


def test_a_judgement_with_one_long_text_is_left_out_as_a_whole(tiny_tokenizer):
    ranked = [Ranking("film", ("a joy", "fine", "a chore " * 40)), Ranking("film", ("a joy", "fine"))]
    kept, dropped = tokenise(Part(rankings=tuple(ranked)), tiny_tokenizer, 64)
    assert ([len(e.texts) for e in kept], dropped["too long"]) == ([2], 1)
