"""360 everyday questions without answers, as a user would ask a chat model them.

    python recipes/questions.py questions.jsonl

examples/one_sentence.py trains a chat model on them; docs/chat.md shows what it answers before and after.
"""

import json
import sys
from pathlib import Path

FORMS = (
    "What are {}?",
    "Why do people like {}?",
    "How would you explain {} to a child?",
    "What is the best thing about {}?",
    "Tell me something about {}.",
    "Where would I look for {}?",
)
THINGS = """
    rivers, mountains, bicycles, libraries, pencils, clocks, bridges, candles, gardens, spoons, umbrellas, windows,
    horses, cats, sparrows, bees, whales, spiders, turtles, owls, apples, lemons, carrots, mushrooms, walnuts, pancakes,
    soups, sandwiches, cookies, teapots, songs, violins, drums, poems, novels, letters, maps, puzzles, kites, balloons,
    trains, ships, tunnels, lighthouses, castles, museums, schools, markets, bakeries, hospitals, clouds, storms,
    rainbows, volcanoes, islands, forests, deserts, glaciers, stars, comets
"""


def questions() -> list[str]:
    """Every form with every thing."""
    return [form.format(thing) for thing in " ".join(THINGS.split()).split(", ") for form in FORMS]


def main(path: Path) -> None:
    path.write_text("".join(json.dumps({"question": each}) + "\n" for each in questions()), encoding="utf-8")
    print(f"{len(questions())} questions")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
