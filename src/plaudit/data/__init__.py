"""Data sets: loading, cleaning and splitting."""
