"""The whole pipeline on families that only the plain engine runs, and what is refused before anything is trained."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from plaudit.errors import DataError, ModelError
from plaudit.pipeline import check, steps
from plaudit.training.run import STAGES, Run

COMMON = {"vocab_size": 300, "hidden_size": 32, "bos_token_id": 0, "eos_token_id": 0}
BLOOM = BloomConfig(**COMMON, n_layer=2, n_head=2)
MAMBA = MambaConfig(**COMMON, num_hidden_layers=2, state_size=4)  # no key-value cache, no sequence classifier


def config_of(family, folder, tokenizer, config):
    """The tiny settings for a random model of a family."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(family).save_pretrained(folder)
    tokenizer.hf.save_pretrained(folder)
    sft = dataclasses.replace(config.sft, epochs=1)
    ppo = dataclasses.replace(config.ppo, iterations=1, train_layers=1)
    return dataclasses.replace(config, model=str(folder), sft=sft, ppo=ppo)


def by_length(prompts, responses):
    return [float(len(response)) for response in responses]


@pytest.mark.parametrize(
    ("family", "stages", "reward"),
    [(BLOOM, STAGES, None), (MAMBA, ("sft", "ppo", "evaluation"), by_length)],
    ids=["bloom", "mamba"],
)
def test_a_family_that_the_fast_engine_does_not_know_runs_to_the_report(
    family, stages, reward, tmp_path, tiny_tokenizer, tiny_config
):
    config = config_of(family, tmp_path / "model", tiny_tokenizer, tiny_config)
    check(config, tmp_path / "run", stages, reward)
    run = Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=stages)
    reports = list(steps(run, stages, reward))
    assert {report.stage for report in reports} == set(stages)
    (first,) = [report for report in reports if report.stage == "ppo"]
    assert first.metrics["kl"] == pytest.approx(0, abs=1e-5)
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    assert evaluation["policy"]["kl_mean"] > 0
    assert (run.path / "report.html").exists()


def test_a_family_without_a_sequence_classifier_is_refused_before_anything_is_trained(
    tmp_path, tiny_tokenizer, tiny_config
):
    config = config_of(MAMBA, tmp_path / "model", tiny_tokenizer, tiny_config)
    with pytest.raises(ModelError, match="no sequence classifier for a mamba model"):
        check(config, tmp_path / "run", STAGES)
    assert not (tmp_path / "run").exists()


def test_data_without_judgements_is_refused_before_anything_is_trained(tmp_path, tiny_config):
    lines = [json.dumps({"prompt": f"question {i}?", "response": f"answer number {i}"}) for i in range(200)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    config = dataclasses.replace(tiny_config, data=str(tmp_path / "data.jsonl"))
    with pytest.raises(DataError, match="neither labels nor comparisons"):
        check(config, tmp_path / "run", STAGES)
    check(config, tmp_path / "run", ("sft",))
