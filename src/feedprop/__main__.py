"""`python -m feedprop` is the command `feedprop`."""

import sys

from feedprop.cli import main

if __name__ == "__main__":
    sys.exit(main())
