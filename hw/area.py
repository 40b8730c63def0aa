"""Entry point of ``python -m hw.area``, which reports the area of a board's gateware.

The command is in :mod:`hw.tools.area`.
"""

import sys

from hw.tools.area import main

if __name__ == "__main__":
    sys.exit(main())
