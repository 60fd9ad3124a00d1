"""The loop: people compare, a reward model learns from it, a policy is trained, and people compare its responses.

    python -m plaudit.labelling.rounds RUN --rounds 2 --votes 100

Round r asks about pairs of the newest policy (in round 1, of SFT) and, from round 2 on, about pairs of that policy and
the one before. Then a reward model is trained on all votes so far, and with it a policy, from SFT. Each round is a run
directory of its own, RUN/rounds/r, which shares SFT with RUN. People answer on the page meanwhile: this process writes
pairs into the store and reads votes from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.errors import PlauditError
from plaudit.evaluation.metrics import strict
from plaudit.evaluation.report import LOOP as FILE
from plaudit.evaluation.report import write_report
from plaudit.feedback.entries import ERROR
from plaudit.feedback.statistics import agreement, win_rate
from plaudit.feedback.store import Label, Store
from plaudit.files import write_json
from plaudit.labelling.comparisons import write_comparisons
from plaudit.labelling.disagreement import MEMBERS, Ensemble
from plaudit.labelling.pairs import Author, open_run, write_pairs
from plaudit.pipeline import steps
from plaudit.training.run import Run

FOLDER, PROGRESS = "rounds", "loop"
_COMPARED = 1 / 3  # of a round's pairs that compare the newest policy with the one before


@dataclass(frozen=True)
class Round:
    """What a round brought."""

    number: int
    votes: int  # behind its reward model, in all rounds
    accuracy: float  # of the reward model on held-out votes
    accuracy_ci95: tuple[float, float]
    trivial_rules: dict[str, float]  # how often each rule, such as "longer", is right about the same votes
    agreement: float | None  # of two people on one pair
    win_rate: float | None  # of the policy that the round asked about, against the one before it
    win_rate_ci95: tuple[float, float] | None
    compared: int  # votes behind the win rate


def loop(
    run: Run,
    store: Store,
    rounds: int,
    votes: int,
    algorithm: str = "ppo",
    disagreement: bool = False,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Round]:
    """Run the rounds that have not finished; yields each once its votes are in and its policy is trained.

    Args:
        run: with its SFT, which is trained first if it has not finished.
        store: RUN/feedback, from which the page asks.
        votes: that a round waits for.
        algorithm: that trains the policy.
        disagreement: train an ensemble of reward models in each round, and ask in the next one about the pairs of the
            newest policy about which its members disagree most.
        wait: called with the seconds to pass between two looks at the votes.
    """
    for _ in steps(run, ("sft",)):
        pass
    backbone, finished = Author(run, "sft"), rounds_of(run)
    authors = [backbone]  # of each policy so far
    authors += [Author(Run.existing(run.path / FOLDER / str(row["number"])), algorithm) for row in finished[-2:]]
    for number in range(len(finished) + 1, rounds + 1):
        say(store, number - 1, rounds, f"round {number}: writing pairs")
        ask(store, authors, backbone, number, votes, disagreement)
        answered: list[Label] = []
        while len(answered) < votes:
            say(store, number - 1, rounds, f"round {number}: {len(answered)} of {votes} votes")
            wait(1.0)
            answered = votes_of(store, number)
        say(store, number - 1, rounds, f"round {number}: training on {len(store.labels('train'))} votes")
        child = train(run, store, number, algorithm, MEMBERS if disagreement else 1)
        found = outcome(child, store, number, answered, authors)
        authors.append(Author(child, algorithm))
        finished.append(dataclasses.asdict(found))
        write_json(run.path / FILE, strict({"rounds": finished}))
        write_report(run.path)
        yield found
    say(store, rounds, rounds, "the rounds are done")


def rounds_of(run: Run) -> list[dict[str, Any]]:
    """The figures of the rounds that have finished."""
    file = run.path / FILE
    return json.loads(file.read_text(encoding="utf-8"))["rounds"] if file.exists() else []


def say(store: Store, done: int, total: int, message: str) -> None:
    """Tell the page where the loop is."""
    store.set_progress(PROGRESS, done, total, message)


def ask(
    store: Store, authors: list[Author], backbone: Author, number: int, votes: int, disagreement: bool = False
) -> None:
    """Write the pairs of a round: enough for its votes, and some more for those who skip.

    Those that compare two policies are always random, because their win rate is of all prompts.
    """
    new, old = authors[-1], authors[max(0, len(authors) - 2)]
    compared = round(votes * _COMPARED) if new is not old else 0
    ensemble = Ensemble(new.run) if disagreement and new is not backbone else None
    for other, size, choice in ((new, votes + votes // 4 - compared, ensemble), (old, compared, None)):
        for _ in write_pairs(store, (new, other), backbone, size, "train", number, choice):
            pass


def votes_of(store: Store, number: int) -> list[Label]:
    """The votes of a round."""
    return [label for label in store.labels("train") if label.round == number and label.outcome != "skip"]


def train(run: Run, store: Store, number: int, algorithm: str, members: int = 1) -> Run:
    """A run directory for a round, with a reward model of so many members, or as many as the run's settings say, from
    all votes so far, and with a policy."""
    folder, votes = run.path / FOLDER / str(number), run.path / FOLDER / f"{number}.jsonl"
    if not votes.exists():  # a loop that was stopped goes on with the votes that the round had, not with later ones
        write_comparisons(store.folder, votes)
    settings = dataclasses.replace(
        run.config.reward_model, judgements=str(votes), members=max(members, run.config.reward_model.members)
    )
    config = dataclasses.replace(run.config, reward_model=settings)
    child = run.branch(folder, config, ("sft",))
    for _ in steps(child, ("reward_model", algorithm)):
        pass
    return child


def outcome(child: Run, store: Store, number: int, answered: list[Label], authors: list[Author]) -> Round:
    """The figures of a round."""
    summary = child.summary("reward_model")
    labels = [label for label in store.labels("train") if label.outcome != "skip" and label.round <= number]
    rate = None
    if len(authors) > 1:
        texts = store.completions({one for label in answered for one in (label.a, label.b)})
        rate = win_rate(answered, texts, authors[-1].add_to(store), authors[-2].add_to(store))
    return Round(
        number=number,
        votes=len(labels),
        accuracy=summary["accuracy"],
        accuracy_ci95=tuple(summary["accuracy_ci95"]),
        trivial_rules={name: of_rule["accuracy"] for name, of_rule in summary["trivial_rules"].items()},
        agreement=agreement(labels).same.value,
        win_rate=rate.rate if rate else None,
        win_rate_ci95=rate.interval if rate else None,
        compared=rate.wins + rate.ties + rate.losses if rate else 0,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop of a run directory."""
    parser = argparse.ArgumentParser(description="People compare, a model learns, people compare again.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--votes", type=int, default=100)
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--disagreement", action="store_true", help="pairs about which the reward models disagree")
    given = parser.parse_args(argv)
    store = Store.open(given.run / "feedback")
    say(store, 0, given.rounds, "opening the model")
    try:
        run = open_run(given.run)
        run = Run.open(run.path, run.config, resume=True, overwrite=False, stages=("sft",))
        for found in loop(run, store, given.rounds, given.votes, given.algorithm, given.disagreement):
            print(found, flush=True)
    except PlauditError as error:
        say(store, 0, given.rounds, f"{ERROR}{error}")
        print(f"plaudit: error: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
