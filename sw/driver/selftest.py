"""Self-test of a board: identity, rates of the serial line, memories, random networks.

It is for the first power-up of a board, and for reports of faults. It checks every bit of the
memories, and compares random networks with the integer reference. It takes between a few seconds
and two minutes, and overwrites all memories of the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from hw.protocol import DEFAULT_BAUD, WRITABLE, Space, n_rows, row_bytes, spaces
from hw.spec import Config, Gate, Leak, Reset, signed_range
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.driver import check
from sw.driver.baud import agree_on_rate, rates, try_rate
from sw.driver.board import Board
from sw.driver.device import Device
from sw.driver.discovery import identify
from sw.driver.errors import DeviceError, InvalidMessage, LinkLost
from sw.network import encoder
from sw.network.network import INPUT, Layer, Network

N_RATE_BYTES = 4096
"""Largest number of bytes that are written and read back at each rate of the line."""
N_SHOWN = 3
"""Largest number of differences that are described in each part of the test."""
N_NETWORKS = 20
"""Default number of random networks."""
N_SAMPLES = 2
"""Number of samples with which each random network is run."""
MAX_DRAWS = 20
"""Largest number of random networks to draw in search of one that fits the device."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One part of the self-test and its result."""

    name: str
    passed: bool | None
    """Whether the part passed; None if it was left out."""
    detail: str
    """Text that describes the test or, if it failed, the fault."""
    seconds: float = 0.0


def self_test(
    device: Device, *, n_networks: int = N_NETWORKS, seed: int = 0, baud: int | None = None
) -> Iterator[Step]:
    """Test a board, and yield the result of each part as soon as it is known.

    If a part fails, the others are still tried, unless the port has vanished or the board no longer
    answers.

    Parameters
    ----------
    device : open board. Its memories are overwritten.
    n_networks : number of random networks to run.
    seed : seed of the random contents and networks, at least 0.
    baud : fastest rate to try, in bits per second; None means the rate that the board reports.
    """
    config, rng = device.config, np.random.default_rng(seed)
    yield Step(
        name="identity",
        passed=True,
        detail=f"{config.name}, gateware {device.identity.spec_hash:016x}, protocol "
        f"{device.identity.protocol_version}, {config.clk_hz} Hz",
    )
    before = device.status()
    limit = config.baud if baud is None else baud
    others = [pair for pair in rates(config, limit) if pair[0] != DEFAULT_BAUD]
    parts: list[tuple[str, Callable[[], tuple[bool | None, str]]]] = [
        (f"rate {rate}", partial(_rate, device, rng, rate, divisor))
        for rate, divisor in ((DEFAULT_BAUD, 0), *reversed(others))
    ]
    parts.append(("rate in use", partial(_agree, device, limit)))
    parts += [
        (f"memory {space.name}", partial(_memory, device, space, rng))
        for space in sorted(WRITABLE & set(spaces(device.config)))
    ]
    parts.append(("networks", partial(_networks, device, n_networks, seed)))
    for name, part in parts:
        started = time.perf_counter()
        try:
            passed, detail = part()
        except DeviceError as error:
            passed, detail = False, str(error)
            lost = isinstance(error, LinkLost) or not _recovered(device)
        else:
            lost = False
        yield Step(name=name, passed=passed, detail=detail, seconds=time.perf_counter() - started)
        if lost:
            return
    yield _line(device, before.n_bad_frames, before.n_overruns)


def _recovered(device: Device) -> bool:
    """Restart the link after a failure, and return whether the board answers again."""
    try:
        device.recover()
    except DeviceError:
        return False
    return True


def _line(device: Device, n_bad_frames: int, n_overruns: int) -> Step:
    """Return the result of the test's last part: the errors of the serial line during all other
    parts.

    ``n_bad_frames`` and ``n_overruns`` are the device's counters at the start of the test, for
    damaged frames and for lost bytes.
    """
    try:
        status = device.status()
    except DeviceError as error:
        return Step(name="line", passed=False, detail=str(error))
    counters = device.transport.counters
    errors = {
        "damaged frames at the device": status.n_bad_frames - n_bad_frames,
        "bytes lost at the device": status.n_overruns - n_overruns,
        "damaged frames at the host": counters.n_bad_frames,
        "requests sent again": counters.n_repeated,
    }
    found = ", ".join(f"{n} {what}" for what, n in errors.items() if n)
    traffic = f"{counters.n_bytes_out + counters.n_bytes_in:,} bytes, {device.transport.baud} baud"
    return Step(name="line", passed=not found, detail=f"{traffic}: {found or 'no errors'}")


def _rate(device: Device, rng: np.random.Generator, baud: int, divisor: int) -> tuple[bool, str]:
    """Write and read random bytes at one rate of the line, and return to the default rate.

    ``baud`` is the rate in bits per second, and ``divisor`` the device's number of clock cycles per
    bit, or 0 for the default rate. Returns whether the test passed, and a text that describes the
    test or the fault.
    """
    transport = device.transport
    transport.resync()
    identify(transport)
    n_repeated = transport.counters.n_repeated
    try:
        if divisor and not try_rate(transport, baud, divisor):
            return False, "the device does not answer at this rate"
        n = min(N_RATE_BYTES, n_rows(Space.SPIKE, device.config))
        data = rng.bytes(n)
        started = time.perf_counter()
        device.memory.write(Space.SPIKE, 0, data)
        found = device.memory.read(Space.SPIKE, 0, n)
        seconds = time.perf_counter() - started
        if found != data:
            return False, f"{_n_wrong_bits(found, data)} of {8 * n} bits were changed"
        if repeats := transport.counters.n_repeated - n_repeated:
            return False, f"{repeats} requests had to be sent again"
        return True, f"{n} bytes there and back in {1e3 * seconds:.0f} ms"
    finally:
        transport.resync()
        identify(transport)


def _agree(device: Device, limit_baud: int) -> tuple[bool, str]:
    """Change to the fastest rate that works, as the driver does when it opens a board.

    ``limit_baud`` is the fastest rate to try, in bits per second. Returns True and a text with the
    rate; a failure raises an exception (:func:`sw.driver.baud.agree_on_rate`).
    """
    agree_on_rate(device.transport, device.config, limit_baud)
    return True, f"{device.transport.baud} baud"


def _n_wrong_bits(found: bytes, expected: bytes) -> int:
    pair = (np.frombuffer(raw, np.uint8) for raw in (found, expected))
    return int(np.bitwise_count(np.bitwise_xor(*pair)).sum())


def patterns(n_bytes: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the bytes of patterns that a test writes to a memory to find its faults.

    Each pattern has ``n_bytes`` bytes.

    The first four patterns set every bit to 0 and to 1, which finds bits that are stuck or shorted
    to a neighbour. Random bytes differ from row to row, which finds rows that share an address.
    Their complement changes every bit once more.
    """
    for value in (0x00, 0xFF, 0x55, 0xAA):
        yield f"0x{value:02x}", bytes([value]) * n_bytes
    content = rng.bytes(n_bytes)
    yield "random", content
    yield "complement", bytes(np.invert(np.frombuffer(content, np.uint8)))


def _memory(device: Device, space: Space, rng: np.random.Generator) -> tuple[bool, str]:
    """Write each pattern of :func:`patterns` to a whole memory, read it back, and compare.

    Returns whether the test passed, and a text that describes the test or the fault.
    """
    size = row_bytes(space, device.config)
    rows = n_rows(space, device.config)
    problems: list[str] = []
    for name, content in patterns(size * rows, rng):
        device.memory.write(space, 0, content)
        found = device.memory.read(space, 0, rows)
        if found == content:
            continue
        wrong = np.flatnonzero(
            np.unpackbits(np.frombuffer(found, np.uint8), bitorder="little")
            != np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        )
        places = [
            f"row {at // (8 * size)} bit {at % (8 * size)} is {found[at // 8] >> at % 8 & 1}"
            for at in wrong[:N_SHOWN].tolist()
        ]
        more = ", ..." if len(wrong) > N_SHOWN else ""
        problems.append(f"{name}: {len(wrong)} bits differ: {', '.join(places)}{more}")
    if problems:
        return False, "; ".join(problems)
    return True, f"{8 * size * rows:,} bits, each with 6 patterns"


def _networks(device: Device, n_networks: int, seed: int) -> tuple[bool | None, str]:
    """Run random networks, and compare their results with the integer reference.

    Every spike and logit is compared, and for each layer the numbers of spikes and of synaptic
    operations (:func:`sw.driver.check.differences`).

    Returns whether the test passed, or None if it was left out, and a text that describes the test
    or the fault.
    """
    if not n_networks:
        return None, "not wanted"
    if find_spec("torch") is None:
        return None, "not tried: the integer reference needs PyTorch ('pip install torch')"
    with device.over_the_line():  # the serial line is tested, too
        return _run_networks(Board(device), n_networks, seed)


def _run_networks(board: Board, n_networks: int, seed: int) -> tuple[bool | None, str]:
    """Do the work of :func:`_networks` on a board, with at least one network."""
    n_done = n_draws = n_spikes = 0
    while n_done < n_networks and n_draws < MAX_DRAWS:
        rng = np.random.default_rng((seed, n_done, n_draws))
        network = random_network(rng, board.config, small=n_draws > 0)
        try:
            program = compile_network(network, board.config)
        except FitError:
            n_draws += 1
            continue
        images = _samples(network, rng)
        board.load(program)
        frames = encoder.inputs(network, images, program.pixels)
        which = f"random network {n_done} (seed {seed}, draw {n_draws})"
        try:
            found = list(board.stream(frames, maps=True))
        except InvalidMessage as error:
            return False, f"{which}: {error}"
        differences = check.against_reference(network, images, found, 0)
        if differences:
            return False, f"{which}: {'; '.join(differences[:N_SHOWN])}"
        n_spikes += sum(int(spikes.sum()) for one in found for spikes in one.maps.values())
        n_done, n_draws = n_done + 1, 0
    if not n_done:
        return None, "not tried: no random network fits the device"
    return True, f"{n_done} random networks, {n_spikes:,} spikes, all as the reference computes"


def _samples(network: Network, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return random input of a network, uint8.

    It is either images (N, C, H, W) or binary frames (N, T, C, H, W).
    """
    if network.encoder is not None:
        return rng.integers(0, 256, (N_SAMPLES, *network.image_shape), np.uint8)
    shape = (N_SAMPLES, network.timesteps, *network.image_shape)
    return (rng.random(shape) < 0.3).astype(np.uint8)


def random_network(rng: np.random.Generator, config: Config, *, small: bool = False) -> Network:
    """Return a small random network: two firing layers and an output layer. The second firing layer
    has a gate, which joins its spikes with those of the first.

    Some networks also have a stem, a layer that reads the image. In some, the output layer reads
    the maps of both firing layers, with the same weights for both or with other weights for each.

    Parameters
    ----------
    config : configuration of the device, which limits the width of weights, leaks and resets. The
        network may still be too large for the device's memories.
    small : make a network whose positions and timesteps share their weights, for a small device.
    """
    bits = int(rng.choice([bits for bits in (2, 4, 8) if bits <= config.weight_bits]))
    timesteps = int(rng.integers(1, 5))
    channels, height, width = (int(n) for n in rng.integers((1, 4, 4), (9, 9, 9)))
    n_out = int(rng.choice((8, 12, 16)))
    if small:
        height, width, n_out = min(height, 5), min(width, 5), 8
    stem, shape = None, (channels, height, width)
    n_shifts = config.n_leak_shifts
    if rng.random() < 0.3:
        stem = _firing(rng, "stem", "image", (n_out, channels), 1, 8, n_shifts, scale=128)
        shape = (n_out, height, width)
    own_times = 1 if small else timesteps
    positions = None if small else (height, width)
    own = (own_times, bits, n_shifts)
    first = _firing(rng, "first", INPUT, (n_out, shape[0]), *own, positions=positions)
    gated = _firing(rng, "gated", "first", (n_out, n_out), *own, identity="first")
    size = height // gated.pool[0], width // gated.pool[1]
    low, high = signed_range(bits)
    n_classes = int(rng.integers(2, 11))
    both = gated.pool == (1, 1) and rng.random() < 0.5
    stacked = both and rng.random() < 0.5
    n_in = n_out * (2 if stacked else 1)
    output = Layer(
        name="output",
        source="gated",
        addends=("first",) if both else (),
        stacked=stacked,
        kernel=size,
        weight=rng.integers(low, high, (1, 1, 1, n_classes, n_in, *size), np.int8, True),
        bias=rng.integers(low, high, (1, 1, 1, n_classes), np.int32, True),
        output=True,
    )
    return Network(
        timesteps=timesteps,
        image_shape=(channels, height, width),
        encoder=stem,
        layers=(first, gated, output),
        weight_bits=bits,
        labels=tuple(map(str, range(n_classes))),
    )


def _firing(
    rng: np.random.Generator,
    name: str,
    source: str,
    channels: tuple[int, int],
    timesteps: int,
    bits: int,
    n_shifts: int,
    *,
    positions: tuple[int, int] | None = None,
    identity: str | None = None,
    scale: int = 1,
) -> Layer:
    """Return a random layer of neurons, with 3 x 3 kernels and a padding of 1. Some layers with a
    gate also have OR-pooling, which halves the height and width of the map.

    Parameters
    ----------
    name, source : names of the layer and of the map that it reads.
    channels : numbers of output and input channels.
    timesteps : number of timesteps. In some random layers each has weights of its own; with 1, all
        timesteps always share their weights.
    bits : width of a weight in bits.
    n_shifts : largest number of shifts of a leak (:class:`hw.spec.Leak`). If it is 1, the reset is
        never :attr:`hw.spec.Reset.DELAYED`, because devices with only one shift lack this reset.
    positions : (height, width) of the map. In some random layers each position has weights of its
        own. If None, positions always share their weights.
    identity : map that a gate joins with the layer's spikes; None for no gate.
    scale : typical size of an input, by which the thresholds are chosen; 1 for spikes.
    """
    low, high = signed_range(bits)
    times = timesteps if timesteps > 1 and rng.random() < 0.3 else 1
    rows, columns = positions if positions and rng.random() < 0.3 else (1, 1)
    n_out, n_in = channels
    shape = (times, rows, columns, n_out, n_in, 3, 3)
    spread = max(1, round(high * scale * (9 * n_in * 0.3) ** 0.5 / 2))
    leak = Leak(rng.integers(len(Leak)))
    shifts = np.sort(rng.permutation(np.arange(1, 7))[: rng.integers(1, n_shifts + 1)]).tolist()
    shift, *finer = [0] if leak == Leak.NONE else shifts
    resets = [reset for reset in Reset if n_shifts > 1 or reset != Reset.DELAYED]
    return Layer(
        name=name,
        source=source,
        kernel=(3, 3),
        padding=(1, 1),
        weight=rng.integers(low, high, shape, np.int8, True),
        bias=rng.integers(0, max(spread // 4, 1), (1, 1, 1, n_out), np.int32, True),
        threshold=rng.integers(
            max(spread // 3, 1), max(spread, 2), (1, 1, n_out), np.int32, True
        ).clip(1, 32767),
        leak=leak,
        leak_shift=shift,
        finer_shifts=tuple(finer),
        reset=resets[rng.integers(len(resets))],
        gate=Gate.NONE if identity is None else Gate(rng.integers(1, 5)),
        identity=identity,
        pool=(2, 2) if identity is not None and rng.random() < 0.5 else (1, 1),
    )
