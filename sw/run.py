"""Run ``python -m sw.run``, the command in :mod:`sw.cli.run`."""

import sys

from sw.cli.run import main

if __name__ == "__main__":
    sys.exit(main())
