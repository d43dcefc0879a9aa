"""``python -m fullbore``: the same as the ``fullbore`` command."""

import sys

from fullbore.cli import main

if __name__ == "__main__":
    sys.exit(main())
