"""Run ``python -m sw.experiments``, the command in :mod:`sw.cli.experiments`."""

import sys

from sw.cli.experiments import main

if __name__ == "__main__":
    sys.exit(main())
