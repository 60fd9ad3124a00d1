"""plaudit: RLHF that people can read, run on a laptop, and trust.

The public API: what `__all__` lists, described in docs/api.md. Everything else may change without notice. A name is
imported when it is first used, so that `import plaudit` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plaudit.algorithms.best_of_n import best_of_n
    from plaudit.algorithms.dpo import dpo
    from plaudit.algorithms.grpo import grpo
    from plaudit.algorithms.kto import kto
    from plaudit.algorithms.ppo import ppo
    from plaudit.algorithms.reinforce import reinforce
    from plaudit.algorithms.reward_model import reward_model
    from plaudit.algorithms.rloo import rloo
    from plaudit.algorithms.sft import sft
    from plaudit.data.corpus import load
    from plaudit.errors import PlauditError
    from plaudit.evaluation.doctor import doctor
    from plaudit.evaluation.evaluate import evaluate, sample
    from plaudit.pipeline import open_run, steps
    from plaudit.publishing.upload import push
    from plaudit.records import Comparison, Demonstration, LabelledText, Message, Ranking
    from plaudit.training.metrics import StepReport
    from plaudit.training.run import Run

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Demonstration",
    "LabelledText",
    "Message",
    "PlauditError",
    "Ranking",
    "Run",
    "StepReport",
    "best_of_n",
    "doctor",
    "dpo",
    "evaluate",
    "grpo",
    "kto",
    "load",
    "open_run",
    "ppo",
    "push",
    "reinforce",
    "reward_model",
    "rloo",
    "sample",
    "sft",
    "steps",
]

_MODULES = {
    "algorithms.best_of_n": ["best_of_n"],
    "algorithms.dpo": ["dpo"],
    "algorithms.grpo": ["grpo"],
    "algorithms.kto": ["kto"],
    "algorithms.ppo": ["ppo"],
    "algorithms.reinforce": ["reinforce"],
    "algorithms.reward_model": ["reward_model"],
    "algorithms.rloo": ["rloo"],
    "algorithms.sft": ["sft"],
    "data.corpus": ["load"],
    "errors": ["PlauditError"],
    "evaluation.doctor": ["doctor"],
    "evaluation.evaluate": ["evaluate", "sample"],
    "pipeline": ["open_run", "steps"],
    "publishing.upload": ["push"],
    "records": ["Comparison", "Demonstration", "LabelledText", "Message", "Ranking"],
    "training.metrics": ["StepReport"],
    "training.run": ["Run"],
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"plaudit.{module}"), name)
    raise AttributeError(f"module 'plaudit' has no attribute '{name}'; docs/api.md lists the public names")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
