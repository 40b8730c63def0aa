"""Run ``python -m sw.boards``, the command in :mod:`sw.cli.boards`."""

import sys

from sw.cli.boards import main

if __name__ == "__main__":
    sys.exit(main())
