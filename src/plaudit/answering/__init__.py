"""Models of a run that answer prompts side by side, in a process of its own beside the page of `plaudit.chat`."""
