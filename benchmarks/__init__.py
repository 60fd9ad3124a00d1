"""Time a PPO update and the training of plaudit, of a notebook-style loop and of TRL, on the same work and machine."""
