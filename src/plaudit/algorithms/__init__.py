"""The algorithms: each file has its settings, what it needs, and one generator of step reports."""
