"""Run ``python -m hw.area``, the command in :mod:`hw.tools.area`."""

import sys

from hw.tools.area import main

if __name__ == "__main__":
    sys.exit(main())
