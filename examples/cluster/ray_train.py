"""plaudit under Ray Train: the workers run the loop that torchrun would start, and a worker that fails starts again.

python examples/cluster/ray_train.py --workers 8 --gpu --storage /shared/ray --out /shared/runs/ray
"""

import argparse
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def train(job: dict[str, Any]) -> None:
    """What each worker does: continue the run, or begin it, and report the figures of every step to Ray."""
    import plaudit

    run = plaudit.open_run(job["out"], job["data"], job["settings"])
    for report in plaudit.steps(run):
        ray.train.report({"stage": report.stage, "step": report.step, **report.metrics})


def main() -> None:
    """Start the workers and wait for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="number of worker processes")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    parser.add_argument("--storage", default="ray-results", help="folder of Ray's own files, which all hosts share")
    parser.add_argument("--out", default="runs/ray", help="run directory, which all hosts share")
    parser.add_argument("--data", help="a built-in name, a file or folder that all hosts share, or a hub id")
    parser.add_argument("--config", help="a TOML file of settings, which all hosts share")
    words = parser.parse_args()
    paths = {name: Path(value).resolve() for name in ("out", "config", "storage") if (value := getattr(words, name))}
    data = str(Path(words.data).resolve()) if words.data and Path(words.data).exists() else words.data
    trainer = TorchTrainer(
        train,
        train_loop_config={"out": str(paths["out"]), "data": data, "settings": paths.get("config")},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if words.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=words.workers, use_gpu=words.gpu),
        run_config=RunConfig(storage_path=str(paths["storage"]), failure_config=FailureConfig(max_failures=3)),
    )
    print(trainer.fit().metrics)


if __name__ == "__main__":
    main()
