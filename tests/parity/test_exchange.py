"""Files and models that plaudit and TRL pass to each other. README.md says how the figures of TRL were made."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from plaudit.data.corpus import load
from plaudit.models.classifier import Classifier
from plaudit.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import collate
from tests.parity.ours import comparisons, write

HERE = Path(__file__).parent
FIXTURE = json.loads((HERE / "exchange.json").read_text(encoding="utf-8"))
THEIRS = str(HERE / "trl-reward-model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What plaudit gives to TRL, written anew."""
    return write(tmp_path_factory.mktemp("exchange"))


@pytest.fixture(scope="module")
def pairs(folder):
    """The (prompt, chosen) and the (prompt, rejected) ids of the training file, as plaudit tokenises them."""
    lines = map(json.loads, (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines())
    lines = [line for line in lines if line["split"] == "train"]
    tokenizer = load_tokenizer(str(folder / "sft"))
    return [[tokenizer.demonstration(line["prompt"], line[key]) for line in lines] for key in ("chosen", "rejected")]


def scores(name, rows):
    """Our scores of rows of token ids, padded on the right."""
    tokenizer = load_tokenizer(name)
    model = RewardModel(load_reward_model(name, tokenizer.pad_id), PlainEngine()).eval()
    batch = collate([([], row) for row in rows], tokenizer.pad_id)
    with torch.no_grad():
        return model(batch.ids, batch.attention_mask)


def test_trl_was_given_the_file_that_plaudit_writes(folder):
    assert hashlib.sha256((folder / "pairs.jsonl").read_bytes()).hexdigest() == FIXTURE["sha256"]


def test_the_file_holds_the_comparisons_and_plaudit_reads_it_too(folder):
    before, after = load(comparisons()), load(str(folder / "pairs.jsonl"))
    for name, part in before.parts.items():
        given, again = ({_row(c) for c in p.comparisons} for p in (part, after.parts[name]))
        assert given == again
        assert all(c.choice == "a" for c in after.parts[name].comparisons)


def _row(comparison):
    """Prompt, chosen and rejected, with single spaces."""
    one, other = comparison.response_a, comparison.response_b
    texts = (comparison.prompt, one, other) if comparison.choice == "a" else (comparison.prompt, other, one)
    return tuple(" ".join(text.split()) for text in texts)


def test_the_dpo_trainer_reads_the_tokens_that_plaudit_trains_on(pairs):
    chosen, rejected = pairs
    rows = FIXTURE["dpo"]["rows"]
    assert [(row["prompt_ids"], row["chosen_ids"]) for row in rows] == chosen
    assert [(row["prompt_ids"], row["rejected_ids"]) for row in rows] == rejected


def test_the_reward_trainer_reads_the_tokens_that_plaudit_trains_on(pairs):
    for key, ours in zip(("chosen_ids", "rejected_ids"), pairs, strict=True):
        assert [row[key] for row in FIXTURE["reward"]["rows"]] == [[*prompt, *response] for prompt, response in ours]


def test_the_sft_model_has_the_same_logprobs_in_the_dpo_trainer(folder, pairs):
    tokenizer = load_tokenizer(str(folder / "sft"))
    policy = Policy(load_causal_lm(str(folder / "sft")).eval(), PlainEngine())
    step = FIXTURE["dpo"]["step"]
    for key, rows in zip(("logps/chosen", "logps/rejected"), pairs, strict=True):
        batch = collate(rows, tokenizer.pad_id)
        with torch.no_grad():
            logits = policy.lm(batch.ids, attention_mask=batch.attention_mask.long()).logits.log_softmax(-1)
        nats = logits[:, :-1].gather(2, batch.ids[:, 1:, None])[..., 0]
        assert (nats * batch.loss_mask[:, 1:]).sum(1).mean().item() == pytest.approx(step[key], abs=1e-3)


def test_the_reward_model_has_the_same_margin_in_the_reward_trainer(folder, pairs):
    chosen, rejected = (scores(str(folder / "reward_model"), [[*p, *r] for p, r in rows]) for rows in pairs)
    step = FIXTURE["reward"]["step"]
    assert (chosen - rejected).mean().item() == pytest.approx(step["margin"], abs=1e-5)
    assert torch.cat([chosen, rejected]).mean().item() == pytest.approx(step["mean_reward"], abs=1e-5)
    assert (chosen > rejected).float().mean().item() == pytest.approx(step["accuracy"], abs=1e-5)
    assert FIXTURE["reward"]["last_accuracy"] == 1.0  # TRL has trained it


def test_the_reward_model_gives_the_ppo_trainer_our_scores(folder):
    theirs = torch.tensor(FIXTURE["ppo"]["scores"])
    torch.testing.assert_close(
        scores(str(folder / "reward_model"), FIXTURE["ppo"]["ids"]), theirs, rtol=1e-5, atol=1e-5
    )
    assert FIXTURE["ppo"]["pad_id"] == load_tokenizer(str(folder / "sft")).pad_id


def test_a_reward_model_that_trl_has_trained_scores_the_same_in_plaudit():
    theirs, tokenizer = torch.tensor(FIXTURE["reward"]["scores"]), load_tokenizer(THEIRS)
    rows = [
        [*prompt, *response]
        for prompt, response in (tokenizer.demonstration("", t) for t in FIXTURE["reward"]["texts"])
    ]
    assert rows == FIXTURE["reward"]["ids"]
    torch.testing.assert_close(scores(THEIRS, rows), theirs, rtol=1e-5, atol=1e-5)


def test_it_is_a_reward_by_its_folder():
    """As with `plaudit ppo --reward FOLDER`: prompt and response are read as one text."""
    texts, theirs = FIXTURE["reward"]["texts"], FIXTURE["reward"]["scores"]
    assert Classifier(THEIRS)([t[:3] for t in texts], [t[3:] for t in texts]) == pytest.approx(theirs, abs=1e-5)
