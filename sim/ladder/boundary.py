"""Connection of the pins and clock in a board's netlist to the ports of its simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from hw.boards.platforms import target
from sim.ladder.netlist import Bit, LadderError
from sim.ladder.verilog import BOARD_CLOCK, RX, Writer

CLOCK_TOLERANCE = Fraction(1, 1000)
"""Largest relative difference between the PLL's output frequency and the configured ``clk_hz``."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Names of a board's pins in its netlists, and frequencies of its clocks."""

    clock: str
    """Name of the pin that receives the board's clock."""
    rx: str
    tx: str
    led: str
    led_inverted: bool
    """Whether the LED is on while its pin is 0."""
    input_hz: int
    """Frequency of the board's clock in Hz."""
    clk_hz: int
    """Output frequency in Hz that the PLL must have."""

    def join(self, writer: Writer, ports: Mapping[str, Bit]) -> None:
        """Connect the pins of the serial input and of the board's clock to inputs of the simulated
        module.

        ``ports`` are the nets of all pins, by the names of the pins.

        Raises
        ------
        LadderError
            The netlist lacks a pin of the board.
        """
        for name in (self.clock, self.rx, self.tx, self.led):
            if name not in ports:
                raise LadderError(f"the netlist has no pin {name}; it has {', '.join(ports)}")
        writer.join(ports[self.rx], RX)
        writer.join(ports[self.clock], BOARD_CLOCK)

    def check_clock(self, factor: Fraction) -> None:
        """Check that a PLL that multiplies the board's clock by ``factor`` makes ``clk_hz``.

        Raises
        ------
        LadderError
            The PLL makes another frequency.
        """
        if abs(self.input_hz * factor / self.clk_hz - 1) > CLOCK_TOLERANCE:
            raise LadderError(
                f"the PLL makes {float(self.input_hz * factor):.0f} Hz of {self.input_hz} Hz, not "
                f"{self.clk_hz} Hz"
            )

    def text(self, writer: Writer, ports: Mapping[str, Bit]) -> str:
        """Return the Verilog of all cells in ``writer``, with the serial output and the LED as
        outputs."""
        inverted = "~" if self.led_inverted else ""
        return writer.text(writer.read(ports[self.tx]), inverted + writer.read(ports[self.led]))


def boundary(board: str, clk_hz: int) -> Boundary:
    """Return the pins and frequencies of a board whose PLL must make ``clk_hz``."""
    platform = target(board).platform()
    (led,) = platform.lookup("led", 0).ios
    return Boundary(
        clock=f"{platform.default_clk}_0__io",
        rx="uart_0__rx__io",
        tx="uart_0__tx__io",
        led="led_0__io",
        led_inverted=led.invert,
        input_hz=int(platform.default_clk_frequency),
        clk_hz=clk_hz,
    )
