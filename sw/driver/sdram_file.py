"""The file that holds the contents of a virtual board's SDRAM.

Tens of megabytes would take an hour over the simulated serial line. So the driver writes the
contents into this file, while the board is idle. They are verified over the line, as on any other
board: the driver sends CRCs, and the board compares them with the CRCs of its memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hw.boards.configs import sdram_of
from hw.offchip.layout import RowLayout
from hw.protocol import Space, row_bytes
from hw.spec import Config


class SdramFile:
    """Contents of the SDRAM of a virtual board, in a file that the board's process has mapped into
    its memory.

    Parameters
    ----------
    path : path of the file. The board's process gives the file its size.
    config : configuration of the board, with memory outside the FPGA.
    """

    def __init__(self, path: Path, config: Config):
        self.path = path
        self._banks = config.banks
        row_bits = 8 * row_bytes(Space.OFFCHIP, config)
        self._layout = RowLayout(chip=sdram_of(config), n_ports=config.banks, row_bits=row_bits)

    def write(self, image: bytes) -> None:
        """Write the rows of :attr:`hw.protocol.Space.OFFCHIP` from row 0 on; ``image`` has their
        bytes."""
        layout = self._layout
        dtype = np.dtype("<u2" if layout.chip.data_bits == 16 else "<u4")
        words = np.memmap(self.path, dtype, "r+").reshape(-1, layout.row_words)
        rows = np.frombuffer(image, dtype).reshape(-1, layout.row_words)
        index = np.arange(len(rows))
        first = layout.word_addresses(index % self._banks, index // self._banks)
        words[first // layout.row_words] = rows
