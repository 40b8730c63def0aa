"""The whole device as a component for any FPGA: no part of it is specific to a vendor."""

from amaranth import ClockDomain, ClockSignal, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.boards.clocks import hold_reset
from hw.spec import Config
from hw.top import Top


class PortableTop(wiring.Component):
    """Connect the whole device, :class:`hw.top.Top`, to plain ports.

    Parameters
    ----------
    config : configuration of the device.

    Members
    -------
    clk : clock of ``config.clk_hz``.
    rst : reset, active high. It may change at any time; the inverted "locked" signal of a PLL may
        be part of it. When ``rst`` has fallen, and after power-on, the device stays in reset for
        :data:`hw.boards.clocks.RESET_SECONDS`.
    rx, tx, activity : see :class:`hw.top.Top`.
    """

    clk: In(1)
    rst: In(1)
    rx: In(1)
    tx: Out(1)
    activity: Out(1)

    def __init__(self, config: Config):
        self._config = config
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += ClockDomain("sync")
        m.domains += ClockDomain("unreset", reset_less=True, local=True)
        m.d.comb += ClockSignal("sync").eq(self.clk)
        hold_reset(m, self._config.clk_hz, self.clk, ~self.rst)
        m.submodules.top = top = Top(self._config)
        m.d.comb += [
            top.rx.eq(self.rx),
            self.tx.eq(top.tx),
            self.activity.eq(top.activity),
        ]
        return m
