import json
from pathlib import Path

import pytest
import torch
from tiny import make_family

from plaudit.errors import ModelError
from plaudit.models.hub import BUILT_IN
from plaudit.models.loading import (
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
    save,
    window,
)


def test_the_shipped_model_is_a_plain_gpt2_of_at_most_16_mb():
    folder = BUILT_IN["movie-gpt2"]()
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 16_000_000
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    assert (folder / "README.md").exists()
    model, tokenizer = load_causal_lm("movie-gpt2"), load_tokenizer("movie-gpt2")
    assert next(model.parameters()).dtype == torch.float32
    assert window(model) == tokenizer.hf.model_max_length
    assert tokenizer.text(tokenizer.prompt("The Film is")) == "the film is"


def test_the_shipped_model_predicts_film_reviews():
    model, tokenizer = load_causal_lm("movie-gpt2").eval(), load_tokenizer("movie-gpt2")
    ids = torch.tensor([tokenizer.prompt("this is one of the best films i have ever seen .")])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
        shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
        assert loss < model(shuffled, labels=shuffled).loss.item() - 1
    assert loss < 4


def test_a_saved_model_is_opened_by_transformers_alone(tmp_path, tiny_lm, tiny_tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save(tiny_lm, tiny_tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)("a joy")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, tiny_lm(ids).logits)
    assert (tmp_path / "model.safetensors").exists()


def test_the_activation_of_gpt2_is_computed_by_one_kernel_to_the_same_values(tiny_model_folder, tiny_lm):
    assert tiny_lm.config.activation_function == "gelu_new"
    ours = load_causal_lm(tiny_model_folder)
    assert ours.config.activation_function == "gelu_pytorch_tanh"
    x = torch.linspace(-8, 8, 1001)
    torch.testing.assert_close(ours.transformer.h[0].mlp.act(x), tiny_lm.transformer.h[0].mlp.act(x), rtol=0, atol=1e-6)


def test_a_reward_model_has_the_backbone_of_its_folder(tiny_model_folder):
    lm, reward = load_causal_lm(tiny_model_folder), load_reward_model(tiny_model_folder, pad_id=255)
    assert reward.config.num_labels == 1
    assert reward.config.pad_token_id == 255
    for (name, a), b in zip(lm.transformer.named_parameters(), reward.transformer.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("movie-gpt", "did you mean 'movie-gpt2'"),
        ("smollm", "did you mean 'smollm2'"),
        ("tiny-llama", r"built-in name \(movie-gpt2, smollm2\)"),
        ("./nowhere", "built-in name"),
        ("a/b/c", "hub id"),
    ],
)
def test_a_wrong_name_is_an_error_in_one_line(name, message):
    with pytest.raises(ModelError, match=message) as error:
        load_causal_lm(name)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_names_the_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_causal_lm(str(tmp_path))


def test_a_damaged_model_is_an_error_in_one_line(tmp_path, tiny_lm, tiny_tokenizer):
    save(tiny_lm, tiny_tokenizer, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: no whole safetensors file") as error:
        load_causal_lm(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_model_whose_logits_are_softcapped_is_opened(tmp_path, tiny_tokenizer):
    """Its logits are not just the hidden state times the output embedding; the plain engine runs it."""
    lm = make_family("gemma2, softcapped logits")
    save(lm, tiny_tokenizer, tmp_path)
    again, ids = load_causal_lm(str(tmp_path)).eval(), torch.tensor([[5, 6, 7]])
    assert again.config.final_logit_softcapping == 2.0
    again.config._attn_implementation = "eager"
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, lm(ids).logits)


def test_an_unreachable_hub_is_an_error_in_one_line_that_names_what_works_offline(monkeypatch):
    def nobody_there(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("plaudit.models.hub.HfApi.model_info", nobody_there)
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(ModelError, match=r"cannot fetch 'openai-community/gpt2'.*movie-gpt2 or a folder") as error:
            load("openai-community/gpt2")
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list mapped files")
def test_an_opened_model_does_not_map_its_file(tmp_path, tiny_lm, tiny_tokenizer):
    save(tiny_lm, tiny_tokenizer, tmp_path)
    kept = load_causal_lm(str(tmp_path)), load_reward_model(str(tmp_path), pad_id=0)
    assert all(model.get_input_embeddings().weight.any() for model in kept)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
