"""Number of human choices against the human-judged win rate of the policy that is trained from them.

    python recipes/learning_curve.py build/learning-curve --choices 300 25 50 100 200 600 --seeds 1 2 3

Ten simulated people choose between responses of the SFT model. A reward model learns from their choices, PPO from the
reward model, and ten others say blindly whether the policy or the SFT model wrote the better response to prompts that
neither has seen. What is finished stays in the folder and is not computed again; the result is in docs/feedback.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import logit

from plaudit import rng
from plaudit.config import build
from plaudit.data.human_ratings import human_ratings
from plaudit.errors import DataError
from plaudit.evaluation.judge import imdb_judge
from plaudit.feedback import assignment
from plaudit.feedback.assignment import Plan
from plaudit.feedback.people import Person, choose
from plaudit.feedback.statistics import WinRate, agreement, win_rate
from plaudit.feedback.store import Store
from plaudit.files import write_json
from plaudit.labelling.comparisons import write_comparisons
from plaudit.labelling.pairs import Author, write_pairs
from plaudit.pipeline import steps
from plaudit.training.run import Run

PEOPLE, FRESH = 10, 1000  # the seeds of those who judge are this much higher than of those who choose
JUDGED, OVERLAP = 200, 2  # held-out prompts, and votes on the two responses to each
TIES, WEIGHT = 0.3, 2.0  # of `Person`: among responses that one person rates alike; log odds a point of the rating
_ALIKE = 20  # sentences of about the same rank, one of which stands for a response
Rank = Callable[[str], float]


@cache
def rated_sentences() -> list[tuple[int, ...]]:
    """The ratings of each sentence of `human-ratings`, from the worst to the best."""
    return sorted((text.ratings for text in human_ratings()), key=lambda ratings: (np.mean(ratings), ratings))


def opinion(responses: Sequence[str]) -> Rank:
    """Where the independent judge of film reviews ranks a text among these responses, from 0 to 1."""
    judge = imdb_judge()

    def score(texts: Sequence[str]) -> np.ndarray:
        return logit(judge.positive(texts).clip(1e-9, 1 - 1e-9))

    known = np.sort(score(responses))
    return cache(lambda text: float(np.searchsorted(known, score([text])[0]) / len(known)))


def crowd(seed: int, rank: Rank) -> list[Person]:
    """Ten people who disagree as real people do.

    What they have in common is the opinion of the judge. Each response stands for a sentence of the same rank among the
    sentences of `human-ratings`, and each person gives it the rating that one of the real people gave to that sentence.
    """
    sentences = rated_sentences()

    def value(place: int) -> Callable[[str, str], float]:
        def of(prompt: str, response: str) -> float:
            random = rng.generator(seed, "crowd", 0, f"{prompt}\n{response}")
            at = round(rank(response) * (len(sentences) - 1)) + int(random.integers(-_ALIKE // 2, _ALIKE // 2))
            ratings = sentences[min(max(at, 0), len(sentences) - 1)]
            return WEIGHT * ratings[random.permutation(len(ratings))[place]]

        return of

    return [Person(f"person {seed}-{place + 1}", value(place), ties=TIES) for place in range(PEOPLE)]


def vote(store: Store, people: Sequence[Person], plan: Plan, votes: int) -> None:
    """Let people answer in turn, from where they stopped, until the project has so many votes or nothing is left."""
    known = {one.name: one.id for one in store.annotators()}
    ids = [known.get(one.name) or store.add_annotator(one.name, "simulated", one.name).id for one in people]
    answered, waiting = len(store.labels(plan.purpose)), 0  # in a row that have voted on all that is left
    for turn in count(answered):
        if answered == votes or waiting == len(people):
            return
        place = turn % len(people)
        pair = assignment.next(store, ids[place], plan)
        waiting = 0 if pair else waiting + 1
        if pair is None:
            continue
        random = rng.generator(plan.seed, "votes", pair.id, plan.purpose)
        answer = choose(people[place], str(pair.prompt), pair.left, pair.right, random)
        side: Any = answer.partition("-")[0]
        kind, side = ("choose", side) if side in ("left", "right") else (side, None)
        strength = 2 if answer.endswith("strong") else 1
        store.record(f"{plan.purpose} {pair.id}", pair.id, ids[place], kind, side, strength)
        answered += 1


def base_run(folder: Path, pairs: int, settings: dict[str, Any]) -> Run:
    """The SFT model that everything starts from, and pairs of its responses."""
    path = folder / "base"
    run = Run.open(path, build(settings), resume=(path / "config.toml").exists(), overwrite=False, stages=("sft",))
    for _ in steps(run, ("sft",)):
        pass
    store = Store.open(folder / "pairs")
    author = Author(run, "sft")
    if len(store.items("train")) < pairs:
        for _ in write_pairs(store, (author, author), author, pairs + pairs // 8):
            pass
    store.close()
    return run


def choices(folder: Path, seed: int, numbers: Sequence[int]) -> dict[int, Path]:
    """Files with the first choices of ten people, by their number: the larger ones begin with the smaller ones."""
    files = {number: folder / f"{seed}-{number}.jsonl" for number in sorted(numbers)}
    if missing := [number for number, file in files.items() if not file.exists()]:
        project = folder / f"votes-{seed}"
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(folder / "pairs", project)
        store = Store.open(project)
        people, plan = crowd(seed, opinion(texts_of(store))), Plan(practice=0, repeat_share=0.0, seed=seed)
        for number in missing:
            vote(store, people, plan, number)
            assert len(store.labels()) == number, "there are fewer pairs than choices"
            write_comparisons(project, files[number])
        store.close()
    return files


def trained(run: Run, path: Path, seed: int, chosen: Path) -> Run:
    """A policy from these choices, which shares the SFT model of `run`."""
    settings = dataclasses.replace(run.config.reward_model, judgements=str(chosen))
    child = run.branch(path, dataclasses.replace(run.config, seed=seed, reward_model=settings), ("sft",))
    for _ in steps(child, ("reward_model", "ppo")):
        pass
    return child


def judged(run: Run, child: Run, rank: Rank, seed: int) -> tuple[WinRate, float | None]:
    """How often ten people who have not chosen before prefer the policy, and how often two of them agree."""
    store = Store.open(child.path / "compare")
    authors = Author(child, "ppo"), Author(run, "sft")
    if len(store.items("eval")) < JUDGED:
        for _ in write_pairs(store, authors, authors[1], JUDGED, "eval"):
            pass
    plan = Plan(OVERLAP, purpose="eval", practice=0, gold_share=0.0, repeat_share=0.0, seed=seed)
    vote(store, crowd(seed + FRESH, rank), plan, OVERLAP * len(store.items("eval")))
    labels, texts = store.labels("eval"), store.completions(_responses(store))
    found = win_rate(labels, texts, *(author.add_to(store) for author in authors))
    same = agreement(labels).same.value
    store.close()
    return found, same


def _responses(store: Store) -> set[int]:
    return {one for item in store.items() for one in (item.a, item.b)}


def texts_of(store: Store) -> list[str]:
    """All responses that people are asked about."""
    return [one.text for one in store.completions(_responses(store)).values()]


def points(run: Run, folder: Path, numbers: Sequence[int], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The figures of each number of choices and seed."""
    pairs = Store.open(folder / "pairs", create=False)
    rank = opinion(texts_of(pairs))
    pairs.close()
    for seed, number in ((seed, number) for number in numbers for seed in seeds):
        file = folder / f"{seed}-{number}.json"
        if not file.exists():
            figures: dict[str, Any] = {"seed": seed, "choices": number}
            try:
                child = trained(run, folder / f"{seed}-{number}", seed, choices(folder, seed, numbers)[number])
            except DataError as error:  # too few choices to learn from, or to measure what was learned
                figures["refused"] = str(error).partition(": ")[2].partition(":")[0]
            else:
                rate, same = judged(run, child, rank, seed)
                figures |= {"accuracy": child.summary("reward_model")["accuracy"], "agreement": same}
                figures |= dataclasses.asdict(rate)
            write_json(file, figures)
        yield json.loads(file.read_text(encoding="utf-8"))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The win rates against the number of choices, with their intervals, as a picture."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    known = [row for row in rows if "refused" not in row]
    for row in known:
        x = row["choices"] * 1.02 ** (row["seed"] - 2)  # seeds beside each other
        axes.plot([x, x], [100 * end for end in row["interval"]], color="#0072b2", alpha=0.5, linewidth=2)
        axes.plot(x, 100 * row["rate"], "o", color="#0072b2", markersize=4)
    numbers = sorted({row["choices"] for row in known})
    means = [100 * float(np.mean([row["rate"] for row in known if row["choices"] == n])) for n in numbers]
    axes.plot(numbers, means, color="#0072b2", linewidth=1)
    axes.axhline(50, color="#777777", linewidth=1, linestyle=(0, (3, 3)))
    axes.set(xscale="log", xlabel="choices of people", ylabel="win rate against the SFT model (%)", ylim=(40, 100))
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure what is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the models, votes and figures")
    parser.add_argument("--choices", type=int, nargs="+", default=[300, 25, 50, 100, 200, 600])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="each with other people")
    parser.add_argument("--iterations", type=int, default=36, help="of PPO; half of them bring most of the win rate")
    parser.add_argument("--figure", type=Path, help="draw the curve into this file")
    args = parser.parse_args()
    print(
        "| choices | seed | accuracy of the reward model | wins, ties, losses | win rate [95%] |\n|---|---|---|---|---|"
    )
    run = base_run(args.out, max(args.choices), {"ppo.iterations": args.iterations})
    rows = []
    for one in points(run, args.out, args.choices, args.seeds):
        rows.append(one)
        if "refused" in one:
            print(f"| {one['choices']} | {one['seed']} | – | – | {one['refused']} |", flush=True)
            continue
        low, high = one["interval"]
        counts = f"{one['wins']}, {one['ties']}, {one['losses']}"
        rate = f"{one['rate']:.3f} [{low:.3f}, {high:.3f}]"
        print(f"| {one['choices']} | {one['seed']} | {one['accuracy']:.2f} | {counts} | {rate} |", flush=True)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
