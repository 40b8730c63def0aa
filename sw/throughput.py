"""Run ``python -m sw.throughput``, the command in :mod:`sw.cli.throughput`."""

import sys

from sw.cli.throughput import main

if __name__ == "__main__":
    sys.exit(main())
