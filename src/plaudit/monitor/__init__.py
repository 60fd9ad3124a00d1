"""The live page of a training run: what is trained now, whether it is healthy, and what the model writes."""
