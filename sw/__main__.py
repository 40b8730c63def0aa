"""Entry point of ``python -m sw``, which runs the command line interface in :mod:`sw.cli.main`."""

import sys

from sw.cli.main import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m sw"))
