"""Run ``python -m sw.nir``, the command in :mod:`sw.cli.nir`."""

import sys

from sw.cli.nir import main

if __name__ == "__main__":
    sys.exit(main())
