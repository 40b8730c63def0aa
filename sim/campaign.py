"""Inject thousands of faults between driver and virtual board, and count their consequences.

A campaign is a number of sessions. A session loads a small random network, runs it on random
spikes, and reads its spike maps back at the end. Each session has one of these kinds of faults:

- one kind of fault of :mod:`sw.driver.faults`, or all of them at once;
- the host process is killed (SIGKILL) while it loads, runs or reads back, and another host process
  then uses the same board;
- a second host tries to open the port;
- a long burst of noise is sent between two requests.

The result of every inference (logits, counters, prediction and maps) is compared with that of the
same network on an undisturbed link.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hw.boards.configs import CONFIGS, CONFIGS_HELP, config_by_name
from hw.spec import Config, SpecError
from sim.verilate import ToolError
from sim.virtual_board import executable
from sw.cli.commands import EXIT_NO, EXIT_OK, CommandParser, command, exit_codes
from sw.driver import faults
from sw.driver.board import Board
from sw.driver.device import Device
from sw.driver.errors import DeviceError, DeviceNotFound
from sw.driver.inference import Inference
from sw.driver.transport import LinkCounters, Port
from sw.network.network import Layer, Network

CONFIG = CONFIGS["sim"]
TIMEOUT_S = 0.1
"""Time in seconds that the driver waits for a reply; short, because most faults make it wait that
long."""

N_SAMPLES = 60
"""Number of samples at the beginning of a session, whose spike maps are not read back."""

N_READ_BACK = 4
"""Number of samples at the end of a session, whose spike maps are read back."""

RATE = 0.1
"""Probability of a fault per frame."""

RESET_RATE = 0.02
"""Probability of a device reset per frame. It is lower than :data:`RATE`, at which the device would
be reset too often to load a network."""

KILLED = {f"host killed in {phase}": phase for phase in ("loading", "running", "reading back")}
"""Phase of the session in which the host is killed, by the name of the kind of session."""
SECOND_HOST = "second host"
NOISE = "noise"
ALL = "all kinds"
SESSIONS = (*faults.KINDS, ALL, *KILLED, SECOND_HOST, NOISE)
"""Kinds of sessions, in the order in which they are run, over and over."""

NOISE_BYTES = 100_000
"""Number of random bytes in a burst of noise: fifty times the board's receive buffer."""

PART_BYTES = 5000
"""Number of bytes of noise in one write; a longer write could take longer than the port's time
limit."""

STUCK_S = 120.0
"""Time in seconds after which a session that has not ended is counted as stuck."""


class Stuck(BaseException):
    """Raised if a session has not ended within :data:`STUCK_S`.

    It is not derived from :class:`Exception`, so that the driver does not catch it.
    """


def network(rng: np.random.Generator) -> Network:
    """Return a random network of two layers and a few hundred weights."""

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
    """Return ``n`` samples of random input spikes, uint8 (n, T, C, H, W).

    Every other sample has few spikes, so that the driver sends it in packed form
    (:func:`hw.protocol.pack_zeros`) to boards that support this form.
    """
    rng = np.random.default_rng(seed)
    density = np.where(np.arange(n) % 2, 0.03, 0.3)[:, None, None, None, None]
    return (rng.random((n, 2, 4, 6, 6)) < density).astype(np.uint8)


@dataclass
class Tally:
    """Counts of how the sessions with one kind of fault ended.

    Attributes
    ----------
    n_injected : number of faults injected.
    n_sessions : number of sessions, which is the sum of the next four.
    n_undisturbed : number of sessions in which no fault happened.
    n_by_retry : number of sessions that were completed although faults happened.
    n_errors : number of sessions that ended with an error of the driver.
    n_stuck : number of sessions that did not end, or ended with another exception.
    n_samples : number of inferences that were compared with the expected ones.
    n_wrong : number of wrong inferences, plus the number of second hosts that could open the port.
    n_repeated, n_recoveries : number of requests sent again, and of restarts of the link.
    """

    n_injected: int = 0
    n_sessions: int = 0
    n_undisturbed: int = 0
    n_by_retry: int = 0
    n_errors: int = 0
    n_stuck: int = 0
    n_samples: int = 0
    n_wrong: int = 0
    n_repeated: int = 0
    n_recoveries: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Campaign:
    """Results of many sessions with faults.

    ``tallies`` counts events for each kind of session, and ``errors`` the driver's errors by name
    of their class. ``seconds`` is the duration of all sessions together.
    """

    tallies: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in SESSIONS})
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def total(self) -> Tally:
        """Sum of the tallies of all kinds of sessions."""
        return sum(self.tallies.values(), Tally())


def same_outcome(one: Inference, other: Inference) -> bool:
    """Return whether two inferences have the same results, whatever time they took on the host.

    They have the same logits, prediction, counters and cycles. If ``one`` has spike maps, ``other``
    has the same maps.
    """
    return (
        np.array_equal(one.logits, other.logits)
        and one.prediction == other.prediction
        and one.counters == other.counters
        and one.n_cycles == other.n_cycles
        and all(np.array_equal(spikes, other.maps[name]) for name, spikes in one.maps.items())
    )


def session(
    path: str,
    pid: int,
    plan: faults.Plan,
    expected: list[Inference],
    *,
    tell: Callable[[str], object] = lambda phase: None,
    check: Callable[[Inference, Inference], object],
    halfway: Callable[[Port], object] = lambda port: None,
) -> tuple[LinkCounters, Counter[str]]:
    """Open the board, load the network, run samples, and read the spike maps of some of them back.

    Parameters
    ----------
    path, pid : path of the virtual board's serial port, and process id of the virtual board.
    plan : faults to inject.
    expected : inferences on the samples over an undisturbed link.
    tell : called at the beginning of each phase with its name, one of the values of :data:`KILLED`.
    check : called with each inference and the expected one.
    halfway : called with the port, in the middle of the inferences.

    Returns
    -------
    Counts of the link's traffic and errors, and the number of injected faults by kind.

    Raises
    ------
    DeviceError
        The session failed. The error's last note has the faults and the counters of the link as a
        JSON list.
    """
    net = network(np.random.default_rng(0))
    samples = frames(1, len(expected))
    order = np.random.default_rng(plan.seed).integers(0, len(expected), N_SAMPLES + N_READ_BACK)
    counters, injected = LinkCounters(), Counter[str]()
    port: Port | None = None

    def wrap(opened: Port) -> Port:
        nonlocal injected, port
        port = opened
        faulty = faults.FaultyPort(opened, plan, pid)
        injected = faulty.injected
        return faulty

    try:
        with Board(Device.open_with(path, wrap, timeout_s=TIMEOUT_S)) as board:
            assert port is not None
            counters = board.device.transport.counters
            tell("loading")
            board.load(net)
            tell("running")
            for maps, part in ((False, order[:N_SAMPLES]), (True, order[N_SAMPLES:])):
                if maps:
                    tell("reading back")
                outcomes = board.stream(samples[part], maps=maps)
                for n, (index, outcome) in enumerate(zip(part, outcomes, strict=True)):
                    check(outcome, expected[index])
                    if n == N_SAMPLES // 2:
                        halfway(port)
    except DeviceError as error:
        error.add_note(json.dumps([injected, counters.__dict__]))
        raise
    return counters, injected


def run_session(
    path: str, pid: int, kind: str, seed: int, expected: list[Inference], campaign: Campaign
) -> None:
    """Run one session with faults of the given kind, and add its outcome to the counts in
    ``campaign``.

    ``kind`` is one of :data:`SESSIONS`, and ``seed`` determines the faults. The other parameters
    are those of :func:`session`.
    """
    tally = campaign.tallies[kind]
    tally.n_sessions += 1
    kinds = (kind,) if kind in faults.KINDS else faults.KINDS
    rate = RATE if kind in (*faults.KINDS, ALL) else 0.0
    rate = RESET_RATE if kind == "reset" else rate
    n_injected = 0

    def check(outcome: Inference, right: Inference) -> None:
        tally.n_samples += 1
        tally.n_wrong += not same_outcome(outcome, right)

    def halfway(port: Port) -> None:
        nonlocal n_injected
        if kind == NOISE:
            noise = random.Random(seed).randbytes(NOISE_BYTES)
            for at in range(0, NOISE_BYTES, PART_BYTES):  # a busy machine takes seconds for all
                port.write(noise[at : at + PART_BYTES])
            n_injected += 1
        elif kind == SECOND_HOST:
            try:
                Device.open_with(path, lambda opened: opened, timeout_s=TIMEOUT_S).close()
            except DeviceNotFound:
                n_injected += 1
            else:
                tally.n_wrong += 1

    def stuck(*_: object) -> None:
        raise Stuck(f"{kind}, seed {seed}: no end after {STUCK_S:g} s")

    signal.signal(signal.SIGALRM, stuck)
    # The alarm repeats, in case the end of the session gets stuck as well.
    signal.setitimer(signal.ITIMER_REAL, STUCK_S, 10.0)
    try:
        if kind in KILLED:
            n_injected += _kill_host(path, pid, seed, KILLED[kind])
        plan = faults.Plan(rate, kinds, seed)
        counters, injected = session(path, pid, plan, expected, check=check, halfway=halfway)
    except DeviceError as error:
        campaign.errors[type(error).__name__] += 1
        tally.n_errors += 1
        injected, values = json.loads(error.__notes__[-1])
        counters = LinkCounters(**values)
    except (Exception, Stuck):
        traceback.print_exc()
        tally.n_stuck += 1
        return
    else:
        happened = bool(injected) or n_injected
        tally.n_by_retry += bool(happened)
        tally.n_undisturbed += not happened
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.n_injected += sum(injected.values()) + n_injected
    tally.n_repeated += counters.n_repeated
    tally.n_recoveries += counters.n_recoveries


def _kill_host(path: str, pid: int, seed: int, phase: str) -> bool:
    """Start a host process, and kill it soon after the beginning of a phase of its session.

    Return whether the host reached the phase and was still running.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "sim.campaign", "--session", path, str(pid), "--seed", str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as host:
        try:
            assert host.stdout is not None
            reached = any(line.strip() == phase for line in host.stdout)
            time.sleep(random.Random(seed).uniform(0, 0.05))
            return reached and host.poll() is None
        finally:
            host.kill()


def run_campaign(
    n_faults: int, seed: int, *, config: Config = CONFIG, progress: bool = True
) -> Campaign:
    """Inject at least ``n_faults`` faults, and return counts of their consequences.

    One session of every kind is run, in the order of :data:`SESSIONS`. This is repeated until there
    were enough faults. Ctrl-C ends it earlier, with the counts so far. ``seed`` determines the
    faults, ``config`` the virtual board.
    """
    rng = random.Random(seed)
    campaign = Campaign()
    started = time.monotonic()
    with (
        subprocess.Popen(
            [executable(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        tqdm(total=n_faults, unit=" faults", disable=None if progress else True) as bar,
    ):
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        try:
            with Board(Device.open_with(path, lambda opened: opened)) as board:
                board.load(network(np.random.default_rng(0)))
                expected = list(board.stream(frames(1, N_SAMPLES), maps=True))
            while campaign.total.n_injected < n_faults:
                for kind in SESSIONS:
                    if process.poll() is not None:
                        raise DeviceNotFound("the virtual board has ended")
                    number = rng.randrange(1 << 30)
                    run_session(path, process.pid, kind, number, expected, campaign)
                    bar.n = min(campaign.total.n_injected, n_faults)
                    bar.refresh()
        except KeyboardInterrupt:
            print("interrupted; so far:", file=sys.stderr)
        finally:
            process.terminate()
    campaign.seconds = time.monotonic() - started
    return campaign


COLUMNS = {
    "faults": "n_injected",
    "sessions": "n_sessions",
    "completed after faults": "n_by_retry",
    "ended with an error": "n_errors",
    "did not end": "n_stuck",
    "answers compared": "n_samples",
    "answers wrong": "n_wrong",
}


def as_table(campaign: Campaign) -> str:
    """Return a Markdown table of the consequences of the injected faults.

    It has a row of counts for each kind of session and one for all sessions. Below it are the
    driver's errors.
    """
    total = campaign.total
    rows = [*campaign.tallies.items(), ("**together**", total)]
    lines = [f"| kind | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    lines += [
        f"| {kind} | {' | '.join(f'{getattr(tally, name):,}' for name in COLUMNS.values())} |"
        for kind, tally in rows
    ]
    errors = ", ".join(f"{n} {name}" for name, n in sorted(campaign.errors.items())) or "none"
    return "\n".join(
        [
            *lines,
            "",
            f"Errors: {errors}. Requests sent again: {total.n_repeated:,}; restarts of the link: "
            f"{total.n_recoveries:,}.",
        ]
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m sim.campaign",
        description=__doc__,
        epilog="examples:\n  python -m sim.campaign\n  python -m sim.campaign -n 500 --seed 3\n\n"
        "Ctrl-C ends the campaign early, with the table of what was done.\n\n"
        + exit_codes(
            "a wrong outcome, or a session without end",
            done="all sessions were completed or ended with an error",
            device=True,
        ),
    )
    parser.add_argument(
        "-n", type=int, default=10_000, metavar="FAULTS", help="number of faults (10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults (0)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object in place of a table"
    )
    parser.add_argument(
        "--config",
        default=CONFIG.name,
        metavar="NAME",
        help=f"virtual board, one of sim, {CONFIGS_HELP} (default: %(default)s)",
    )
    parser.add_argument("--session", nargs=2, metavar=("PORT", "PID"), help=argparse.SUPPRESS)
    return parser


def _run_host(path: str, pid: int, seed: int) -> None:
    """Run a session without faults, and print the name of each phase when it begins.

    :func:`_kill_host` starts this function in a process, and kills the process in one of the
    phases.
    """
    expected = [Inference(prediction=0, n_cycles=0, logits=np.zeros(10), counters={})] * N_SAMPLES
    session(
        path,
        pid,
        faults.Plan(0.0, faults.KINDS, seed),
        expected,
        tell=lambda phase: print(phase, flush=True),
        check=lambda *_: None,
    )


@command(ToolError, SpecError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sim.campaign`` with the arguments ``argv``, and return its exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.session:
        path, pid = arguments.session
        _run_host(path, int(pid), arguments.seed)
        return EXIT_OK
    campaign = run_campaign(arguments.n, arguments.seed, config=config_by_name(arguments.config))
    total = campaign.total
    if arguments.json:
        document = {
            "kinds": {kind: asdict(tally) for kind, tally in campaign.tallies.items()},
            "total": asdict(total),
            "errors": campaign.errors,
            "seconds": campaign.seconds,
        }
        print(json.dumps(document, indent=1))
    else:
        print(as_table(campaign))
    return EXIT_NO if total.n_wrong or total.n_stuck else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
