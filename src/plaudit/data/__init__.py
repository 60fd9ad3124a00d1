"""Where text comes from, and how it is split."""
