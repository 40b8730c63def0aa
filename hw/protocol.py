"""Wire format shared by host and device: frames, opcodes, memories, descriptors, counters.

A frame on the wire is ``stuffed(seq, opcode, payload..., crc) END``, where ``seq`` is a sequence
number. It is byte-stuffed as in PPP (RFC 1662, section 4.2): before the :data:`END`, a byte that
equals :data:`END` or :data:`ESCAPE` is sent as :data:`ESCAPE`, followed by the byte XOR
:data:`ESCAPE_XOR`. So :data:`END` occurs only at the end of a frame. The CRC is CRC-32
(``zlib.crc32``; check value 0xCBF43926 for ``b"123456789"``) over ``seq``, opcode and payload. It
is sent low byte first; the CRC over everything, the CRC itself included, is then
:data:`CRC_RESIDUE`. Fields of payloads are little-endian and packed as in the structures below. A
reply carries the request's ``seq`` and its ``opcode | REPLY``; its payload starts with a
:class:`Status` byte. A frame that is damaged, truncated or too long is dropped and counted; it has
no effect and is not answered.

| request | payload | reply payload after the status byte |
|---|---|---|
| IDENTIFY | none | :class:`Identity` |
| WRITE | :class:`Rows`, the rows | none |
| READ | :class:`Rows` | the rows |
| RUN | :class:`Run` | none; later one DONE frame |
| STATUS | none | :class:`DeviceStatus` |
| ABORT | none | none; the core stops and is idle |
| CHECK | :class:`Rows`, CRC-32 of the rows (u32) | none; status MISMATCH if that CRC is wrong |
| RATE | :class:`Rate` | none, at the old rate; then the device changes to the new one |
| WRITE_PACKED | :class:`Rows`, the rows packed by :func:`pack_zeros` | none |

Only devices with :attr:`hw.spec.Config.packed_writes` know WRITE_PACKED. They decode the rows
twice: first to check the packed form without writing anything, then to write the rows.

A RUN that arrives during a run waits for the end of that run and starts immediately after it; one
RUN can wait. A DONE frame consists of the run's ``tag`` in place of ``seq``, ``DONE | REPLY``, a
status byte, :class:`Result`, and as many rows of RESULT and of COUNTER as the RUN asked for. These
rows are kept while the next run is in progress. Every request may be repeated: WRITE, READ and
CHECK are idempotent. A RUN with the ``tag`` of the waiting run, of the run in progress or of the
run that ended last is acknowledged, but not started again. For the run that ended last, the device
sends the DONE frame again.

After a reset the device answers WRITE, READ, CHECK and RUN with :attr:`Status.WAS_RESET` until the
host acknowledges the reset with an ABORT. So no result is computed or read from memories that a
reset has changed without the host's knowledge.

The device starts at :data:`DEFAULT_BAUD`. After a RATE it falls back to the default rate unless an
undamaged frame arrives at the new rate within :data:`TRIAL_CYCLES`. It also falls back whenever it
receives a break: a byte whose data bits and stop bit are all low. A zero byte at :data:`BREAK_BAUD`
is a break to a device at any higher rate. A break also drops the bytes that have been received but
not yet decoded.
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
    N_LEAK_SHIFTS,
    N_LEVELS,
    N_PLANES,
    PARAM_BITS,
    PIECE_BITS,
    Config,
    Gate,
    Leak,
    Reset,
)

PROTOCOL_VERSION = 3
"""Version of this wire format, reported in :class:`Identity`."""
MAGIC = int.from_bytes(b"SPKF", "little")
"""Value of the first field of :class:`Identity`, by which the host recognises a device."""
REPLY = 0x80
"""Bit of an opcode that marks a reply."""
END = 0x7E
"""Byte that ends a frame."""
ESCAPE = 0x7D
"""Byte that precedes an escaped byte."""
ESCAPE_XOR = 0x20
"""Mask with which an escaped byte is XORed."""
CRC_POLYNOMIAL = 0xEDB88320
"""Polynomial of the CRC-32 of Ethernet and zlib, in bit-reversed notation."""
CRC_INIT = CRC_XOR_OUT = 0xFFFFFFFF
"""Initial value of the CRC, and mask with which its final value is XORed."""
CRC_RESIDUE = 0x2144DF1C
"""Value of the CRC over a packet together with the CRC that follows it, if there is no error."""
HEADER_BYTES = 2
"""Number of bytes of a packet's header: ``seq`` and ``opcode``. A packet is the contents of a frame
without its CRC."""
ARGUMENT_BYTES = 6
"""Number of bytes of the arguments (:class:`Rows`, :class:`Run`, :class:`Rate`) of a request that
has arguments."""
CRC_BYTES = 4
"""Number of bytes of the CRC after a packet."""
STATUS_BYTES = 1
"""Number of bytes of the status, with which a reply's payload begins."""
GROUP_BYTES = 8
"""Number of bytes in a group, and of groups in a block: the units into which :func:`pack_zeros`
divides rows to pack them."""
BLOCK_BYTES = GROUP_BYTES * GROUP_BYTES
"""Number of bytes in a block, the larger unit into which :func:`pack_zeros` divides rows."""
DEFAULT_BAUD = 1_000_000
"""Rate of the serial line after a reset, in bits per second. The USB bridges of the known boards
produce it exactly, except for some firmware of the Tang Nano 20K's BL616."""
BREAK_BAUD = 9600
"""Rate in bits per second at which the host sends a zero byte, which the device receives as a
break."""
TRIAL_CYCLES = 1 << 24
"""Number of clock cycles for which a new rate is on trial: 0.4 s at 40 MHz. If no undamaged frame
arrives in this time, the device falls back to :data:`DEFAULT_BAUD`."""

_END = bytes([END])
_ESCAPE = bytes([ESCAPE])
_ESCAPED_END = bytes([ESCAPE, END ^ ESCAPE_XOR])
_ESCAPED_ESCAPE = bytes([ESCAPE, ESCAPE ^ ESCAPE_XOR])


class Opcode(enum.IntEnum):
    """Opcode of a frame: the kind of a request, or the announcement DONE.

    A reply has the opcode of its request, with the bit :data:`REPLY` set.
    """

    IDENTIFY = 0x01
    WRITE = 0x02
    READ = 0x03
    RUN = 0x04
    STATUS = 0x05
    ABORT = 0x06
    DONE = 0x07
    """Message that a run has ended; only the device sends it."""
    CHECK = 0x08
    RATE = 0x09
    WRITE_PACKED = 0x0A
    """A WRITE whose rows are packed (:func:`pack_zeros`)."""


BARE = frozenset({Opcode.IDENTIFY, Opcode.STATUS, Opcode.ABORT})
"""Requests without a payload."""


class Status(enum.IntEnum):
    """Outcome of a request, the first byte of its reply's payload."""

    OK = 0
    BAD_OPCODE = 1
    BAD_LENGTH = 2
    """The payload has the wrong length for its opcode or for the rows that it addresses, its packed
    rows are malformed, or the reply would be longer than a frame may be."""
    BAD_SPACE = 3
    """The space does not exist, or it is read-only and the request is a WRITE."""
    BAD_ADDRESS = 4
    """A row, or a number of rows, lies outside its space."""
    BUSY = 5
    """The request would disturb a run in progress or a waiting run, or it is a RUN while another
    one waits."""
    WAS_RESET = 6
    """The device was reset since the last ABORT, so that its memories may have changed."""
    MISMATCH = 7
    """The rows of a CHECK have a CRC other than the expected one."""


class Space(enum.IntEnum):
    """Memories of the device that the host can read or write.

    A memory is addressed by rows; the text under each member says what a row contains.
    """

    WEIGHT = 0
    """Rows of ``lanes`` weights, lane 0 in the lowest bits; or parts of the layers' descriptors,
    low word first. Row ``r`` is row ``r // banks`` of bank ``r % banks``."""
    PARAM = 1
    """Rows of ``fire_lanes`` pairs of bias and threshold, each with the layout :class:`Neuron`."""
    SPIKE = 2
    """Rows of one byte of spikes, called a granule. Row ``r`` is granule ``r // banks`` of bank ``r
    % banks``; granule ``i`` holds bits ``8*i`` to ``8*i+7`` of the bank's spikes. Writable during a
    run."""
    RESULT = 3
    """Rows of ``fire_lanes`` logits of the run that ended last, each sign-extended to 32 bits.
    Read-only."""
    COUNTER = 4
    """:class:`LayerCounters` of the run that ended last, in the order in which the layers ran, each
    in ``Config.counter_rows`` rows. Read-only."""
    OFFCHIP = 5
    """Rows as long as those of WEIGHT, in memory outside the FPGA, on devices that have it
    (:func:`spaces`). Row ``r`` is row ``r // banks`` of bank ``r % banks``. A row of this memory is
    a row of weights or a part of a row of parameters, which takes ``Config.param_chunks`` rows."""


WRITABLE = frozenset({Space.WEIGHT, Space.PARAM, Space.SPIKE, Space.OFFCHIP})
"""Spaces that the host can write."""


def spaces(config: Config) -> tuple[Space, ...]:
    """Return the memories that a device built with ``config`` has."""
    return tuple(space for space in Space if space != Space.OFFCHIP or config.offchip_depth)


class Address(data.Struct):
    """Address of a row: one of the memories in :class:`Space`, and the index of the row in it."""

    row: 24
    space: 8


class Rows(data.Struct):
    """Arguments of WRITE, WRITE_PACKED, READ and CHECK: the rows that are written or read.

    There are ``n_rows`` of them, the first at ``address``. The rows of a WRITE follow the arguments
    in its payload, those of a READ follow the status in the payload of the reply; no payload is
    longer than ``max_payload_bytes``.
    """

    address: Address
    n_rows: 16


class Run(data.Struct):
    """Arguments of RUN: the layers to run, the rows that its DONE frame returns, and its tag.

    ``entry`` is the row of :attr:`Space.WEIGHT` at which the first descriptor begins. The DONE
    frame carries the first ``n_result_rows`` rows of RESULT and ``n_counter_rows`` rows of COUNTER.
    """

    entry: 24
    n_result_rows: 8
    n_counter_rows: 8
    tag: 8


class Rate(data.Struct):
    """Argument of RATE: the number of clock cycles per bit, less one. It is at least 3."""

    divisor_less_1: 8
    reserved: 40


class RunState(enum.IntEnum):
    """State of the device, as reported in :class:`DeviceStatus`."""

    IDLE = 0
    RUNNING = 1
    """A run is in progress, or waits to start."""
    DONE = 2
    """No run is in progress, and the result of the last one is available."""


class Result(data.Struct):
    """Result of a run: its tag, the predicted class and its duration in clock cycles.

    The predicted class ``argmax`` is the index of the first largest logit.
    """

    tag: 8
    argmax: 16
    reserved: 8
    n_cycles: 32


class DeviceStatus(data.Struct):
    """Reply to STATUS: state of the device (a :class:`RunState`), and its counts of errors since
    the last reset."""

    result: Result
    """Result of the run that ended last; undefined if none has ended since the last ABORT."""
    n_bad_frames: 16
    """Number of frames dropped because of a wrong CRC or length, modulo 2**16."""
    n_overruns: 16
    """Number of bytes lost because the receive buffer was full or a stop bit was missing, modulo
    2**16."""
    state: 8


class Identity(data.Struct):
    """Reply to IDENTIFY: name and hash of the device, and fields of its :class:`hw.spec.Config`.

    ``spec_hash`` is the hash of everything that host and device must agree on.
    """

    magic: 32
    protocol_version: 16
    lanes: 16
    spec_hash: 64
    weight_bits: 8
    fire_lanes: 8
    membrane_bits: 8
    sum_bits: 8
    pixels: 4
    banks: 4
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
    """Name of the configuration in ASCII, padded with zero bytes to 16 bytes."""


class Extension(data.Struct):
    """Second part of the reply to IDENTIFY, which a device sends only if a field is not 0.

    The fields are those of :class:`hw.spec.Config` with the same names.
    """

    offchip_depth: 32
    offchip_row_cycles: 8
    packed_writes: 8
    weight_registers: 8
    half_rows: 8
    direct_timesteps: 8
    reserved: 56


class LayerCounters(data.Struct):
    """Counters of one layer in one run: clock cycles, rows of weights read, operations and spikes.

    ``n_synaptic_ops`` is the number of times that a weight was added for an output neuron; unused
    lanes do not count. ``n_spikes`` is the number of spikes written to the layer's output map.
    """

    n_cycles: 32
    n_weight_reads: 32
    n_synaptic_ops: 32
    n_spikes: 32


class Level(data.Struct):
    """One loop of a layer's loop nest: its number of iterations, and an increment for each memory
    address.

    The nest (:class:`hw.core.nest.LoopNest`) generates all memory addresses of a layer. When this
    loop advances and all inner loops start again, each increment is added to its address, which
    wraps at its width. No field crosses a 32-bit word.
    """

    source: signed(20)
    """Increment of the address of input spikes, in bits."""
    last: 12
    """Number of iterations, less one."""
    identity: signed(16)
    """Increment of the address of identity spikes (those of the shortcut), in granules (bytes of
    spikes)."""
    slot: signed(6)
    reserved: 10
    weight: signed(20)
    reserved2: 12
    target: signed(16)
    """Increment of the address of output spikes, in granules (bytes of spikes)."""
    param: signed(16)


N_PIECES = 4
"""Number of pieces of a chunk for which a descriptor has numbers. A chunk is the inputs that a bank
reads in one cycle, a piece :data:`hw.spec.PIECE_BITS` of them. A device whose chunks have fewer
pieces ignores the numbers of the others."""


class Header(data.Struct):
    """Fixed part of a layer's descriptor; the levels (loops) of the layer's loop nest follow it.

    A field whose name ends in ``_levels`` is a mask, in which bit ``i`` stands for level ``i``. No
    field crosses a 32-bit word. The initial addresses are at the same offsets as the increments in
    a :class:`Level`.
    """

    source: 20
    """Address of the first window of input spikes, in bits."""
    spacing: 8
    """Smallest number of cycles between the starts of two successive jobs (output positions,
    channel groups and timesteps) in the fire unit, at least 1."""
    leak_shift: 4
    """First shift of the leak (:class:`hw.spec.Leak`)."""
    identity: 16
    no_slot: 6
    """Index of the membrane slot (:attr:`hw.spec.Config.membrane_slots`) in the first iteration,
    always 0."""
    n_levels: 4
    """Number of levels (loops) that follow the header. The remaining levels, up to ``N_LEVELS`` in
    total, have one iteration each."""
    leak: Leak
    output: 1
    """Whether this is the output layer: its logits are written to the results, and ``target``
    counts their rows."""
    final: 1
    """Whether this is the last layer of the run, after which the argmax of the logits is
    computed."""
    pixels: 1
    """Whether the layer takes pixels. If it does, the first ``N_PLANES / banks`` iterations of the
    level of timesteps process the bit-planes of a pixel map (:data:`hw.spec.N_PLANES`). Each bank
    takes one plane per iteration; bank 0 takes the highest plane in the first iteration. The
    remaining iterations are the timesteps, all of which use the sum of the planes."""
    reserved: 1
    weight: 20
    gate: Gate
    granule_rows: 2
    """Base-2 logarithm of the number of rows of weights per granule (byte of spikes). It is 3 if
    all 8 bits of a granule are inputs. It is 0, 1 or 2 if only the lowest 1, 2 or 4 bits are inputs
    and the other bits are always 0."""
    reset: Reset
    leak_shift2: 4
    """Second shift of the leak, or 0 if the leak has only one shift. A device without
    :attr:`hw.spec.Config.full_neurons` ignores the second and the third shift."""
    reserved2: 1
    target: 16
    """Address of the first granule (byte of spikes) of the output map; 0 in an output layer, which
    counts rows of results."""
    param: 16
    job_levels: 8
    """Mask of the levels (loops) over which the inputs of one output position are accumulated."""
    time_levels: 8
    """Mask of the level (loop) of timesteps; membranes start from 0 in its first iteration."""
    pool_levels: 8
    """Mask of the levels (loops) that go through a pooling window. The spikes of all their
    iterations are ORed."""
    tail_levels: 8
    """Mask of the levels (loops) that go through groups of output channels. In their last
    iteration, the group has only ``tail_lanes`` channels. A mask of 0 means that there is one
    group, which has ``tail_lanes`` channels."""
    tail_lanes: 8
    last_beat: 8
    """Number of beats (cycles of ``fire_lanes`` neurons each) that the fire unit needs for a group
    of output channels, less one."""
    n_classes: 12
    leak_shift3: 4
    """Third shift of the leak, or 0 if it has only two."""
    body_bits: data.ArrayLayout(8, N_PIECES)
    """Number of inputs in each piece of a chunk (:data:`N_PIECES`), at most
    :data:`hw.spec.PIECE_BITS`; the remaining bits of the piece are ignored."""
    tail_bits: data.ArrayLayout(8, N_PIECES)
    """The same as ``body_bits``, for the last chunk of a contiguous stretch of inputs. That chunk
    is read in the last iteration of level 0."""
    piece_rows: data.ArrayLayout(8, N_PIECES)
    """Offset of each piece of a chunk (:data:`N_PIECES`), in rows of spike memory, from the address
    that the piece would have if all pieces were contiguous."""
    piece_weights: data.ArrayLayout(8, N_PIECES)
    """Index of the row of weights for the first bit of each piece, relative to the row for the
    first bit of the chunk. A chunk is the inputs that a bank reads in one cycle; a piece is
    :data:`hw.spec.PIECE_BITS` of them."""


class Descriptor(data.Struct):
    """Description of a layer for the core: a header and the levels of a loop nest.

    The loop nest (:class:`hw.core.nest.LoopNest`) generates all memory addresses of the layer. A
    descriptor is stored in rows of :attr:`Space.WEIGHT`, low word first.
    """

    header: Header
    levels: data.ArrayLayout(Level, N_LEVELS)


class Neuron(data.Struct):
    """Bias and threshold of one neuron, as stored in parameter memory."""

    bias: signed(PARAM_BITS)
    threshold: signed(PARAM_BITS)


def n_bytes(layout: type[data.Struct]) -> int:
    """Return the number of bytes of the structure ``layout``, whose size must be a multiple of 8
    bits."""
    n_bits = data.Layout.cast(layout).size
    assert n_bits % 8 == 0, f"{layout.__name__} has {n_bits} bits"
    return n_bits // 8


IDENTITY_BYTES = n_bytes(Identity) + n_bytes(Extension)
"""Largest number of bytes of the reply in which a device describes itself
(:func:`identity_bytes`)."""
WORD_BYTES = 4
"""Number of bytes of a word of a descriptor."""
RESULT_BYTES = 4
"""Number of bytes of a logit, as sent to the host."""
DESCRIPTOR_WORDS = n_bytes(Descriptor) // WORD_BYTES
HEADER_WORDS = n_bytes(Header) // WORD_BYTES
LEVEL_WORDS = n_bytes(Level) // WORD_BYTES


def row_bytes(space: Space, config: Config) -> int:
    """Return the number of bytes of one row of the memory ``space``, as sent on the wire."""
    return {
        Space.WEIGHT: config.lanes * config.weight_bits // 8,
        Space.PARAM: config.fire_lanes * n_bytes(Neuron),
        Space.SPIKE: 1,
        Space.RESULT: config.fire_lanes * RESULT_BYTES,
        Space.COUNTER: n_bytes(LayerCounters) // config.counter_rows,
        Space.OFFCHIP: config.lanes * config.weight_bits // 8,
    }[space]


def n_rows(space: Space, config: Config) -> int:
    """Return the number of rows of ``space``, in all banks together."""
    return {
        Space.WEIGHT: config.banks * config.weight_depth,
        Space.PARAM: config.n_param_rows,
        Space.SPIKE: config.banks * config.spike_bytes,
        Space.RESULT: config.result_rows,
        Space.COUNTER: config.max_layers * config.counter_rows,
        Space.OFFCHIP: config.banks * config.offchip_depth,
    }[space]


def max_request_rows(config: Config) -> int:
    """Return the largest number of rows that one request can name."""
    return (1 << min(16, config.max_payload_bytes.bit_length())) - 1


def descriptor_rows(config: Config) -> int:
    """Return the number of rows of weight memory that a descriptor takes."""
    return -(-n_bytes(Descriptor) // row_bytes(Space.WEIGHT, config))


def pack(layout: type[data.Struct], values: dict) -> bytes:
    """Return a structure of type ``layout`` as little-endian bytes.

    Parameters
    ----------
    values : values of the fields by name; fields without a value are 0.
    """
    return layout.const(values).as_bits().to_bytes(n_bytes(layout), "little")


def unpack(layout: type[data.Struct], raw: bytes) -> data.Const:
    """Return the structure of type ``layout`` whose little-endian bytes are ``raw``.

    The fields of the structure are its attributes.

    Raises
    ------
    ValueError
        ``raw`` does not have the length of the structure.
    """
    if len(raw) != n_bytes(layout):
        raise ValueError(f"{layout.__name__} takes {n_bytes(layout)} bytes, not {len(raw)}")
    return layout.from_bits(int.from_bytes(raw, "little"))


def encode_frame(packet: bytes) -> bytes:
    """Return the bytes on the wire for a packet, which is ``seq``, opcode and payload.

    The CRC is appended to the packet, the bytes of both are escaped where necessary, and
    :data:`END` follows. In this example the last byte of the CRC happens to be :data:`END`, so that
    it is escaped:

    >>> encode_frame(bytes([7, Opcode.STATUS])).hex(" ")
    '07 05 b7 70 f2 7d 5e 7e'
    """
    body = packet + zlib.crc32(packet).to_bytes(CRC_BYTES, "little")
    return body.replace(_ESCAPE, _ESCAPED_ESCAPE).replace(_END, _ESCAPED_END) + _END


def decode_frame(raw: bytes) -> bytes | None:
    """Return the packet (``seq``, opcode, payload) of a frame, or None if the frame is damaged.

    ``raw`` has the bytes of the frame without the :data:`END`.

    >>> frame = encode_frame(b"packet").removesuffix(bytes([END]))
    >>> decode_frame(frame)
    b'packet'
    >>> decode_frame(frame.replace(b"a", b"b"))
    """
    # The byte after an escape is never an escape itself, so that pairs cannot overlap.
    body = raw.replace(_ESCAPED_END, _END).replace(_ESCAPED_ESCAPE, _ESCAPE)
    if len(body) < HEADER_BYTES + CRC_BYTES or zlib.crc32(body) != CRC_RESIDUE:
        return None
    return body[:-CRC_BYTES]


def opcodes(config: Config) -> tuple[Opcode, ...]:
    """Return the opcodes that a device built with ``config`` knows."""
    return tuple(op for op in Opcode if op != Opcode.WRITE_PACKED or config.packed_writes)


def pack_zeros(rows: bytes) -> bytes:
    """Return the packed form of rows, in which bytes of zero cost little.

    The rows are cut into blocks of :data:`BLOCK_BYTES` (64) bytes, and each block into groups of
    :data:`GROUP_BYTES` (8). A block begins with a byte whose bit ``i`` says that group ``i`` has a
    byte that is not 0. For each such group, in order, follow a byte whose bit ``j`` says that byte
    ``j`` of the group is not 0, and then the bytes that are not 0. The last block may be shorter.

    >>> pack_zeros(bytes(64) + bytes([0, 0, 5, 0, 6])).hex(" ")
    '00 01 14 05 06'
    """
    packed = bytearray()
    for start in range(0, len(rows), BLOCK_BYTES):
        at = len(packed)
        packed.append(0)
        for n in range(GROUP_BYTES):
            first = start + n * GROUP_BYTES
            group = rows[first : first + GROUP_BYTES]
            mask = sum(1 << i for i, byte in enumerate(group) if byte)
            if mask:
                packed[at] |= 1 << n
                packed.append(mask)
                packed += group.replace(b"\0", b"")
    return bytes(packed)


def is_extended(config: Config) -> bool:
    """Return whether a device built with ``config`` sends an :class:`Extension`."""
    return any(getattr(config, name) for name in _extended_fields())


def _extended_fields() -> list[str]:
    return [key for key, _ in data.Layout.cast(Extension) if key != "reserved"]


def _used_extension(config: Config) -> dict[str, int]:
    """Return the widths in bits, by name, of the fields of :class:`Extension` up to the last one
    that is not 0.

    The rest of the structure counts as reserved. So a new field at the end does not change the hash
    of a device that does not use it.
    """
    widths = {key: field.width for key, field in data.Layout.cast(Extension)}
    names = _extended_fields()
    while names and not getattr(config, names[-1]):
        del names[-1]
    return {name: widths[name] for name in names}


def _describe(layout: object) -> object:
    """Return a layout or an enumeration as nested dictionaries, lists and numbers, which
    :func:`spec_hash` can hash as JSON.
    """
    if isinstance(layout, type) and issubclass(layout, enum.Enum):
        return {member.name: member.value for member in layout}
    try:
        cast = data.Layout.cast(layout)
    except TypeError:
        return repr(layout)
    return {str(key): [field.offset, _describe(field.shape)] for key, field in cast}


def spec_hash(config: Config) -> int:
    """Return a 64-bit hash of everything that host and device must agree on.

    This is the configuration (except for its name, its clock frequency and its highest baud rate),
    the opcodes, memories and layouts, and the kinds of gate, leak and reset of a neuron. The names
    of layouts and fields enter the hash, too.
    """
    numbers = asdict(config)
    for free in ("name", "clk_hz", "baud"):
        del numbers[free]
    layouts = (Rows, Run, Rate, Result, DeviceStatus, Identity, LayerCounters, Descriptor)
    described = {layout.__name__: _describe(layout) for layout in layouts}
    # Leave out what the device does not have, so that its hash is that of older releases.
    used = _used_extension(config)
    if used:
        rest = n_bytes(Extension) * 8 - sum(used.values())
        described["Extension"] = _describe(data.StructLayout(used | {"reserved": rest}))
    for name in set(_extended_fields()) - set(used):
        del numbers[name]
    agreed = {
        "version": PROTOCOL_VERSION,
        "config": numbers,
        "enums": [
            {member.name: member.value for member in e}
            for e in (opcodes(config), Status, spaces(config), Gate, Leak, Reset, RunState)
        ],
        "layouts": described,
        "neuron": _describe(Neuron),
        "constants": [N_LEAK_SHIFTS, N_PLANES, PIECE_BITS],
        "crc": [CRC_POLYNOMIAL, CRC_INIT, CRC_XOR_OUT],
        "stuffing": [END, ESCAPE, ESCAPE_XOR],
        "rates": [DEFAULT_BAUD, TRIAL_CYCLES],
    }
    digest = hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _values_of(layout: type[data.Struct], config: Config) -> dict[str, int]:
    """Return the values of those fields that a structure and ``config`` have in common, by name."""
    return {
        key: getattr(config, key) for key, _ in data.Layout.cast(layout) if hasattr(config, key)
    }


def identity(config: Config) -> dict[str, int]:
    """Return the fields of :class:`Identity` for a device built with ``config``."""
    return _values_of(Identity, config) | {
        "magic": MAGIC,
        "protocol_version": PROTOCOL_VERSION,
        "spec_hash": spec_hash(config),
        "name": int.from_bytes(config.name.encode("ascii")[:16], "little"),
    }


def identity_bytes(config: Config) -> bytes:
    """Return the bytes with which a device built with ``config`` describes itself to the host.

    They are an :class:`Identity`, followed by an :class:`Extension` if one of its fields is not 0.
    """
    raw = pack(Identity, identity(config))
    return raw + (pack(Extension, _values_of(Extension, config)) if is_extended(config) else b"")


def parse_identity(raw: bytes) -> dict[str, int] | None:
    """Return the fields of a device's :class:`Identity` and :class:`Extension`, by name.

    If there is no extension, its fields are 0. Return None if the length of ``raw`` fits neither
    case.
    """
    fields: dict[str, int] = dict.fromkeys(_extended_fields(), 0)
    sizes = n_bytes(Identity), n_bytes(Extension)
    if len(raw) not in (sizes[0], sum(sizes)):
        return None
    parts: list[tuple[type[data.Struct], bytes]] = [(Identity, raw[: sizes[0]])]
    if len(raw) > sizes[0]:
        parts.append((Extension, raw[sizes[0] :]))
    for layout, part in parts:
        found = unpack(layout, part)
        fields |= {
            key: int(getattr(found, key))
            for key, _ in data.Layout.cast(layout)
            if key != "reserved"
        }
    return fields


def identity_name(fields: dict[str, int]) -> str:
    """Return the name of a device, from the fields that :func:`parse_identity` returns."""
    return fields["name"].to_bytes(16, "little").rstrip(b"\0").decode("ascii", "replace")
