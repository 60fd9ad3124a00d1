"""Small run directories, as training writes them."""

import json

HOSTILE = "<script>alert(1)</script>\u202e<img src=x onerror=alert(2)>\x1b"


def write(path, lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("\n".join(map(json.dumps, lines)) + end)


def metrics(step, **more):
    return {"step": step, "score": 0.1 * step, "kl": 0.5 * step, "entropy": 3.0, "eos_rate": 0.9} | more


def rollout(iteration, i, **more):
    row = {"iteration": iteration, "prompt": f"prompt {i}", "response": f" response {i}", "score": i / 10, "kl": 1.0}
    return row | {"length": 5 + i, "ended": True} | more


def tokens(iteration, row=0, **more):
    figures = {"logprobs": [-0.5, -2.0], "ref_logprobs": [-1.0, -1.0], "rewards": [-0.05, 1.0]}
    return {
        "iteration": iteration, "row": row, "prompt": "a prompt", "score": 0.7, "tokens": [" good", HOSTILE],
        "ids": [5, 7], **figures, "values": [0.2, 0.4], "advantages": [1.5, -1.0],
    } | more  # fmt: skip


def run(folder, steps=10, stage="ppo"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text("[ppo]\niterations = 20\n")
    (folder / stage).mkdir()
    (folder / stage / "inputs.json").write_text("{}")
    write(folder / stage / "metrics.jsonl", [metrics(step) for step in range(1, steps + 1)])
    write(folder / stage / "timing.jsonl", [{"step": step, "seconds": 2.0} for step in range(1, steps + 1)])
    write(folder / stage / "rollouts.jsonl", [rollout(step, i) for step in range(1, steps + 1) for i in range(12)])
    write(folder / stage / "tokens.jsonl", [tokens(step, row) for step in range(1, steps + 1) for row in range(2)])
    check = {"name": "dropout", "ok": True, "figure": "0 nats", "advice": HOSTILE, "stops": True, "amount": None}
    (folder / "doctor.json").write_text(json.dumps({stage: [check, check | {"name": "mask", "ok": False}]}))
    return folder
