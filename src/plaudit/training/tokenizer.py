"""The tokenizer of a run's models, as its settings and its data ask for it."""

import dataclasses

from plaudit.data.prompts import holds_dialogues
from plaudit.models.loading import load_tokenizer
from plaudit.models.tokenizer import Tokenizer
from plaudit.training.run import Run


def open_tokenizer(run: Run, name: str) -> Tokenizer:
    """The tokenizer of a model, which reads special tokens in the data as the settings say."""
    return dataclasses.replace(load_tokenizer(name), special_tokens=run.config.data.special_tokens == "tokens")


def tokenizer_to_save(run: Run, name: str) -> Tokenizer:
    """The same for a stage that reads the records; where these are dialogues, it is saved with a chat template."""
    tokenizer = open_tokenizer(run, name)
    return tokenizer.for_dialogues() if holds_dialogues(run.data.train) else tokenizer
