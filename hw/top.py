"""The whole device: the core, and the link between the core and the host's serial line."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.core.core import Core
from hw.link.link import Link
from hw.offchip.memory import SdramMemory
from hw.spec import Config


class Top(wiring.Component):
    """Connect the link to the core: everything in a bitstream except the board's pins and clock.

    Parameters
    ----------
    config : configuration of the device.
    core : component to use instead of :class:`hw.core.core.Core`, for tests. It has a member ``bus:
        Out(CoreBus(config))``.
    sdram : the memory outside the FPGA, if ``config`` has one.
    usb : second serial port, a component with the members of
        :class:`hw.link.link.SerialPort`; None if there is none.

    Members
    -------
    rx, tx : serial line, 8 data bits, no parity, 1 stop bit; see :class:`hw.link.rate.RateControl`
        for its rate.
    activity : high while the link or the core is busy; for an LED. While it is low and ``rx`` is
        high, the device waits for a request and nothing that the host can observe changes.
    """

    def __init__(
        self,
        config: Config,
        *,
        core: wiring.Component | None = None,
        sdram: SdramMemory | None = None,
        usb: wiring.Component | None = None,
    ):
        self.config = config
        self.core = core
        self.link = Link(config, usb=usb is not None)
        self.sdram = sdram
        self.usb = usb
        super().__init__({"rx": In(1), "tx": Out(1), "activity": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = Core(self.config) if self.core is None else self.core
        m.submodules.link = link = self.link
        wiring.connect(m, link.bus, core.bus)
        if self.usb is not None:
            m.submodules.usb = usb = self.usb
            wiring.connect(m, usb.rx, link.usb.rx)
            wiring.connect(m, link.usb.tx, usb.tx)
            m.d.comb += link.usb.line_break.eq(usb.line_break)
        if self.config.offchip_depth:
            assert self.sdram is not None, "a device with memory outside the FPGA needs it"
            m.submodules.sdram = self.sdram
            wiring.connect(m, core.offchip, self.sdram.memory)
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            self.activity.eq(link.busy | core.bus.busy),
        ]
        return m
