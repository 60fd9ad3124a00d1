"""Fixtures for all tests. Shapes in signatures are checked while tests run, and only then."""

import dataclasses
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads only wait for each other when models are this small

from jaxtyping import install_import_hook

install_import_hook("plaudit", "typechecker.checked")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from tiny import labelled_texts, make_lm, make_tokenizer  # noqa: E402
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel  # noqa: E402

from plaudit.config import Config, build, default_settings  # noqa: E402
from plaudit.models.defaults import FITTED  # noqa: E402
from plaudit.models.loading import save  # noqa: E402
from plaudit.models.tokenizer import Tokenizer  # noqa: E402
from plaudit.training.run import STAGES, Run  # noqa: E402

hypothesis.settings.register_profile("plaudit", deadline=None)  # a slow machine is no failure
hypothesis.settings.load_profile("plaudit")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE of 300 tokens with end-of-text as id 0 and, like GPT-2, no padding token."""
    return Tokenizer.of(make_tokenizer())


@pytest.fixture
def tiny_lm() -> GPT2LMHeadModel:
    return make_lm().eval()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory, tiny_tokenizer) -> str:
    """A folder with a tiny GPT-2 and its tokenizer, saved by transformers."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=2,
                               bos_token_id=0, eos_token_id=0)).save_pretrained(folder)  # fmt: skip
    tiny_tokenizer.hf.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_data_folder(tmp_path_factory) -> str:
    """A TSV file of labelled texts: good and bad sentences, each with a number that makes it distinct."""
    folder = tmp_path_factory.mktemp("tiny-data")
    (folder / "train.tsv").write_text(labelled_texts(50))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_config(tiny_model_folder, tiny_data_folder) -> Config:
    """Settings with which the whole pipeline takes seconds; for the rest those of the default model."""
    return build(
        {name: default_settings()[name] for name in FITTED},
        {
            "model": tiny_model_folder, "data": tiny_data_folder, "device": "cpu", "dtype": "float32",
            "prompt_max": 3, "prompt_min": 2, "keep_checkpoints": 1,
            "sft.epochs": 3, "sft.lr": 1e-2, "sft.batch_size": 16, "sft.save_every": 10,
            "reward_model.lr": 5e-3, "reward_model.epochs": 2, "reward_model.batch_size": 16,
            "reward_model.save_every": 5,
            "ppo.iterations": 4, "ppo.batch_size": 16, "ppo.minibatch_size": 8, "ppo.epochs": 2,
            "ppo.max_new_tokens": 16, "ppo.save_every": 2, "ppo.lr": 1e-3, "evaluation.prompts": 16,
        },
    )  # fmt: skip


@pytest.fixture
def cpu_run(tmp_path, tiny_config) -> Run:
    """An empty run directory, with settings for the CPU in float32."""
    return Run.open(tmp_path / "run", tiny_config, resume=False, overwrite=False, stages=("sft",))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_config) -> Path:
    """A run directory in which the whole pipeline has finished. It is shared: tests may only read it."""
    from plaudit.pipeline import steps

    path = tmp_path_factory.mktemp("runs") / "finished"
    run = Run.open(path, tiny_config, resume=False, overwrite=False, stages=STAGES)
    for _ in steps(run):
        pass
    return path


@pytest.fixture
def bare_run(tmp_path, tiny_config, tiny_tokenizer):
    """A function that makes a run whose SFT and reward models are random. Their config files ask for dropout of 10%.

    Its keyword arguments are PPO settings, and:
        folder: name of the run directory.
        reward_on_sft: the reward model has the SFT model's weights except in the second layer and the head.
        layers: of both models.
    """

    def make(folder="bare", reward_on_sft=False, layers=2, **settings) -> Run:
        config = dataclasses.replace(tiny_config, ppo=dataclasses.replace(tiny_config.ppo, **settings))
        run = Run.open(tmp_path / folder, config, resume=False, overwrite=False, stages=STAGES)
        sft = make_lm(layers=layers)
        reward_model = GPT2ForSequenceClassification(make_lm(seed=1, layers=layers).config)
        if reward_on_sft:
            shared = {n: p for n, p in sft.transformer.state_dict().items() if not n.startswith("h.1.")}
            reward_model.transformer.load_state_dict(shared, strict=False)
        reward_model.score = torch.nn.Linear(32, 1, bias=False)
        reward_model.config.num_labels = 1
        for stage, model in (("sft", sft), ("reward_model", reward_model)):
            save(model, tiny_tokenizer, run.folder(stage))
            run.finish(stage, {})
        return run

    return make
