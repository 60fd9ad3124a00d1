"""Small texts and random models that the tests share."""

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from plaudit.batches import Responses

GOOD = ["a warm and moving film", "the cast is wonderful", "funny , clever and kind", "a joy to watch"]
BAD = ["a dull and tired film", "the cast is dreadful", "slow , stupid and loud", "a chore to watch"]

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
OPT = SMALL | {"ffn_dim": 32, "max_position_embeddings": 64}
LLAMA_LIKE = SMALL | {"intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 256}
# The families that the fast engine runs.
FAMILIES = {
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=16, n_layer=3, n_head=2, initializer_range=0.3),
    "llama": lambda: LlamaConfig(**LLAMA_LIKE),
    "qwen2": lambda: Qwen2Config(**LLAMA_LIKE),
    "qwen3": lambda: Qwen3Config(**LLAMA_LIKE, head_dim=8),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL, intermediate_size=32),
}
# Models that it does not run, each for another reason.
OTHER_FAMILIES = {
    "opt": lambda: OPTConfig(**OPT, word_embed_proj_dim=16),
    "opt, narrow embedding": lambda: OPTConfig(**OPT, word_embed_proj_dim=8, do_layer_norm_before=False),
    "bloom": lambda: BloomConfig(vocab_size=64, hidden_size=16, n_layer=3, n_head=2, initializer_range=0.3),
    "mamba": lambda: MambaConfig(
        vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=3, initializer_range=0.3
    ),
    "gemma2, softcapped logits": lambda: Gemma2Config(
        **LLAMA_LIKE, head_dim=8, sliding_window=4, final_logit_softcapping=2.0, attn_implementation="eager"
    ),
    "mistral, sliding window": lambda: MistralConfig(**LLAMA_LIKE, sliding_window=4),
    "qwen2, sliding window": lambda: Qwen2Config(
        **LLAMA_LIKE, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
}


LLAMA_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
BERT_SPECIAL = {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
KINDS = {  # model, pre-tokenizer, decoder, trainer, special tokens
    "byte-level": (
        models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), trainers.BpeTrainer,
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    ),
    "byte-level without bos": (
        models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), trainers.BpeTrainer,
        {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"},
    ),
    "metaspace": (
        models.BPE(unk_token="<unk>"), pre_tokenizers.Metaspace(), decoders.Metaspace(), trainers.BpeTrainer,
        LLAMA_SPECIAL,
    ),
    "unigram": (
        models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(), trainers.UnigramTrainer, LLAMA_SPECIAL,
    ),
    "wordpiece": (
        models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(),
        trainers.WordPieceTrainer, BERT_SPECIAL | {"pad_token": "[PAD]"},
    ),
    "words": (
        models.WordLevel(unk_token="[UNK]"), pre_tokenizers.WhitespaceSplit(), None, trainers.WordLevelTrainer,
        BERT_SPECIAL,
    ),
}  # fmt: skip


def make_tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind, trained on GOOD and BAD."""
    model, pre_tokenizer, decoder, trainer, special = KINDS[kind]
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizer
    if decoder:
        backend.decoder = decoder
    if kind == "wordpiece":
        backend.normalizer = normalizers.BertNormalizer()
    settings = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} if "byte" in kind else {}
    settings |= {"unk_token": "<unk>"} if kind == "unigram" else {}
    tokens = list(dict.fromkeys(special.values()))
    backend.train_from_iterator(
        [*GOOD, *BAD, "answer : yes </s> [SEP] <|im_end|> <|endoftext|> ÿ"] * 5,
        trainer(vocab_size=300, special_tokens=tokens, show_progress=False, **settings),
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def make_lm(vocab: int = 300, layers: int = 2, width: int = 32, window: int = 64, seed: int = 0) -> GPT2LMHeadModel:
    """A random GPT-2 with weights so large that its predictions differ between positions."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab, n_positions=window, n_embd=width, n_layer=layers, n_head=2, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens with end-of-text as id 0 and, like GPT-2, no padding token."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(GOOD + BAD, trainer)
    eos = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=eos, eos_token=eos)


def labelled_texts(times: int) -> str:
    """A TSV file of good and bad sentences, each `times` times with a number that makes it distinct."""
    texts = [(text, 1) for text in GOOD] + [(text, 0) for text in BAD]
    rows = [f"film {i} {text}\t{label}" for i, (text, label) in enumerate(texts * times)]
    return "sentence\tlabel\n" + "\n".join(rows) + "\n"


def make_family(name: str, seed: int = 0):
    """A random causal model of a family: 64 tokens, 3 layers of width 16."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config((FAMILIES | OTHER_FAMILIES)[name]()).eval()


def padded_texts(lengths, left=()):
    """(ids, mask) of random texts with a vocabulary of 64, padded on the right, or on the left for the rows `left`."""
    width = max(lengths)
    ids = torch.randint(64, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    columns = torch.arange(width)
    mask = columns < torch.tensor(lengths)[:, None]
    for row in left:
        mask[row] = columns >= width - lengths[row]
    return ids, mask


def some_responses() -> Responses:
    """Six prompts of 1 to 4 tokens padded on the left, with responses of 1 to 6 tokens padded on the right."""
    ids, prompt_mask = padded_texts((4, 3, 1, 2, 4, 3), left=range(6))
    columns = torch.arange(6)
    response_mask = columns < torch.tensor([6, 2, 4, 1, 3, 5])[:, None]
    response_ids = torch.randint(64, (6, 6), generator=torch.Generator().manual_seed(1)).masked_fill(~response_mask, 63)
    mask = torch.cat([prompt_mask, response_mask], dim=1)
    return Responses(torch.cat([ids, response_ids], dim=1), mask, response_mask, torch.ones(6, dtype=torch.bool))


# Chat templates by what is particular about them, written in the manner of well-known models.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ALTERNATE = (
    "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('user and assistant take turns here') }}{% endif %}{% endfor %}"
)
CHAT_TEMPLATES = {
    "chatml": CHATML,
    "marked": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "marked with its header": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ '\n' + m.content + '<|im_end|>\n' }}{% endgeneration %}"
        "{% else %}{{ '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "marked without the end": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "instruction": (
        "{{ bos_token }}" + _ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content | trim + ' [/INST]' }}{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "no end token": (
        "{% for m in messages %}{{ m.role | capitalize + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    "empty thinking in the last reply": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% set thought, _, answer = m.content.rpartition('</think>') %}"
        "{% if loop.last %}{{ '<think>\n' + thought.replace('<think>', '').strip('\n') + '\n</think>\n\n' }}{% endif %}"
        "{{ answer.lstrip('\n') }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}


def make_chat_tokenizer(template: str | None = "chatml") -> PreTrainedTokenizerFast:
    """The byte-level tokenizer of `make_tokenizer` with the two tokens of ChatML and a chat template by name."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATES[template] if template else None
    return tokenizer
