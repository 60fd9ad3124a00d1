"""How many trials of each part the short form has. Imports nothing: the test suite reads it while it collects."""

SHORT = {"kills": 16, "corruptions": 12, "signals": 5, "writers": 3, "storage": 7, "hostile": 9, "soak": 1}
