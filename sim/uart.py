"""UART for cocotb tests, at the pins of a device: 8 data bits, no parity, 1 stop bit."""

from __future__ import annotations

import random
from collections.abc import Iterable

import cocotb
from cocotb.handle import LogicObject
from cocotb.queue import Queue
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge


class UartSource:
    """Sender of bytes, which drives the device's pin ``rx``.

    Parameters
    ----------
    line : the pin, driven high when idle.
    clk : the device's clock.
    divisor : clock cycles per bit.
    """

    def __init__(self, line: LogicObject, clk: LogicObject, divisor: int):
        self.line, self.clk, self.divisor = line, clk, divisor
        self._pause = 0.0
        self._rng = random.Random(0)
        line.value = 1

    def set_pauses(self, probability: float, rng: random.Random) -> None:
        """Make the sender pause after each byte with this probability, for up to three byte
        times."""
        self._pause, self._rng = probability, rng

    async def send_bits(self, bits: Iterable[int]) -> None:
        """Drive the line with these levels, for one bit time each."""
        for bit in bits:
            self.line.value = bit
            await ClockCycles(self.clk, self.divisor)

    async def send(self, data: bytes) -> None:
        """Send whole bytes, back to back unless pauses are set."""
        for byte in data:
            await self.send_bits([0, *(byte >> i & 1 for i in range(8)), 1])
            if self._rng.random() < self._pause:
                await ClockCycles(self.clk, self._rng.randrange(1, 30 * self.divisor))


class UartSink:
    """Receiver that collects the bytes that the device sends on ``tx``, and checks every stop bit.

    Its parameters are those of :class:`UartSource`.
    """

    def __init__(self, line: LogicObject, clk: LogicObject, divisor: int):
        self.line, self.clk, self.divisor = line, clk, divisor
        self.bytes: Queue[int] = Queue()
        cocotb.start_soon(self._receive())

    async def _receive(self) -> None:
        while True:
            await FallingEdge(self.line)
            await ClockCycles(self.clk, self.divisor // 2, RisingEdge)
            byte = 0
            for i in range(9):
                await ClockCycles(self.clk, self.divisor, RisingEdge)
                bit = int(self.line.value)
                if i < 8:
                    byte |= bit << i
                else:
                    assert bit == 1, f"stop bit missing after byte 0x{byte:02x}"
            self.bytes.put_nowait(byte)

    async def read_until(self, delimiter: int) -> bytes:
        """Wait for the next ``delimiter`` byte, and return the bytes before it."""
        received = bytearray()
        while (byte := await self.bytes.get()) != delimiter:
            received.append(byte)
        return bytes(received)
