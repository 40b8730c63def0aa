"""Memory outside the FPGA as the core sees it: an SDRAM with one port for each bank of the core."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus import OffchipMemory, offchip_ports, offchip_row_bits
from hw.offchip.pins import SdramPins
from hw.offchip.sdram import SdramRows
from hw.offchip.timing import SdramChip
from hw.spec import Config, SpecError


class SdramMemory(wiring.Component):
    """Serve the core's requests for rows from an SDRAM (:class:`hw.offchip.sdram.SdramRows`).

    Parameters
    ----------
    read_latency : see :class:`hw.offchip.sdram.SdramRows`.

    Members
    -------
    memory : interface to the core.
    ready : the chip is initialised. Earlier requests and writes wait until then.
    pins : pins of the SDRAM.

    Raises
    ------
    SpecError
        The chip has fewer rows than ``config.offchip_depth``, or the clock is too fast or too slow
        for it.
    """

    def __init__(self, config: Config, chip: SdramChip, *, read_latency: int = 0):
        self._config = config
        self._rows = rows = SdramRows(
            chip,
            config.clk_hz,
            n_ports=config.banks,
            row_bits=offchip_row_bits(config),
            read_latency=read_latency,
        )
        if rows.layout.n_rows < config.offchip_depth:
            raise SpecError(
                f"Config.offchip_depth = {config.offchip_depth} is not supported with {chip.name}: "
                f"use at most {rows.layout.n_rows}"
            )
        super().__init__(
            {
                "memory": In(OffchipMemory(config)),
                "ready": Out(1),
                "pins": Out(SdramPins(chip)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = rows = self._rows
        ports = offchip_ports(self.memory, self._config)
        for port, requests, found in zip(ports, rows.requests, rows.rows, strict=True):
            m.d.comb += [
                requests.valid.eq(port.requests.valid),
                requests.p.eq(port.requests.p),
                port.requests.ready.eq(requests.ready),
                port.rows.valid.eq(found.valid),
                port.rows.p.eq(found.p),
                found.ready.eq(port.rows.ready),
            ]
        write = self.memory.write
        m.d.comb += [
            rows.write.valid.eq(write.valid),
            rows.write.p.port.eq(write.p.bank),
            rows.write.p.row.eq(write.p.row),
            rows.write.p.data.eq(write.p.data),
            write.ready.eq(rows.write.ready),
            self.ready.eq(rows.ready),
        ]
        connect(m, rows.pins, flipped(self.pins))
        return m
