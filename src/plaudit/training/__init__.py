"""Everything about training that is not the algorithm: optimizer, checkpoints, metrics, the run directory."""
