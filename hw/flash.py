"""Entry point of ``python -m hw.flash``, which programs a board with its bitstream.

The command is in :mod:`hw.tools.flash`.
"""

import sys

from hw.tools.flash import main

if __name__ == "__main__":
    sys.exit(main())
