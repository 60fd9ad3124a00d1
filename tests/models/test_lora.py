import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import make_lm
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

import plaudit
from plaudit import rng
from plaudit.algorithms.sft import Config as SFTConfig
from plaudit.errors import ModelError
from plaudit.models.layers import freeze_lower_layers, share_weights
from plaudit.models.loading import load_causal_lm, load_reward_model, save
from plaudit.models.lora import (
    FOLDER,
    add_adapters,
    load_adapters,
    merge,
    plain_state,
    save_adapters,
)
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import RewardModel

LORA = SFTConfig(lora_rank=3, lora_alpha=6)
BY_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks by the old name
IDS = torch.tensor([[0, 5, 6, 7, 11], [0, 9, 13, 14, 15]])
MASK = torch.ones_like(IDS, dtype=torch.bool)


def make_llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=300, max_position_embeddings=64, num_key_value_heads=2, initializer_range=0.2,
                         tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, **sizes)  # fmt: skip
    return LlamaForCausalLM(config)


MAKERS = {"gpt2": make_lm, "llama": make_llama}
PARTS = {
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "llama": {*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))},
}


@pytest.fixture(params=MAKERS)
def family(request):
    return request.param


def adapted(family, train_layers=0, settings=LORA, seed=1, stage="sft"):
    model = MAKERS[family]().eval()
    freeze_lower_layers(model, train_layers)
    add_adapters(model, settings, seed, stage)
    return model


def trained(model):
    """The model with adapters that are not zero, as training leaves them."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.copy_(0.3 * rng.normals(tuple(parameter.shape), 0, "test", name))
    return model


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, attention_mask=MASK.long()).logits


@torch.no_grad()
def scores(classifier):
    return RewardModel(classifier, PlainEngine())(IDS, MASK)


def test_new_adapters_change_nothing(family):
    assert torch.equal(logits(adapted(family)), logits(MAKERS[family]().eval()))


def test_new_adapters_change_nothing_in_bfloat16(family):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logits(adapted(family)), logits(MAKERS[family]().eval()))


@pytest.mark.parametrize("train_layers", [0, 1])
def test_only_adapters_learn_and_every_linear_layer_that_would_learn_has_one(family, train_layers):
    model = adapted(family, train_layers)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    prefix = "transformer.h" if family == "gpt2" else "model.layers"
    assert learning == {
        f"{prefix}.{layer}.{part}.lora_{side}.default.weight"
        for layer in range(2)[-train_layers:]
        for part in PARTS[family]
        for side in "AB"
    }
    trained(model)(IDS).logits.square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == learning
    assert all(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_an_adapter_adds_its_scaled_product():
    plain, model = make_lm().eval(), trained(adapted("gpt2"))
    layer = model.transformer.h[1].mlp.c_fc
    x = rng.normals((2, 5, 32), 0, "test", "x")
    with torch.no_grad():
        a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
        assert (tuple(a.shape), tuple(b.shape)) == ((3, 32), (128, 3))
        assert a.abs().max() <= 32**-0.5  # uniform, with the bound of a linear layer
        expected = plain.transformer.h[1].mlp.c_fc(x) + 6 / 3 * (x @ a.T) @ b.T
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_the_numbers_depend_on_seed_stage_and_layer_and_not_on_the_generator_of_torch():
    def numbers(**chosen):
        model = adapted("gpt2", **chosen)
        return [p.detach() for name, p in model.named_parameters() if "lora_A" in name]

    model = make_lm()
    before = torch.get_rng_state()
    add_adapters(model, LORA, 1, "sft")
    assert torch.equal(torch.get_rng_state(), before)
    first = numbers()
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(first, numbers(), strict=True))
    for other in (numbers(seed=2), numbers(stage="ppo")):
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])


def test_rank_zero_changes_nothing():
    model = make_lm()
    add_adapters(model, SFTConfig(), 1, "sft")
    assert model.state_dict().keys() == make_lm().state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())


def test_a_saved_model_is_plain_and_computes_what_the_adapted_one_computes(family, tmp_path, tiny_tokenizer):
    model = trained(adapted(family, train_layers=1))
    before, expected = {name: p.clone() for name, p in model.state_dict().items()}, logits(model)
    save(model, tiny_tokenizer, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert plain.state_dict().keys() == MAKERS[family]().state_dict().keys()
    torch.testing.assert_close(plain(IDS).logits.detach(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, logits(MAKERS[family]().eval()), atol=1e-2)
    # The model in memory is unchanged and can learn on.
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert torch.equal(logits(model), expected)
    merge(model)
    assert all(torch.equal(p, plain.state_dict()[name]) for name, p in model.state_dict().items())
    assert torch.equal(logits(model), logits(plain))


def test_a_model_without_adapters_is_saved_as_it_is(tmp_path, tiny_lm):
    assert plain_state(tiny_lm).keys() == tiny_lm.state_dict().keys()
    save_adapters(tiny_lm, tmp_path / FOLDER)
    assert not (tmp_path / FOLDER).exists()


@BY_PEFT
def test_peft_opens_the_saved_adapter(family, tmp_path, tiny_tokenizer):
    model = trained(adapted(family, train_layers=1))
    save(model, tiny_tokenizer, tmp_path / "tuned")
    save(MAKERS[family](), tiny_tokenizer, tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "tuned" / FOLDER).eval()
    torch.testing.assert_close(theirs(IDS).logits.detach(), logits(model), rtol=1e-5, atol=1e-5)


def test_the_same_adapter_is_written_the_same(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        save_adapters(trained(adapted("gpt2")), folder)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    targets = json.loads((tmp_path / "a" / names[0]).read_text())["target_modules"]
    assert targets == [name.removesuffix(".lora_A") for name, _ in adapted("gpt2").named_modules()
                       if name.endswith(".lora_A")]  # fmt: skip


@pytest.fixture
def classifier(family, tmp_path, tiny_tokenizer):
    """A reward model with adapters in its top layer, saved in "reward_model"; its base is in "sft"."""
    save(MAKERS[family](), tiny_tokenizer, tmp_path / "sft")
    model = load_reward_model(str(tmp_path / "sft"), 255).eval()
    freeze_lower_layers(model, 1)
    add_adapters(model, LORA, 1, "reward_model")
    with torch.no_grad():
        model.score.weight.copy_(rng.normals((1, 32), 0, "test", "head"))
    save(trained(model), tiny_tokenizer, tmp_path / "reward_model")
    return model


@BY_PEFT
def test_the_adapter_and_the_head_of_a_reward_model_are_loaded_onto_its_base(classifier, tmp_path):
    again = load_reward_model(str(tmp_path / "sft"), 255).eval()
    load_adapters(again, tmp_path / "reward_model" / FOLDER)
    plain = load_reward_model(str(tmp_path / "reward_model"), 255).eval()
    named = json.loads((tmp_path / "reward_model" / FOLDER / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str((tmp_path / "sft").resolve())
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "sft", num_labels=1, pad_token_id=255)
    theirs = PeftModel.from_pretrained(base, tmp_path / "reward_model" / FOLDER).eval()
    expected = scores(classifier)
    assert torch.equal(scores(again), expected)
    torch.testing.assert_close(scores(plain), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        by_peft = theirs(IDS, attention_mask=MASK.long()).logits[:, 0]
    torch.testing.assert_close(by_peft, expected, rtol=1e-5, atol=1e-5)


def test_a_reward_model_with_adapters_shares_its_base_with_a_policy_with_adapters(classifier, tmp_path):
    owner = load_causal_lm(str(tmp_path / "sft")).eval()
    add_adapters(owner, LORA, 1, "ppo")
    expected = scores(classifier)
    classifier.requires_grad_(False)
    share_weights(owner, classifier)
    places = {p.data_ptr() for p in owner.parameters()}
    apart = {name for name, p in classifier.named_parameters() if p.data_ptr() not in places}
    assert apart == {name for name, _ in classifier.named_parameters() if "lora_" in name or name == "score.weight"}
    assert torch.equal(scores(classifier), expected)


def test_a_family_that_the_fast_engine_does_not_know_gets_adapters_too():
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=300, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2,
                       max_position_embeddings=64, word_embed_proj_dim=32)  # fmt: skip
    model = OPTForCausalLM(config).eval()
    before = logits(model)
    add_adapters(model, LORA, 1, "sft")
    assert torch.equal(logits(model), before)
    assert sum(hasattr(module, "lora_A") for module in model.modules()) == 2 * 6
    assert not hasattr(model.lm_head, "lora_A")


def test_without_peft_only_lora_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError) as refused:
        add_adapters(make_lm(), LORA, 1, "sft")
    assert "pip install 'plaudit[lora]'" in str(refused.value)
    assert "\n" not in str(refused.value)
    add_adapters(make_lm(), SFTConfig(), 1, "sft")


def test_peft_is_imported_only_when_adapters_are_made():
    for path in Path(plaudit.__file__).parent.rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        for node in module.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not [name for name in names if name.split(".")[0] == "peft"], path
