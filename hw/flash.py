"""Run ``python -m hw.flash``, the command in :mod:`hw.tools.flash`."""

import sys

from hw.tools.flash import main

if __name__ == "__main__":
    sys.exit(main())
