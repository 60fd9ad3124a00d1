"""What the notebooks need to show things: figures, tables and live curves. They are never needed to train."""
