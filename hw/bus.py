"""The seam between link and core: rows in, rows out, runs, and what came of them."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import Address, Result, Run, Space, row_bytes
from hw.spec import Config


def max_row_bytes(config: Config) -> int:
    """Bytes of the longest row of any space."""
    return max(row_bytes(space, config) for space in Space)


def row_write_layout(config: Config) -> data.StructLayout:
    """One row to be written; narrower rows use the low bits of ``data``."""
    return data.StructLayout({"address": Address, "data": 8 * max_row_bytes(config)})


class CoreBus(wiring.Signature):
    """What a core offers to a link, seen from the core (``In`` flows into the core).

    Members
    -------
    write : rows to write; :attr:`Space.SPIKE` may be written at any time, the others only while
        not ``busy``. Addresses are in range (the link has checked them).
    read, read_data : row addresses, and for each of them one row, which is there for a cycle only.
        Spikes, results and counters may be read at any time; spikes are complete only while not
        ``busy``.
    run : starts a run; ready only while not ``busy``.
    abort : while high, a run in progress is dropped; ``busy`` falls within a few cycles, no
        ``done`` follows.
    busy : a run is in progress.
    done : one :class:`hw.protocol.Result` per completed run. Until it is taken, the results and
        counters that can be read are those of the run before; then they are of this one, whatever
        is run meanwhile.
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
