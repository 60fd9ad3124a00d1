"""Write a file of comparisons from the human ratings: one line for each person and pair, with the person's name.

    python recipes/human_comparisons.py votes.jsonl
    plaudit sft --data votes.jsonl --out RUN && plaudit reward-model --data votes.jsonl --out RUN

docs/reward-model.md shows what these commands print.
"""

import json
import sys
from pathlib import Path

from plaudit.data.agreement import Pair, pairs
from plaudit.data.human_ratings import human_ratings

PAIRS_OF_A_BATCH = 8  # of 30 texts that the same people rated


def votes(pair: Pair) -> list[dict[str, str]]:
    """What each person prefers: the text that he or she rated higher."""
    return [
        {
            "response_a": pair.a.text,
            "response_b": pair.b.text,
            "choice": "a" if a > b else "b" if b > a else "tie",
            "annotator": f"{pair.a.batch}-{person}",
        }
        for person, (a, b) in enumerate(zip(pair.a.ratings, pair.b.ratings, strict=True))
    ]


def main(path: Path) -> None:
    drawn = pairs(human_ratings(), PAIRS_OF_A_BATCH, seed=1)
    lines = [json.dumps(vote) for pair in drawn for vote in votes(pair)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines):,} votes on {len(drawn):,} pairs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
