"""Run ``python -m sw.speed``, the command in :mod:`sw.cli.speed`."""

import sys

from sw.cli.speed import main

if __name__ == "__main__":
    sys.exit(main())
