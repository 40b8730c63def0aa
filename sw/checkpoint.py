"""Run ``python -m sw.checkpoint``, the command in :mod:`sw.cli.checkpoint`."""

import sys

from sw.cli.checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
