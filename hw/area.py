"""Entry point of ``python -m hw.area``, which reports the area of a board's gateware."""

import sys

from hw.tools.area import main

if __name__ == "__main__":
    sys.exit(main())
