"""The three stages, each an iterator of step reports that reads like the paper's pseudo-code."""
