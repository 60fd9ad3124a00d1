"""A language other than English: 300 Russian reviews of a hotel, and a small GPT-2 whose tokenizer fits them.

    python recipes/russian.py DIR

DIR then has reviews.csv and model/, a random model: it learns all its Russian in SFT. docs/models.md shows a run.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

ROWS = 300
STAYS = ["Жили здесь", "Отдыхали здесь", "Гостили здесь", "Провели здесь"]
TIMES = ["три дня", "неделю", "одну ночь", "все выходные", "десять дней", "почти месяц"]
# What a review is about, with what is good and what is bad about it in the right gender.
ASPECTS = {
    "номер": (
        ["чистый и светлый", "просторный и тихий", "тёплый и уютный"],
        ["грязный и тёмный", "тесный и шумный", "холодный и сырой"],
    ),
    "завтрак": (
        ["вкусный и сытный", "разнообразный и свежий", "горячий и щедрый"],
        ["скудный и холодный", "однообразный и невкусный", "пресный и дорогой"],
    ),
    "персонал": (
        ["вежливый и внимательный", "приветливый и быстрый", "заботливый и спокойный"],
        ["грубый и невнимательный", "хмурый и медлительный", "равнодушный и ленивый"],
    ),
    "кровать": (
        ["удобная и широкая", "мягкая и чистая", "тёплая и новая"],
        ["скрипучая и узкая", "жёсткая и старая", "продавленная и грязная"],
    ),
    "ванная": (
        ["чистая и новая", "просторная и светлая", "аккуратная и тёплая"],
        ["грязная и старая", "тесная и сырая", "тёмная и холодная"],
    ),
    "обслуживание": (
        ["быстрое и вежливое", "внимательное и чуткое", "отличное и спокойное"],
        ["медленное и грубое", "ужасное и равнодушное", "плохое и бестолковое"],
    ),
}
ENDINGS = (
    ["Обязательно вернёмся.", "Советуем всем друзьям.", "Остались очень довольны.", "Отдохнули прекрасно."],
    ["Больше сюда не поедем.", "Никому не советуем.", "Остались очень недовольны.", "Отпуск был испорчен."],
)


def reviews() -> list[tuple[str, int]]:
    """ROWS distinct reviews with their labels, half of them good (1). In a third, one remark goes the other way."""
    draw, found = random.Random(0), dict[str, int]()
    while len(found) < ROWS:
        good = len(found) % 2 == 0
        first, second, third = draw.sample(sorted(ASPECTS), 3)

        def about(aspect: str, praise: bool) -> str:
            return f"{aspect} {draw.choice(ASPECTS[aspect][0 if praise else 1])}"

        text = f"{draw.choice(STAYS)} {draw.choice(TIMES)}: {about(first, good)}, {about(second, good)}"
        if draw.random() < 1 / 3:
            text += f", хотя {about(third, not good)}"
        found.setdefault(f"{text}. {draw.choice(ENDINGS[0 if good else 1])}", int(good))
    return list(found.items())


def write(folder: Path) -> None:
    """Write reviews.csv and model/ into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = reviews()
    with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text for text, _ in rows], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end)
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=128,
        n_layer=4,
        n_head=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "model")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    print(f"{sys.argv[1]}: reviews.csv with {ROWS} reviews, and model/")
