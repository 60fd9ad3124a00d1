"""Preferences of people, from the models of a run and back into them: pairs to ask about, rounds, and comparisons."""
