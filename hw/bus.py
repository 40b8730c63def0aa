"""Bus between the serial link and the core.

Over this bus, the link reads and writes the device's memories for the host, in *rows*, the units in
which a memory is addressed (:class:`hw.protocol.Space`). It also starts *runs*: one run is one
inference, whose result the core reports at its end.
"""

from typing import Any

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import Address, Result, Run, Space, row_bytes, spaces
from hw.spec import Config


def max_row_bytes(config: Config) -> int:
    """Return the length in bytes of the longest row among all memories that the host can access."""
    return max(row_bytes(space, config) for space in spaces(config))


def row_write_layout(config: Config) -> data.StructLayout:
    """Return the layout of a write to the core: the address of a row, and the row's contents.

    ``data`` is as wide as the longest row of any memory; a shorter row is in its low bits.
    """
    return data.StructLayout({"address": Address, "data": 8 * max_row_bytes(config)})


class OffchipPort(wiring.Signature):
    """Signals by which one bank reads rows of its memory outside the FPGA.

    ``Out`` flows from the bank to the memory. A request is the index of a row in the bank's memory.
    Rows arrive in the order of the requests, after any number of cycles. A bank must take each row
    within a bounded time, even if other banks wait, because a row that is not taken can block the
    rows of other banks. A request returns what was written to its row before.
    """

    def __init__(self, config: Config):
        super().__init__(
            {
                "requests": Out(stream.Signature(range(config.offchip_depth))),
                "rows": In(stream.Signature(offchip_row_bits(config))),
            }
        )


def offchip_row_bits(config: Config) -> int:
    """Return the width in bits of a row of memory outside the FPGA."""
    return 8 * row_bytes(Space.OFFCHIP, config)


def offchip_write_layout(config: Config) -> data.StructLayout:
    """Return the layout of a write to the memory outside the FPGA.

    ``bank`` is the bank to which the row belongs, ``row`` its index in that bank, ``data`` its
    contents.
    """
    return data.StructLayout(
        {
            "bank": range(max(config.banks, 2)),
            "row": range(config.offchip_depth),
            "data": offchip_row_bits(config),
        }
    )


class OffchipMemory(wiring.Signature):
    """Signals between the core and the memory outside the FPGA; ``Out`` flows to the memory.

    Members
    -------
    port0, port1, ... : one :class:`OffchipPort` for each bank.
    write : rows to write.
    """

    def __init__(self, config: Config):
        ports = {f"port{n}": Out(OffchipPort(config)) for n in range(config.banks)}
        super().__init__(ports | {"write": Out(stream.Signature(offchip_write_layout(config)))})


def offchip_ports(memory: Any, config: Config) -> list[Any]:
    """Return the ports of an interface with the signature :class:`OffchipMemory`, bank 0 first."""
    return [getattr(memory, f"port{n}") for n in range(config.banks)]


class CoreBus(wiring.Signature):
    """Signals between the link and the core; ``In`` flows into the core, ``Out`` out of it.

    Members
    -------
    write : rows to write, each with its address. Spike memory (:attr:`Space.SPIKE`) may be written
        at any time, the other memories only while not ``busy``. The link has checked that
        addresses are in range.
    read, read_data : addresses of rows to read, and the rows in the same order; each row is valid
        for a single cycle. Spikes, results and counters may be read at any time; spikes are
        complete only while not ``busy``.
    run : run to start; ready only while not ``busy``.
    abort : while high, the core drops the run in progress; ``busy`` falls within a few cycles, and
        no ``done`` follows.
    busy : a run is in progress.
    done : one :class:`hw.protocol.Result` per completed run. Until the link takes it, reads of
        results and counters return those of the previous run. Afterwards they return those of the
        run that has just ended, even while the next run is in progress.
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
