"""Tests of programming a board: choice of programmer, its arguments, the board's identity."""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hw.boards.configs import config_by_name
from hw.protocol import Identity, Opcode, identity, pack
from hw.tools import build, flash, manifest
from hw.tools.command import EXIT_BAD_INPUT, EXIT_DEVICE
from hw.tools.flash import FlashError
from tests.hw.tools.fake_tools import FakeTools
from tests.hw.wire import checked, reply, stuffed

BOARD = "ulx3s-25f"


@pytest.fixture
def bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new bitstream; make an empty folder the only one in which programs are found."""
    FakeTools(tmp_path, monkeypatch)
    built = build.build(BOARD, n_seeds=1, progress=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return manifest.BITSTREAMS / built["bitstream"]


def install(tmp_path: Path, name: str, exit_code: int = 0) -> Path:
    """Install a fake programmer; return the file to which it writes its arguments."""
    log = tmp_path / f"{name}.log"
    program = tmp_path / "bin" / name
    program.write_text(f'#!/bin/sh\necho "$@" > {log}\nexit {exit_code}\n')
    program.chmod(0o755)
    return log


@contextmanager
def board(name: str, *, garbage: bytes = b"") -> Iterator[str]:
    """Yield a serial port on which a board of the configuration ``name`` answers IDENTIFY."""
    master, slave = pty.openpty()
    answer = reply(0, Opcode.IDENTIFY, pack(Identity, identity(config_by_name(name))))
    frame = garbage + stuffed(checked(answer)) + b"\x7e"

    def serve() -> None:
        received = b""
        try:
            while True:
                received += os.read(master, 100)
                if received.count(0x7E) >= 2:
                    os.write(master, frame)
                    received = b""
        except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(slave)
        thread.join()  # else its file descriptor might be reused while it reads
        os.close(master)


def test_the_first_installed_programmer_is_used(bitstream: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(FlashError, match="install openFPGALoader or fujprog"):
        flash.flash(BOARD)
    fujprog = install(tmp_path, "fujprog")
    assert flash.main([BOARD]) == 0
    assert fujprog.read_text() == f"{bitstream}\n"
    loader = install(tmp_path, "openFPGALoader")
    assert flash.main([BOARD]) == 0
    assert loader.read_text() == f"-b ulx3s {bitstream}\n"
    assert "is loaded" in capsys.readouterr().out


def test_board_names_with_weight_widths_and_unknown_boards(bitstream: Path, capsys) -> None:
    for name, message in (
        (f"{BOARD}/w2", f"there is no bitstream for {BOARD}/w2: build it with 'python -m hw.build"),
        ("de10", "unknown board 'de10': known are sim, ulx3s-85f"),
        ("sim", "sim is the virtual board: bitstreams are for ulx3s-85f"),
    ):
        assert flash.main([name]) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err
    bitstream.with_suffix(".json").rename(manifest.manifest_path(f"{BOARD}/w2"))
    assert flash.main([f"{BOARD}/w2"]) == EXIT_DEVICE
    assert f"no programmer for {BOARD}/w2 is installed" in capsys.readouterr().err


def test_errors_of_the_programmer_are_reported(bitstream: Path, tmp_path: Path, capsys) -> None:
    install(tmp_path, "openFPGALoader", exit_code=3)
    assert flash.main([BOARD]) == EXIT_DEVICE
    said = capsys.readouterr().err
    assert "error: openFPGALoader failed with exit code 3. Is the board plugged in" in said
    (tmp_path / "bin" / "openFPGALoader").write_text("#!/no/such/interpreter\n")
    assert flash.main([BOARD]) == EXIT_DEVICE
    assert "error: cannot start openFPGALoader: [Errno 2] No such file" in capsys.readouterr().err


def test_a_damaged_bitstream_is_not_programmed(bitstream: Path, tmp_path: Path, capsys) -> None:
    log = install(tmp_path, "openFPGALoader")
    bitstream.write_bytes(b"something else")
    assert flash.main([BOARD]) == EXIT_BAD_INPUT
    assert "is damaged" in capsys.readouterr().err
    assert not log.exists()


def test_the_board_is_asked_for_its_identity(bitstream: Path, tmp_path: Path) -> None:
    install(tmp_path, "openFPGALoader")
    with board(BOARD) as port:
        assert flash.flash(BOARD, port=port)["board"] == BOARD
    with board(BOARD, garbage=b"\x05\x01\x7e") as port:
        assert flash.identify(port)[0] == BOARD
    with board("icebreaker") as port, pytest.raises(FlashError, match="is 'icebreaker' with"):
        flash.flash(BOARD, port=port)


def test_a_board_that_does_not_answer(bitstream: Path, tmp_path: Path, monkeypatch) -> None:
    install(tmp_path, "openFPGALoader")
    monkeypatch.setattr(flash, "START_S", 0.2)
    master, slave = pty.openpty()
    try:
        with pytest.raises(FlashError, match=r"no board answers on "):
            flash.flash(BOARD, port=os.ttyname(slave))
    finally:
        os.close(master)
        os.close(slave)
    with pytest.raises(FlashError, match="cannot use /dev/no-such-port"):
        flash.flash(BOARD, port="/dev/no-such-port")
