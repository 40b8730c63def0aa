"""Injection of faults into the link between driver and board, to test that the driver recovers.

Faults are requested by options in a port's name, as in ``--board "sim?faults=1e-2&seed=7"``:

- ``faults`` is the probability of a fault per frame (one message on the serial line, see
  :mod:`hw.protocol`), in either direction. It may be left out if ``latency`` is given.
- ``kinds`` names the kinds of faults to inject, joined by ``+``. By default these are all of
  :data:`KINDS`.
- ``seed`` is the seed of the random generator. It makes the faults reproducible.
- ``latency`` is the delay of a virtual board's simulated USB adapter in each direction, in
  milliseconds of simulated time.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from hw.protocol import END
from sw.driver.errors import FaultSpecError
from sw.driver.transport import Port

STALL_S = 0.2
"""Longest delay of a stalled frame, in seconds."""

GARBAGE_BYTES = 3000
"""Exclusive upper bound on the number of random bytes that the fault ``garbage`` inserts. It
exceeds a device's receive buffer."""

_END = bytes([END])


@dataclass(frozen=True)
class Plan:
    """Options of fault injection, parsed by :func:`parse`.

    Attributes
    ----------
    rate : probability of a fault per frame, 0 to 1.
    kinds : kinds of faults to inject, a subset of :data:`KINDS`; all are equally likely.
    seed : seed of the random generator.
    latency_ms : delay in each direction by a virtual board's simulated USB adapter, in milliseconds
        of simulated time.
    """

    rate: float
    kinds: tuple[str, ...]
    seed: int = 0
    latency_ms: float = 0.0


def _flip(frame: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(8 * len(frame))
    return bytes(byte ^ (1 << at % 8 if i == at // 8 else 0) for i, byte in enumerate(frame))


def _drop(frame: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(frame))
    return frame[:at] + frame[at + 1 :]


def _double(frame: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(frame))
    return frame[: at + 1] + frame[at:]


def _insert(frame: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(frame) + 1)
    return frame[:at] + rng.randbytes(1) + frame[at:]


def _lose(frame: bytes, rng: random.Random) -> bytes:
    return b""


def _repeat(frame: bytes, rng: random.Random) -> bytes:
    return frame + frame


def _cut(frame: bytes, rng: random.Random) -> bytes:
    return frame[: rng.randrange(len(frame))]


def _garbage(frame: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, GARBAGE_BYTES)) + frame


ON_BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": _flip,
    "drop": _drop,
    "double": _double,
    "insert": _insert,
    "lose": _lose,
    "repeat": _repeat,
    "cut": _cut,
    "garbage": _garbage,
}
"""Functions that each inject one fault into the bytes of a frame, by the kind of fault. They take
the frame and a random generator, and return the bytes to pass on.

``flip`` inverts a bit. ``drop`` removes a byte, ``double`` repeats one, ``insert`` adds a random
byte. ``lose`` removes the whole frame, ``repeat`` sends it twice, ``cut`` removes its end.
``garbage`` puts random bytes before the frame."""

KINDS = (*ON_BYTES, "stall", "reset")
"""All kinds of faults: those of :data:`ON_BYTES`, ``stall``, which delays a frame, and ``reset``,
which resets a virtual board."""


OPTIONS = ("faults", "kinds", "seed", "latency")
"""Names of the options of fault injection in a port's name."""


def split_options(port: str) -> tuple[str, str]:
    """Split the name of a port into the port and the options of fault injection behind its ``?``.

    The address of a port at another machine keeps its other options, which are for pyserial.

    >>> split_options("sim?faults=1e-2&seed=7")
    ('sim', 'faults=1e-2&seed=7')
    >>> split_options("rfc2217://localhost:2217?ign_set_control&faults=1e-2")
    ('rfc2217://localhost:2217?ign_set_control', 'faults=1e-2')
    """
    path, _, query = port.partition("?")
    if "://" not in path:
        return path, query
    options = [option for option in query.split("&") if option]
    ours = [option for option in options if option.partition("=")[0] in OPTIONS]
    theirs = "&".join(option for option in options if option not in ours)
    return path + (f"?{theirs}" if theirs else ""), "&".join(ours)


def parse(spec: str) -> Plan:
    """Return the plan of faults that the options behind ``?`` in a port's name describe, such as
    ``faults=1e-2&seed=7``.

    Raises
    ------
    FaultSpecError
        ``faults`` is missing, or an option is unknown or has an invalid value.
    """
    try:
        values = dict(parse_qsl(spec.replace("+", "%2B"), strict_parsing=True))
        latency_ms = float(values.pop("latency", "0"))
        rate = float(values.pop("faults", "0") if latency_ms else values.pop("faults"))
        seed = int(values.pop("seed", "0"))
    except (KeyError, ValueError) as error:
        raise FaultSpecError(
            f"cannot understand '?{spec}': give ?faults=PROBABILITY, for example ?faults=1e-2, "
            "optionally with &seed=NUMBER, &kinds=KIND+KIND, &latency=MILLISECONDS"
        ) from error
    kinds = tuple(values.pop("kinds", "+".join(KINDS)).split("+"))
    unknown = [*values, *(kind for kind in kinds if kind not in KINDS)]
    if unknown or not 0 <= rate <= 1 or not 0 <= latency_ms < 1000:
        what = "the probability must be 0 to 1, the latency 0 or more and less than 1000"
        what = f"unknown: {', '.join(unknown)}" if unknown else what
        raise FaultSpecError(
            f"cannot understand '?{spec}': {what}. Kinds of faults are {', '.join(KINDS)}"
        )
    return Plan(rate, kinds, seed, latency_ms)


def inject(port: Port, plan: Plan, pid: int | None = None) -> Port:
    """Return a port that injects the plan's faults into ``port``, or ``port`` itself if the
    probability of faults is 0. ``pid`` is the process ID of a virtual board, see
    :class:`FaultyPort`."""
    return FaultyPort(port, plan, pid) if plan.rate else port


class FaultyPort:
    """Serial port that passes frames to and from another port, and injects faults into some of
    them.

    Parameters
    ----------
    port : the other port.
    plan : faults to inject.
    pid : process ID of a virtual board. The fault ``reset`` sends the signal SIGUSR1 to this
        process, and the virtual board then resets itself. None if the board is real; the fault
        ``reset`` then does not occur.

    Attributes
    ----------
    injected : number of faults injected so far, by kind.
    kinds : kinds of faults that can occur: the kinds of the plan, without ``reset`` if ``pid`` is
        None.
    """

    def __init__(self, port: Port, plan: Plan, pid: int | None = None):
        self._port = port
        self._rate = plan.rate
        self._rng = random.Random(plan.seed)
        self._pid = pid
        self.kinds = [kind for kind in plan.kinds if kind != "reset" or pid is not None]
        self._partial = b""
        """Received bytes of a frame whose end has not arrived yet."""
        self._received = b""
        self.injected: Counter[str] = Counter()

    @property
    def port(self) -> str | None:
        return self._port.port

    @property
    def baudrate(self) -> int:
        return self._port.baudrate

    @baudrate.setter
    def baudrate(self, baudrate: int) -> None:
        self._port.baudrate = baudrate

    @property
    def in_waiting(self) -> int:
        return len(self._received) or self._port.in_waiting

    def flush(self) -> None:
        self._port.flush()

    def reset_input_buffer(self) -> None:
        self._partial = self._received = b""
        self._port.reset_input_buffer()

    def reset_output_buffer(self) -> None:
        self._port.reset_output_buffer()

    def close(self) -> None:
        self._port.close()

    def write(self, raw: bytes, /) -> object:
        *frames, rest = raw.split(_END)
        passed = b"".join(self._pass(frame + _END) for frame in frames)
        return self._port.write(passed + rest)

    def read(self, size: int, /) -> bytes:
        if not self._received:
            *frames, self._partial = (self._partial + self._port.read(size)).split(_END)
            self._received = b"".join(self._pass(frame + _END) for frame in frames)
            # The rest is kept until its end arrives, because faults happen to whole frames.
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _pass(self, frame: bytes) -> bytes:
        """Decide at random whether a fault happens to a frame, and return the bytes to pass on in
        the frame's place: without a fault, the frame itself."""
        if not self.kinds or self._rng.random() >= self._rate:
            return frame
        kind = self._rng.choice(self.kinds)
        self.injected[kind] += 1
        if kind == "stall":
            time.sleep(STALL_S * self._rng.random())
        elif kind == "reset":
            assert self._pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGUSR1)
        else:
            return ON_BYTES[kind](frame, self._rng)
        return frame
