"""The type checker for the import hook in conftest.py: beartype, accepting an int for a float as mypy does."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
