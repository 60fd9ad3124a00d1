"""Which pairs to ask people about: random ones, or those whose answer tells the live model most.

    python recipes/pair_choice.py --seeds 10

Simulated people are the real ones of `human-ratings`: of two film sentences each prefers the one that he or she rated
higher. The model is the Bayesian head of the labelling pages on activations of `movie-gpt2`. Its accuracy is the share
of single choices of people that it predicts, about sentences that it has never seen. docs/experiments.md has the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from plaudit import rng
from plaudit.data.agreement import Pair, pairs, person_and_others, votes
from plaudit.data.human_ratings import human_ratings
from plaudit.feedback.head import Head, Pool, fit
from plaudit.models.loading import load_causal_lm, load_tokenizer
from plaudit.records import RatedText

LEARNED, HELD_OUT = 24, 16  # batches of 30 sentences that the same people rated
PAIRS = 25  # of each batch that can be asked about
RANDOM_SHARE = 0.25  # of the pairs that are random with the strategy "uncertain"
LOOKS = (10, 20, 40, 60, 80, 120, 160, 200, 240)


@torch.inference_mode()
def activations(texts: Sequence[str], layer: int = -1) -> np.ndarray:
    """(N, D) mean over its tokens of a layer's output for each text."""
    model, tokenizer = load_causal_lm("movie-gpt2").eval(), load_tokenizer("movie-gpt2")
    rows = [tokenizer.hf(text, return_tensors="pt")["input_ids"] for text in texts]
    return np.stack([model(ids, output_hidden_states=True).hidden_states[layer][0].mean(0).float() for ids in rows])


def ballots(pair: Pair) -> list[float]:
    """What each person answers: 1 for the first text, 0 for the second, 1/2 where both have the same rating."""
    return [0.5 if a == b else float(a > b) for a, b in zip(pair.a.ratings, pair.b.ratings, strict=True)]


def asked(strategy: str, head: Head, z: np.ndarray, open_pairs: np.ndarray, random: np.random.Generator) -> int:
    """The next pair."""
    if strategy == "random" or random.random() < RANDOM_SHARE:
        return int(random.choice(open_pairs))
    return int(open_pairs[head.information(z[open_pairs]).argmax()])


def learning_curve(
    strategy: str, z: np.ndarray, shares: Sequence[Sequence[float]], held_z: np.ndarray, held: np.ndarray, seed: int
) -> list[float]:
    """Accuracy on the held-out votes (P, 2) after each number of votes in `LOOKS`."""
    random = rng.generator(seed, "pair choice", 0, strategy)
    chosen: list[int] = []
    cast: list[float] = []
    head, accuracy = fit(z[:0], np.zeros(0)), []
    while len(chosen) < max(LOOKS):
        chosen.append(asked(strategy, head, z, np.setdiff1d(np.arange(len(z)), chosen), random))
        cast.append(float(random.choice(shares[chosen[-1]])))
        head = fit(z[chosen], np.array(cast), head)
        if len(chosen) in LOOKS:
            right = np.where(head.probability(held_z) > 0.5, held[:, 0], held[:, 1])
            accuracy.append(float(right.sum() / held.sum()))
    return accuracy


def votes_for(accuracy: float, curve: np.ndarray) -> float:
    """How many votes give this accuracy, interpolated on a curve that never falls."""
    return float(np.interp(accuracy, np.maximum.accumulate(curve), LOOKS, right=np.inf))


def sample(rated: Sequence[RatedText], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from and pairs that are held out, of different batches."""
    order = rng.generator(seed, "pair choice", 0, "batches").permutation(max(text.batch for text in rated))
    parts = (set(order[:LEARNED].tolist()), set(order[LEARNED : LEARNED + HELD_OUT].tolist()))
    learned, held_out = (pairs([text for text in rated if text.batch in part], PAIRS, seed) for part in parts)
    return learned, held_out


def main() -> None:
    """Measure both strategies on the same pairs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="repetitions, each with other sentences and people")
    args = parser.parse_args()
    rated = human_ratings()
    curves: dict[str, list[list[float]]] = {"random": [], "uncertain": []}
    ceilings = []
    for seed in range(args.seeds):
        learned, held_out = sample(rated, seed)
        texts = {text.text: None for pair in [*learned, *held_out] for text in (pair.a, pair.b)}
        pool = Pool.of(dict(enumerate(activations(list(texts)))))
        place = {text: i for i, text in enumerate(texts)}
        z, held_z = (
            pool.differences([(place[p.a.text], place[p.b.text]) for p in part]) for part in (learned, held_out)
        )
        held = votes(held_out).astype(float)
        ceilings.append(person_and_others(held))
        for strategy, found in curves.items():
            found.append(learning_curve(strategy, z, [ballots(pair) for pair in learned], held_z, held, seed))
        print(seed, {strategy: [round(x, 3) for x in found[-1]] for strategy, found in curves.items()}, flush=True)
    mean = {strategy: np.mean(found, 0) for strategy, found in curves.items()}
    gain = np.array(curves["uncertain"]) - np.array(curves["random"])
    error = gain.std(0, ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.full(len(LOOKS), np.nan)
    print("| votes | random | uncertain | difference, and its standard error |\n|---|---|---|---|")
    for i, n in enumerate(LOOKS):
        difference = f"{gain.mean(0)[i]:+.3f} ± {error[i]:.3f}"
        print(f"| {n} | {mean['random'][i]:.3f} | {mean['uncertain'][i]:.3f} | {difference} |")
    for accuracy in (0.58, 0.60, 0.62, 0.64):
        print(
            f"votes for {accuracy:.2f}:",
            {
                name: round(votes_for(accuracy, curve)) if votes_for(accuracy, curve) < np.inf else "more"
                for name, curve in mean.items()
            },
        )
    print(f"a person and the majority of the others agree on {np.mean(ceilings):.3f} of the held-out votes")


if __name__ == "__main__":
    main()
