"""Run ``python -m sw.zoo``, the command in :mod:`sw.cli.zoo`."""

import sys

from sw.cli.zoo import main

if __name__ == "__main__":
    sys.exit(main())
