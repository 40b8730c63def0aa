"""Bytes of the machine: frames, opcodes, memory spaces, descriptors and counters.

A frame on the wire is ``COBS(seq, opcode, payload..., crc_hi, crc_lo), 0x00``. The CRC is
CRC-16/GENIBUS (polynomial 0x1021, initial value 0xFFFF, not reflected, result complemented; check
value 0xD64E for ``b"123456789"``) over ``seq`` to the end of the payload, sent high byte first, so
that the uncomplemented CRC of the whole body is :data:`CRC_RESIDUE`. Without the complement it
would be zero, and a zero byte lost or added at the end (one flipped bit of a delimiter or of a last
COBS code) would go unnoticed. Fields inside payloads are little-endian and packed as the structures
below say. A reply carries the request's ``seq`` and its ``opcode | REPLY``; its payload starts with
a :class:`Status` byte. A frame that is damaged, truncated or too long is dropped, counted, and
never applied or answered.

| request | payload | reply payload after the status byte |
|---|---|---|
| IDENTIFY | none | :class:`Identity` |
| WRITE | :class:`Address`, whole rows of that space | none |
| READ | :class:`Address`, number of rows (u16) | the rows |
| RUN | :class:`Run` | none; later one DONE frame, with the RUN's ``seq`` |
| STATUS | none | :class:`DeviceStatus` |
| ABORT | none | none; the core stops and is idle |

A DONE frame is ``DONE | REPLY`` with a status byte and :class:`Result`. Every request may be
repeated: WRITE and READ are idempotent, and a RUN whose ``tag`` is the tag of the run in progress
or just finished is acknowledged but not started again (a finished one sends its DONE again).
"""

# No `from __future__ import annotations` here: data.Struct reads its annotations as values.
import enum
import hashlib
import json
from dataclasses import asdict

from amaranth import signed
from amaranth.lib import data

from hw.spec import (
    MEMBRANE_LATENCY,
    N_LEVELS,
    N_PLANES,
    PARAM_BITS,
    PIECE_BITS,
    Config,
    Gate,
    Leak,
    Reset,
)

PROTOCOL_VERSION = 1
MAGIC = int.from_bytes(b"SPKF", "little")
REPLY = 0x80
CRC_INIT = 0xFFFF
CRC_POLYNOMIAL = 0x1021
CRC_XOR_OUT = 0xFFFF
CRC_RESIDUE = 0x1D0F
"""CRC, before the complement, of any packet followed by its CRC."""
DELIMITER = 0x00
HEADER_BYTES = 2
"""``seq`` and ``opcode``."""
CRC_BYTES = 2
STATUS_BYTES = 1


class Opcode(enum.IntEnum):
    IDENTIFY = 0x01
    WRITE = 0x02
    READ = 0x03
    RUN = 0x04
    STATUS = 0x05
    ABORT = 0x06
    DONE = 0x07
    """Sent by the device only."""


class Status(enum.IntEnum):
    OK = 0
    BAD_OPCODE = 1
    BAD_LENGTH = 2
    """The payload is not whole rows, or a fixed payload has another length."""
    BAD_SPACE = 3
    """No such space, or it cannot be written."""
    BAD_ADDRESS = 4
    """A row of the request lies outside its space."""
    BUSY = 5
    """A run is in progress and the request would disturb it."""


class Space(enum.IntEnum):
    """Memories that the host can reach. A row is the unit of addressing."""

    WEIGHT = 0
    """``lanes`` weights a row, lane 0 in the lowest bits; or descriptors, low word first."""
    PARAM = 1
    """``fire_lanes`` entries of :class:`Neuron` a row."""
    SPIKE = 2
    """One byte a row: granule ``i`` holds bits ``8*i`` to ``8*i+7``. Writable during a run."""
    RESULT = 3
    """Read-only, of the run that ended last: ``fire_lanes`` logits a row, each sign-extended to 32
    bits."""
    COUNTER = 4
    """Read-only, of the run that ended last: :class:`LayerCounters` in the order the layers ran,
    each in ``Config.counter_rows`` rows as long as those of RESULT."""


WRITABLE = frozenset({Space.WEIGHT, Space.PARAM, Space.SPIKE})


class Address(data.Struct):
    """Start of a WRITE or READ: a space and a row in it."""

    row: 24
    space: 8


class Run(data.Struct):
    """Run the descriptors from row ``entry`` of weight memory up to the first final one."""

    tag: 8
    entry: 24


class RunState(enum.IntEnum):
    IDLE = 0
    RUNNING = 1
    DONE = 2


class Result(data.Struct):
    """Outcome of a run. ``argmax`` is the index of the first largest logit."""

    tag: 8
    argmax: 16
    reserved: 8
    n_cycles: 32


class DeviceStatus(data.Struct):
    state: 8
    result: Result
    n_bad_frames: 16
    """Frames dropped: bad CRC, bad COBS code, truncated or too long. Saturates."""
    n_overruns: 16
    """Bytes lost because the receive buffer was full, or stop bits missing. Saturates."""


class Identity(data.Struct):
    """What is on the other end of the cable; holds every number of :class:`hw.spec.Config`."""

    magic: 32
    protocol_version: 16
    lanes: 16
    spec_hash: 64
    weight_bits: 8
    fire_lanes: 8
    membrane_bits: 8
    pixels: 8
    chunk_bits: 8
    membrane_slots: 8
    max_layers: 16
    weight_depth: 32
    param_depth: 32
    spike_bytes: 32
    result_rows: 16
    sum_queue: 8
    reserved: 8
    rx_buffer_bytes: 16
    max_payload_bytes: 16
    clk_hz: 32
    baud: 32
    name: 128
    """ASCII, padded with zero bytes."""


class LayerCounters(data.Struct):
    """What a layer did in its last run. ``n_synaptic_ops`` counts additions of one weight to one
    real (not padding) output neuron; ``n_spikes`` the ones written to the layer's map."""

    n_cycles: 32
    n_weight_reads: 32
    n_synaptic_ops: 32
    n_spikes: 32


class Level(data.Struct):
    """One level of the loop nest: its trip count less one, and by how much each address moves when
    this level advances and all inner levels start again. Increments wrap at the address width. No
    field crosses a 32-bit word."""

    source: signed(20)
    """In bits of spike memory."""
    last: 12
    identity: signed(16)
    """In granules of spike memory."""
    slot: signed(6)
    reserved: 10
    weight: signed(20)
    reserved2: 12
    target: signed(16)
    """In granules of spike memory."""
    param: signed(16)


N_PIECES = 4
"""Pieces of a chunk that a descriptor describes; a device with short chunks has the first ones."""


class Header(data.Struct):
    """Fixed part of a layer descriptor. A ``*_levels`` field has bit ``i`` set for level ``i``. No
    field crosses a 32-bit word."""

    source: 20
    """Bit address of the first window."""
    spacing: 8
    """Least number of cycles between the starts of two jobs in the fire unit, at least 1."""
    leak_shift: 4
    weight: 20
    job_levels: 8
    """Levels inside one job: what they visit is accumulated."""
    gate: Gate
    reset: Reset
    identity: 16
    target: 16
    """First granule of the map; of an output layer 0, its rows are counted from it."""
    param: 16
    time_levels: 8
    """The level of timesteps: while it is at its first iteration, membranes start from 0."""
    pool_levels: 8
    """Levels whose jobs are ORed into one result."""
    tail_levels: 8
    """The levels of channel groups: at the end of all of them, and so always if there are none, a
    group has only ``tail_lanes`` real lanes."""
    tail_lanes: 8
    last_beat: 8
    """Beats of a job in the fire unit, less one."""
    n_levels: 4
    """Levels that follow; the others have one iteration."""
    leak: Leak
    output: 1
    """Non-firing: logits go to the results, ``target`` counts their rows."""
    final: 1
    """Last layer: the argmax of the results follows and the run ends."""
    n_classes: 16
    pixels: 1
    """The first :data:`hw.spec.N_PLANES` iterations of the level of timesteps are the bit-planes of
    a pixel map, the highest first; the others are the timesteps, which all take their sum."""
    reserved: 15
    body_bits: data.ArrayLayout(8, N_PIECES)
    """Valid bits of each piece of a chunk, at most :data:`hw.spec.PIECE_BITS`."""
    tail_bits: data.ArrayLayout(8, N_PIECES)
    """The same for the last chunk of a run (level 0)."""
    piece_rows: data.ArrayLayout(8, N_PIECES)
    """By how many rows of spike memory a piece lies beyond where a contiguous window has it."""
    piece_weights: data.ArrayLayout(8, N_PIECES)
    """Weight row of the first bit of a piece, from that of the chunk."""


class Descriptor(data.Struct):
    """One layer: rows of :attr:`Space.WEIGHT`, low word first."""

    header: Header
    levels: data.ArrayLayout(Level, N_LEVELS)


class Neuron(data.Struct):
    """Bias and threshold of one neuron."""

    bias: signed(PARAM_BITS)
    threshold: signed(PARAM_BITS)


def n_bytes(layout: type[data.Struct]) -> int:
    """Bytes of a packed structure, which is always whole."""
    n_bits = data.Layout.cast(layout).size
    assert n_bits % 8 == 0, f"{layout.__name__} has {n_bits} bits"
    return n_bits // 8


WORD_BYTES = 4
RESULT_BYTES = 4
"""Of a logit."""
DESCRIPTOR_WORDS = n_bytes(Descriptor) // WORD_BYTES
HEADER_WORDS = n_bytes(Header) // WORD_BYTES
LEVEL_WORDS = n_bytes(Level) // WORD_BYTES


def row_bytes(space: Space, config: Config) -> int:
    """Bytes of one row of ``space`` on the wire."""
    return {
        Space.WEIGHT: config.lanes * config.weight_bits // 8,
        Space.PARAM: config.fire_lanes * n_bytes(Neuron),
        Space.SPIKE: 1,
        Space.RESULT: config.fire_lanes * RESULT_BYTES,
        Space.COUNTER: config.fire_lanes * RESULT_BYTES,
    }[space]


def n_rows(space: Space, config: Config) -> int:
    """Rows of ``space``."""
    return {
        Space.WEIGHT: config.weight_depth,
        Space.PARAM: config.n_param_rows,
        Space.SPIKE: config.spike_bytes,
        Space.RESULT: config.result_rows,
        Space.COUNTER: config.max_layers * config.counter_rows,
    }[space]


def descriptor_rows(config: Config) -> int:
    """Rows of weight memory that a descriptor takes."""
    return -(-n_bytes(Descriptor) // row_bytes(Space.WEIGHT, config))


def pack(layout: type[data.Struct], values: dict) -> bytes:
    """Bytes of a structure, little-endian."""
    return layout.const(values).as_bits().to_bytes(n_bytes(layout), "little")


def unpack(layout: type[data.Struct], raw: bytes) -> data.Const:
    """The structure in ``raw``; fields are read as attributes.

    Raises
    ------
    ValueError
        ``raw`` has another length.
    """
    if len(raw) != n_bytes(layout):
        raise ValueError(f"{layout.__name__} takes {n_bytes(layout)} bytes, not {len(raw)}")
    return layout.from_bits(int.from_bytes(raw, "little"))


def _describe(layout: object) -> object:
    """A layout as plain values, for the hash."""
    if isinstance(layout, type) and issubclass(layout, enum.Enum):
        return {member.name: member.value for member in layout}
    try:
        cast = data.Layout.cast(layout)
    except TypeError:
        return repr(layout)
    return {str(key): [field.offset, _describe(field.shape)] for key, field in cast}


def spec_hash(config: Config) -> int:
    """64-bit hash over everything that host and device must agree on: the configuration (less its
    name and clocks), the opcodes, spaces, layouts and neuron semantics."""
    numbers = asdict(config)
    for free in ("name", "clk_hz", "baud"):
        del numbers[free]
    numbers["pixels"] = int(config.pixels)
    layouts = (Address, Run, Result, DeviceStatus, Identity, LayerCounters, Descriptor)
    agreed = {
        "version": PROTOCOL_VERSION,
        "config": numbers,
        "enums": [_describe(e) for e in (Opcode, Status, Space, Gate, Leak, Reset, RunState)],
        "layouts": {layout.__name__: _describe(layout) for layout in layouts},
        "neuron": _describe(Neuron),
        "constants": [MEMBRANE_LATENCY, N_PLANES, PIECE_BITS],
        "crc": [CRC_INIT, CRC_POLYNOMIAL, CRC_XOR_OUT],
    }
    digest = hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def identity(config: Config) -> dict[str, int]:
    """Values of :class:`Identity` for a device built with ``config``."""
    values = {
        key: getattr(config, key) for key, _ in data.Layout.cast(Identity) if hasattr(config, key)
    }
    values |= {
        "magic": MAGIC,
        "protocol_version": PROTOCOL_VERSION,
        "spec_hash": spec_hash(config),
        "name": int.from_bytes(config.name.encode("ascii")[:16], "little"),
    }
    return values
