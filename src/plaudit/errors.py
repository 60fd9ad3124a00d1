"""The errors a user can meet. Every message names what is at fault and the mend.

PlauditError
  ConfigError      a setting: unknown name, impossible value
  DataError        a file or a record: missing, empty, malformed
  ModelError       a model or tokenizer: not found, wrong kind, window too short
  RunError         a run directory or checkpoint: in the way, incomplete, changed
  RewardError      a reward function: not one finite number for each response
  TrainingError    training went wrong: a non-finite loss or gradient
"""

from __future__ import annotations


class PlauditError(Exception):
    """Base of every error that plaudit raises on purpose; the command line prints it as one line."""


class ConfigError(PlauditError):
    """A setting is unknown, or its value is impossible."""


class DataError(PlauditError):
    """Input data is missing, empty or malformed."""


class ModelError(PlauditError):
    """A model or tokenizer cannot be found, or cannot do what is asked of it."""


class RunError(PlauditError):
    """A run directory or checkpoint is missing, in the way, or not what it should be."""


class RewardError(PlauditError):
    """A reward function does not return one finite number for each response."""


class TrainingError(PlauditError):
    """Training cannot go on: a loss or gradient is not finite."""
