"""Test bench under cocotb that drives the core through its bus, and reads all results.

The bus has several *streams*, such as "write" and "done", each of which carries *payloads*. The
device's memories are read and written in *rows* (:class:`hw.protocol.Space`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge
from numpy.typing import NDArray

from hw.bus import row_write_layout
from hw.protocol import Address, Result, Run, Space, row_bytes
from sw.compile.program import Counters, Program


@dataclass(frozen=True)
class CoreRun:
    """Result of one inference, read from the device's memories.

    Attributes
    ----------
    argmax : predicted class.
    n_cycles : duration in clock cycles.
    logits : int64 (n_classes,).
    spikes : spikes of every feature map by its name, uint8 (T, C, H, W). If the device takes
        pixels, also the image's bit-planes, under :data:`sw.compile.program.PIXELS`.
    counters : counters of every layer by its name.
    """

    argmax: int
    n_cycles: int
    logits: NDArray[np.int64]
    spikes: dict[str, NDArray[np.uint8]]
    counters: dict[str, Counters]


class CoreBench:
    """Host model that loads and runs a program through the core's bus (:class:`hw.bus.CoreBus`).

    Parameters
    ----------
    dut : Verilog of :class:`hw.core.core.Core` with the program's configuration.
    program : compiled program to load and run. A run is one inference.
    stall : probability per cycle that the test bench keeps a stream of the bus waiting.
    """

    def __init__(self, dut: Any, program: Program, *, stall: float = 0.0):
        self.dut = dut
        self.program = program
        self.stall = stall
        self._write_layout = row_write_layout(program.config)

    async def reset(self) -> None:
        """Start the clock and reset the core."""
        dut = self.dut
        Clock(dut.clk, 10, unit="ns").start()
        for name in ("write__valid", "read__valid", "run__valid"):
            getattr(dut, f"bus__{name}").value = 0
        dut.bus__done__ready.value = 0
        dut.bus__abort.value = 0
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0

    async def _pause(self) -> None:
        while self.stall and random.random() < self.stall:
            await RisingEdge(self.dut.clk)

    async def put(self, stream: str, payloads: Iterable[int]) -> None:
        """Send payloads on the stream of the bus with this name, for example ``"write"``.

        A payload is given as an unsigned integer with the same bits.
        """
        valid, ready, payload = (
            getattr(self.dut, f"bus__{stream}__{wire}") for wire in ("valid", "ready", "payload")
        )
        for value in payloads:
            await self._pause()
            valid.value = 1
            payload.value = value
            await ReadOnly()
            while not ready.value:
                await RisingEdge(self.dut.clk)
                await ReadOnly()
            await RisingEdge(self.dut.clk)
            valid.value = 0

    async def get(self, stream: str) -> int:
        """Take one payload from the stream of the bus with this name, for example ``"done"``.

        Return the payload's bits as an unsigned integer.
        """
        valid, ready, payload = (
            getattr(self.dut, f"bus__{stream}__{wire}", None)
            for wire in ("valid", "ready", "payload")
        )
        if ready is not None:  # rows that are read have no ready: they must be taken at once
            await self._pause()
            ready.value = 1
        await ReadOnly()
        if not valid.value:
            await RisingEdge(valid)
            await ReadOnly()
        value = payload.value.to_unsigned()
        await RisingEdge(self.dut.clk)
        if ready is not None:
            ready.value = 0
        return value

    async def write(self, space: Space, row: int, image: bytes) -> None:
        """Write the bytes ``image`` into the memory ``space``, beginning at its row ``row``.

        The bytes must fill whole rows; :func:`hw.protocol.row_bytes` says how long a row is.
        """
        size = row_bytes(space, self.program.config)
        assert len(image) % size == 0
        await self.put(
            "write",
            (
                self._write_layout.const(
                    {
                        "address": {"space": space, "row": row + i},
                        "data": int.from_bytes(image[i * size : (i + 1) * size], "little"),
                    }
                ).as_bits()
                for i in range(len(image) // size)
            ),
        )

    async def read(self, space: Space, row: int, n_rows: int) -> bytes:
        """Return the bytes of ``n_rows`` rows of the memory ``space``, the first of them being row
        ``row``."""
        size = row_bytes(space, self.program.config)
        rows = []
        for i in range(n_rows):
            address = Address.const({"space": space, "row": row + i}).as_bits()
            await self.put("read", [address])
            value = await self.get("read_data")
            rows.append((value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))
        return b"".join(rows)

    async def load(self) -> None:
        """Write the program into all memories of the device, and clear spike memory."""
        for space, image in self.program.images.items():
            await self.write(space, 0, image)
        await self.write(Space.SPIKE, 0, bytes(self.program.spike_bytes))

    async def infer(self, sample: NDArray[np.uint8], *, tag: int = 0) -> CoreRun:
        """Run the program once, on one sample, and read its results from the device's memories.

        Parameters
        ----------
        sample : image or spikes, as :meth:`sw.compile.program.Program.pack_input` takes them.
        tag : number from 0 to 255 that identifies the run; the device reports it with the result.

        Returns
        -------
        The predicted class, the duration in cycles, the logits, the spikes of every map, and the
        counters of every layer.
        """
        program = self.program
        place = program.inputs[0]
        await self.write(Space.SPIKE, place.first_row, program.pack_input(sample))
        await self.put("run", [Run.const({"tag": tag, "entry": program.entries[0]}).as_bits()])
        result = Result.from_bits(await self.get("done"))
        assert result.tag == tag
        spikes = {
            name: place.unpack(await self.read(Space.SPIKE, place.first_row, place.n_rows))
            for name, place in program.placements.items()
        }
        counters = await self.read(Space.COUNTER, 0, program.n_counter_rows)
        return CoreRun(
            argmax=result.argmax,
            n_cycles=result.n_cycles,
            logits=program.logits(await self.read(Space.RESULT, 0, program.n_result_rows)),
            spikes=spikes,
            counters=program.counters(counters),
        )
