"""Run ``python -m sw.export``, the command in :mod:`sw.cli.export`."""

import sys

from sw.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
