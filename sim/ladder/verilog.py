"""Writer of Verilog for a netlist: assignments for logic, an ``always`` block per flip-flop,
memories.

The module has the ports of the portable Verilog (:mod:`hw.tools.portable`): ``clk``, ``rst``,
``rx``, ``tx`` and ``activity``. So :mod:`sim.virtual_board` can put it behind a serial port.
``clk`` is the output of the device's PLL; while ``rst`` is high, the PLL is out of lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from hw.tools.portable import MODULE
from sim.ladder.netlist import Bit, LadderError

LOCK_CYCLES = 64
"""Number of cycles after which the simulated PLL signals that it is locked."""

CLOCK, UNLOCKED, RX = "clk", "rst", "rx"
"""Names of the module's inputs, which may also be used as nets."""
BOARD_CLOCK = "board_clock"
"""Name of the net of the clock that enters the PLL. It never changes, because ``clk`` replaces the
PLL's output."""


def lut(init: int, inputs: Sequence[str]) -> str:
    """Return a Verilog expression for a look-up table.

    Parameters
    ----------
    init : contents; bit ``i`` is the output if the inputs have the value ``i``.
    inputs : expressions of the inputs, the lowest bit first. They may be ``1'b0`` and ``1'b1``.

    >>> lut(0b1000, ["a", "b"]), lut(0b0110, ["a", "b"]), lut(0b1010, ["a", "b"])
    ('(b & a)', '(b ^ a)', 'a')
    """
    if not inputs:
        return "1'b1" if init & 1 else "1'b0"
    *others, last = inputs
    half = 1 << len(others)
    low, high = init & ((1 << half) - 1), init >> half & ((1 << half) - 1)
    if low == high or last == "1'b0":
        return lut(low, others)
    if last == "1'b1":
        return lut(high, others)
    if low == high ^ ((1 << half) - 1):
        rest = lut(low, others)
        return {"1'b0": last, "1'b1": f"~{last}"}.get(rest, f"({last} ^ {rest})")
    zero, one = lut(low, others), lut(high, others)
    if zero == "1'b0":
        return last if one == "1'b1" else f"({last} & {one})"
    if one == "1'b0":
        return f"~{last}" if zero == "1'b1" else f"(~{last} & {zero})"
    if zero == "1'b1":
        return f"(~{last} | {one})"
    if one == "1'b1":
        return f"({last} | {zero})"
    return zero if zero == one else f"({last} ? {one} : {zero})"


class Writer:
    """Verilog module that is built up cell by cell.

    Nets that are joined with :meth:`join` become one wire, so all nets must be joined before cells
    are added.
    """

    def __init__(self) -> None:
        self._joined: dict[Bit, Bit] = {}
        self._lines: list[str] = []
        self._drivers: dict[Bit, str] = {}
        self._used: set[Bit] = set()
        self._passed_on: dict[Bit, Bit] = {}

    def _root(self, bit: Bit) -> Bit:
        while bit in self._joined:
            bit = self._joined[bit]
        return bit

    def join(self, net: Bit, source: Bit) -> None:
        """Make ``net`` the same wire as ``source``, which is a net, a constant or an input.

        Raises
        ------
        LadderError
            ``net`` is not a net, but a constant or an input.
        """
        net, source = self._root(net), self._root(source)
        if net == source:
            return
        if isinstance(net, str):
            raise LadderError(f"a cell drives {net!r}, which is no net")
        self._joined[net] = source

    def same(self, one: Bit | None, other: Bit) -> bool:
        """Return whether two nets always have the same value.

        They are one wire, or ``one`` is made from ``other`` by look-up tables that only pass their
        input on.
        """
        seen = set()
        while one is not None and one not in seen:
            seen.add(one := self._root(one))
            if one == self._root(other):
                return True
            one = self._passed_on.get(one)
        return False

    def read(self, bit: Bit | None, default: int = 0) -> str:
        """Return the Verilog expression of what a pin reads.

        ``bit`` is the net of the pin; if it is None, the pin is not connected and reads
        ``default``.
        """
        bit = str(default) if bit is None else self._root(bit)
        if isinstance(bit, int):
            self._used.add(bit)
            return f"n{bit}"
        return {"0": "1'b0", "1": "1'b1", "x": "1'b0"}.get(bit, bit)

    def read_bus(self, bits: Iterable[Bit | None], default: int = 0) -> str:
        """Return the Verilog expression of what a pin of several bits reads, from the nets of its
        bits.

        The lowest bit comes first; a bit that is None is not connected and reads ``default``.
        """
        return "{" + ", ".join([self.read(bit, default) for bit in bits][::-1]) + "}"

    def drive(self, bit: Bit, by: str) -> str:
        """Return the name of a net, and record that the caller will assign it.

        ``by`` is the name of the cell that drives the net, for messages.

        Raises
        ------
        LadderError
            The net has another driver already, or is a constant or an input.
        """
        bit = self._root(bit)
        if isinstance(bit, str) or bit in self._drivers:
            raise LadderError(f"{by} drives a net of {self._drivers.get(bit, bit)}")
        self._drivers[bit] = by
        return f"n{bit}"

    def wire(self, expression: str) -> str:
        """Return the name of a new wire that is driven by an expression."""
        name = f"w{len(self._lines)}"
        self._lines.append(f"wire {name} = {expression};")
        return name

    def assign(self, bit: Bit | None, expression: str, by: str) -> None:
        """Assign an expression to a net, or do nothing if the net is None.

        ``by`` is the name of the cell that drives the net, for messages.
        """
        if bit is not None:
            self._lines.append(f"assign {self.drive(bit, by)} = {expression};")
            if re.fullmatch(r"n\d+", expression):
                self._passed_on[self._root(bit)] = int(expression[1:])
            elif expression == BOARD_CLOCK:
                self._passed_on[self._root(bit)] = BOARD_CLOCK

    def flip_flop(
        self,
        q: Bit | None,
        d: str,
        clock: str,
        by: str,
        *,
        enable: str = "1'b1",
        reset: str = "1'b0",
        value: int = 0,
        init: int = 0,
        enabled_reset: bool = False,
        falling: bool = False,
    ) -> None:
        """Add a flip-flop, or nothing if its output is None (not connected).

        Parameters
        ----------
        q : net of the output.
        d, clock, enable, reset : expressions of the inputs.
        by : name of the cell, for messages.
        value : value after a reset.
        init : value at power-up.
        enabled_reset : whether the synchronous reset acts only in cycles with ``enable``.
        falling : whether the flip-flop stores its input at the falling edge of the clock.

        Raises
        ------
        LadderError
            The flip-flop stores its input at another edge than the rising one of the PLL's output.
        """
        if q is None:
            return
        if falling or clock != CLOCK:
            raise LadderError(f"{by} is clocked by another signal than the PLL's output")
        name = self.drive(q, by)
        statement = f"{name}_q <= {d};"
        if enable != "1'b1" and not enabled_reset:
            statement = f"if ({enable}) {statement}"
        if reset != "1'b0":
            statement = f"if ({reset}) {name}_q <= 1'b{value}; else {statement}"
        if enable != "1'b1" and enabled_reset:
            statement = f"if ({enable}) begin {statement} end"
        self._lines += [
            f"reg {name}_q = 1'b{init};",
            f"always @(posedge {clock}) {statement}",
            f"assign {name} = {name}_q;",
        ]

    def instance(
        self,
        module: str,
        by: str,
        parameters: Mapping[str, str],
        inputs: Mapping[str, str],
        outputs: Mapping[str, Sequence[Bit | None]],
    ) -> None:
        """Add an instance of a module, such as the model of a block RAM.

        Parameters
        ----------
        module : name of the module.
        by : name of the cell, for messages.
        parameters, inputs : their expressions, by name.
        outputs : nets of each output by its name, the lowest bit first; None leaves a bit
            unconnected.
        """
        n = len(self._lines)
        pins = dict(inputs)
        for name, bits in outputs.items():
            bus = f"u{n}_{name}"
            self._lines.append(f"wire [{len(bits) - 1}:0] {bus};")
            for i, bit in enumerate(bits):
                self.assign(bit, f"{bus}[{i}]", by)
            pins[name] = bus
        values = ", ".join(f".{key}({value})" for key, value in parameters.items())
        connections = ", ".join(f".{key}({value})" for key, value in pins.items())
        self._lines.append(f"{module} #({values}) u{n} ({connections});")

    def lock(self, bit: Bit | None, off: str, by: str) -> None:
        """Add the lock signal of the PLL, unless its net is None.

        The signal is low while ``rst`` or the expression ``off`` is high, and for some cycles
        afterwards.
        """
        if bit is not None:
            self.instance(
                "pll_lock", by, {}, {"clk": CLOCK, "off": f"{UNLOCKED} | {off}"}, {"lock": [bit]}
            )

    def text(self, tx: str, activity: str) -> str:
        """Return the Verilog of the whole module; ``tx`` and ``activity`` are output expressions.

        Raises
        ------
        LadderError
            A net that is read has no driver.
        """
        if undriven := sorted(bit for bit in self._used if bit not in self._drivers):
            raise LadderError(f"{len(undriven)} nets have no driver, the first is {undriven[0]}")
        nets = sorted(bit for bit in self._drivers)
        head = [
            f"module {MODULE}(input {CLOCK}, {UNLOCKED}, {RX}, output tx, activity);",
            f"wire {BOARD_CLOCK} = 1'b0;",
            *(f"wire n{net};" for net in nets),
        ]
        tail = [f"assign tx = {tx};", f"assign activity = {activity};", "endmodule", ""]
        return "\n".join([*head, *self._lines, *tail])


PLL_LOCK = f"""
module pll_lock(input clk, input off, output lock);
reg [6:0] n = 0;
always @(posedge clk) if (off) n <= 0; else if (n != {LOCK_CYCLES}) n <= n + 1;
assign lock = n == {LOCK_CYCLES};
endmodule
"""
"""Verilog model of a PLL's lock signal, for :meth:`Writer.lock`."""
