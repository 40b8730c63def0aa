"""The device as the virtual board simulates it: the clock of an idle core can be stopped.

Evaluating the core takes about three quarters of the simulator's time. While a network is being
loaded, the core is idle for all but a few cycles per row of weights. Therefore the simulator stops
the clock of an idle core. The link cannot see that, since an idle core only waits for its bus.
"""

from amaranth import Cat, DomainRenamer, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.boards.configs import sdram_of
from hw.offchip.memory import SdramMemory
from hw.offchip.pins import SdramPins
from hw.spec import Config
from hw.top import Top


class VirtualTop(wiring.Component):
    """The device with its core in a clock domain of its own, named ``core``.

    Parameters
    ----------
    config : configuration of the device.
    core : the core, or another component with a member ``bus: Out(CoreBus(config))``.

    Members
    -------
    rx, tx, activity : see :class:`hw.top.Top`.
    sdram : pins of the SDRAM, if the device has one. It is in the core's clock domain.
    core_wanted : high while the core is busy or its bus is in use. The core's clock must run while
        it is high, and for some more cycles, until the core's pipelines are empty.
    """

    def __init__(self, config: Config, core: wiring.Component):
        self._config = config
        self._core = core
        members: dict[str, wiring.Member] = {
            "rx": In(1),
            "tx": Out(1),
            "activity": Out(1),
            "core_wanted": Out(1),
        }
        if config.offchip_depth:
            members["sdram"] = Out(SdramPins(sdram_of(config)))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        core = DomainRenamer("core")(self._core)
        bus = core.bus
        in_use = [bus.write.valid, bus.read.valid, bus.run.valid, bus.done.valid, bus.abort]
        sdram = None
        if self._config.offchip_depth:
            sdram = DomainRenamer("core")(SdramMemory(self._config, sdram_of(self._config)))
            connect(m, sdram.pins, flipped(self.sdram))
            in_use.append(~sdram.ready)
        m.submodules.top = top = Top(self._config, core=core, sdram=sdram)
        m.d.comb += [
            top.rx.eq(self.rx),
            self.tx.eq(top.tx),
            self.activity.eq(top.activity),
            self.core_wanted.eq(Cat(*in_use, bus.busy).any()),
        ]
        return m
