"""Which pairs to ask people about: random ones, or those whose answer tells the live model most.

    python recipes/pair_choice.py --seeds 8

Simulated people are the real ones of `human-ratings`: of two film sentences each prefers the one that he or she rated
higher. The model is the Bayesian head of the labelling pages on activations of `movie-gpt2`. Its accuracy is the share
of single choices of people that it predicts, about sentences that it has never seen. The result is in
docs/experiments.md.
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

LEARNED, HELD_OUT = 40, 20  # batches of 30 sentences that the same people rated
PAIRS = 25  # of each batch
RANDOM_SHARE = 0.25  # of the pairs that are random with the strategy "uncertain"
TOGETHER = 8  # votes between two fits of the model
LOOKS = (24, 48, 96, 144, 192, 288, 384, 480)


@torch.inference_mode()
def activations(texts: Sequence[str]) -> np.ndarray:
    """(N, 2 D) what the last layer makes of each text: the mean over its tokens, and the last token."""
    model, tokenizer = load_causal_lm("movie-gpt2").eval(), load_tokenizer("movie-gpt2")
    rows = [tokenizer.hf(text, return_tensors="pt")["input_ids"] for text in texts]
    states = [model(ids, output_hidden_states=True).hidden_states[-1][0].float() for ids in rows]
    return np.stack([torch.cat([of_text.mean(0), of_text[-1]]).numpy() for of_text in states])


def ballots(pair: Pair) -> list[float]:
    """What each person answers: 1 for the first text, 0 for the second, 1/2 where both have the same rating."""
    return [0.5 if a == b else float(a > b) for a, b in zip(pair.a.ratings, pair.b.ratings, strict=True)]


def asked(strategy: str, head: Head, z: np.ndarray, open_pairs: np.ndarray, random: np.random.Generator) -> list[int]:
    """The next pairs: those that tell most, or random ones."""
    chosen = random.permutation(open_pairs)[:TOGETHER]
    if strategy == "uncertain":
        telling = open_pairs[np.argsort(-head.information(z[open_pairs]))]
        by_chance = random.random(TOGETHER) < RANDOM_SHARE
        chosen = np.where(by_chance, chosen, np.setdiff1d(telling, chosen[by_chance], assume_unique=True)[:TOGETHER])
    return [int(place) for place in chosen]


def learning_curve(
    strategy: str, z: np.ndarray, shares: Sequence[Sequence[float]], held_z: np.ndarray, held: np.ndarray, seed: int
) -> list[float]:
    """Accuracy on the held-out votes (P, 2) after each number of votes in `LOOKS`."""
    random = rng.generator(seed, "pair choice", 0, strategy)
    chosen: list[int] = []
    cast: list[float] = []
    head, accuracy = fit(z[:0], np.zeros(0)), []
    while len(chosen) < max(LOOKS):
        new = asked(strategy, head, z, np.setdiff1d(np.arange(len(z)), chosen), random)
        chosen += new
        cast += [float(random.choice(shares[place])) for place in new]
        head = fit(z[chosen], np.array(cast), head)
        if len(chosen) in LOOKS:
            right = np.where(head.probability(held_z) > 0.5, held[:, 0], held[:, 1])
            accuracy.append(float(right.sum() / held.sum()))
    return accuracy


def votes_for(accuracy: float, curve: np.ndarray) -> float:
    """How many votes give this accuracy, interpolated on a curve that never falls."""
    return float(np.interp(accuracy, np.maximum.accumulate(curve), LOOKS, right=np.inf))


def sample(rated: Sequence[RatedText]) -> tuple[list[Pair], list[Pair]]:
    """Pairs to ask about and pairs that are held out, of different batches."""
    order = rng.generator(0, "pair choice", 0, "batches").permutation(max(text.batch for text in rated))
    parts = (set(order[:LEARNED].tolist()), set(order[LEARNED : LEARNED + HELD_OUT].tolist()))
    learned, held_out = (pairs([text for text in rated if text.batch in part], PAIRS, seed=0) for part in parts)
    return learned, held_out


def main() -> None:
    """Measure both strategies on the same pairs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="repetitions, each with other people and random pairs")
    args = parser.parse_args()
    learned, held_out = sample(human_ratings())
    texts = list({text.text: None for pair in [*learned, *held_out] for text in (pair.a, pair.b)})
    pool, place = Pool.of(dict(enumerate(activations(texts)))), {text: i for i, text in enumerate(texts)}
    z, held_z = (pool.differences([(place[p.a.text], place[p.b.text]) for p in part]) for part in (learned, held_out))
    shares, held = [ballots(pair) for pair in learned], votes(held_out).astype(float)
    curves: dict[str, list[list[float]]] = {"random": [], "uncertain": []}
    for seed in range(args.seeds):
        for strategy, found in curves.items():
            found.append(learning_curve(strategy, z, shares, held_z, held, seed))
            print(seed, strategy, *(f"{accuracy:.3f}" for accuracy in found[-1]), flush=True)
    random, uncertain = (np.array(found) for found in curves.values())
    gain = uncertain - random
    error = gain.std(0, ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.full(len(LOOKS), np.nan)
    print("| votes | random | uncertain | difference, with its standard error |\n|---|---|---|---|")
    for i, n in enumerate(LOOKS):
        row = f"{random.mean(0)[i]:.3f} | {uncertain.mean(0)[i]:.3f} | {gain.mean(0)[i]:+.3f} ± {error[i]:.3f}"
        print(f"| {n} | {row} |")
    for accuracy in (0.58, 0.60, 0.62, 0.64):
        needed = (votes_for(accuracy, found.mean(0)) for found in (random, uncertain))
        print(f"votes for an accuracy of {accuracy:.2f}: random {next(needed):.0f}, uncertain {next(needed):.0f}")
    print(f"a person and the majority of the others agree on {person_and_others(held):.3f} of the held-out votes")


if __name__ == "__main__":
    main()
