"""Measure how well the core uses the port of its weight memory, in exact clock cycles.

Each case is one layer with random weights on random spikes. It runs on the virtual board, and the
device's own counters measure it. The weight memory of a bank can deliver one row of weights per
cycle. The port use is the share of this rate that is reached: the number of rows read, divided by
the number of cycles and by the number of banks. All cycles of the layer count, also those that load
its descriptor, and those in which the pipeline fills and drains. Their number does not depend on
the machine that runs this program.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace

import numpy as np

from hw.spec import GRANULE_BITS, Config, Gate, SpecError
from sim.verilate import ToolError
from sim.virtual_board import virtual_board
from sw.cli.commands import EXIT_OK, CommandParser, command
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.driver.board import Board
from sw.driver.device import Device
from sw.network.network import IMAGE, INPUT, Layer, Network

CONFIG = Config(name="bench", weight_depth=32768, max_layers=8)
TIMESTEPS = 4


@dataclass(frozen=True)
class Case:
    """Layer to measure, and the density of its input.

    Attributes
    ----------
    channels, n_out : number of channels of the input and of the output.
    size : height and width of the input.
    kernel : height and width of the kernel.
    density : share of input bits that are spikes, or of pixels that are not 0.
    timesteps : number of timesteps.
    unshared : every output position has weights of its own.
    gate : gate that combines the layer's spikes with its input, as at the end of a residual block.
    pixels : the layer takes an image in place of spikes, one bit-plane after the other.
    padded : the input is padded, so that the output has the same height and width.
    """

    channels: int
    n_out: int
    size: int
    kernel: int
    density: float
    timesteps: int = TIMESTEPS
    unshared: bool = False
    gate: Gate = Gate.NONE
    pixels: bool = False
    padded: bool = True

    @property
    def title(self) -> str:
        """Short description of the layer, for the table of results."""
        kind = "unshared" if self.unshared else "shared"
        gate = f", {self.gate.name}" if self.gate else ""
        pixels = ", pixels" if self.pixels else ""
        return (
            f"{self.channels}->{self.n_out} {self.kernel}x{self.kernel} at {self.size}x"
            f"{self.size}, T={self.timesteps}, {kind}{gate}{pixels}"
        )


CASES = (
    *(Case(16, 16, 14, 3, density) for density in (0.0, 0.05, 0.1, 0.2, 1.0)),
    Case(16, 16, 14, 3, 0.1, timesteps=1, unshared=True),
    Case(16, 16, 14, 3, 0.1, gate=Gate.OR),
    *(Case(16, 32, 7, 3, density) for density in (0.05, 0.1, 0.2)),
    Case(32, 64, 7, 1, 0.1),
    Case(1, 16, 28, 28, 0.1, padded=False),
    *(Case(2, 8, 34, 3, density) for density in (0.0, 0.05, 0.1, 0.2, 1.0)),
    *(Case(1, 16, 28, 3, density) for density in (0.0, 0.05, 0.1, 0.2, 1.0)),
    Case(1, 16, 28, 3, 0.4, pixels=True),
)


def with_banks(banks: int) -> Config:
    """Return the configuration to measure, with ``banks`` banks.

    It has at least 8 lanes for each bank, because spikes are stored in bytes.

    Raises
    ------
    hw.spec.SpecError
        The number of banks is not supported.
    """
    return replace(CONFIG, banks=banks, lanes=max(CONFIG.lanes, GRANULE_BITS * banks))


def network(case: Case, rng: np.random.Generator) -> Network:
    """Return a network of the layer to measure and a small output layer after it."""
    size = case.size if case.unshared else 1
    padding = case.kernel // 2 if case.padded else 0
    n_out_size = case.size + 2 * padding - case.kernel + 1
    n_sets = 1 if case.pixels else case.timesteps
    shape = (n_sets, size, size, case.n_out, case.channels, case.kernel, case.kernel)
    layer = Layer(
        name="layer",
        source=INPUT,
        kernel=(case.kernel, case.kernel),
        padding=(padding, padding),
        weight=rng.integers(-127, 127, shape).astype(np.int8),
        bias=np.zeros((1, 1, 1, case.n_out), np.int32),
        threshold=np.full((1, 1, case.n_out), 20_000 if case.pixels else 200, np.int32),
        gate=case.gate,
        identity=INPUT if case.gate else None,
    )
    if case.pixels:
        encoder, source = replace(layer, name="stem", source=IMAGE), INPUT
    else:
        encoder, source = None, "layer"
    classifier = Layer(
        name="fc",
        source=source,
        kernel=(n_out_size, n_out_size),
        weight=np.ones((1, 1, 1, 10, case.n_out, 1, 1), np.int8),
        bias=np.zeros((1, 1, 1, 10), np.int32),
        output=True,
    )
    return Network(
        timesteps=case.timesteps,
        image_shape=(case.channels, case.size, case.size),
        encoder=encoder,
        layers=(classifier,) if case.pixels else (layer, classifier),
        weight_bits=8,
        labels=tuple("0123456789"),
    )


def measure(case: Case, board: Board) -> dict[str, object]:
    """Run a case on the board, and return its row of the table of results, as values by name.

    They include the measured cycles and rows read, the port use (see :mod:`sim.bench`), and the
    cycles that the compiler predicts.
    """
    rng = np.random.default_rng(0)
    net = network(case, rng)
    shape = (net.timesteps, *net.image_shape)
    if case.pixels:
        shape = net.image_shape
    sample = (rng.random(shape) < case.density).astype(np.uint8)
    if case.pixels:
        sample *= rng.integers(1, 256, shape, np.uint8)
    program = compile_network(net, board.config)
    board.load(program)
    result = board.observe(sample, maps=True)
    name = program.layers[0].name
    counters = result.counters[name]
    return {
        "layer": case.title,
        "density": case.density,
        "n_cycles": counters.n_cycles,
        "n_weight_reads": counters.n_weight_reads,
        "port_use": counters.n_weight_reads / counters.n_cycles / board.config.banks,
        "n_predicted": predict_cycles(program, result.maps)[name],
    }


def measure_all(config: Config, *, quiet: bool) -> list[dict[str, object]]:
    """Run every case on the virtual board, and return what :func:`measure` returns for each.

    Each row of the table is printed as soon as it has been measured, unless ``quiet``.
    """
    rows = []
    if not quiet:
        print(
            f"{'layer':44} {'density':>7} {'cycles':>8} {'rows read':>9} {'port use':>8}  predicted"
        )
    with virtual_board(config) as port, Board(Device.open(port)) as board:
        for case in CASES:
            row = measure(case, board)
            rows.append(row)
            if not quiet:
                print(
                    f"{row['layer']:44} {row['density']:7.0%} {row['n_cycles']:8,} "
                    f"{row['n_weight_reads']:9,} {row['port_use']:8.1%}  {row['n_predicted']:,}",
                    flush=True,
                )
    return rows


@command(ToolError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sim.bench`` with the arguments ``argv``, and return its exit code."""
    parser = CommandParser(
        prog="python -m sim.bench",
        description=__doc__,
        epilog="examples:\n  python -m sim.bench\n  python -m sim.bench --banks 4\n"
        "  python -m sim.bench --json > bench.json\n",
    )
    parser.add_argument(
        "--banks", type=int, default=1, help="number of banks: 1 (default), 2, 4, 8"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON list in place of a table"
    )
    arguments = parser.parse_args(argv)
    try:
        config = with_banks(arguments.banks)
    except SpecError as error:
        parser.error(str(error))
    rows = measure_all(config, quiet=arguments.json)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
