"""A fake board in Python behind a pseudo terminal, for tests of the driver."""

from __future__ import annotations

import os
import select
import threading
import time
import tty

from hw.protocol import decode_frame, encode_frame
from hw.spec import Config
from tests.sw.fake_device import FakeGateware

CONFIG = Config(
    name="fake", rx_buffer_bytes=600, max_payload_bytes=128, weight_depth=512, fire_lanes=4
)


class FakeBoard(FakeGateware):
    """A board behind a pseudo terminal, in a thread. Its faults are attributes, which may change
    while it runs.

    Attributes
    ----------
    port : path of the pseudo terminal.
    max_pending_bytes : largest number of bytes that had arrived and were not answered yet.
    works_at : the only bit rate, besides the default rate, at which the board understands the host;
        None means that it understands the host at any rate.
    drop_replies, damage_replies : numbers of the replies to drop or damage, counted from 0.
    repeat_replies : whether every reply is sent twice.
    silent : whether requests are not answered.
    n_breaks_lost : number of breaks that will not be noticed.
    reply_delay_s : time in seconds before a request is answered.
    unplug_after : number of requests after which the port vanishes; None means never.
    """

    def __init__(self, config: Config = CONFIG):
        super().__init__(config)
        self.max_pending_bytes = 0
        self.works_at: int | None = None
        self.drop_replies: set[int] = set()
        self.damage_replies: set[int] = set()
        self.repeat_replies = False
        self.silent = False
        self.n_breaks_lost = 0
        self.reply_delay_s = 0.0
        self.unplug_after: int | None = None
        self.n_replies = 0
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self._slave: int | None = slave
        self.port = os.ttyname(slave)
        self._stop = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self._unplug()

    def _unplug(self) -> None:
        if self._slave is not None:
            os.close(self._master)
            os.close(self._slave)
            self._slave = None

    def _serve(self) -> None:
        received = bytearray()
        while not self._stop:
            if not select.select([self._master], [], [], 0.01)[0]:
                continue
            received += os.read(self._master, 4096)
            self.max_pending_bytes = max(self.max_pending_bytes, len(received))
            while b"\x7e" in received:
                raw, _, received = received.partition(b"\x7e")
                if raw == b"\0":  # a break
                    self.divisor = self.divisor if self.n_breaks_lost else None
                    self.n_breaks_lost = max(self.n_breaks_lost - 1, 0)
                packet = decode_frame(bytes(raw))
                if packet is None or self.silent or not self._understands():
                    continue
                if self.unplug_after is not None and len(self.requests) >= self.unplug_after:
                    self._unplug()
                    return
                time.sleep(self.reply_delay_s)
                for reply in self.answer(packet[0], packet[1], packet[2:]):
                    self._send(reply)

    def _understands(self) -> bool:
        if self.divisor is None or self.works_at is None:
            return True
        return round(self.config.clk_hz / self.works_at) == self.divisor

    def _send(self, packet: bytes) -> None:
        number = self.n_replies
        self.n_replies += 1
        frame = bytearray(encode_frame(packet))
        if number in self.drop_replies:
            return
        if number in self.damage_replies:
            frame[len(frame) // 2] ^= 1
        os.write(self._master, bytes(frame) * (2 if self.repeat_replies else 1))
