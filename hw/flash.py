"""Entry point of ``python -m hw.flash``, which programs a board with its bitstream."""

import sys

from hw.tools.flash import main

if __name__ == "__main__":
    sys.exit(main())
