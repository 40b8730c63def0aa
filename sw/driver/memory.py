"""Access to the memories of a device: read, write and verify them over the serial link.

:mod:`hw.protocol` explains the requests READ, WRITE and CHECK. On a CHECK, the device compares the
CRC of some rows of a memory with a CRC that the host has sent.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hw.protocol import (
    ARGUMENT_BYTES,
    BLOCK_BYTES,
    CRC_BYTES,
    STATUS_BYTES,
    Opcode,
    Rows,
    Space,
    Status,
    max_request_rows,
    pack,
    pack_zeros,
    row_bytes,
    unpack,
)
from hw.spec import Config
from sw.driver.errors import DeviceError, MemoryFault, RequestRefused
from sw.driver.transport import Reply, Request, Transport

CHECK_FRAMES = 8
"""Number of WRITE frames (messages with rows to write) whose rows one CHECK request compares. It is
small enough that the device finishes a CHECK before the requests after it fill the receive buffer.
"""

N_CHECKS_AHEAD = 2
"""Number of CHECK requests under way at a time: the board works on one while the reply to the other
travels."""

MAX_WRITES = 2
"""Number of times that rows are written before a memory that still differs is reported as faulty.
"""

Progress = Callable[[int], object]
"""Function that is called with the number of bytes transferred since its last call, like
``tqdm.update``."""


def packed_prefix(data: bytes, step: int, room: int) -> tuple[int, bytes]:
    """Return how many bytes of ``data`` can be packed into ``room`` bytes, and their packed form.

    The packed form (:func:`hw.protocol.pack_zeros`) leaves out zero bytes. ``data`` is packed
    ``step`` bytes at a time, as long as there is room, so the first result is a multiple of
    ``step`` or the length of ``data``. ``step`` must be a multiple of
    :data:`hw.protocol.BLOCK_BYTES`.
    """
    packed = b""
    for at in range(0, len(data), step):
        block = pack_zeros(data[at : at + step])
        if len(packed) + len(block) > room:
            return at, packed
        packed += block
    return len(data), packed


class Memory:
    """Access to the memories of a device. They are addressed in rows of bytes;
    :class:`hw.protocol.Space` lists the memories and what a row of each contains.

    Parameters
    ----------
    transport : connection that carries the requests.
    config : configuration of the device, which determines the sizes of rows and frames.
    """

    def __init__(self, transport: Transport, config: Config):
        self.transport = transport
        self.config = config

    def _rows(self, opcode: Opcode, space: Space, row: int, n: int, data: bytes = b"") -> Request:
        payload = pack(Rows, {"address": {"space": space, "row": row}, "n_rows": n}) + data
        n_reply_bytes = n * row_bytes(space, self.config) if opcode == Opcode.READ else 0
        what = f"{opcode.name} of {n} rows of {space.name} from row {row}"
        return Request(opcode, payload, n_reply_bytes, what)

    def _row_bytes_of(self, space: Space, data: bytes) -> int:
        """Return the number of bytes of a row of memory ``space``, after checking that ``data``
        consists of whole rows."""
        size = row_bytes(space, self.config)
        if len(data) % size:
            raise ValueError(
                f"{space.name} has rows of {size} bytes: {len(data)} bytes are not whole rows"
            )
        return size

    def write_requests(self, space: Space, row: int, data: bytes) -> list[Request]:
        """Return requests that write ``data`` to a memory, from row ``row`` on. Each request fits
        one frame. Rows are packed where that is shorter and the device takes packed rows.

        Raises
        ------
        ValueError
            ``data`` does not consist of whole rows.
        """
        size = self._row_bytes_of(space, data)
        room = self.config.max_payload_bytes - ARGUMENT_BYTES
        requests = []
        at = 0
        while at < len(data):
            part, opcode = data[at : at + room // size * size], Opcode.WRITE
            payload = part
            if self.config.packed_writes:
                most = at + max_request_rows(self.config) * size
                n, packed = packed_prefix(data[at:most], math.lcm(BLOCK_BYTES, size), room)
                if n >= len(part) and len(packed) < n:
                    part, opcode, payload = data[at : at + n], Opcode.WRITE_PACKED, packed
            n_rows = len(part) // size
            requests.append(self._rows(opcode, space, row + at // size, n_rows, payload))
            at += len(part)
        return requests

    def n_written_bytes(self, request: Request) -> int:
        """Return the number of bytes that a request of :meth:`write_requests` writes."""
        rows: Any = unpack(Rows, request.payload[:ARGUMENT_BYTES])
        return int(rows.n_rows) * row_bytes(Space(int(rows.address.space)), self.config)

    def read_requests(self, space: Space, row: int, n_rows: int) -> list[Request]:
        """Return requests that read ``n_rows`` rows of a memory, from row ``row`` on. The reply to
        each request fits one frame."""
        step = (self.config.max_payload_bytes - STATUS_BYTES) // row_bytes(space, self.config)
        return [
            self._rows(Opcode.READ, space, row + at, min(step, n_rows - at))
            for at in range(0, n_rows, step)
        ]

    def check_request(self, space: Space, row: int, data: bytes) -> Request:
        """Return a request by which the board checks that a memory holds ``data`` from row ``row``
        on. Only the CRC of ``data`` is sent. If the CRC of the memory's rows differs from it, the
        board refuses the request with :attr:`hw.protocol.Status.MISMATCH`."""
        return self._check_request(space, row, data, zlib.crc32(data))

    def wrong_check_request(self, space: Space, row: int, data: bytes) -> Request:
        """Return a request like :meth:`check_request`, with a CRC that ``data`` does not have. A
        board that accepts it does not compare CRCs."""
        return self._check_request(space, row, data, zlib.crc32(data) ^ 0xFFFFFFFF)

    def _check_request(self, space: Space, row: int, data: bytes, crc: int) -> Request:
        n_rows = len(data) // row_bytes(space, self.config)
        return self._rows(Opcode.CHECK, space, row, n_rows, crc.to_bytes(CRC_BYTES, "little"))

    def write(
        self, space: Space, row: int, data: bytes, on_progress: Progress | None = None
    ) -> None:
        """Write ``data`` to a memory, from row ``row`` on.

        ``on_progress`` is called with the number of bytes written since the previous call.

        Raises
        ------
        ValueError
            ``data`` does not consist of whole rows.
        RequestRefused
            The board refused a request, for example because a row does not exist or a run is in
            progress. The rows of other requests may have been written.
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        requests = self.write_requests(space, row, data)

        def on_reply(index: int) -> None:
            if on_progress is not None:
                on_progress(self.n_written_bytes(requests[index]))

        self.transport.exchange(requests, on_reply)

    def read(
        self, space: Space, row: int, n_rows: int, on_progress: Progress | None = None
    ) -> bytes:
        """Read ``n_rows`` rows of a memory, from row ``row`` on, and return their bytes.

        ``on_progress`` is called with the number of bytes read since the previous call.

        Raises
        ------
        RequestRefused
            The board refused a request, for example because a row does not exist or a run is in
            progress.
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        requests = self.read_requests(space, row, n_rows)

        def on_reply(index: int) -> None:
            if on_progress is not None:
                on_progress(requests[index].n_reply_bytes)

        return b"".join(self.transport.exchange(requests, on_reply))

    def fill(self, images: Mapping[Space, bytes], on_progress: Progress | None = None) -> int:
        """Bring memories to given contents: compare each with its image (its intended bytes from
        row 0 on), and write the sections that differ. Return the number of bytes written.

        Images are cut into sections (see :meth:`sections`). The board compares its memory with the
        CRC of one section at a time. A section that differs is written, and compared again. The
        comparison of the next sections goes on meanwhile. First of all, the board must refuse a
        wrong CRC: else a board that accepts any CRC would run with whatever its memories hold.

        Raises
        ------
        ValueError
            An image does not consist of whole rows.
        MemoryFault
            A section still differs after it was written :data:`MAX_WRITES` times, or the board
            accepts a wrong CRC.
        RequestRefused
            The board refused a request.
        LinkTimeout, LinkLost
            The board does not answer, or has been disconnected.
        """
        return _Fill(self, images, on_progress).run()

    def sections(self, space: Space, image: bytes) -> Iterator[Section]:
        """Yield the sections of the image of a memory (its intended bytes from row 0 on). A section
        is as long as the rows that :data:`CHECK_FRAMES` WRITE requests can carry, and the board
        compares it by one CHECK request. The last section may be shorter.

        Raises
        ------
        ValueError
            ``image`` does not consist of whole rows.
        """
        size = self._row_bytes_of(space, image)
        n_frame_rows = (self.config.max_payload_bytes - ARGUMENT_BYTES) // size
        step = CHECK_FRAMES * n_frame_rows * size
        for at in range(0, len(image), step):
            yield Section(space, at // size, image[at : at + step])


@dataclass(frozen=True)
class Section:
    """Data for consecutive rows of the memory ``space``, from the row with the index ``row`` on."""

    space: Space
    row: int
    data: bytes


class _Fill:
    """One execution of :meth:`Memory.fill`, which compares the board's memories with their intended
    contents, section by section, and writes the sections that differ.

    It keeps the sections that are still to be compared, the errors so far, and the number of bytes
    written.
    """

    def __init__(self, memory: Memory, images: Mapping[Space, bytes], on_progress: Progress | None):
        self.memory, self.transport = memory, memory.transport
        self.on_progress = on_progress
        self.sections = [section for image in images.items() for section in memory.sections(*image)]
        self.left = iter(self.sections)
        self.errors: list[DeviceError] = []
        self.n_written = 0

    def run(self) -> int:
        if self.sections:
            self._check_wrongly(self.sections[0])
        for _ in range(N_CHECKS_AHEAD):
            self._check_next()
        while not self.transport.idle:
            self.transport.step(time.monotonic() + 1.0)
        if self.errors:
            raise self.errors[0]
        return self.n_written

    def _check_wrongly(self, section: Section) -> None:
        """Ask the board to compare the first row of a section with a wrong CRC. The board must
        refuse this request: if it accepts any CRC, its comparisons prove nothing."""
        row = section.data[: row_bytes(section.space, self.memory.config)]
        request = self.memory.wrong_check_request(section.space, section.row, row)
        self.transport.submit(request, lambda reply: self._checked_wrongly(section, reply))

    def _checked_wrongly(self, section: Section, reply: Reply) -> None:
        if not isinstance(reply, DeviceError):
            self.errors.append(
                MemoryFault(
                    f"the board on {self.transport.port.port} accepts a wrong CRC for row "
                    f"{section.row} of {section.space.name}: it does not compare CRCs, so its "
                    "memories cannot be verified. Load its bitstream again, or use another board"
                )
            )
        elif not _is_mismatch(reply):
            self.errors.append(reply)

    def _check_next(self) -> None:
        if not self.errors and (section := next(self.left, None)) is not None:
            self._check(section, 0)

    def _check(self, section: Section, n_writes: int) -> None:
        """Ask the board to compare its memory with a section of the intended contents. ``n_writes``
        says how often this section has been written before."""
        request = self.memory.check_request(section.space, section.row, section.data)
        self.transport.submit(request, lambda reply: self._checked(section, n_writes, reply))

    def _checked(self, section: Section, n_writes: int, reply: Reply) -> None:
        differs = _is_mismatch(reply)
        if isinstance(reply, DeviceError) and not differs:
            self.errors.append(reply)
        elif differs and n_writes == MAX_WRITES:
            self.errors.append(self._fault(section))
        if n_writes == 0:
            self._check_next()
        if differs and not self.errors:
            self._write(section, n_writes)
            self._check(section, n_writes + 1)
        elif n_writes == 0:
            self._report(len(section.data))

    def _write(self, section: Section, n_writes: int) -> None:
        self.n_written += len(section.data) if n_writes == 0 else 0
        for request in self.memory.write_requests(section.space, section.row, section.data):
            n_bytes = self.memory.n_written_bytes(request) if n_writes == 0 else 0
            self.transport.submit(
                request, lambda reply, n_bytes=n_bytes: self._written(n_bytes, reply)
            )

    def _written(self, n_bytes: int, reply: Reply) -> None:
        if isinstance(reply, DeviceError):
            self.errors.append(reply)
        elif n_bytes:
            self._report(n_bytes)

    def _report(self, n_bytes: int) -> None:
        if self.on_progress is not None:
            self.on_progress(n_bytes)

    def _fault(self, section: Section) -> MemoryFault:
        n_rows = len(section.data) // row_bytes(section.space, self.memory.config)
        return MemoryFault(
            f"{section.space.name} of the board on {self.transport.port.port} does not hold what "
            f"was written to rows {section.row} to {section.row + n_rows - 1}, twice. Is its "
            "supply sound? Load its bitstream again, or use another board"
        )


def _is_mismatch(reply: Reply) -> bool:
    """Return whether the reply to a CHECK says that the rows have another CRC."""
    return isinstance(reply, RequestRefused) and reply.status == Status.MISMATCH
