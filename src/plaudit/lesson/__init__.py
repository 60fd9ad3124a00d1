"""Figures, tables, live curves and exercises of the notebooks. Training never needs this package."""
