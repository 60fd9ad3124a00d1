"""Every family of causal language models that transformers opens, as a small random model through all stages."""

import json
import math

import pytest
import torch
from tiny import labelled_texts, make_tokenizer, make_tokenizer_of
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaForCausalLM, LlamaModel

from plaudit.config import build
from plaudit.evaluation.evaluate import sample
from plaudit.models.fast.families import supports
from plaudit.models.loading import load_causal_lm, load_reward_model
from plaudit.pipeline import check, steps
from plaudit.training.run import STAGES, Run

_SMALL = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMALL |= {"max_position_embeddings": 64}
_LLAMA = _SMALL | {"intermediate_size": 32, "num_key_value_heads": 1}
_GPT = {"vocab_size": 320, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
FAMILIES = {
    "gpt2": ("gpt2", _GPT),
    "gpt2, untied, one layer": ("gpt2", _GPT | {"tie_word_embeddings": False, "n_layer": 1}),
    "gpt_neo": ("gpt_neo", {"vocab_size": 320, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 4,
                            "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64}),
    "gpt_neox": ("gpt_neox", _SMALL | {"intermediate_size": 32}),
    "gptj": ("gptj", _GPT | {"rotary_dim": 4}),
    "llama": ("llama", _LLAMA),
    "smollm, tied": ("llama", _LLAMA | {"tie_word_embeddings": True}),
    "smollm3": ("smollm3", _LLAMA),
    "mistral, sliding window": ("mistral", _LLAMA | {"sliding_window": 6}),
    "mixtral": ("mixtral", _LLAMA | {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "qwen2": ("qwen2", _LLAMA | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", _LLAMA | {"head_dim": 8}),
    "gemma": ("gemma", _LLAMA | {"head_dim": 8}),
    "gemma2": ("gemma2", _LLAMA | {"head_dim": 8, "sliding_window": 6, "final_logit_softcapping": 30.0}),
    "gemma3": ("gemma3_text", _LLAMA | {"head_dim": 8, "sliding_window": 6}),
    "phi": ("phi", _LLAMA),
    "phi3": ("phi3", _LLAMA | {"sliding_window": 6}),
    "opt": ("opt", _SMALL | {"ffn_dim": 32, "word_embed_proj_dim": 16}),
    "opt, narrow embedding": ("opt", _SMALL | {"ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "bloom": ("bloom", {"vocab_size": 320, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "falcon": ("falcon", _SMALL),
    "olmo": ("olmo", _LLAMA),
    "olmo2": ("olmo2", _LLAMA),
    "granite": ("granite", _LLAMA | {"logits_scaling": 8.0}),
    # Families of which transformers has no sequence classifier: the score head is plaudit's own.
    "mamba": ("mamba", {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "codegen": ("codegen", _GPT | {"rotary_dim": 4, "n_head": 4}),
    "xglm": ("xglm", {"vocab_size": 320, "d_model": 16, "ffn_dim": 32, "num_layers": 2, "attention_heads": 2,
                      "max_position_embeddings": 512}),
    "unknown": ("a family of our own", _LLAMA),
}  # fmt: skip
KINDS = {"llama": "metaspace", "mistral, sliding window": "unigram", "qwen2": "byte-level without bos"}


class OwnConfig(LlamaConfig):
    model_type = "a family of our own"


class OwnPreTrainedModel(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "body"


class OwnForCausalLM(OwnPreTrainedModel, GenerationMixin):
    """A language model that is registered for `AutoModelForCausalLM` alone, with names of its own."""

    def __init__(self, config):
        super().__init__(config)
        self.body = LlamaModel(config)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **rest):
        rest = {name: value for name, value in rest.items() if name != "logits_to_keep"}
        output = self.body(input_ids, attention_mask, position_ids, past_key_values, **rest)
        output.logits = self.head(output.last_hidden_state)
        return output


AutoConfig.register("a family of our own", OwnConfig)
AutoModelForCausalLM.register(OwnConfig, OwnForCausalLM)
assert LlamaForCausalLM.base_model_prefix != OwnForCausalLM.base_model_prefix


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "train.tsv").write_text(labelled_texts(12))
    return folder / "train.tsv"


def make(family: str, folder) -> None:
    """A folder with a random model of a family, and a tokenizer of a kind that fits it."""
    kind, settings = FAMILIES[family]
    tokenizer = make_tokenizer_of(KINDS[family]) if family in KINDS else make_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings | ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def small(model, data, **more):
    settings = {
        "model": str(model), "data.name": str(data), "device": "cpu", "dtype": "float32",
        "prompt_min": 1, "prompt_max": 3, "sft.epochs": 1, "reward_model.epochs": 1,
        "ppo.iterations": 1, "ppo.batch_size": 8, "ppo.minibatch_size": 8, "ppo.max_new_tokens": 4,
        "evaluation.prompts": 4,
    }  # fmt: skip
    return build(settings, more)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_runs_through_every_stage(family, tmp_path, texts):
    make(family, tmp_path / "model")
    fast = supports(load_causal_lm(str(tmp_path / "model")))
    for engine in ["plain", "fast"] if fast else ["auto"]:
        config, path = small(tmp_path / "model", texts, engine=engine), tmp_path / engine
        check(config, path, STAGES)
        run = Run.open(path, config, resume=False, overwrite=False, stages=STAGES)
        reports = list(steps(run))
        assert {report.stage for report in reports} == set(STAGES)
        assert all(math.isfinite(v) for r in reports for v in r.metrics.values() if v is not None)
        evaluation = json.loads((path / "evaluation.json").read_text())
        assert math.isfinite(evaluation["policy"]["score_mean"])
        before, after = load_causal_lm(str(tmp_path / "model")), load_causal_lm(run.model("ppo"))
        changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
        assert any(changed)
        assert load_reward_model(run.model("reward_model"), 0).score.weight.shape[0] == 1
        assert len(sample(path, "a warm", 2, seed=1)) == 2
