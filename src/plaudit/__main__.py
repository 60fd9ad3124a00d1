"""`python -m plaudit` is `plaudit`."""

import sys

from plaudit.cli import main

sys.exit(main())
