import json

import pytest
import torch
from tiny import make_lm, make_tokenizer

from plaudit.cli import main
from plaudit.errors import ModelError
from plaudit.models.loading import load_causal_lm, load_tokenizer
from plaudit.models.merging import merge_folder

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft about what it calls itself


@pytest.fixture
def adapter(tmp_path):
    """A LoRA adapter with random matrices, as peft saves it, beside its base model."""
    make_lm().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_causal_lm(str(tmp_path / "base")), config)
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    model.save_pretrained(tmp_path / "adapter")
    model.eval()
    return tmp_path / "adapter", model


def edit(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_adapter_is_named_and_the_command_in_the_message_merges_it(adapter, tmp_path, capsys):
    folder, model = adapter
    with pytest.raises(ModelError, match="holds a LoRA adapter") as error:
        load_causal_lm(str(folder))
    command = f"merge {folder} "
    assert f"plaudit {command}DIR" in str(error.value)
    assert main(["merge", str(folder), str(tmp_path / "whole")]) == 0
    assert "merged" in capsys.readouterr().out
    merged, ids = load_causal_lm(str(tmp_path / "whole")).eval(), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model(ids).logits)
        assert not torch.allclose(merged(ids).logits, make_lm().eval()(ids).logits)
    assert load_tokenizer(str(tmp_path / "whole")).eos_id == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": "./nowhere"}, "no model './nowhere'"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"task_type": "SEQ_CLS"}, "an adapter for SEQ_CLS"),
        ({"target_modules": ["no_such_layer"]}, "does not fit its base model"),
        ({"r": 3}, "does not fit its base model"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_in_one_line(adapter, tmp_path, changes, message):
    folder, _ = adapter
    edit(folder, **changes)
    with pytest.raises(ModelError) as error:
        merge_folder(folder, tmp_path / "whole")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "whole").exists()


def test_pickled_adapters_and_existing_folders_are_refused(adapter, tmp_path):
    folder, _ = adapter
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        merge_folder(folder, tmp_path / "whole")
    with pytest.raises(ModelError, match="exists already"):
        merge_folder(folder, tmp_path / "base")
