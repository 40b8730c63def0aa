"""Run ``python -m sw.report``, the command in :mod:`sw.cli.report`."""

import sys

from sw.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
