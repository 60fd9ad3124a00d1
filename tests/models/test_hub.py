"""Models from the hub, which a local server stands in for: every failure is one line that says what to do."""

import hub as stand_in
import pytest
from tiny import make_lm, make_tokenizer

from plaudit.config import build, read_toml
from plaudit.errors import ModelError
from plaudit.models import hub
from plaudit.models.loading import load_causal_lm, load_tokenizer
from plaudit.training.run import Run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two revisions of a model, and one whose weights are pickled."""
    root = tmp_path_factory.mktemp("repositories")
    for name, seed in (("first", 0), ("second", 1)):
        make_lm(seed=seed).save_pretrained(root / name)
        make_tokenizer().save_pretrained(root / name)
        (root / name / "modeling_evil.py").write_text("raise SystemExit")
    make_lm().config.save_pretrained(root / "pickled")
    (root / "pickled" / "pytorch_model.bin").write_bytes(b"any code")
    return root


GATED = "gated/model"


@pytest.fixture
def server(folders, tmp_path, monkeypatch):
    with stand_in.serve() as found:
        stand_in.use(found, tmp_path / "cache", monkeypatch)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        found.models = {"tiny/model": folders / "second", GATED: folders / "first", "old/model": folders / "pickled"}
        found.branches["tiny/model", "v1"] = folders / "first"
        found.gated.add(GATED)
        hub._fetched.cache_clear()
        yield found
        hub._fetched.cache_clear()


def weights(name):
    return load_causal_lm(name).transformer.wte.weight


def test_a_model_comes_from_the_hub_at_its_revision(server, folders):
    assert weights("tiny/model").equal(make_lm(seed=1).transformer.wte.weight)
    assert weights("tiny/model@v1").equal(make_lm(seed=0).transformer.wte.weight)
    commit = stand_in.commit(folders / "first")
    assert weights(f"tiny/model@{commit}").equal(weights("tiny/model@v1"))
    assert load_tokenizer("tiny/model@v1").eos_id == 0
    assert hub.commit("tiny/model@v1") == commit
    assert hub.commit("movie-gpt2") == ""
    assert not [path for path in server.requests if path.endswith(".py")]


def test_the_commit_is_recorded_with_the_run(server, folders, tmp_path, tiny_data_folder):
    config = build({"model": "tiny/model@v1", "data.name": tiny_data_folder})
    Run.open(tmp_path / "run", config, resume=False, overwrite=False, stages=("sft",))
    text = (tmp_path / "run" / "config.toml").read_text()
    assert f'model = "{stand_in.commit(folders / "first")}"' in text.partition("[versions]")[2]
    assert read_toml(tmp_path / "run" / "config.toml")["model"] == "tiny/model@v1"


def test_a_model_in_the_cache_needs_no_hub(server, monkeypatch):
    expected = weights("tiny/model")
    hub._fetched.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing answers there
    assert weights("tiny/model").equal(expected)
    hub._fetched.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert weights("tiny/model").equal(expected)
    with pytest.raises(ModelError, match=r"cannot fetch 'tiny/other' from the hub .*its cache does not have it"):
        load_causal_lm("tiny/other")


def test_a_gated_model_opens_with_a_token(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    assert weights(GATED).shape == (300, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tiny/unknown",
            "tiny/unknown: no folder, and the hub has no such model, or you have no access; check the name",
        ),
        (
            "tiny/model@v9",
            "tiny/model@v9: the model has no revision 'v9'; give a branch, a tag or a commit after the @",
        ),
        (GATED, "gated: accept its terms at https://huggingface.co/gated/model, and set HF_TOKEN"),
        ("tiny/mo..del", "no such model"),
        ("old/model", "no safetensors weights"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_refused_in_one_line(server, name, message):
    for opening in (load_causal_lm, load_tokenizer, lambda name: build({"model": name})):
        with pytest.raises(ModelError) as error:
            opening(name)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
