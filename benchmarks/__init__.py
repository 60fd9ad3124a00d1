"""Time one PPO update of plaudit, of a notebook-style loop and of TRL, on the same work and machine."""
