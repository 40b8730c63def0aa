"""The device as the virtual board simulates it: the clocks of an idle core and of an idle link can
be stopped, and rows can be written without the serial line.

Core and link each take about half of the simulator's time. While a network is being loaded, the
core is idle for all but a few cycles per row of weights; while the core computes, the link is idle
for all but the bytes of the next sample. Therefore the simulator stops the clock of each while it
is idle. Neither can see that: an idle core only waits for its bus, an idle link only for its line
and for the beginning or end of a run.

The bits of the serial line take most of the time that remains in loading. Therefore the simulator
can also give rows to the core itself, in a cycle in which the link does not use the bus.
"""

from amaranth import Cat, DomainRenamer, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.boards.configs import has_usb, sdram_of
from hw.bus import CoreBus, OffchipMemory, row_write_layout
from hw.offchip.memory import SdramMemory
from hw.offchip.pins import SdramPins
from hw.spec import Config
from hw.top import Top
from hw.usb.pins import UsbPins
from hw.usb.serial_port import UsbSerialPort


class DirectCore(wiring.Component):
    """Core with an additional input, through which the simulator can write rows without the link.

    Parameters
    ----------
    config : configuration of the device.
    core : the core, or another component with a member ``bus: Out(CoreBus(config))``.

    Members
    -------
    bus : bus for the link.
    direct : a row to write, and its address. It must not be in memory outside the FPGA.
    direct_valid : write ``direct`` in this cycle. Allowed only while the link does not use the bus.
    offchip : memory outside the FPGA, if the device has it.
    """

    def __init__(self, config: Config, core: wiring.Component):
        self.core = core
        self._config = config
        super().__init__(
            ({"offchip": Out(OffchipMemory(config))} if config.offchip_depth else {})
            | {
                "bus": Out(CoreBus(config)),
                "direct_valid": In(1),
                "direct": In(row_write_layout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        outer, inner = self.bus, self.core.bus
        m.d.comb += [
            inner.write.valid.eq(outer.write.valid | self.direct_valid),
            inner.write.payload.eq(Mux(self.direct_valid, self.direct, outer.write.payload)),
            outer.write.ready.eq(inner.write.ready),
            inner.abort.eq(outer.abort),
            outer.busy.eq(inner.busy),
        ]
        for name in ("read", "run"):
            wiring.connect(m, wiring.flipped(getattr(outer, name)), getattr(inner, name))
        for name in ("read_data", "done"):
            wiring.connect(m, getattr(inner, name), wiring.flipped(getattr(outer, name)))
        if self._config.offchip_depth:
            wiring.connect(m, self.core.offchip, wiring.flipped(self.offchip))
        return m


class VirtualTop(wiring.Component):
    """The device with its core in a clock domain of its own, named ``core``, beside the link's.

    Parameters
    ----------
    config : configuration of the device.
    core : the core, or another component with a member ``bus: Out(CoreBus(config))``.

    Members
    -------
    rx, tx, activity : see :class:`hw.top.Top`.
    sdram : pins of the SDRAM, if the device has one. It is in the core's clock domain.
    usb : pins of the serial port over USB, if the device has one.
    core_wanted : high while the core is busy or its bus is in use. The core's clock must run while
        it is high, and for some more cycles, until the core's pipelines are empty.
    link_wanted : high while the link is busy, while ``rx`` is low, and when a run has begun or
        ended. The link's clock must run while it is high, and for some more cycles.
    direct_valid, direct_row, direct_space, direct_data : a row to write without using the link, see
        :class:`DirectCore`.
    """

    def __init__(self, config: Config, core: wiring.Component):
        self._config = config
        self._core = core
        members: dict[str, wiring.Member] = {
            "rx": In(1),
            "tx": Out(1),
            "activity": Out(1),
            "core_wanted": Out(1),
            "link_wanted": Out(1),
            "direct_valid": In(1),
            "direct_row": In(24),
            "direct_space": In(8),
            "direct_data": In(row_write_layout(config)["data"].width),
        }
        if config.offchip_depth:
            members["sdram"] = Out(SdramPins(sdram_of(config)))
        if has_usb(config):
            members["usb"] = Out(UsbPins())
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        core = DirectCore(self._config, DomainRenamer("core")(self._core))
        bus = self._core.bus
        in_use = [bus.write.valid, bus.read.valid, bus.run.valid, bus.done.valid, bus.abort]
        sdram = None
        if self._config.offchip_depth:
            sdram = DomainRenamer("core")(SdramMemory(self._config, sdram_of(self._config)))
            connect(m, sdram.pins, flipped(self.sdram))
            reads = Signal()  # the host waits for a row, which may take long to arrive
            with m.If(bus.read.valid & bus.read.ready):
                m.d.core += reads.eq(1)
            with m.Elif(bus.read_data.valid):
                m.d.core += reads.eq(0)
            in_use += [~sdram.ready, reads]
        usb = None
        if has_usb(self._config):
            usb = UsbSerialPort()
            connect(m, usb.pins, flipped(self.usb))
        m.submodules.top = top = Top(self._config, core=core, sdram=sdram, usb=usb)
        # Events of the core that an idle link reacts to, and those that it has seen: if one occurs
        # while the link's clock stands still, the two differ until the clock runs again.
        events = Cat(bus.busy, bus.done.valid, bus.read_data.valid)
        seen = Signal.like(events)
        m.d.sync += seen.eq(events)
        m.d.comb += [
            self.link_wanted.eq(top.link.busy | ~self.rx | (seen != events)),
            top.rx.eq(self.rx),
            self.tx.eq(top.tx),
            self.activity.eq(top.activity),
            self.core_wanted.eq(Cat(*in_use, bus.busy).any()),
            core.direct_valid.eq(self.direct_valid),
            core.direct.address.row.eq(self.direct_row),
            core.direct.address.space.eq(self.direct_space),
            core.direct.data.eq(self.direct_data),
        ]
        return m
