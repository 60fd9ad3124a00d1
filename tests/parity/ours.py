"""What plaudit gives to TRL: preference files, an SFT model and a reward model; small, and the same every time.

`make parity` writes them for `make_exchange.py`, and the tests write them again.
"""

import sys
from pathlib import Path

import torch
from transformers import GPT2ForSequenceClassification

sys.path.insert(0, str(Path(__file__).parent.parent))

from tiny import BAD, GOOD, make_lm, make_tokenizer

from plaudit import Comparison, load
from plaudit.data.export import export
from plaudit.models.loading import save
from plaudit.models.tokenizer import Tokenizer

SHAPE = {"layers": 1, "width": 8}


def comparisons() -> list[Comparison]:
    """Preferences with prompts that end in a word, a line break or nothing."""
    prompts = ["film {}:", "what do you say of film {}?\n", "film {} \n\nanswer:"]
    return [
        Comparison(prompts[i % 3].format(i), GOOD[i % 4], BAD[i // 2 % 4], "a" if i % 2 else "b")
        if i % 2
        else Comparison(prompts[i % 3].format(i), BAD[i // 2 % 4], GOOD[i % 4], "b")
        for i in range(60)
    ]


def write(folder: Path) -> Path:
    """FOLDER/pairs.jsonl, FOLDER/sft and FOLDER/reward_model, as plaudit saves them."""
    export(load(comparisons()), folder / "pairs.jsonl")
    tokenizer = Tokenizer.of(make_tokenizer())
    sft = make_lm(**SHAPE)
    reward_model = GPT2ForSequenceClassification(make_lm(seed=1, **SHAPE).config)
    reward_model.config.num_labels = 1
    torch.manual_seed(2)
    reward_model.score = torch.nn.Linear(SHAPE["width"], 1, bias=False)
    save(sft, tokenizer, folder / "sft")
    save(reward_model, tokenizer, folder / "reward_model")
    return folder


if __name__ == "__main__":
    write(Path(sys.argv[1]))
