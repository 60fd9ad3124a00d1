"""Pairs of responses for people to compare, written into a labelling project.

    python -m plaudit.labelling.pairs RUN/feedback --first RUN auto --number 200

The server of the page starts this as a process of its own, because it never opens a model itself.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from plaudit import rng
from plaudit.config import build
from plaudit.errors import DataError, PlauditError
from plaudit.evaluation.evaluate import policy_stage
from plaudit.feedback.entries import ERROR
from plaudit.feedback.store import Purpose, Store
from plaudit.files import sha256
from plaudit.labelling.disagreement import CANDIDATES, Ensemble, disputed
from plaudit.models.loading import load_causal_lm, window
from plaudit.models.policy import Policy
from plaudit.models.tokenizer import collate
from plaudit.records import Text
from plaudit.training.engine import choose_engine
from plaudit.training.prompts import evaluation_prompts, prompts_of, rows_that_fit, training_prompts
from plaudit.training.rollouts import generate
from plaudit.training.run import Run
from plaudit.training.tokenizer import open_tokenizer

BASE = "model"  # stands for the base model of a run, which has no folder there
PROGRESS = "pairs"  # the key of our progress in the store
_FIRST, _BATCH = 8, 32  # pairs that are made at once: few at first, so that people need not wait


@dataclass(frozen=True)
class Written:
    """A response of a model."""

    text: str
    ids: list[int]


class Author:
    """A model of a run that writes responses.

    Args:
        stage: the folder of the model, or BASE.
    """

    def __init__(self, run: Run, stage: str) -> None:
        self.run, self.stage = run, stage
        self.folder = run.config.model if stage == BASE else run.model(stage)
        self.tokenizer = open_tokenizer(run, self.folder)
        self.lm = load_causal_lm(self.folder).to(run.device).eval().requires_grad_(False)
        self.settings = run.config.ppo  # of a policy: its temperature and longest response
        self.engine = choose_engine(run, "ppo", self.lm)
        self.engine.prepare(self.lm)

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, or of the name of a model that is not in the run."""
        files = sorted(Path(self.folder).glob("*.safetensors"))
        return sha256(files[0]) if len(files) == 1 else hashlib.sha256(self.folder.encode()).hexdigest()

    @property
    def sampling(self) -> dict[str, float]:
        """How responses are drawn."""
        names = ("temperature", "max_new_tokens", "min_new_tokens")
        return {name: getattr(self.settings, name) for name in names}

    def add_to(self, store: Store) -> int:
        """This model as a generator of the store."""
        details = {"run": self.run.path.name, "model": self.run.config.model}
        return store.add_generator(f"{self.run.path.name}/{self.stage}", self.model_hash, self.stage, details)

    @torch.no_grad()
    def write(self, prompts: Sequence[Text], rows: range, draw: str) -> list[Written]:
        """A response to each prompt; the random numbers are those of these rows and of this draw."""
        ids = [self.tokenizer.prompt(prompt) for prompt in prompts]
        limits = self.settings.max_new_tokens, self.settings.min_new_tokens
        noise = rng.uniforms(rows, limits[0], self.run.config.seed, "feedback", 0, draw, limits[1])
        policy = Policy(self.lm, self.engine, value_head=False)
        tokens = generate(policy, ids, noise, self.tokenizer, self.settings.temperature).tokens()
        return [Written(self.tokenizer.continuation(p, t), t) for p, t in zip(ids, tokens, strict=True)]

    @torch.no_grad()
    def features(self, prompts: Sequence[Text], responses: Sequence[Written]) -> list[np.ndarray]:
        """(D,) the mean of this model's last hidden states over the tokens of each response, in float32."""
        runs = [(self.tokenizer.prompt(p), r.ids) for p, r in zip(prompts, responses, strict=True)]
        batch = collate(runs, self.tokenizer.pad_id)
        ids, mask, wanted = (t.to(self.run.device) for t in (batch.ids, batch.attention_mask, batch.loss_mask))
        states = self.engine.hidden_states(self.lm, ids, mask, wanted)
        return [each.mean(0).cpu().numpy() for each in states.split([len(r.ids) for r in responses])]


def prompts_to_ask(run: Run, author: Author, purpose: Purpose, number: int) -> list[Text]:
    """`number` prompts of the part for this purpose, in a random order; each again only after all others.

    Raises:
        DataError: there is none that leaves room for a response.
    """
    found = (
        training_prompts(run, author.tokenizer)[0] if purpose == "train" else evaluation_prompts(run, author.tokenizer)
    )
    if not found:
        raise DataError(f"{run.data.name}: no prompts for pairs; lower prompt_min")
    ids = [author.tokenizer.prompt(prompt) for prompt in found]
    rows, _ = rows_that_fit(ids, author.settings.max_new_tokens, window(author.lm), "prompts")
    return prompts_of(0, [found[row] for row in rows], number, run.config.seed)


def write_pairs(
    store: Store,
    authors: tuple[Author, Author],
    backbone: Author,
    number: int,
    purpose: Purpose = "train",
    round: int = 0,
    ensemble: Ensemble | None = None,
) -> Iterator[int]:
    """Add `number` pairs of responses to prompts of the first author's run; yields how many are there.

    Both responses of a pair have the same prompt and different random numbers. Pairs of equal responses, and those with
    an empty one, are left out. Which of them is a is drawn: sides are balanced between a and b, so somebody who knew
    who wrote one response, or which model is a, would know it of the next pair too.
    A process that starts again with the same arguments makes the same pairs, and adds those that are missing.

    Args:
        authors: of the first and of the second response; twice the same, or the two that are compared.
        backbone: the model whose activations are kept with each response.
        round: of the loop.
        ensemble: more pairs are written, and those about which its members disagree most are added.
    """
    written = CANDIDATES if ensemble else 1  # for each pair that is added
    prompts = prompts_to_ask(authors[0].run, authors[0], purpose, number * written)
    generators = [author.add_to(store) for author in authors]
    start, made, seed = 0, 0, authors[0].run.config.seed
    while start < len(prompts):
        rows = range(start, min(len(prompts), start + (_BATCH if start else _FIRST)))
        some = prompts[rows.start : rows.stop]
        sides = [author.write(some, rows, f"{purpose} {round} {s}") for s, author in zip("ab", authors, strict=True)]
        kept = [i for i, pair in enumerate(zip(*sides, strict=True)) if _to_compare(*pair)]
        if ensemble and kept:
            gaps = ensemble.gaps([(some[i], sides[0][i].ids, sides[1][i].ids) for i in kept])
            random = rng.generator(seed, "feedback", start, f"{purpose} {round} disputed")
            kept = [kept[place] for place in disputed(gaps, min(len(kept), len(rows) // written), random)]
        some, order = [some[i] for i in kept], [rows[i] for i in kept]
        pairs = []
        for side, author, generator in zip(sides, authors, generators, strict=True):
            responses = [side[i] for i in kept]
            features = backbone.features(some, responses) if kept else []
            pairs.append(
                [
                    store.add_completion(prompt, r.text, generator, r.ids, author.sampling, author.run.config.seed, of)
                    for prompt, r, of in zip(some, responses, features, strict=True)
                ]
            )
        for row, a, b in zip(order, *pairs, strict=True):
            turned = rng.generator(seed, "feedback", row, f"{purpose} {round} order").random() < 0.5
            store.add_item(*((b, a) if turned else (a, b)), purpose, round=round)
            made += 1
        start = rows.stop
        store.set_progress(PROGRESS, start // written, number, f"{made} pairs of responses")
        yield made


def _to_compare(one: Written, other: Written) -> bool:
    """Whether there is something to compare: neither is empty, and they differ in more than spaces."""
    words = one.text.split(), other.text.split()
    return all(words) and words[0] != words[1]


def add_features(store: Store, backbone: Author) -> None:
    """Keep the activations of responses that have none, such as those of imported pairs."""
    used = sorted({one for item in store.items() for one in (item.a, item.b)})
    missing = [one for one in store.completions(used).values() if one.features is None]
    prompts = store.prompts({one.prompt for one in missing})
    for start in range(0, len(missing), _BATCH):
        some = missing[start : start + _BATCH]
        asked = [prompts[one.prompt] for one in some]
        pairs = [backbone.tokenizer.demonstration(p, one.text) for p, one in zip(asked, some, strict=True)]
        written = [Written(one.text, pair[-1]) for one, pair in zip(some, pairs, strict=True)]
        for one, prompt, of in zip(some, asked, backbone.features(asked, written), strict=True):
            store.add_completion(prompt, one.text, one.generator, one.token_ids, one.sampling, one.seed, features=of)
        store.set_progress("activations", start + len(some), len(missing), "activations of the responses")


def stage_of(run: Run, name: str) -> str:
    """The folder that a name stands for: "auto" is SFT where it has finished, otherwise the base model."""
    if name == "auto":
        return "sft" if run.complete("sft") else BASE
    return policy_stage(run) if name == "policy" else name


def open_run(path: Path) -> Run:
    """The run in a folder; one without a run becomes an untrained run with the default settings."""
    if not (path / "config.toml").exists():
        Run.open(path, build({}), resume=False, overwrite=False, stages=())
    return Run.existing(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Make pairs, and tell the store what went wrong."""
    parser = argparse.ArgumentParser(description="Make pairs of responses for people to compare.")
    parser.add_argument("store", type=Path, help="folder of the labelling project")
    parser.add_argument("--first", nargs=2, metavar=("RUN", "MODEL"), required=True)
    parser.add_argument("--second", nargs=2, metavar=("RUN", "MODEL"), help="by default the first")
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--purpose", choices=("train", "eval"), default="train")
    parser.add_argument("--round", type=int, default=0)
    parser.add_argument("--disagreement", action="store_true", help="pairs about which the reward models disagree")
    given = parser.parse_args(argv)
    store = Store.open(given.store)
    store.set_progress(PROGRESS, 0, given.number, "opening the model")
    try:
        runs = [open_run(Path(path)) for path, _ in filter(None, (given.first, given.second))]
        names = [name for _, name in filter(None, (given.first, given.second))]
        stages = [stage_of(run, name) for run, name in zip(runs, names, strict=True)]
        base = stage_of(runs[0], "auto")
        backbone = Author(runs[0], base)
        authors = [
            backbone if stage == base and run is runs[0] else Author(run, stage)
            for run, stage in zip(runs, stages, strict=True)
        ]
        ensemble = Ensemble(runs[0]) if given.disagreement else None
        both = authors[0], authors[-1]
        for _ in write_pairs(store, both, backbone, given.number, given.purpose, given.round, ensemble):
            pass
        add_features(store, backbone)
    except PlauditError as error:
        store.set_progress(PROGRESS, 0, given.number, f"{ERROR}{error}")
        print(f"plaudit: error: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
