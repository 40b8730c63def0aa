"""Entry point of ``python -m hw.build``, which builds the bitstreams of boards."""

import sys

from hw.tools.build import main

if __name__ == "__main__":
    sys.exit(main())
