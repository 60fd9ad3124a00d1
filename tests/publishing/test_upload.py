"""Uploads to a stand-in of the hub: every byte arrives, nothing private does, and each refusal is one line."""

import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from itertools import chain

import huggingface_hub.constants as constants
import pytest
import torch
from hub import use
from hub_uploads import READER, TOKEN, serve_uploads
from huggingface_hub import ModelCard
from tiny import LLAMA_LIKE, make_chat_tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from plaudit.algorithms.ppo import ppo
from plaudit.cli import main
from plaudit.config import to_toml
from plaudit.errors import HubError, RunError
from plaudit.models.loading import load_reward_model, load_tokenizer, save
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import RewardModel
from plaudit.models.tokenizer import collate
from plaudit.pipeline import open_run, steps
from plaudit.publishing import upload
from plaudit.publishing.upload import push
from plaudit.records import Message
from plaudit.training.run import Run
from plaudit.training.versions import versions

# huggingface_hub calls its HTTP library in a way that the newest release of that deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPOS = {"sft": "me/film-sft", "reward_model": "me/film-reward-model", "ppo": "me/film"}
PRIVATE = {
    "inputs.json",
    "manifest.json",
    "metrics.jsonl",
    "timing.jsonl",
    "rollouts.jsonl",
    "tokens.jsonl",
    "watch.jsonl",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve_uploads(tmp_path / "hub") as served:
        use(served, tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(upload, "get_token", lambda: None)
        yield served


@pytest.fixture
def offline(monkeypatch):
    """Nobody answers at this address."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def changed(run, folder, **settings):
    """A copy of a run directory with other general settings or data."""
    shutil.copytree(run, folder)
    config = Run.existing(folder).config
    data = dataclasses.replace(config.data, name=settings.pop("data", config.data.name))
    (folder / "config.toml").write_text(to_toml(dataclasses.replace(config, data=data, **settings), versions()))
    return folder


def test_every_model_arrives_byte_by_byte_with_its_card(finished_run, hub):
    assert sorted(push(finished_run, "me/film", token=TOKEN)) == sorted(f"{hub.url}/{repo}" for repo in REPOS.values())
    for stage, repo in REPOS.items():
        sent = {
            p.relative_to(hub.models[repo]).as_posix(): p.read_bytes()
            for p in hub.models[repo].rglob("*")
            if p.is_file()
        }
        card = sent.pop("README.md").decode()
        kept = {
            p.name: p.read_bytes() for p in (finished_run / stage).iterdir() if p.is_file() and p.name not in PRIVATE
        }
        assert sent == kept
        assert {"model.safetensors", "config.json", "tokenizer.json", "metrics.csv", "summary.json"} <= set(sent)
        assert ModelCard(card).data.to_dict()["library_name"] == "transformers"
        assert "film 1 " not in card  # a text of the data
        assert str(finished_run.parent) not in card  # a path of this machine
    assert hub.private == set()


def test_the_example_of_each_card_runs_as_it_is_printed(finished_run, hub, tmp_path):
    push(finished_run, "me/film", token=TOKEN)
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    outputs = {}
    for stage, repo in REPOS.items():
        card = (hub.models[repo] / "README.md").read_text(encoding="utf-8")
        (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        assert len([line for line in example.splitlines() if line]) <= 5
        done = subprocess.run(
            [sys.executable, "-c", example], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs[stage] = done.stdout.strip()
    assert outputs["sft"].startswith("I think that")
    assert outputs["ppo"].startswith("I think that")
    assert float(outputs["reward_model"]) != 0


def test_the_examples_of_a_run_on_dialogues_use_the_chat_template(tmp_path):
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**LLAMA_LIKE | {"vocab_size": 304})).save_pretrained(tmp_path / "base")
    make_chat_tokenizer("chatml").save_pretrained(tmp_path / "base")
    asked = [(Message("user", f"and film {i} , is it funny ?"),) for i in range(150)]
    good, bad = (Message("assistant", "a joy to watch"),), (Message("assistant", "a chore to watch"),)
    run = open_run(
        tmp_path / "run", [(prompt, good, bad) for prompt in asked],
        {"model": str(tmp_path / "base"), "device": "cpu", "sft.epochs": 1, "ppo.iterations": 1,
         "ppo.batch_size": 8, "ppo.minibatch_size": 8, "ppo.max_new_tokens": 8, "sft.max_tokens": 128,
         "reward_model.max_tokens": 128, "reward_model.epochs": 1},
    )  # fmt: skip
    list(steps(run, ["sft", "reward_model", "ppo"]))
    push(run.path, "me/chat", dry_run=tmp_path / "out")
    printed = {}
    for stage, folder in {"ppo": "chat", "reward_model": "chat-reward-model"}.items():
        card = (tmp_path / "out" / folder / "README.md").read_text(encoding="utf-8")
        example, *_ = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        assert "apply_chat_template" in example
        assert re.search(r"\nrun = plaudit\.open_run\(path, \.\.\., \{.*'ppo\.iterations': 1", card)
        assert "memory-" not in card
        example = example.replace(f"me/{folder}", str(tmp_path / "out" / folder))
        printed[stage] = subprocess.run(
            [sys.executable, "-c", example], capture_output=True, text=True, check=True
        ).stdout
    turns = (Message("user", "What do you think?"),), (Message("assistant", "It depends."),)
    tokenizer = load_tokenizer(run.model("reward_model"))
    batch = collate([tokenizer.demonstration(*turns)], tokenizer.pad_id)
    model = RewardModel(load_reward_model(run.model("reward_model"), tokenizer.pad_id), PlainEngine()).eval()
    assert float(printed["reward_model"]) == pytest.approx(model(batch.ids, batch.attention_mask).item(), abs=1e-4)
    assert "What do you think?" in printed["ppo"]


def test_an_ensemble_is_uploaded_whole_and_its_example_uses_every_model(bare_run, hub, tiny_tokenizer, capsys):
    run = bare_run()
    folder = run.folder("reward_model")
    folders = [folder, folder / "members" / "2", folder / "members" / "3"]
    for number, member in enumerate(folders[1:], start=2):
        model = load_reward_model(str(folder), tiny_tokenizer.pad_id)
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(number))
        save(model, tiny_tokenizer, member)
    run.finish("reward_model", {"accuracy": 0.75, "held_out": 40, "members": {"accuracy": [0.7, 0.725, 0.75]}})
    push(run.path, "me/film", token=TOKEN, only=["reward_model"])
    sent = hub.models["me/film-reward-model"]
    for member in folders:
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            assert (sent / member.relative_to(folder) / name).read_bytes() == (member / name).read_bytes()
    assert not PRIVATE & {path.name for path in sent.rglob("*")}
    card = (sent / "README.md").read_text(encoding="utf-8")
    assert "an ensemble of 3 reward models" in card
    assert "Of the models alone: 70.0 %, 72.5 %, 75.0 %." in card.replace("\N{NO-BREAK SPACE}", " ")
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    exec(example, {})
    printed = [float(word) for word in capsys.readouterr().out.split()]
    ids = torch.tensor([[*chain(*tiny_tokenizer.demonstration("", "I think that"))]])
    with torch.no_grad():
        models = [load_reward_model(str(member), tiny_tokenizer.pad_id).eval() for member in folders]
        scores = [model(ids).logits.item() for model in models]
    assert len(set(scores)) == 3
    assert printed == pytest.approx([statistics.mean(scores), statistics.pstdev(scores)], abs=1e-5)


def test_the_card_of_a_policy_has_the_figures_with_intervals_and_the_command(finished_run, tmp_path):
    (folder,) = push(finished_run, "me/film", only=["ppo"], dry_run=tmp_path / "out")
    card = (tmp_path / "out" / "film" / "README.md").read_text(encoding="utf-8")
    assert folder == str(tmp_path / "out" / "film")
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    low, high = evaluation["ppo"]["score_ci95"]
    assert f"{evaluation['ppo']['score_mean']:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−") in card
    ends = [evaluation[model]["kl_ci95"] for model in ("sft", "ppo")]
    before, after = (f"[{low:.1f}, {high:.1f}]" for low, high in ends)
    assert f"| KL (nats) | 0.0 {before} | {evaluation['ppo']['kl_mean']:.1f} {after} |" in card
    assert "On 16 held-out prompts" in card
    command = re.search(r"```sh\n(.*?)\n```", card)[1]
    assert command.startswith("plaudit run --model tiny-gpt2")
    assert "--ppo.iterations 4" in command
    assert "torch " in card
    assert "iterations = 4" in card


def test_metadata_name_the_base_model_its_license_and_the_data(finished_run, hub, tmp_path):
    hub.licenses["owner/base"] = "mit"
    run = changed(finished_run, tmp_path / "run", model="owner/base", data="owner/texts")
    push(run, "me/film", token=TOKEN)
    found = {stage: ModelCard.load(hub.models[repo] / "README.md").data for stage, repo in REPOS.items()}
    assert found["sft"].base_model == "owner/base"
    assert found["ppo"].base_model == found["reward_model"].base_model == "me/film-sft"
    assert {data.license for data in found.values()} == {"mit"}
    assert {tuple(data.datasets) for data in found.values()} == {("owner/texts",)}
    assert [found[s].pipeline_tag for s in REPOS] == ["text-generation", "text-classification", "text-generation"]
    assert found["ppo"].tags == ["plaudit", "rlhf", "ppo"]


def test_what_is_not_known_is_absent_from_the_metadata(finished_run, tmp_path, offline):
    run = changed(finished_run, tmp_path / "run", model="owner/base")
    push(run, "me/film", dry_run=tmp_path / "out")
    data = ModelCard.load(tmp_path / "out" / "film-sft" / "README.md").data.to_dict()
    assert data["base_model"] == "owner/base"
    assert "license" not in data
    assert "datasets" not in data


def test_private_means_private(finished_run, hub):
    push(finished_run, "me/film", token=TOKEN, private=True, only=["sft"])
    assert hub.private == {"me/film-sft"}
    push(finished_run, "me/open", token=TOKEN, only=["sft"])
    with pytest.raises(HubError, match="me/open-sft: exists and is public"):
        push(finished_run, "me/open", token=TOKEN, private=True)
    assert len(hub.commits) == 2


def test_only_some_models_are_uploaded_and_cards_link_to_nothing_else(finished_run, hub):
    assert push(finished_run, "me/film", token=TOKEN, only=["ppo"]) == [f"{hub.url}/me/film"]
    assert list(hub.models) == ["me/film"]
    assert "me/film-sft" not in (hub.models["me/film"] / "README.md").read_text(encoding="utf-8")


def test_a_second_upload_sends_no_weights_again(finished_run, hub):
    hub.breaks = "/commit/"
    with pytest.raises(
        HubError, match=r"me/film-sft: the hub answers 500: .*; run the command again: files that the hub has"
    ):
        push(finished_run, "me/film", token=TOKEN, only=["sft"])
    sent = dict(hub.large)
    assert sent
    hub.breaks = ""
    hub.large = dict.fromkeys(sent, b"kept")  # a file that is sent again would replace it
    push(finished_run, "me/film", token=TOKEN, only=["sft"])
    assert set(hub.large.values()) == {b"kept"}


def test_the_token_comes_from_the_login(finished_run, hub, monkeypatch):
    monkeypatch.setattr(upload, "get_token", lambda: TOKEN)
    assert push(finished_run, "me/film", only=["sft"])


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("me/film", "", "no token for the hub: set HF_TOKEN to one with write access"),
        ("me/film", "wrong", r"me/film-sft: the hub does not accept the token \(401\)"),
        ("me/film", READER, r"me/film-sft: the token may not write there \(403\): use one with write access to 'me'"),
        ("other/film", TOKEN, r"other/film-sft: the token may not write there \(403\).* 'other'"),
        ("film", TOKEN, "'film': not a repository's name"),
        ("me/my film", TOKEN, "'me/my film': not a repository's name"),
        ("https://huggingface.co/me/film", TOKEN, "not a repository's name"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing_behind(finished_run, hub, repo, token, message):
    with pytest.raises(HubError, match=message) as refused:
        push(finished_run, repo, token=token)
    assert "\n" not in str(refused.value)
    assert hub.models == {}


def test_no_network_is_one_line(finished_run, offline):
    with pytest.raises(
        HubError, match=r"me/film-sft: cannot reach the hub at http://127.0.0.1:9 \(.*\); check the network"
    ) as no:
        push(finished_run, "me/film", token=TOKEN)
    assert "\n" not in str(no.value)


def test_stages_that_do_not_exist_or_have_not_finished_are_refused(finished_run, tmp_path):
    with pytest.raises(RunError, match="only = 'rm': no such stage"):
        push(finished_run, "me/film", only=["rm"], dry_run=tmp_path / "out")
    with pytest.raises(RunError, match="no finished reinforce here"):
        push(finished_run, "me/film", only=["reinforce"], dry_run=tmp_path / "out")
    (tmp_path / "out" / "film").mkdir(parents=True)
    (tmp_path / "out" / "film" / "mine.txt").write_text("")
    with pytest.raises(RunError, match="is not empty"):
        push(finished_run, "me/film", only=["ppo"], dry_run=tmp_path / "out")


def test_an_adapter_names_the_repository_of_its_base(bare_run, tmp_path):
    run = bare_run(lora_rank=2, iterations=1)
    list(ppo(run))
    push(run.path, "me/film", dry_run=tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "film" / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "me/film-sft"
    weights = (run.folder("ppo") / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "out" / "film" / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert "There is no evaluation of this model." in (tmp_path / "out" / "film" / "README.md").read_text()
    push(run.path, "me/film", only=["ppo"], dry_run=tmp_path / "alone")
    assert not (tmp_path / "alone" / "film" / "adapter").exists()  # its base would be a path of this machine


def test_the_command_prints_the_addresses_and_reads_the_token(finished_run, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(finished_run), "me/film", "--private", "--only", "ppo,reward-model"]) == 0
    assert capsys.readouterr().out.split() == [f"{hub.url}/me/film", f"{hub.url}/me/film-reward-model"]
    assert hub.private == {"me/film", "me/film-reward-model"}
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(finished_run), "me/film"]) == 1
    assert re.fullmatch(r"plaudit: error: no token for the hub: .*\n", capsys.readouterr().err)
