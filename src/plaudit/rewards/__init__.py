"""What a policy is trained for: a number for each response, the weighted sum of one or more parts.

A part is a function of the texts, from a file or in memory, a sequence classifier, or the run's reward model.
"""

from plaudit.rewards.parts import REWARD_MODEL, SPREAD, EnsembleReward, FunctionReward, ModelReward, Part, Reward
from plaudit.rewards.sources import AnyReward, Source, TextReward, described, load_function, sources_of, uses_model

__all__ = [
    "REWARD_MODEL",
    "SPREAD",
    "AnyReward",
    "EnsembleReward",
    "FunctionReward",
    "ModelReward",
    "Part",
    "Reward",
    "Source",
    "TextReward",
    "described",
    "load_function",
    "sources_of",
    "uses_model",
]
