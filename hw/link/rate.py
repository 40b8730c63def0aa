"""Rate of the serial line, which changes after a RATE request and is kept only if the new rate
works.

:mod:`hw.protocol` defines the request. If no undamaged frame arrives at the new rate within
:data:`hw.protocol.TRIAL_CYCLES`, the device returns to the default rate.
"""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.protocol import DEFAULT_BAUD, TRIAL_CYCLES
from hw.spec import Config, SpecError

DIVISOR_BITS = 8
"""Number of bits of the register that holds the clock cycles per bit, less one."""


def default_divisor(config: Config) -> int:
    """Return the number of clock cycles per bit at :data:`hw.protocol.DEFAULT_BAUD`.

    Raises
    ------
    SpecError
        The clock is too fast or too slow for that rate.
    """
    divisor = round(config.clk_hz / DEFAULT_BAUD)
    if not 4 <= divisor <= 1 << DIVISOR_BITS:
        raise SpecError(
            f"Config.clk_hz = {config.clk_hz} is not supported: use {4 * DEFAULT_BAUD:,} to "
            f"{DEFAULT_BAUD << DIVISOR_BITS:,}"
        )
    return divisor


class RateControl(wiring.Component):
    """Set the divisor of the serial line (clock cycles per bit), and change it on request.

    A new divisor takes effect when all bytes have been sent at the old rate. It is then on trial:
    if no undamaged frame arrives within ``trial_cycles``, the default divisor is restored. A line
    break also restores it, at any time.

    Parameters
    ----------
    config : configuration of the device; ``clk_hz`` decides the default divisor.
    trial_cycles : length of a trial, see :data:`hw.protocol.TRIAL_CYCLES`.

    Members
    -------
    wanted, agree : ``agree`` requests a change to the divisor ``wanted + 1``; ``wanted`` must be
        stable until the change is made.
    sending : bytes are still being sent at the old rate.
    passed : an undamaged frame has arrived, which ends the trial.
    line_break : a break was received, see :class:`hw.link.uart.UartReceiver`.
    divisor_less_1 : divisor in force, less one.
    busy : a change is pending or a trial is going on.
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
