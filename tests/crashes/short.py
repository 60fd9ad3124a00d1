"""How many trials of each part the short form has. Imports nothing: the test suite reads it while it collects."""

SHORT = {"kills": 12, "corruptions": 8, "changes": 2, "signals": 5, "writers": 2, "storage": 6, "hostile": 7, "soak": 1}
SHORT["ranks"] = 0  # tests/training/test_lost_ranks.py has some
