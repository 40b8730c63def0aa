"""Interface between link and core: rows to write and read, runs and their results."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import Address, Result, Run, Space, row_bytes
from hw.spec import Config


def max_row_bytes(config: Config) -> int:
    """Return the length in bytes of the longest row of any space."""
    return max(row_bytes(space, config) for space in Space)


def row_write_layout(config: Config) -> data.StructLayout:
    """Return the layout of a row to write; rows shorter than ``data`` use its low bits."""
    return data.StructLayout({"address": Address, "data": 8 * max_row_bytes(config)})


class CoreBus(wiring.Signature):
    """Signals between core and link, directions as the core has them (``In`` flows into the core).

    Members
    -------
    write : rows to write. :attr:`Space.SPIKE` may be written at any time, the other spaces only
        while not ``busy``. The link has checked that addresses are in range.
    read, read_data : row addresses and, for each address, one row, valid for a single cycle.
        Spikes, results and counters may be read at any time; spikes are complete only while not
        ``busy``.
    run : run to start; ready only while not ``busy``.
    abort : while high, a run in progress is dropped; ``busy`` falls within a few cycles, and no
        ``done`` follows.
    busy : a run is in progress.
    done : one :class:`hw.protocol.Result` per completed run. Until it is taken, reads of results
        and counters return those of the previous run; from then on they return those of this run,
        even while the next run is in progress.
    """

    def __init__(self, config: Config):
        row_bits = 8 * max_row_bytes(config)
        super().__init__(
            {
                "write": In(stream.Signature(row_write_layout(config))),
                "read": In(stream.Signature(Address)),
                "read_data": Out(stream.Signature(row_bits, always_ready=True)),
                "run": In(stream.Signature(Run)),
                "abort": In(1),
                "busy": Out(1),
                "done": Out(stream.Signature(Result)),
            }
        )
