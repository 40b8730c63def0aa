"""Entry point of ``python -m sim.ladder``."""

import sys

from sim.ladder.main import main

if __name__ == "__main__":
    sys.exit(main())
