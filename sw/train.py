"""Run ``python -m sw.train``, the command in :mod:`sw.cli.train`."""

import sys

from sw.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
