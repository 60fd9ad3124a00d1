"""PPO on data in memory, for a reward of one's own, with curves in TensorBoard. A second run continues the first."""

import plaudit

who, how = ("the film", "this story", "her acting", "the second half"), ("slow", "warm", "loud", "wise", "funny")
why = "it ends well", "it is too long", "nobody laughs", "the music is good"
texts = [f"{a} is {b} and {c} because {d} ." for a in who for b in how for c in how for d in why if b != c]


def kindness(prompts: list[str], responses: list[str]) -> list[float]:
    """1 for a response with a kind word, otherwise 0."""
    return [float(any(word in ("warm", "wise", "funny") for word in text.split())) for text in responses]


run = plaudit.open_run("runs/research", texts, {"track": "tensorboard", "ppo.iterations": 24})
for report in plaudit.steps(run, ["sft", "ppo", "evaluation"], kindness):
    print(report.stage, report.step, report.metrics)
for line in plaudit.sample(run.path, "the film is", reward=kindness):
    print(f"{line['sft']!r} became {line['policy']!r}")
