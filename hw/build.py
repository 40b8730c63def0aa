"""Entry point of ``python -m hw.build``, which builds the bitstreams of boards.

The command is in :mod:`hw.tools.build`.
"""

import sys

from hw.tools.build import main

if __name__ == "__main__":
    sys.exit(main())
