"""Run ``python -m sw.evaluate``, the command in :mod:`sw.cli.evaluate`."""

import sys

from sw.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
