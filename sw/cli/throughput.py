"""Measure how much of a serial line's bit rate carries payload.

The result is a share: payload bytes per second over the bytes per second that the line can carry in
one direction, at ten bits per byte. Three transfers are measured. When a network is loaded, the
payload is the memory rows that are written; when samples are streamed, it is their input spikes;
when memory is read back, it is the rows that are read. The rest is framing, addresses, CRCs, byte
stuffing, acknowledgements, checks and waiting. Times of a virtual board are exact, because they are
those of its simulated clock. A board that takes packed rows receives most rows in fewer bytes than
they have, so a share may be above 100 %. The network in the board's memories is overwritten.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from hw.protocol import Space, n_rows
from hw.spec import Config
from sw.cli import options
from sw.cli.commands import EXIT_NO, EXIT_OK, CommandParser, command, exit_codes
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.driver.board import Board
from sw.network.encoder import InputError
from sw.network.network import Layer, Network

GOAL = 0.9
"""Share of the line's rate that loading and streaming should use, from 0 to 1."""
TIMESTEPS = 4
SHAPE = (2, 32, 32)
"""Shape (C, H, W) of an input frame: with 4 timesteps, a sample is 1 KiB of spikes."""
DENSITY = 0.1
"""Share of input bits that are spikes."""
N_CLASSES = 10
N_SAMPLES = 40


@dataclass(frozen=True)
class Transfer:
    """Measurement of one transfer over the serial line: loading, streaming or reading back.

    Attributes
    ----------
    what : name of the transfer.
    n_payload_bytes : number of bytes of payload: memory rows or input spikes, without framing and
        addresses. :mod:`sw.cli.throughput` says what counts.
    n_bytes_out, n_bytes_in : all bytes on the line towards and from the board.
    seconds : duration in seconds; for a virtual board, by its simulated clock.
    baud : bits per second of the line.
    """

    what: str
    n_payload_bytes: int
    n_bytes_out: int
    n_bytes_in: int
    seconds: float
    baud: int

    @property
    def bytes_per_s(self) -> float:
        """Number of payload bytes per second."""
        return self.n_payload_bytes / self.seconds

    @property
    def share(self) -> float:
        """Payload bytes per second as a fraction of those that the line can carry in one direction.
        Above 1 if rows are packed into fewer bytes than they have."""
        return 10 * self.bytes_per_s / self.baud


def network(config: Config) -> Network:
    """Return a network of one fully connected layer with random weights, for the measurement.

    The core computes it in about one clock cycle per input spike. That is much less time than the
    line needs for the input, so the line, not the core, limits the speed.
    """
    rng = np.random.default_rng(0)
    n_inputs = int(np.prod(SHAPE))
    unshared = TIMESTEPS if (TIMESTEPS + 1) * n_inputs <= config.weight_depth else 1
    # The sum of all negative weights is about a quarter of this product: half of the board's range.
    high = min(1 << (config.weight_bits - 1), (1 << config.sum_bits) // (n_inputs * TIMESTEPS))
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


def measure(board: Board, n_samples: int = N_SAMPLES) -> list[Transfer]:
    """Measure bytes and time on a board's serial line in three transfers: loading a network,
    streaming ``n_samples`` samples, and reading memory back.

    Return one :class:`Transfer` for each, in this order.

    Raises
    ------
    sw.compile.program.FitError
        The board is too small for the network of the measurement.
    sw.driver.errors.DeviceError
        The board was lost, or does not answer as it should.
    """
    with board.device.over_the_line():
        return _measure(board, n_samples)


def _measure(board: Board, n_samples: int) -> list[Transfer]:
    """Do the work of :func:`measure`.

    The caller must make loading use the serial line even with a virtual board
    (:meth:`sw.driver.device.Device.over_the_line`).
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
            Transfer(
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
        return len(device.memory.read(Space.WEIGHT, 0, n))

    for space, image in program.images.items():  # so that everything has to be written
        inverse = bytes(byte ^ 0xFF for byte in image)
        device.memory.write(space, 0, inverse)
    timed("loading", lambda: board.load(program).n_written)
    timed("streaming", streaming)
    timed("reading back", reading)
    return figures


def as_text(board: Board, figures: list[Transfer]) -> str:
    """Return the measurements of :func:`measure` as a table for a terminal."""
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


@command(FitError, InputError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.throughput`` with the arguments ``argv`` and return its exit code."""
    parser = CommandParser(
        prog="python -m sw.throughput",
        description=__doc__,
        epilog=f"""examples:
  python -m sw.throughput --board sim:ulx3s-85f
  python -m sw.throughput --board "sim:ulx3s-85f?latency=1"   an adapter of 1 ms each way
  python -m sw.throughput --board /dev/ttyUSB0 --json

{exit_codes("they do not", done=f"loading and streaming reach {GOAL:.0%}", device=True)}""",
    )
    options.add_board(parser, several=False)
    parser.add_argument(
        "-n",
        type=int,
        default=N_SAMPLES,
        metavar="N",
        help=f"samples to stream ({N_SAMPLES})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.n < 1:
        parser.error("-n takes a number of at least 1")
    port = options.port_of(arguments.board, None)
    with Board.open(port, arguments.baud) as board:
        figures = measure(board, arguments.n)
        if arguments.json:
            values = [asdict(f) | {"bytes_per_s": f.bytes_per_s, "share": f.share} for f in figures]
            print(json.dumps({"board": board.config.name, "figures": values}, indent=1))
        else:
            print(as_text(board, figures))
    return EXIT_OK if all(f.share >= GOAL for f in figures[:2]) else EXIT_NO
