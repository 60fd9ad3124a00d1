"""The page of `plaudit chat`: prompts, and the answers of two models of a run beside each other; it opens no model."""
