import pytest
import torch
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from plaudit.models.heads import hidden_states, padded_hidden_states
from plaudit.models.packing import PACKABLE, pack

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA_LIKE = SMALL | {"intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 256}
CONFIGS = {
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3),
    "llama": lambda: LlamaConfig(**LLAMA_LIKE, initializer_range=0.3),
    "qwen2": lambda: Qwen2Config(**LLAMA_LIKE, initializer_range=0.3),
    "qwen3": lambda: Qwen3Config(**LLAMA_LIKE, head_dim=8, initializer_range=0.3),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL, intermediate_size=32, initializer_range=0.3),
}


def _batch(lengths, left=()):
    """Random texts, padded on the right; those in `left` on the left."""
    width = max(lengths)
    ids = torch.randint(64, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    columns = torch.arange(width)
    mask = columns < torch.tensor(lengths)[:, None]
    for row in left:
        mask[row] = columns >= width - lengths[row]
    return ids, mask


@pytest.mark.parametrize("family", sorted(PACKABLE))
def test_packed_rows_give_the_states_and_gradients_of_one_text_a_row(family):
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    ids, mask = _batch([100, 3, 40, 60, 1, 25, 90], left=(1, 2))
    weights = torch.randn(int(mask.sum()), 16)
    states, gradients = [], []
    for forward in (hidden_states, padded_hidden_states):
        lm.zero_grad()
        real = forward(lm, ids, mask)[mask]
        (real * weights).sum().backward()
        states.append(real.detach())
        gradients.append([p.grad.clone() for p in lm.base_model.parameters()])
    assert pack(ids, mask).ids.shape == (3, 128)  # 319 tokens: the seven texts do share rows
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-3, atol=1e-4)


def test_a_family_that_is_not_known_to_keep_texts_apart_is_not_packed(tiny_lm):
    ids, mask = _batch([5, 2])
    tiny_lm.config.model_type = "mamba"
    with torch.no_grad():
        assert torch.equal(hidden_states(tiny_lm, ids, mask), padded_hidden_states(tiny_lm, ids, mask))


def test_a_text_sees_only_itself_and_what_came_before():
    packed = pack(*_batch([3, 2]))
    sees = packed.mask[0, 0, :6, :6].int().tolist()
    assert sees == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],  # the gap at the end of the row looks at itself: a row of the softmax must not be empty
    ]
    assert packed.position_ids[0, :6].tolist() == [0, 1, 2, 0, 1, 0]


def test_every_token_comes_back_to_its_place_and_padding_is_zero():
    ids, mask = _batch([7, 130, 2, 128], left=(0,))
    packed = pack(ids, mask)
    back = packed.unpack(packed.ids[..., None].float() + 1, *ids.shape).squeeze(-1)
    assert torch.equal(back, (ids + 1).float().masked_fill(~mask, 0.0))
