"""Errors that a user can meet. Each message is one line: what is wrong, where, and the fix."""

import errno

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class PlauditError(Exception):
    """Base of every error that plaudit raises on purpose. The command line prints its message and exits with 1."""


class ConfigError(PlauditError):
    """A setting is unknown, or its value is not allowed."""


class DataError(PlauditError):
    """Input data is missing, empty or malformed."""


class ConversationError(DataError):
    """A model's chat template cannot put a conversation into words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason  # in a few words, by which such conversations are counted


class ModelError(PlauditError):
    """A model or tokenizer is missing, of the wrong kind, or too small for the settings."""


class RunError(PlauditError):
    """A run directory or checkpoint is missing, incomplete, in the way, or made with other settings."""


class RankError(RunError):
    """Another process of the job has ended, hangs, or cannot be reached."""


class RewardError(PlauditError):
    """A reward function does not return one finite number for each response."""


class HubError(PlauditError):
    """The Hugging Face hub refuses an upload, or cannot be reached."""


class TrainingError(PlauditError):
    """A loss or gradient is not finite."""


class FeedbackError(PlauditError):
    """A labelling project is missing or damaged, or a vote does not belong to what its annotator was asked."""


def in_one_line(error: Exception) -> str:
    """The message of an error that a user can do something about; "" for an unexpected one."""
    text = " ".join(str(error).split())
    if isinstance(error, PlauditError):
        return text
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _OUT_OF_MEMORY):
        return "out of memory; lower microbatch_size or batch_size, train fewer layers, or close other programs"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        space = "; free some disk space" if error.errno in _NO_SPACE else ""
        return f"{place}{error.strerror}{space}"
    if type(error).__name__ == "SafetensorError":
        return f"a file of tensors cannot be read or written: {text}"
    return ""
