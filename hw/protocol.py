"""Bytes of the machine: frames, opcodes, memory spaces, descriptors and counters.

A frame on the wire is ``stuffed(seq, opcode, payload..., crc) END``, byte-stuffed as PPP does it
(RFC 1662, 4.2): :data:`END` stands between frames only; where a body has an :data:`END` or
:data:`ESCAPE`, an :data:`ESCAPE` is sent and the byte with :data:`ESCAPE_XOR` applied. The CRC is
CRC-32 (``zlib.crc32``; check value 0xCBF43926 for ``b"123456789"``) over ``seq`` to the end of the
payload, sent low byte first, so that the CRC of the whole body is :data:`CRC_RESIDUE`. Fields
inside payloads are little-endian and packed as the structures below say. A reply carries the
request's ``seq`` and its ``opcode | REPLY``; its payload starts with a :class:`Status` byte. A
frame that is damaged, truncated or too long is dropped, counted, and never applied or answered.

| request | payload | reply payload after the status byte |
|---|---|---|
| IDENTIFY | none | :class:`Identity` |
| WRITE | :class:`Rows`, the rows | none |
| READ | :class:`Rows` | the rows |
| RUN | :class:`Run` | none; later one DONE frame |
| STATUS | none | :class:`DeviceStatus` |
| ABORT | none | none; the core stops and is idle |
| CHECK | :class:`Rows`, CRC-32 of the rows (u32) | none; MISMATCH if they have another |
| RATE | :class:`Rate` | none, at the old rate; then the device changes to the new one |

A RUN that comes during a run waits for its end; one may wait, and it starts at once then. A DONE
frame is the run's ``tag`` in place of ``seq``, ``DONE | REPLY``, a status byte, :class:`Result`,
and as many rows of RESULT and of COUNTER as the RUN asked for: they are kept while the next run is
in progress. Every request may be repeated: WRITE, READ and CHECK are idempotent, and a RUN whose
``tag`` is that of the waiting run, of the run in progress or of the one that ended last is
acknowledged but not started again (the one that ended sends its DONE again).

After a reset the device refuses everything that touches memories or runs with
:attr:`Status.WAS_RESET`, until an ABORT says that the host knows: no result is ever computed from,
or read out of, memories that a reset has changed behind the host's back.

The device starts at :data:`DEFAULT_BAUD`. After a RATE it falls back to it unless an undamaged
frame arrives at the new rate within :data:`TRIAL_CYCLES`; and at any time when it sees a break, a
byte with all of its bits and the stop bit low: a zero byte at :data:`BREAK_BAUD` is one to a device
at any higher rate. A break also drops what has been received and not been looked at yet.
"""

# No `from __future__ import annotations` here: data.Struct reads its annotations as values.
import enum
import hashlib
import json
import zlib
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

PROTOCOL_VERSION = 2
MAGIC = int.from_bytes(b"SPKF", "little")
REPLY = 0x80
END = 0x7E
ESCAPE = 0x7D
ESCAPE_XOR = 0x20
CRC_POLYNOMIAL = 0xEDB88320
"""Of the CRC-32 of Ethernet and zlib, lowest bit first."""
CRC_INIT = CRC_XOR_OUT = 0xFFFFFFFF
CRC_RESIDUE = 0x2144DF1C
"""CRC of any packet followed by its CRC."""
HEADER_BYTES = 2
"""``seq`` and ``opcode``."""
ARGUMENT_BYTES = 6
"""Of every request that has any: :class:`Rows`, :class:`Run` or :class:`Rate`."""
CRC_BYTES = 4
STATUS_BYTES = 1
DEFAULT_BAUD = 1_000_000
"""Rate after a reset; every USB bridge of the known boards does it exactly."""
BREAK_BAUD = 9600
TRIAL_CYCLES = 1 << 24
"""How long a new rate is tried; 0.4 s at 40 MHz."""


_END = bytes([END])
_ESCAPE = bytes([ESCAPE])
_ESCAPED_END = bytes([ESCAPE, END ^ ESCAPE_XOR])
_ESCAPED_ESCAPE = bytes([ESCAPE, ESCAPE ^ ESCAPE_XOR])


class Opcode(enum.IntEnum):
    IDENTIFY = 0x01
    WRITE = 0x02
    READ = 0x03
    RUN = 0x04
    STATUS = 0x05
    ABORT = 0x06
    DONE = 0x07
    """Sent by the device only."""
    CHECK = 0x08
    RATE = 0x09


BARE = frozenset({Opcode.IDENTIFY, Opcode.STATUS, Opcode.ABORT})
"""Requests without payload."""


class Status(enum.IntEnum):
    OK = 0
    BAD_OPCODE = 1
    BAD_LENGTH = 2
    """The payload is not the rows it names, a fixed payload has another length, or the reply would
    be longer than a frame."""
    BAD_SPACE = 3
    """No such space, or it cannot be written."""
    BAD_ADDRESS = 4
    """A row of the request lies outside its space."""
    BUSY = 5
    """A run is in progress or waits, and the request would disturb it."""
    WAS_RESET = 6
    """The device was reset since the last ABORT: its memories may have changed."""
    MISMATCH = 7
    """The rows of a CHECK have another CRC."""


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
    each in ``Config.counter_rows`` rows."""


WRITABLE = frozenset({Space.WEIGHT, Space.PARAM, Space.SPIKE})


class Address(data.Struct):
    """A row of a space."""

    row: 24
    space: 8


class Rows(data.Struct):
    """``n_rows`` rows from ``address`` on, at most ``max_payload_bytes``."""

    address: Address
    n_rows: 16


class Run(data.Struct):
    """Run the descriptors from row ``entry`` of weight memory up to the first final one, and
    announce the end with the first rows of RESULT and of COUNTER."""

    entry: 24
    n_result_rows: 8
    n_counter_rows: 8
    tag: 8


class Rate(data.Struct):
    """Clock cycles a bit, less one; at least 3."""

    divisor_less_1: 8
    reserved: 40


class RunState(enum.IntEnum):
    IDLE = 0
    RUNNING = 1
    """Or about to."""
    DONE = 2
    """A run has ended and its result is still there."""


class Result(data.Struct):
    """Outcome of a run. ``argmax`` is the index of the first largest logit."""

    tag: 8
    argmax: 16
    reserved: 8
    n_cycles: 32


class DeviceStatus(data.Struct):
    """State, and errors counted since the last reset."""

    result: Result
    """Of the run that ended last; undefined if none has since the last ABORT."""
    n_bad_frames: 16
    """Frames dropped: bad CRC, truncated or too long. Wraps."""
    n_overruns: 16
    """Bytes lost because the receive buffer was full, or stop bits missing. Wraps."""
    state: 8


class Identity(data.Struct):
    """What is on the other end of the cable; holds every number of :class:`hw.spec.Config`."""

    magic: 32
    protocol_version: 16
    lanes: 16
    spec_hash: 64
    weight_bits: 8
    fire_lanes: 8
    membrane_bits: 8
    pixels: 4
    cores: 4
    chunk_bits: 8
    membrane_slots: 8
    max_layers: 16
    weight_depth: 32
    param_depth: 32
    spike_bytes: 32
    result_rows: 16
    sum_queue: 8
    count_bits: 8
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
    field crosses a 32-bit word, and addresses lie where a :class:`Level` has its increments."""

    source: 20
    """Bit address of the first window."""
    spacing: 8
    """Least number of cycles between the starts of two jobs in the fire unit, at least 1."""
    leak_shift: 4
    identity: 16
    no_slot: 6
    """Always 0: membranes begin with the first one."""
    n_levels: 4
    """Levels that follow; the others have one iteration."""
    leak: Leak
    output: 1
    """Non-firing: logits go to the results, ``target`` counts their rows."""
    final: 1
    """Last layer: the argmax of the results follows and the run ends."""
    pixels: 1
    """The first :data:`hw.spec.N_PLANES` iterations of the level of timesteps are the bit-planes of
    a pixel map, the highest first; the others are the timesteps, which all take their sum."""
    reset: Reset
    weight: 20
    gate: Gate
    idle: 1
    """No jobs: other cores do all of the layer."""
    reserved: 8
    target: 16
    """First granule of the map; of an output layer 0, its rows are counted from it."""
    param: 16
    job_levels: 8
    """Levels inside one job: what they visit is accumulated."""
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
    n_classes: 16
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
        Space.COUNTER: n_bytes(LayerCounters) // config.counter_rows,
    }[space]


def n_rows(space: Space, config: Config) -> int:
    """Rows of ``space``. Row ``r`` of weights, parameters or counters is in core ``r % cores``."""
    return {
        Space.WEIGHT: config.cores * config.weight_depth,
        Space.PARAM: config.cores * config.n_param_rows,
        Space.SPIKE: config.spike_bytes,
        Space.RESULT: config.result_rows,
        Space.COUNTER: config.cores * config.max_layers * config.counter_rows,
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


def encode_frame(packet: bytes) -> bytes:
    """Wire bytes of a packet: CRC appended, stuffed, with an end."""
    body = packet + zlib.crc32(packet).to_bytes(CRC_BYTES, "little")
    return body.replace(_ESCAPE, _ESCAPED_ESCAPE).replace(_END, _ESCAPED_END) + _END


def decode_frame(raw: bytes) -> bytes | None:
    """Packet in the wire bytes before an end; None if they are damaged."""
    # Behind an escape stands one of two bytes, neither of them an escape: pairs cannot overlap.
    body = raw.replace(_ESCAPED_END, _END).replace(_ESCAPED_ESCAPE, _ESCAPE)
    if len(body) < HEADER_BYTES + CRC_BYTES or zlib.crc32(body) != CRC_RESIDUE:
        return None
    return body[:-CRC_BYTES]


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
    layouts = (Rows, Run, Rate, Result, DeviceStatus, Identity, LayerCounters, Descriptor)
    agreed = {
        "version": PROTOCOL_VERSION,
        "config": numbers,
        "enums": [_describe(e) for e in (Opcode, Status, Space, Gate, Leak, Reset, RunState)],
        "layouts": {layout.__name__: _describe(layout) for layout in layouts},
        "neuron": _describe(Neuron),
        "constants": [MEMBRANE_LATENCY, N_PLANES, PIECE_BITS],
        "crc": [CRC_POLYNOMIAL, CRC_INIT, CRC_XOR_OUT],
        "stuffing": [END, ESCAPE, ESCAPE_XOR],
        "rates": [DEFAULT_BAUD, TRIAL_CYCLES],
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
