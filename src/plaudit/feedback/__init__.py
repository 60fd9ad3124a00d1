"""People compare responses in the browser: what they are asked, what they answer, and what follows from it."""
