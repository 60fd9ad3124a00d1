"""A model that cannot do what training asks of it is refused in one line, before anything is trained."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import GOOD, OTHER_FAMILIES, make_family, make_lm, make_tokenizer_of
from transformers import GPT2ForSequenceClassification

from plaudit.errors import ModelError
from plaudit.models.loading import load_causal_lm, load_reward_model, load_tokenizer, model_without_weights
from plaudit.models.tokenizer import Tokenizer
from plaudit.models.trial import check_texts, check_vocabulary, try_model

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """A model folder that is as it should be: a random GPT-2 with an untied output embedding."""
    lm = make_lm()
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.detach().clone())
    lm.save_pretrained(tmp_path / "model")
    make_tokenizer_of("byte-level").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def refusal(open_model, *arguments):
    with pytest.raises(ModelError) as error:
        open_model(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def outcome(open_model, *arguments):
    """The message of a ModelError; empty if there is none."""
    try:
        open_model(*arguments)
    except ModelError as error:
        return str(error) or "refused without a word"
    return ""


def attempt(folder, classifier=None):
    try_model(str(folder), load_tokenizer(str(folder)), GOOD, CPU, classifier and str(classifier))


def test_a_whole_model_passes(folder):
    attempt(folder, folder)


@pytest.mark.parametrize(
    "lost", ["transformer.h.1.", "transformer.wte.weight", "lm_head.weight", "transformer.ln_f.bias"]
)
def test_a_missing_weight_is_named(folder, lost):
    change_weights(folder, lambda w: [w.pop(name) for name in [*w] if name.startswith(lost)])
    message = refusal(load_causal_lm, str(folder))
    assert lost in message
    assert "missing from its weights" in message
    if lost != "lm_head.weight":
        assert lost in refusal(load_reward_model, str(folder), 1)


@pytest.mark.parametrize("name", ["v_head.summary.weight", "transformer.h.2.ln_1.weight", "score.weight"])
def test_a_weight_that_the_model_does_not_have_is_named(folder, name):
    change_weights(folder, lambda w: w.update({name: torch.zeros(1, 32)}))
    assert f"{name} is not part of a GPT2LMHeadModel" in refusal(load_causal_lm, str(folder))


@pytest.mark.parametrize("key", ["n_positions", "vocab_size"])
def test_a_weight_of_another_shape_is_named(folder, key):
    edit(folder / "config.json", **{key: 32})
    message = refusal(load_causal_lm, str(folder))
    assert {"n_positions": "transformer.wpe.weight", "vocab_size": "weight"}[key] in message
    assert "of another shape than config.json says" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_fc.weight", "transformer.wpe.weight", "lm_head.weight"])
def test_a_weight_that_is_not_finite_is_named_with_its_file(folder, name, value):
    change_weights(folder, lambda w: w[name].view(-1)[5:6].fill_(value))
    assert f"model.safetensors: tensor {name} has values that are not finite" in refusal(load_causal_lm, str(folder))


def test_only_a_language_model_may_lack_the_score_head(folder, tmp_path):
    assert load_reward_model(str(folder), 1).score.weight.shape == (1, 32)
    classifier = GPT2ForSequenceClassification(make_lm().config)
    classifier.score = torch.nn.Linear(32, 1, bias=False)
    classifier.config.num_labels = 1
    classifier.save_pretrained(tmp_path / "reward")
    shutil.copy(folder / "tokenizer.json", tmp_path / "reward")
    assert torch.equal(load_reward_model(str(tmp_path / "reward"), 1).score.weight, classifier.score.weight)
    assert "score.weight is not part of" in refusal(load_causal_lm, str(tmp_path / "reward"))
    change_weights(tmp_path / "reward", lambda w: w.pop("score.weight"))
    assert "score.weight is missing" in refusal(load_reward_model, str(tmp_path / "reward"), 1)


@pytest.mark.parametrize("size", [250, 299])
def test_a_token_without_an_embedding_is_named(folder, size):
    lm = make_lm(vocab=size)
    lm.save_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    assert len(tokenizer.hf) < size or repr(tokenizer.hf.convert_ids_to_tokens(size)) in refusal(attempt, folder)
    for token in ("[PAD]", "superfilm"):
        hf = load_tokenizer(str(folder)).hf
        lm = make_lm(vocab=len(hf))
        hf.add_tokens([token], special_tokens=token == "[PAD]")
        assert f"{token!r} with id {len(hf) - 1}" in refusal(check_vocabulary, "m", Tokenizer.of(hf), lm)


@pytest.mark.parametrize("kind", ["metaspace", "unigram", "wordpiece", "words"])
def test_a_tokenizer_that_does_not_know_the_texts_is_refused(kind):
    tokenizer = Tokenizer.of(make_tokenizer_of(kind))
    check_texts("m", tokenizer, GOOD)
    for texts in (["хороший фильм", "скучный фильм"], ["よい映画", "わるい映画"]):
        assert "does not know these texts" in refusal(check_texts, "m", tokenizer, texts)


def test_a_vocabulary_of_one_is_refused(folder):
    hf = json.loads((folder / "tokenizer.json").read_text())
    hf["model"] |= {"vocab": {"<|endoftext|>": 0}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(hf))
    assert "it gives no tokens" in refusal(attempt, folder)


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_unusual_families_run(family, tmp_path):
    """Narrow embeddings, no key-value cache, sliding windows: the plain engine runs them."""
    lm = make_family(family)
    lm.resize_token_embeddings(300)
    lm.save_pretrained(tmp_path)
    make_tokenizer_of("byte-level").save_pretrained(tmp_path)
    attempt(tmp_path, None if family == "mamba" else tmp_path)


HOSTILE = {
    "config.json": [
        {"n_layer": 10**9}, {"vocab_size": 10**12}, {"n_positions": 10**11}, {"n_embd": "32"}, {"n_embd": -3},
        {"n_head": 0}, {"n_head": 10**30}, {"n_layer": None}, {"model_type": "nonsense"}, {"model_type": "bert"},
        {"activation_function": "exec"}, {"vocab_size": [300]}, {"dtype": "float7"}, {"eos_token_id": {"a": 1}},
        {"transformers_weights": "../m.safetensors"}, {"attn_implementation": "owner/kernel"},
        {"_attn_implementation": {"": "owner/kernel"}}, {"quantization_config": {"quant_method": "nonsense"}},
        {"architectures": 3}, {"pad_token_id": "x"},
    ],
    "tokenizer_config.json": [
        {"tokenizer_class": "Nonsense"}, {"tokenizer_class": 3}, {"eos_token": None}, {"eos_token": 7},
        {"eos_token": {"content": [1]}}, {"added_tokens_decoder": {"x": 1}}, {"added_tokens_decoder": [1]},
        {"auto_map": 3}, {"model_max_length": "long"}, {"extra_special_tokens": 5}, {"padding_side": "middle"},
    ],
    "tokenizer.json": [
        {"model": {}}, {"model": None}, {"model": {"type": "BPE", "vocab": [], "merges": []}}, {"version": 3},
        {"pre_tokenizer": {"type": "Nonsense"}}, {"added_tokens": [{"id": -1}]}, {"added_tokens": 5},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
    ],
    "generation_config.json": [
        {"eos_token_id": "x"}, {"temperature": "hot"}, {"max_new_tokens": 10**30}, {"cache_implementation": "nonsense"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes"), [(name, changes) for name, all_of_them in HOSTILE.items() for changes in all_of_them], ids=str
)
def test_a_malformed_file_gives_one_line_or_changes_nothing(folder, name, changes):
    (folder / name).exists() or (folder / name).write_text("{}")
    edit(folder / name, **changes)
    message = outcome(model_without_weights, str(folder)) or outcome(attempt, folder, folder)
    assert "\n" not in message
    assert not message or str(folder) in message


@pytest.mark.parametrize("answer", ["y\n", "yes\n", ""])
@pytest.mark.parametrize("known", [True, False])
def test_no_code_of_a_folder_runs_whatever_is_on_stdin(folder, monkeypatch, capsys, answer, known):
    import io

    (folder / "code.py").write_text("raise SystemExit('code of the folder ran')")
    mapped = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "code.Model") | {"AutoTokenizer": ["code.T"] * 2}
    edit(folder / "config.json", auto_map=mapped, **({} if known else {"model_type": "their_own"}))
    edit(folder / "tokenizer_config.json", auto_map=mapped, tokenizer_class="T")
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    message = outcome(attempt, folder)
    assert "\n" not in message
    assert message or known
    assert "trust" not in "".join(capsys.readouterr())


def test_an_adapter_does_not_lead_to_another_folder(folder, tmp_path):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    assert "holds a LoRA adapter" in refusal(load_causal_lm, str(folder))
    (folder / "config.json").unlink()
    assert "holds a LoRA adapter" in refusal(load_causal_lm, str(folder))
