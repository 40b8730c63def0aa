"""Bounded proofs about the SDRAM controller: it is converted to an and-inverter graph, and ABC
searches for inputs that violate a rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyosys
from amaranth import ClockDomain, Const, Module, Signal, Value
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.offchip.sdram import SdramRows
from hw.offchip.timing import CHIPS, SdramChip
from hw.tools.verilog import run_program, run_yosys
from tests.hw.offchip.rules import TimingRules

ABC = Path(pyosys.__file__).with_name("yosys-abc")

_SCRIPT = """
read_rtlil {folder}/top.il
hierarchy -top top
proc
flatten
opt -full
memory_map
opt -full
opt_clean -purge
techmap
dfflegalize -cell $_DFF_P_ 01
opt_clean -purge
aigmap
setundef -zero -init
setundef -zero
opt_clean -purge
write_aiger -zinit {folder}/top.aig
"""


class AnyRefresh(SdramRows):
    """SDRAM controller in which a refresh may become due in any cycle, not in regular intervals.

    A proof about it holds for all intervals, and the search needs no cycles to count an interval.
    """

    def __init__(self, chip: SdramChip, clk_hz: int, **options: int):
        super().__init__(chip, clk_hz, **options)
        self.tick = Signal()

    def _ticks(self, m: Module) -> Signal:
        return self.tick


class Proof(wiring.Component):
    """SDRAM controller with free inputs, and a monitor of the timing rules at its pins.

    Members
    -------
    bad : output that the search tries to make high. It is high if a timing rule is violated or, if
        the proof is that some command can occur, when that command occurs.
    """

    def __init__(self, dut: AnyRefresh, property_of: Callable[[TimingRules], Value]):
        self._dut, self._property_of, self._cycles = dut, property_of, dut.cycles
        self.clocks = ClockDomain("sync", reset_less=True)
        self._inputs = {"tick": dut.tick} | {
            "__".join(map(str, path)): Value.cast(value)
            for path, member, value in dut.signature.flatten(dut)
            if member.flow == In and not isinstance(value, Const)
        }
        super().__init__({name: In(len(v)) for name, v in self._inputs.items()} | {"bad": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = self.clocks
        m.submodules.dut = self._dut
        m.submodules.rules = rules = TimingRules(self._dut.layout, self._cycles)
        for name, value in self._inputs.items():
            m.d.comb += value.eq(getattr(self, name))
        for name, member in self._dut.pins.signature.members.items():
            if member.flow == Out:
                m.d.comb += getattr(rules.pins, name).eq(getattr(self._dut.pins, name))
        m.d.comb += self.bad.eq(self._property_of(rules))
        return m

    def search(self, folder: Path, n_cycles: int, seconds: int) -> tuple[int, bool]:
        """Search for inputs that make ``bad`` high within ``n_cycles`` cycles after reset.

        The search is stopped after ``seconds``.

        Returns
        -------
        Number of the first such cycle and True; or the number of cycles that were searched, and
        False.
        """
        names = [*self._inputs, "bad"]
        ports = {name: (getattr(self, name), None) for name in names}
        text = rtlil.convert(self, name="top", ports={"clk": (self.clocks.clk, None), **ports})
        (folder / "top.il").write_text(text)
        (folder / "top.ys").write_text(_SCRIPT.format(folder=folder))
        run_yosys(folder / "top.ys", "and-inverter graph (pyosys)")
        command = f"read_aiger {folder}/top.aig; strash; scorr; bmc3 -F {n_cycles} -T {seconds}"
        output = run_program([ABC, "-c", command], "search (ABC)")
        if found := re.search(r"was asserted in frame (\d+)", output):
            return int(found[1]), True
        searched = re.search(r"No output asserted in (\d+) frames", output)
        assert searched, output
        return int(searched[1]), False


def small(n_ports: int, row_words: int) -> AnyRefresh:
    """Return a controller at 133 MHz for a chip with few pages.

    Its few state bits let the search cover many cycles.
    """
    chip = replace(
        CHIPS["ulx3s"],
        rows=4,
        columns=4 * row_words * max(1, n_ports // 4),
        data_bits=8,
        power_up=1,
    )
    return AnyRefresh(chip, 133_000_000, n_ports=n_ports, row_bits=8 * row_words)
