"""Which pairs to ask about in the second round of a loop: random ones, uncertain ones, or those that are disputed.

    python -m recipes.pair_choice_in_loop build/learning-curve --seeds 1 2 3 --crowds 3

The first round is that of `learning_curve.py` with the same folder: 100 choices between responses of the SFT model, and
a policy. Now ten other people have given 100 choices about those pairs, and give 100 about pairs of the policy, which
the live head, the members of a reward model, or chance choose among 400. A reward model learns from all 200, and ten
fresh people say how often it is right about pairs of the policy that nobody has seen. What is finished stays in the
folder; the result is in docs/experiments.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plaudit import rng
from plaudit.feedback.head import Pool, fit
from plaudit.feedback.people import Person, choose
from plaudit.feedback.store import Completion, Store
from plaudit.files import write_atomic, write_json
from plaudit.labelling.disagreement import CANDIDATES, MEMBERS, Ensemble, disputed
from plaudit.labelling.pairs import Author, write_pairs
from plaudit.pipeline import steps
from plaudit.training.run import Run
from recipes.learning_curve import FRESH, base_run, choices, crowd, opinion, texts_of, trained
from recipes.pair_choice import asked

STRATEGIES = ("random", "uncertain", "disagreement")
VOTES, HELD_OUT, EACH = 100, 200, 3  # choices in a round; held-out pairs, and votes on each
Pair = tuple[str, Completion, Completion]


def pairs_in(store: Store, purpose: Any) -> list[Pair]:
    """The pairs of a project."""
    items = store.items(purpose)
    texts = store.completions({one for item in items for one in (item.a, item.b)})
    prompts = store.prompts({item.prompt for item in items})
    return [(str(prompts[item.prompt]), texts[item.a], texts[item.b]) for item in items]


def answer(person: Person, pair: Pair, name: str) -> dict[str, str]:
    """A person's choice as a line of a file, with sides that are drawn."""
    prompt, a, b = pair
    random = rng.generator(0, "pair choice in the loop", a.id, f"{name} {person.name}")
    swapped = random.random() < 0.5
    found = choose(person, prompt, *((b.text, a.text) if swapped else (a.text, b.text)), random).partition("-")[0]
    choice = {"left": "ab"[swapped], "right": "ba"[swapped]}.get(found, "tie")
    return {"prompt": prompt, "response_a": a.text, "response_b": b.text, "choice": choice, "annotator": person.name}


def chosen(
    strategy: str, first: Sequence[Pair], known: Sequence[str], pool: Sequence[Pair], ensemble: Ensemble,
    people: Sequence[Person], seed: int,
) -> list[dict[str, str]]:  # fmt: skip
    """The choices of the second round, about the pairs that a strategy takes.

    Args:
        first: pairs of the first round, and `known` what people chose of each.
    """
    random = rng.generator(seed, "pair choice in the loop", 0, strategy)
    if strategy == "disagreement":
        gaps = ensemble.gaps([(prompt, list(a.token_ids or ()), list(b.token_ids or ())) for prompt, a, b in pool])
        places = disputed(gaps, VOTES, random)
        return [answer(people[i % len(people)], pool[place], "asked") for i, place in enumerate(places)]
    both = [*first, *pool]
    responses = [one for _, *pair in both for one in pair]
    points = Pool.of({i: np.asarray(one.features) for i, one in enumerate(responses)})
    z = points.differences([(2 * i, 2 * i + 1) for i in range(len(both))])
    share, lines, taken = [_SHARE[choice] for choice in known], [], []
    rows = list(range(len(first)))
    while len(lines) < VOTES:
        head = fit(z[rows], np.array(share))
        left = np.setdiff1d(np.arange(len(pool)), taken)
        for place in asked(strategy, head, z[len(first) :], left, random)[: VOTES - len(lines)]:
            lines.append(answer(people[len(lines) % len(people)], pool[place], "asked"))
            taken.append(place)
            rows.append(len(first) + place)
            share.append(_SHARE[lines[-1]["choice"]])
    return lines


_SHARE = {"a": 1.0, "b": 0.0, "tie": 0.5}


def ensemble_of(run: Run, path: Path, lines: Sequence[dict[str, str]], seed: int) -> Ensemble:
    """Reward models that have learned from these choices."""
    file = path.with_suffix(".jsonl")
    write_atomic(file, "".join(json.dumps(line) + "\n" for line in lines))
    settings = dataclasses.replace(run.config.reward_model, judgements=str(file), members=MEMBERS)
    child = run.branch(path, dataclasses.replace(run.config, seed=seed, reward_model=settings), ("sft",))
    for _ in steps(child, ("reward_model",)):
        pass
    return Ensemble(child)


def accuracy(ensemble: Ensemble, pairs: Sequence[Pair], votes: np.ndarray) -> float:
    """The share of (N, 2) decisive votes that the mean of the members predicts."""
    gaps = ensemble.gaps([(prompt, list(a.token_ids or ()), list(b.token_ids or ())) for prompt, a, b in pairs]).mean(0)
    return float(np.where(gaps > 0, votes[:, 0], votes[:, 1]).sum() / votes.sum())


def measured(run: Run, folder: Path, seed: int, number: int) -> dict[str, float]:
    """Accuracy after the first round and after the second one with each strategy, for one crowd and the policy of a
    seed."""
    child = trained(run, folder / f"{seed}-{VOTES}", seed, choices(folder, seed, [VOTES])[VOTES])
    base = Store.open(folder / "pairs", create=False)
    rank, first = opinion(texts_of(base)), pairs_in(base, "train")
    base.close()
    store, policy = Store.open(folder / f"pool-{seed}"), Author(child, "ppo")
    for purpose, size in (("train", CANDIDATES * VOTES), ("eval", HELD_OUT)):
        if len(store.items(purpose)) < size // 2:
            for _ in write_pairs(store, (policy, policy), Author(run, "sft"), size, purpose):
                pass
    pool, held_out = pairs_in(store, "train"), pairs_in(store, "eval")
    store.close()
    who = 10_000 + 100 * seed + number
    people, fresh = crowd(who, rank), crowd(who + FRESH, rank)
    order = rng.permutation(len(first), who, "pair choice in the loop", 0)[:VOTES]
    first = [first[place] for place in order]
    lines = [answer(people[i % len(people)], pair, "first") for i, pair in enumerate(first)]
    said = [[answer(person, pair, "held out")["choice"] for person in fresh[:EACH]] for pair in held_out]
    votes = np.array([[choice.count("a"), choice.count("b")] for choice in said])
    ensemble = ensemble_of(run, folder / f"choice-{who}", lines, who)
    found = {"first round": accuracy(ensemble, held_out, votes)}
    for strategy in STRATEGIES:
        more = chosen(strategy, first, [line["choice"] for line in lines], pool, ensemble, people, who)
        learned = ensemble_of(run, folder / f"choice-{who}-{strategy}", [*lines, *more], who)
        found[strategy] = accuracy(learned, held_out, votes)
    return found


def main() -> None:
    """Measure what is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of learning_curve.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the policies")
    parser.add_argument("--crowds", type=int, default=3, help="groups of ten people for each policy")
    parser.add_argument("--iterations", type=int, default=36, help="of PPO, as for learning_curve.py")
    args = parser.parse_args()
    run = base_run(args.folder, 600, {"ppo.iterations": args.iterations})
    rows: list[dict[str, float]] = []
    for number in range(args.crowds):
        for seed in args.seeds:
            file = args.folder / f"choice-{seed}-{number}.json"
            if not file.exists():
                write_json(file, measured(run, args.folder, seed, number))
            rows.append(json.loads(file.read_text(encoding="utf-8")))
            print(seed, number, *(f"{name} {share:.3f}" for name, share in rows[-1].items()), flush=True)
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    print("| pairs of the second round | accuracy | difference from random, with its standard error |\n|---|---|---|")
    for name, shares in table.items():
        gain = shares - table["random"]
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
        print(f"| {name} | {shares.mean():.3f} | {gain.mean():+.3f} ± {error:.3f} |")


if __name__ == "__main__":
    main()
