"""The fast engine: the methods of `plaudit.models.plain` for the model families that it knows.

Packed batches, cached activations of frozen layers, a preallocated key-value cache, logits in chunks, bfloat16
parameters with float32 master weights, and an optimizer that steps in slices. `plaudit.training.engine` chooses it;
nothing else mentions it.
"""
