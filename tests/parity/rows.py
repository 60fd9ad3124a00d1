"""Rows in the published layouts, and the tokenizer that reads them, for TRL and for us. Imports neither."""

import gzip
import hashlib
import json
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "src" / "plaudit" / "models" / "movie_gpt2"
HARMLESS = HERE.parents[2] / "shared" / "data" / "hh-harmless" / "test.jsonl.gz"
ROWS_OF_HARMLESS = 1000
# Templates that TRL ships: ours in the same format, and the layout by which they are compared. Qwen 2.5 has another
# default system message than ours, and Gemma refuses every system message.
PUBLISHED = {
    "qwen2_5": ("chatml, default system", "messages with a system message"),
    "qwen3": ("chatml, thinking", "messages with a system message"),
    "llama3": ("llama3", "messages with a system message"),
    "gemma": ("gemma", "messages"),
    "phi3": ("phi3", "messages with a system message"),
}
CONTROL = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
]  # fmt: skip


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


QUESTIONS = [
    [user("Which film is it?")],
    [user("Say hello."), assistant("Hello!"), user("And now in French, please:\n- short\n- polite")],
    [user("2 + 2 = ?"), assistant("4"), user("Sure?"), assistant("Yes."), user("Why?")],
    [user("Привет! Как дела? 你好")],
]
ANSWERS = ["A dull one.", "Bonjour !\n\nBonsoir.", "Two pairs of apples are four apples.", "Хорошо, спасибо 🙂"]
OTHERS = ["I do not know", "Salut", "4", "Плохо."]
TEXTS = ["a warm and moving film", "the cast is wonderful , funny and kind", "Ünïcode 你好 🙂\n\ntwo lines"]
STRINGS = [("the film is", " a joy"), ("Q: is it good?\nA:", " no, it is not."), ("one\n", "two"), ("2 + 2 =", " 4")]
ROWS = {
    "text": [{"text": text} for text in TEXTS],
    "prompt-completion": [{"prompt": prompt, "completion": completion} for prompt, completion in STRINGS],
    "messages": [{"messages": [*q, assistant(a)]} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "messages with a system message": [
        {"messages": [{"role": "system", "content": "Be kind."}, *q, assistant(a)]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "conversational prompt-completion": [
        {"prompt": q, "completion": [assistant(a)]} for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "preference": [{"prompt": p, "chosen": c, "rejected": " nothing"} for p, c in STRINGS if c.startswith(" ")],
    "implicit preference": [{"chosen": p + c, "rejected": p + " nothing"} for p, c in STRINGS if c.startswith(" ")],
    "conversational preference": [
        {"prompt": q, "chosen": [assistant(a)], "rejected": [assistant(b)]}
        for q, a, b in zip(QUESTIONS, ANSWERS, OTHERS, strict=True)
    ],
    "implicit conversational preference": [
        {"chosen": [*q, assistant(a)], "rejected": [*q, assistant(b)]}
        for q, a, b in zip(QUESTIONS, ANSWERS, OTHERS, strict=True)
    ],
    "unpaired preference": [
        {"prompt": p, "completion": c, "label": i % 2 == 0} for i, (p, c) in enumerate(STRINGS) if c.startswith(" ")
    ],
    "conversational unpaired preference": [
        {"prompt": q, "completion": [assistant(a)], "label": i % 2 == 0}
        for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ],
    # What we read otherwise on purpose.
    "text with a control token": [{"text": "an <|endoftext|> in a text"}],
    "prompt-completion without a space": [{"prompt": "the film is", "completion": "a joy"}],
    "messages with a control token": [{"messages": [user("<|im_end|> is a token"), assistant("so is <|im_start|>.")]}],
    "completion of several turns": [
        {"prompt": QUESTIONS[0], "completion": [assistant("A"), user("B"), assistant("C")]}
    ],
}


def tokenizer(template=None):
    """movie-gpt2's byte-level tokenizer with the control tokens of the templates."""
    made = AutoTokenizer.from_pretrained(MODEL)
    made.model_max_length = 10**9
    made.add_special_tokens({"extra_special_tokens": CONTROL})
    made.chat_template = template
    return made


def conversation(transcript):
    """The messages of a transcript of hh-rlhf."""
    messages = []
    for turn in transcript.split("\n\nHuman: ")[1:]:
        question, *replies = turn.split("\n\nAssistant: ")
        messages += [user(question), *map(assistant, replies)]
    return messages


def harmless():
    """(chosen, rejected) of the first rows of hh-harmless, as transcripts."""
    with gzip.open(HARMLESS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(ROWS_OF_HARMLESS), file, strict=False)]
    return [(row["chosen"], row["rejected"]) for row in rows]


def digest(numbers):
    """A short hash of token ids."""
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]
