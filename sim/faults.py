"""``python -m sim.faults``: thousands of faults between driver and virtual board, and what came of
them.

A small random network runs on random spikes, over a link on which every kind of fault of
:mod:`sw.faults` happens, in loading and in running; and every now and then the whole host process
is killed (SIGKILL) and started again on the same board. Each outcome is compared with the same
network's on an undisturbed link: logits, counters and prediction.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hw.spec import Config
from sim.virtual_board import executable
from sw import faults
from sw.board import Board, Inference
from sw.device import Device
from sw.link import DeviceError
from sw.network import Layer, Network

CONFIG = Config(name="faults", weight_depth=1024, spike_bytes=2048)
TIMEOUT_S = 0.1
"""Patience of the driver; short, since most faults take that long."""

N_SAMPLES = 40
"""Samples of a session, after which the board is opened again."""

RATE = 0.05
"""Faults per frame."""

KILL_SHARE = 0.1
"""Sessions in which the host is killed at some time."""

STUCK_S = 120.0
"""A session that takes longer does not end."""


def network(rng: np.random.Generator) -> Network:
    """Two layers, a few hundred weights."""

    def layer(name: str, source: str, n_out: int, n_in: int, size: int, *, output: bool) -> Layer:
        return Layer(
            name=name,
            source=source,
            kernel=(size, size),
            weight=rng.integers(-100, 100, (1, 1, 1, n_out, n_in, size, size)).astype(np.int8),
            bias=rng.integers(-20, 20, (1, 1, 1, n_out)).astype(np.int32),
            threshold=None if output else np.full((1, 1, n_out), 60, np.int32),
            output=output,
        )

    return Network(
        timesteps=2,
        image_shape=(4, 6, 6),
        encoder=None,
        layers=(
            layer("conv", "input", 16, 4, 3, output=False),
            layer("fc", "conv", 10, 16, 4, output=True),
        ),
        weight_bits=8,
        labels=tuple("0123456789"),
    )


def frames(seed: int, n: int) -> NDArray[np.uint8]:
    """Random spikes (n, T, C, H, W)."""
    rng = np.random.default_rng(seed)
    return (rng.random((n, 2, 4, 6, 6)) < 0.3).astype(np.uint8)


@dataclass
class Tally:
    """What came of the faults."""

    injected: Counter[str] = field(default_factory=Counter)
    n_samples: int = 0
    n_wrong: int = 0
    n_sessions: int = 0
    n_by_retry: int = 0
    """Sessions that went on to their end."""
    errors: Counter[str] = field(default_factory=Counter)
    """Sessions that ended with an error, by its class."""
    n_killed: int = 0
    n_stuck: int = 0
    n_repeated: int = 0
    n_recoveries: int = 0
    seconds: float = 0.0

    @property
    def n_injected(self) -> int:
        return sum(self.injected.values()) + self.n_killed


def _same(one: Inference, other: Inference) -> bool:
    return (
        np.array_equal(one.logits, other.logits)
        and one.prediction == other.prediction
        and one.counters == other.counters
        and one.n_cycles == other.n_cycles
    )


def session(
    path: str, pid: int, plan: faults.Plan, expected: list[Inference], tally: Tally
) -> None:
    """Opens the board, loads, runs samples; tallies what came of it."""
    tally.n_sessions += 1
    net = network(np.random.default_rng(0))
    samples = frames(1, len(expected))
    port = None
    started = time.monotonic()
    device = None
    try:
        device = Device.open_with(path, lambda opened: faults.FaultyPort(opened, plan, pid))
        port = device.transport.port
        device.transport.timeout_s = TIMEOUT_S
        board = Board(device)
        board.load(net)
        order = np.random.default_rng(plan.seed).integers(0, len(expected), N_SAMPLES)
        for index, result in zip(order, board.stream(samples[order]), strict=True):
            tally.n_samples += 1
            tally.n_wrong += not _same(result, expected[index])
        tally.n_by_retry += 1
    except DeviceError as error:
        tally.errors[type(error).__name__] += 1
    finally:
        if device is not None:
            tally.n_repeated += device.transport.counters.n_repeated
            tally.n_recoveries += device.transport.counters.n_recoveries
            device.close()
        if isinstance(port, faults.FaultyPort):
            tally.injected += port.injected
        tally.n_stuck += time.monotonic() - started > STUCK_S


def _killed_session(path: str, pid: int, seed: int, rng: random.Random) -> bool:
    """A host that is killed at some time; false if it ended before."""
    host = subprocess.Popen(
        [sys.executable, "-m", "sim.faults", "--session", path, str(pid), "--seed", str(seed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        host.wait(timeout=rng.uniform(0.5, 4.0))
    except subprocess.TimeoutExpired:
        os.kill(host.pid, signal.SIGKILL)
        host.wait()
        return True
    return False


def campaign(n_faults: int, seed: int, *, progress: bool = True) -> Tally:
    """Injects at least ``n_faults`` faults."""
    rng = random.Random(seed)
    tally = Tally()
    started = time.monotonic()
    with (
        subprocess.Popen(
            [executable(CONFIG)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        tqdm(total=n_faults, unit=" faults", disable=None if progress else True) as bar,
    ):
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        try:
            with Board(Device.open(path)) as board:
                board.load(network(np.random.default_rng(0)))
                expected = list(board.stream(frames(1, N_SAMPLES)))
            while tally.n_injected < n_faults:
                number = rng.randrange(1 << 30)
                if rng.random() < KILL_SHARE:
                    tally.n_killed += _killed_session(path, process.pid, number, rng)
                plan = faults.Plan(RATE, faults.KINDS, number)
                session(path, process.pid, plan, expected, tally)
                bar.n = min(tally.n_injected, n_faults)
                bar.refresh()
        except KeyboardInterrupt:
            print("interrupted; so far:", file=sys.stderr)
        finally:
            process.terminate()
    tally.seconds = time.monotonic() - started
    return tally


def as_table(tally: Tally) -> str:
    """The tally as a Markdown table."""
    kinds = dict(tally.injected) | {"host killed": tally.n_killed}
    errors = ", ".join(f"{n} {name}" for name, n in sorted(tally.errors.items())) or "none"
    rows = [
        ("faults injected", f"{tally.n_injected:,}"),
        *((f"- {kind}", f"{n:,}") for kind, n in sorted(kinds.items())),
        ("sessions: opened, loaded, run", f"{tally.n_sessions:,}"),
        ("outcomes compared", f"{tally.n_samples:,}"),
        ("**outcomes wrong**", f"**{tally.n_wrong}**"),
        ("**sessions that did not end**", f"**{tally.n_stuck}**"),
        ("sessions that went on by retry", f"{tally.n_by_retry:,}"),
        ("sessions that ended with an error", f"{sum(tally.errors.values())} ({errors})"),
        ("requests sent again", f"{tally.n_repeated:,}"),
        ("links begun anew", f"{tally.n_recoveries:,}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sim.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m sim.faults\n  python -m sim.faults -n 500 --seed 3\n\n"
        "exit codes: 0 all survived or reported, 1 a wrong outcome or a session without end\n"
        "Ctrl-C ends the campaign early, with the table of what was done.",
    )
    parser.add_argument("-n", type=int, default=10_000, metavar="FAULTS", help="how many (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--session", nargs=2, metavar=("PORT", "PID"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.session:
        path, pid = arguments.session
        plan = faults.Plan(RATE, faults.KINDS, arguments.seed)
        with_any = [Inference(prediction=0, n_cycles=0, logits=np.zeros(10), counters={})]
        session(path, int(pid), plan, with_any * N_SAMPLES, Tally())
        return 0
    tally = campaign(arguments.n, arguments.seed)
    if arguments.json:
        values = tally.__dict__ | {"injected": dict(tally.injected), "errors": dict(tally.errors)}
        print(json.dumps(values | {"n_injected": tally.n_injected}, indent=1))
    else:
        print(as_table(tally))
    return 1 if tally.n_wrong or tally.n_stuck else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
