"""The whole device: the link to the host and the cores, behind two serial pins."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.core.cores import Cores
from hw.link.link import Link
from hw.spec import Config


class Top(wiring.Component):
    """Connect the link to the cores: everything in a bitstream except the board's pins and clock.

    Parameters
    ----------
    config : configuration of the device.
    core : component with a member ``bus: Out(CoreBus(config))`` that takes the place of
        :class:`hw.core.cores.Cores`, for tests.

    Members
    -------
    rx, tx : serial line, 8 data bits, no parity, 1 stop bit; see :class:`hw.link.rate.RateControl`
        for its rate.
    activity : the link or a core is busy; for an LED. While it is low and ``rx`` is high, the
        device waits for a request and nothing that the host can observe changes.
    """

    rx: In(1)
    tx: Out(1)
    activity: Out(1)

    def __init__(self, config: Config, *, core: wiring.Component | None = None):
        self.config = config
        self.core = core
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = Cores(self.config) if self.core is None else self.core
        m.submodules.link = link = Link(self.config)
        wiring.connect(m, link.bus, core.bus)
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            self.activity.eq(link.busy | core.bus.busy),
        ]
        return m
