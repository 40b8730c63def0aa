"""Placement of rows of weights in an SDRAM: which words of which page hold a row.

The SDRAM controller has a *port* for each bank of the core. Each port reads the rows of its own
region of the SDRAM. A *page* is a row of a bank of the SDRAM, which must be opened before it can be
read. With 1 or 2 ports, neighbouring pages of a region are in different banks of the SDRAM. With 4
ports, each port has a bank of the SDRAM to itself. With 8 ports, ports ``p`` and ``p + 4`` share a
bank: their rows with the same index are in the same page, because they are read at nearly the same
time. So the page that is needed next is never in the bank that is being read, and can be opened
meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from amaranth import Cat, Const, Value

from hw.offchip.timing import N_BANKS, SdramChip
from hw.spec import SpecError

PORTS = (1, 2, 4, 8)
"""Supported numbers of ports, each of which reads the rows of one bank of the core."""
MAX_BURST = 8
"""Largest number of words that one read or write command transfers."""


class Place(NamedTuple):
    """Position of a row of weights in an SDRAM."""

    bank: int
    page: int
    column: int
    """Index of the row's first word in its page."""


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """Placement of rows of ``row_bits`` bits in an SDRAM chip.

    The rows belong to ``n_ports`` ports of the controller; each port reads the rows of one bank of
    the core.
    """

    chip: SdramChip
    n_ports: int
    row_bits: int

    def __post_init__(self) -> None:
        if self.n_ports not in PORTS:
            raise SpecError(f"{self.n_ports!r} ports are not supported: use one of {PORTS}")
        least = 2 * self.chip.data_bits
        most = self.chip.columns * self.chip.data_bits // (self.n_ports // N_BANKS or 1)
        bits = self.row_bits
        if bits & (bits - 1) or not least <= bits <= most:
            raise SpecError(
                f"rows of {bits} bits are not supported with {self.chip.name}: use a power of two "
                f"from {least} to {most}"
            )

    @property
    def row_words(self) -> int:
        """Number of words in a row."""
        return self.row_bits // self.chip.data_bits

    @property
    def burst(self) -> int:
        """Number of words that one read or write command transfers: the chip's burst length."""
        return min(self.row_words, MAX_BURST)

    @property
    def slots(self) -> int:
        """Number of rows of weights in a page of the SDRAM."""
        return self.chip.columns // self.row_words

    @property
    def n_rows(self) -> int:
        """Number of rows that each port can read."""
        return N_BANKS * self.chip.rows * self.slots // self.n_ports

    @property
    def _widths(self) -> tuple[int, int, int, int]:
        """Widths in bits of the four fields, in this order, that make up a port's number and a
        row's index.

        - port, low bits: low bits of the number of the SDRAM's bank
        - port, other bits: number of the port's share of each page
        - row, low bits: index of the row in that share
        - row, next bits: high bits of the number of the SDRAM's bank

        The remaining bits of the row's index are the number of the page.
        """
        port_bits = (self.n_ports - 1).bit_length()
        bank_bits = (N_BANKS - 1).bit_length()
        own_bits = min(port_bits, bank_bits)
        share_bits = port_bits - own_bits
        slot_bits = (self.slots - 1).bit_length() - share_bits
        return own_bits, share_bits, slot_bits, bank_bits - own_bits

    def place(self, port: int, row: int) -> Place:
        """Return where row ``row`` of port ``port`` is.

        Raises
        ------
        SpecError
            There is no such port or row.
        """
        if not (0 <= port < self.n_ports and 0 <= row < self.n_rows):
            raise SpecError(
                f"row {row} of port {port} does not exist: there are {self.n_rows} rows in each of "
                f"{self.n_ports} ports"
            )
        return self._place(port, row)

    def _place(self, port: Any, row: Any) -> Place:
        """Return the place of row ``row`` of port ``port``, unchecked; both may be arrays of
        integers."""
        own_bits, _, slot_bits, turn_bits = self._widths
        slot, rest = row & (1 << slot_bits) - 1, row >> slot_bits
        turn, page = rest & (1 << turn_bits) - 1, rest >> turn_bits
        share = port >> own_bits
        return Place(
            bank=port & (1 << own_bits) - 1 | turn << own_bits,
            page=page,
            column=(share << slot_bits | slot) * self.row_words,
        )

    def fields(self, port: Value | int, row: Value) -> dict[str, Value]:
        """Return Amaranth values for the ``bank``, ``page`` and ``slot`` of a row.

        The slot is the index of the row in its page. ``row`` must have exactly as many bits as an
        index below :attr:`n_rows` needs.
        """
        port_bits = (self.n_ports - 1).bit_length()
        own_bits, share_bits, slot_bits, turn_bits = self._widths
        whole = Const(port, port_bits) if isinstance(port, int) else port
        return {
            "bank": Cat(whole[:own_bits], row[slot_bits : slot_bits + turn_bits]),
            "page": row[slot_bits + turn_bits :],
            "slot": Cat(row[:slot_bits], whole[own_bits : own_bits + share_bits]),
        }

    def word_address(self, port: int, row: int) -> int:
        """Return the index in the chip of a row's first word.

        The words are numbered column by column, then bank by bank, then page by page.

        Raises
        ------
        SpecError
            There is no such port or row.
        """
        self.place(port, row)  # raises if there is no such row
        return self.word_addresses(port, row)

    def word_addresses(self, port: Any, row: Any) -> Any:
        """Return the same as :meth:`word_address`, for integers or arrays of integers and without
        checks."""
        at = self._place(port, row)
        return (at.page * N_BANKS + at.bank) * self.chip.columns + at.column
