"""``python -m sim.sdram_bench``: measure the share of an SDRAM's bandwidth that reads of weights
reach.

The controller is simulated by Verilator with the model of ``sdram.hpp`` at its pins. Each port, one
per bank of the core, requests the rows of weights of active inputs, in ascending order, as fast as
the controller takes the requests.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amaranth import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.offchip.layout import RowLayout
from hw.offchip.pins import SdramPins
from hw.offchip.sdram import SdramRows
from hw.offchip.timing import CHIPS, SdramChip
from sim.sdram_model import defines
from sim.verilate import build_executable
from sw.cli.commands import CommandParser

MAIN = Path(__file__).with_suffix(".cpp")


class BenchTop(wiring.Component):
    """SDRAM controller whose ports are combined: each signal of a port has the bits of all ports,
    side by side.

    So the same C++ program can simulate any number of ports.
    """

    def __init__(self, sdram: SdramRows):
        self._sdram = sdram
        layout = sdram.layout
        n, row = layout.n_ports, (layout.n_rows - 1).bit_length()
        super().__init__(
            {
                "request_valid": In(n),
                "request_ready": Out(n),
                "request_row": In(n * row),
                "row_valid": Out(n),
                "row_ready": In(n),
                "row": Out(n * layout.row_bits),
                "write_valid": In(1),
                "write_ready": Out(1),
                "write_port": In(8),
                "write_row": In(row),
                "write_data": In(layout.row_bits),
                "transfers": Out(1),
                "pins": Out(SdramPins(layout.chip)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sdram = sdram = self._sdram
        wiring.connect(m, wiring.flipped(self.pins), sdram.pins)
        requests, rows = list(sdram.requests), list(sdram.rows)
        m.d.comb += [
            Cat(r.valid for r in requests).eq(self.request_valid),
            Cat(r.p for r in requests).eq(self.request_row),
            self.request_ready.eq(Cat(r.ready for r in requests)),
            self.row_valid.eq(Cat(r.valid for r in rows)),
            self.row.eq(Cat(r.p for r in rows)),
            Cat(r.ready for r in rows).eq(self.row_ready),
            sdram.write.valid.eq(self.write_valid),
            self.write_ready.eq(sdram.write.ready),
            sdram.write.p.port.eq(self.write_port),
            sdram.write.p.row.eq(self.write_row),
            sdram.write.p.data.eq(self.write_data),
            self.transfers.eq(sdram.transfers),
        ]
        return m


@dataclass(frozen=True, kw_only=True)
class BusUse:
    """Use of the SDRAM's data bus while rows were read, and errors in what was read."""

    done: bool
    """Whether all requests were answered."""
    cycles: int
    """Number of cycles from the first request to the last row."""
    words: int
    """Number of words of all rows that were read."""
    transfers: int
    """Number of words that were transferred, as counted by the controller."""
    wrong_words: int
    violations: int
    """Number of violations of the chip's timing rules."""
    refreshes: int

    @property
    def share(self) -> float:
        """Share of the cycles in which the data bus carried a word of a requested row, from 0 to
        1."""
        return self.words / self.cycles


def measure(
    layout: RowLayout,
    clk_hz: int,
    sequences: Sequence[Sequence[int]],
    model: SdramChip | None = None,
) -> BusUse:
    """Read rows through the controller, and return the use of the bus.

    Parameters
    ----------
    layout : chip for which the controller is made, its ports, and where their rows lie.
    sequences : for each port, the indices of the rows that it reads.
    model : chip that is simulated; by default that of ``layout``.

    Raises
    ------
    sim.verilate.ToolError
        The simulation could not be built.
    """
    chip = replace(layout.chip, power_up=1000)
    program = build_executable(
        lambda: BenchTop(SdramRows(chip, clk_hz, n_ports=layout.n_ports, row_bits=layout.row_bits)),
        MAIN,
        name="sdram-bench",
        defines={
            **defines(replace(model or chip, power_up=1000), clk_hz),
            "N_PORTS": layout.n_ports,
            "ROW_BITS": (layout.n_rows - 1).bit_length(),
            "ROW_WORDS": layout.row_words,
        },
        compile_args=("-O2",),
    )
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        for port, rows in enumerate(sequences):
            file.write(struct.pack("<I", len(rows)))
            for row in rows:
                file.write(struct.pack("<II", row, layout.word_address(port, row)))
        file.flush()
        done = subprocess.run([program, file.name], capture_output=True, text=True, check=True)
    print(done.stderr, end="", file=sys.stderr)
    return BusUse(**json.loads(done.stdout))


def active_rows(
    density: float, n_rows: int, n_jobs: int, rng: random.Random, first: int = 0
) -> Iterator[int]:
    """Yield the index of the row of weights of each active input, for ``n_jobs`` jobs (output
    positions).

    A job has ``n_rows`` inputs with a row of weights each; the rows of each job follow those of the
    job before, beginning with row ``first``. An input is active with probability ``density``.
    """
    for row in range(first, first + n_rows * n_jobs):
        if rng.random() < density:
            yield row


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sim.sdram_bench`` with the arguments ``argv``, and return its exit code."""
    parser = CommandParser(
        prog="python -m sim.sdram_bench",
        description=__doc__,
        epilog="examples:\n"
        "  python -m sim.sdram_bench\n"
        "  python -m sim.sdram_bench --ports 4 --row-bits 128 --clk-hz 60000000 --density 0.2",
    )
    parser.add_argument("--chip", choices=list(CHIPS), default="ulx3s")
    parser.add_argument("--ports", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--row-bits", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--clk-hz", type=int, default=75_000_000)
    parser.add_argument("--density", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    args = parser.parse_args(argv)
    print("| ports | row bits | active inputs | cycles | bus used |\n|---|---|---|---|---|")
    for n_ports in args.ports:
        for row_bits in args.row_bits:
            layout = RowLayout(chip=CHIPS[args.chip], n_ports=n_ports, row_bits=row_bits)
            for density in args.density:
                rng = random.Random(f"{n_ports} {density}")
                sequences = [
                    list(active_rows(density, 288 // n_ports, 200, rng)) for _ in range(n_ports)
                ]
                use = measure(layout, args.clk_hz, sequences)
                ok = use.done and not use.wrong_words and not use.violations
                print(
                    f"| {n_ports} | {row_bits} | {density:.0%} | {use.cycles:,} | "
                    f"{use.share:.1%} |" + ("" if ok else f" FAILED: {use}"),
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
