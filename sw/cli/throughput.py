"""How much of a serial line's rate carries payload: in loading, in streaming spikes, in reading
back.

The share is payload bytes per second over the ten-bit bytes per second of the agreed rate. What
counts as payload: in loading, the rows that were written (those that hold zeros already are not);
in streaming, the input spikes of every sample; in reading back, the rows. Frames, addresses, CRCs,
byte stuffing, acknowledgements, checks and waiting are what is lost. A virtual board's seconds are
those of its simulated clock, so that they are exact.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from hw.protocol import Space, n_rows
from hw.spec import Config
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_INTERRUPTED, EXIT_OK, command
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.driver.board import Board
from sw.driver.device import Device
from sw.network.network import Layer, Network

GOAL = 0.9
TIMESTEPS = 4
SHAPE = (2, 32, 32)
"""Of the input map: 1 KiB of spikes a sample, as of an event camera."""
DENSITY = 0.1
N_CLASSES = 10
N_SAMPLES = 40

EXIT_BELOW = 1


@dataclass(frozen=True)
class Figure:
    """A measurement."""

    what: str
    n_payload_bytes: int
    n_bytes_out: int
    """Bytes on the line towards the board, all in all."""
    n_bytes_in: int
    seconds: float
    baud: int

    @property
    def bytes_per_s(self) -> float:
        return self.n_payload_bytes / self.seconds

    @property
    def share(self) -> float:
        """Of what the line can carry in one direction."""
        return 10 * self.bytes_per_s / self.baud


def network(config: Config) -> Network:
    """One layer that needs a cycle per input spike, much less than its input on the line."""
    rng = np.random.default_rng(0)
    n_inputs = int(np.prod(SHAPE))
    unshared = TIMESTEPS if (TIMESTEPS + 1) * n_inputs <= config.weight_depth else 1
    high = 1 << (config.weight_bits - 1)
    weight = rng.integers(-high, high, (unshared, 1, 1, N_CLASSES, *SHAPE)).astype(np.int8)
    layer = Layer(
        name="fc",
        source="input",
        kernel=SHAPE[1:],
        weight=weight,
        bias=np.zeros((1, 1, 1, N_CLASSES), np.int32),
        output=True,
    )
    return Network(
        timesteps=TIMESTEPS,
        image_shape=SHAPE,
        encoder=None,
        layers=(layer,),
        weight_bits=config.weight_bits,
        labels=tuple(map(str, range(N_CLASSES))),
    )


def measure(board: Board, n_samples: int = N_SAMPLES) -> list[Figure]:
    """Measures loading, streaming and reading back.

    Raises
    ------
    sw.compile.program.FitError
        The board is too small for the network of the measurement.
    sw.driver.transport.DeviceError
    """
    device = board.device
    program = compile_network(network(board.config), board.config)
    counters = device.transport.counters
    figures = []

    def timed(what: str, work: Callable[[], int]) -> None:
        cycles, started = device.clock_cycles(), time.perf_counter()
        n_out, n_in = counters.n_bytes_out, counters.n_bytes_in
        n_payload_bytes = work()
        seconds, n_cycles = time.perf_counter() - started, device.clock_cycles()
        if cycles is not None and n_cycles is not None:
            seconds = (n_cycles - cycles) / board.config.clk_hz
        figures.append(
            Figure(
                what=what,
                n_payload_bytes=n_payload_bytes,
                n_bytes_out=counters.n_bytes_out - n_out,
                n_bytes_in=counters.n_bytes_in - n_in,
                seconds=seconds,
                baud=device.transport.baud,
            )
        )

    def streaming() -> int:
        rng = np.random.default_rng(1)
        shape = (n_samples, TIMESTEPS, *SHAPE)
        board.infer((rng.random(shape) < DENSITY).astype(np.uint8))
        return n_samples * len(program.pack_input(np.zeros(shape[1:], np.uint8)))

    def reading() -> int:
        n = min(n_rows(Space.WEIGHT, board.config), 1 << 12)
        return len(device.read(Space.WEIGHT, 0, n))

    for space, image in program.images.items():  # nothing may be there already
        inverse = bytes(byte ^ 0xFF for byte in image)
        device.write(space, 0, inverse)
    timed("loading", lambda: board.load(program).n_written)
    timed("streaming", streaming)
    timed("reading back", reading)
    return figures


def as_text(board: Board, figures: list[Figure]) -> str:
    """Figures for a terminal."""
    rate = figures[0].baud
    lines = [
        f"{board.config.name} on {board.port}: {rate:,} baud, {rate / 10:,.0f} bytes/s each way"
        + ("; times are of the simulated clock" if board.device.virtual else ""),
        f"{'':<14}{'payload':>11}{'sent':>11}{'received':>11}{'seconds':>11}{'bytes/s':>12}"
        f"{'of the line':>14}",
    ]
    lines += [
        f"{f.what:<14}{f.n_payload_bytes:>11,}{f.n_bytes_out:>11,}{f.n_bytes_in:>11,}"
        f"{f.seconds:>11.4f}{f.bytes_per_s:>12,.0f}{f.share:>14.1%}"
        for f in figures
    ]
    return "\n".join(lines)


@command(FitError)
def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sw.throughput",
        description=__doc__,
        epilog=f"""examples:
  python -m sw.throughput --board sim:ulx3s-85f
  python -m sw.throughput --board "sim:ulx3s-85f?latency=1"   an adapter of 1 ms each way
  python -m sw.throughput --board /dev/ttyUSB0 --json

exit codes: {EXIT_OK} loading and streaming reach {GOAL:.0%}, {EXIT_BELOW} they do not,
{EXIT_BAD_INPUT} bad input, {EXIT_DEVICE} no device or lost, {EXIT_INTERRUPTED} interrupted""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--board",
        nargs="?",
        const=None,
        default="sim",
        metavar="PORT",
        help="as of sw.run (default: sim). What is in the board is overwritten",
    )
    parser.add_argument("--baud", type=int, help="fastest rate to use (the board's own)")
    parser.add_argument(
        "-n", type=int, default=N_SAMPLES, metavar="N", help=f"samples to stream ({N_SAMPLES})"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.n < 1:
        parser.error("-n takes a number of at least 1")
    with Board(Device.open(arguments.board, arguments.baud)) as board:
        figures = measure(board, arguments.n)
        if arguments.json:
            values = [asdict(f) | {"bytes_per_s": f.bytes_per_s, "share": f.share} for f in figures]
            print(json.dumps({"board": board.config.name, "figures": values}, indent=1))
        else:
            print(as_text(board, figures))
    return EXIT_OK if all(f.share >= GOAL for f in figures[:2]) else EXIT_BELOW
