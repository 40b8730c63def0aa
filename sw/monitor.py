"""Run ``python -m sw.monitor``, the command in :mod:`sw.cli.monitor`."""

import sys

from sw.cli.monitor import main

if __name__ == "__main__":
    sys.exit(main())
