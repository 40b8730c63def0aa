"""The whole device: link and core behind two serial pins."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.core.cores import Cores
from hw.link.link import Link
from hw.spec import Config


class Top(wiring.Component):
    """What a bitstream contains, less the board's pins and clocks.

    Parameters
    ----------
    config : the build.
    core : component with a member ``bus: Out(CoreBus(config))``, instead of the core.

    Members
    -------
    rx, tx : serial line, 8N1, ``clk_hz // baud`` cycles a bit.
    activity : link or core are at work; for a light. While it is low and ``rx`` is high, nothing
        changes.
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
