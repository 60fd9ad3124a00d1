"""plaudit: RLHF that people can read, run on a laptop, and trust."""

__version__ = "0.1.0"
