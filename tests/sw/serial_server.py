"""A server that gives clients access to a serial port over TCP, by RFC 2217 or as plain bytes."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import SimpleNamespace
from typing import Any

import serial
import serial.rfc2217

from hw.protocol import DEFAULT_BAUD


class _Line(serial.Serial):
    """Serial port on a pseudo terminal, which has no modem lines."""

    @property
    def cts(self) -> bool:
        return False

    @property
    def dsr(self) -> bool:
        return False

    @property
    def ri(self) -> bool:
        return False

    @property
    def cd(self) -> bool:
        return False

    def _update_rts_state(self) -> None:
        pass

    def _update_dtr_state(self) -> None:
        pass


class SerialServer:
    """Server that passes a serial port on to one client at a time, in a thread.

    Use it as a context manager.

    Parameters
    ----------
    path : path of the serial port.
    scheme : ``rfc2217`` or ``socket``.

    Attributes
    ----------
    address : address for clients, ``SCHEME://127.0.0.1:PORT``.
    bauds : rates to which a client has set the port, in order.
    refuses : rates that the server refuses to set.
    """

    def __init__(self, path: str, scheme: str):
        self._path, self._scheme = path, scheme
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.bauds: list[int] = []
        self.refuses: set[int] = set()
        self._client: socket.socket | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> SerialServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop = True
        self.disconnect()
        self._thread.join()
        self._listener.close()

    def disconnect(self) -> None:
        """End the connection to the client, like a network that fails."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while not self._stop:
            if not select.select([self._listener], [], [], 0.02)[0]:
                continue
            self._client, _ = self._listener.accept()
            line = _Line(self._path, DEFAULT_BAUD, timeout=0)
            with self._client, line, contextlib.suppress(OSError):
                self._pass_on(self._client, line)

    def _pass_on(self, client: socket.socket, line: serial.Serial) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        manager: Any = None
        if self._scheme == "rfc2217":
            observed: Any = _Observed(line, self)
            connection: Any = SimpleNamespace(write=client.sendall)
            manager = serial.rfc2217.PortManager(observed, connection)
        while not self._stop:
            ready, _, _ = select.select([client, line.fileno()], [], [], 0.02)
            if client in ready:
                raw = client.recv(4096)
                if not raw:
                    return
                if manager is not None:
                    raw = b"".join(manager.filter(raw))
                line.write(raw)
            if line.fileno() in ready:
                raw = line.read(4096)
                client.sendall(raw if manager is None else b"".join(manager.escape(raw)))


class _Observed:
    """Serial port that records the rates that a client sets, and refuses those in ``refuses``."""

    def __init__(self, line: serial.Serial, server: SerialServer):
        self.__dict__.update(_line=line, _server=server)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "baudrate":
            if value in self._server.refuses:
                raise ValueError(value)
            self._server.bauds.append(value)
        setattr(self._line, name, value)
