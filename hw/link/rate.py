"""The rate of the serial line: agreed, on trial, and back to the default."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import DEFAULT_BAUD, TRIAL_CYCLES
from hw.spec import Config, SpecError

DIVISOR_BITS = 8


def default_divisor(config: Config) -> int:
    """Cycles a bit at the default rate.

    Raises
    ------
    SpecError
        The clock is too fast or too slow for it.
    """
    divisor = round(config.clk_hz / DEFAULT_BAUD)
    if not 4 <= divisor <= 1 << DIVISOR_BITS:
        raise SpecError(
            f"Config.clk_hz = {config.clk_hz} is not supported: use {4 * DEFAULT_BAUD:,} to "
            f"{DEFAULT_BAUD << DIVISOR_BITS:,}"
        )
    return divisor


class RateControl(wiring.Component):
    """Holds the divisor.

    Parameters
    ----------
    trial_cycles : see :data:`hw.protocol.TRIAL_CYCLES`.

    Members
    -------
    wanted, agree : while ``agree`` is high, ``wanted`` is the divisor, less one, to change to.
    sending : something is on its way out, at the old rate.
    passed : an undamaged frame has arrived.
    line_break : the line was low for longer than any byte.
    divisor_less_1 : the one in force.
    busy : a change or a trial is going on.
    """

    wanted: In(DIVISOR_BITS)
    agree: In(1)
    sending: In(1)
    passed: In(1)
    line_break: In(1)
    divisor_less_1: Out(DIVISOR_BITS)
    busy: Out(1)

    def __init__(self, config: Config, trial_cycles: int = TRIAL_CYCLES):
        self.default = default_divisor(config) - 1
        self.trial_cycles = trial_cycles
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        in_force = Signal(DIVISOR_BITS, init=self.default)
        changing, on_trial = Signal(), Signal()
        n_cycles = Signal(range(self.trial_cycles))
        m.d.comb += [
            self.divisor_less_1.eq(in_force),
            self.busy.eq(changing | on_trial),
        ]
        m.d.sync += n_cycles.eq(Mux(on_trial, n_cycles + 1, 0))
        with m.If(self.agree):
            m.d.sync += changing.eq(1)
        with m.Elif(changing & ~self.sending):
            m.d.sync += [changing.eq(0), on_trial.eq(1), in_force.eq(self.wanted)]
        with m.If(self.passed):
            m.d.sync += on_trial.eq(0)
        with m.If(self.line_break | (n_cycles == self.trial_cycles - 1)):
            m.d.sync += [on_trial.eq(0), in_force.eq(self.default)]
        return m
