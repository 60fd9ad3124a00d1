"""Judges, figures and the report."""
