"""Run ``python -m hw.build``, the command in :mod:`hw.tools.build`."""

import sys

from hw.tools.build import main

if __name__ == "__main__":
    sys.exit(main())
