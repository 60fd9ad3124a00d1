"""One PPO update, timed: plaudit beside a notebook-style loop and TRL, on the same work and the same machine."""
