"""PPO on data in memory, for a reward of one's own, with curves in TensorBoard. A second run continues the first."""

import plaudit

who, how, why = ("the film", "this story", "her acting"), ("slow", "warm", "loud", "wise"), ("ends well", "is too long")
texts = [f"{a} is {b} and {c} because it {d} , i think ." for a in who for b in how for c in how for d in why if b != c]


def reward(prompts: list[str], responses: list[str]) -> list[float]:
    """Prefer responses of eight words."""
    return [-abs(len(response.split()) - 8) for response in responses]


run = plaudit.open_run("runs/research", texts, {"track": "tensorboard", "ppo.iterations": 24})
for report in plaudit.steps(run, ["sft", "ppo", "evaluation"], reward):
    print(report.stage, report.step, report.metrics)
for line in plaudit.sample(run.path, "the film is", reward=reward):
    print(f"{line['sft']!r} became {line['policy']!r}")
