"""SDRAM chips of the boards: geometry and timing from data sheets, and timing in clock cycles.

All chips are single-data-rate SDRAMs after JEDEC 21-C (3.11.5) with four banks. Times are in
nanoseconds and are converted to whole cycles of the controller's clock by :func:`timing_cycles`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hw.spec import SpecError

N_BANKS = 4
"""Number of banks of every supported chip."""

REFRESH_BATCH = 8
"""Number of refreshes that the controller postpones and then performs in one batch, with all banks
closed.

The data sheets allow any distribution of the refreshes over the refresh period, even all of them
together. With a batch, the banks are closed and opened only once.
"""


@dataclass(frozen=True, kw_only=True)
class SdramChip:
    """Geometry and timing of an SDRAM chip; the times are minima unless stated otherwise, in ns."""

    name: str
    rows: int
    """Number of rows (pages) in each bank, a power of two."""
    columns: int
    """Number of words in a page, a power of two."""
    data_bits: int
    """Number of bits in a word, which is the width of the data bus."""
    t_ck: dict[int, float]
    """Shortest clock period in ns for each supported CAS latency (in cycles)."""
    t_rcd: float
    """Time from activating a page to its first read or write."""
    t_rp: float
    """Time from closing a page to activating another one of the same bank."""
    t_ras: float
    """Time from activating a page to closing it."""
    t_rc: float
    """Time from activating a page to activating another one of the same bank."""
    t_rrd: float
    """Time from activating a page to activating a page of another bank."""
    t_rfc: float
    """Time from a refresh to the next command."""
    t_wr: float
    """Time from the last written word to closing its page; also at least two cycles."""
    t_mrd_cycles: int = 2
    """Number of cycles from setting the mode register to the next command."""
    power_up: float = 200e3
    """Time from the first stable clock to the first command."""
    refresh_period: float = 64e6
    """Time in which every page must be refreshed once; the only time here that is a maximum."""
    n_refreshes: int
    """Number of refresh commands that are needed in ``refresh_period``."""

    def __post_init__(self) -> None:
        for field in ("rows", "columns", "data_bits"):
            value = getattr(self, field)
            if value < 1 or value & (value - 1):
                raise SpecError(f"SdramChip.{field} = {value} is not supported: use a power of two")
        if self.columns > 1024:
            raise SpecError(
                f"SdramChip.columns = {self.columns} is not supported: use at most 1024, because "
                "address bit 10 of a read or write is not part of the column"
            )

    @property
    def address_bits(self) -> int:
        """Number of address pins: at least 11, because pin 10 selects whether a precharge closes
        all banks."""
        return max((self.rows - 1).bit_length(), 11)

    @property
    def n_bytes(self) -> int:
        """Capacity in bytes."""
        return N_BANKS * self.rows * self.columns * self.data_bits // 8


ULX3S_SDRAM = SdramChip(
    name="ULX3S: MT48LC16M16A2, W9825G6KH or AS4C32M16SB",
    # MT48LC16M16A2-75 (Micron), W9825G6KH-6 (Winbond) and AS4C32M16SB-7 (Alliance) are found on
    # boards of different revisions and sizes. Each value is that of the slowest of them.
    # AS4C32M16SB has 1024 columns, of which half are used.
    rows=8192,
    columns=512,
    data_bits=16,
    t_ck={2: 10, 3: 7.5},
    t_rcd=21,
    t_rp=21,
    t_ras=44,
    t_rc=66,
    t_rrd=15,
    t_rfc=66,
    t_wr=15,
    n_refreshes=8192,
)
TANG_NANO_20K_SDRAM = SdramChip(
    name="Tang Nano 20K: SDRAM inside the GW2AR-18",
    # Gowin names no chip. LiteX drives it as an M12L64322A or EM638325; the values are the slowest
    # ones of M12L64322A-7T (ESMT) and EM638325-7 (Etron).
    rows=2048,
    columns=256,
    data_bits=32,
    t_ck={2: 10, 3: 7},
    t_rcd=20,
    t_rp=20,
    t_ras=49,
    t_rc=70,
    t_rrd=14,
    t_rfc=70,
    t_wr=14,
    n_refreshes=4096,
)
# EM638325-6 (Etron) and M12L64322A-7T (ESMT): the slower value of each, which are the same again.
COLORLIGHT_I5_SDRAM = replace(
    TANG_NANO_20K_SDRAM, name="Colorlight i5: EM638325BK-6H or M12L64322A"
)
CHIPS: dict[str, SdramChip] = {
    "ulx3s": ULX3S_SDRAM,
    "tang": TANG_NANO_20K_SDRAM,
    "colorlight": COLORLIGHT_I5_SDRAM,
}
"""SDRAM chip of each kind of board that has one, by the first word of the board's name."""


@dataclass(frozen=True, kw_only=True)
class SdramCycles:
    """Timing of a chip in clock cycles; the fields correspond to those of :class:`SdramChip`.

    ``n`` cycles between two commands means that the second one may come ``n`` cycles after the
    first one.
    """

    cas_latency: int
    rcd: int
    rp: int
    ras: int
    """Cycles from activating a page to closing it, long enough that ``ras + rp`` also covers
    ``t_rc``."""
    rc: int
    rrd: int
    rfc: int
    wr: int
    mrd: int
    refresh_interval: int
    """Average number of cycles between two refreshes. They are postponed and done in batches of
    :data:`REFRESH_BATCH`; the interval is short enough that every page is refreshed in time."""
    power_up: int


def timing_cycles(chip: SdramChip, clk_hz: int, cas_latency: int = 3) -> SdramCycles:
    """Return the timing of a chip in cycles of a clock of ``clk_hz``.

    Raises
    ------
    SpecError
        The chip does not support the CAS latency, or the clock is too fast for it, or so slow that
        a batch of refreshes takes longer than the interval in which it is due.
    """
    if cas_latency not in chip.t_ck:
        raise SpecError(
            f"a CAS latency of {cas_latency!r} cycles is not supported by {chip.name}: use one of "
            f"{sorted(chip.t_ck)}"
        )
    fastest = math.floor(1e9 / chip.t_ck[cas_latency])
    if clk_hz > fastest:
        longer = [n for n, t_ck in chip.t_ck.items() if n > cas_latency and clk_hz * t_ck <= 1e9]
        advice = f" or a CAS latency of {min(longer)} cycles" if longer else ""
        raise SpecError(
            f"clk_hz = {clk_hz} is too fast for {chip.name} with a CAS latency of {cas_latency} "
            f"cycles: use at most {fastest} Hz{advice}"
        )

    def cycles(time_ns: float) -> int:
        return max(1, math.ceil(round(time_ns * clk_hz / 1e9, 6)))

    ras, rp = cycles(chip.t_ras), cycles(chip.t_rp)
    # In any refresh period there are at least `n_refreshes` refreshes, although its first batch may
    # have begun just before it and its last one may be late.
    interval = math.floor(
        chip.refresh_period * clk_hz / 1e9 / (chip.n_refreshes + 2 * REFRESH_BATCH)
    )
    result = SdramCycles(
        cas_latency=cas_latency,
        rcd=cycles(chip.t_rcd),
        rp=rp,
        ras=max(ras, cycles(chip.t_rc) - rp),
        rc=cycles(chip.t_rc),
        rrd=cycles(chip.t_rrd),
        rfc=cycles(chip.t_rfc),
        wr=max(2, cycles(chip.t_wr)),
        mrd=chip.t_mrd_cycles,
        refresh_interval=interval,
        power_up=cycles(chip.power_up),
    )
    if interval < 4 * result.rfc:
        raise SpecError(
            f"clk_hz = {clk_hz} is too slow for {chip.name}: refreshes would take more than a "
            "quarter of the time. Use a faster clock"
        )
    return result
