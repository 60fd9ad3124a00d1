"""Options shared by the benchmark and its contenders. This module must not import torch: see `__main__.py`."""

import argparse
from pathlib import Path

DATA = "../shared/data"
DATA_FILES = ("sst2/train.tsv", "gpt2-tokenizer/vocab.json", "gpt2-tokenizer/merges.txt")
RANDOM = Path("random")  # in place of a folder: random token ids, for a machine without these files
WORK = "build/bench"


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the shared options."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--updates", type=int, default=5, help="counted updates, after one warm-up")
    flags.add_argument("--size", choices=("gpt2", "tiny"), default="gpt2", help="size of the models")
    flags.add_argument("--prompts", type=int, default=32, help="prompts in one update, with one response each")
    flags.add_argument("--epochs", type=int, default=4, help="passes over the responses in one update")
    flags.add_argument("--minibatch", type=int, default=4, help="responses in one optimizer step")
    flags.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="device; auto: a GPU if present"
    )
    flags.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="format of the forward passes"
    )
    flags.add_argument("--data", default=DATA, help="folder with gpt2-tokenizer/ and sst2/; random: random ids")
    flags.add_argument("--work", default=WORK, help="folder for the random models and the results")
    return flags


def common(options: argparse.Namespace) -> list[str]:
    """The shared options as arguments of a command line."""
    names = [action.dest for action in parser("")._actions if action.dest != "help"]
    return [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
