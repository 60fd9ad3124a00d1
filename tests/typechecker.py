"""beartype as the import hook of conftest uses it: an int is good where a float is asked for, as in mypy."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
