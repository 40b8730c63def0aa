"""Tests of programming a board: which program is chosen, its arguments, and the check of the board
that answers."""

from __future__ import annotations

import json
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from serial.tools import list_ports

from hw.boards.configs import config_by_name
from hw.boards.platforms import TARGETS
from hw.protocol import Identity, Opcode, identity, pack
from hw.tools import build, flash, manifest
from hw.tools.command import EXIT_BAD_INPUT, EXIT_DEVICE
from hw.tools.flash import FlashError
from tests.hw.tools.fake_tools import FakeTools
from tests.hw.wire import checked, reply, stuffed

BOARD = "ulx3s-25f"


@pytest.fixture
def bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a fake bitstream, and isolate the test from the machine.

    Programs are found only in an empty folder, and there are no serial ports.
    """
    monkeypatch.setattr(list_ports, "comports", list)
    FakeTools(tmp_path, monkeypatch)
    built = build.build(BOARD, n_seeds=1, progress=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return manifest.BITSTREAMS / built["bitstream"]


def install(tmp_path: Path, name: str, exit_code: int = 0, boards: str = "") -> Path:
    """Install a fake programming tool, and return the file to which it writes its arguments.

    The tool reports ``boards`` as its list of known boards, and ends with ``exit_code``.
    """
    log = tmp_path / f"{name}.log"
    program = tmp_path / "bin" / name
    program.write_text(
        f"""#!/bin/sh
case "$1" in
--list-boards) printf '%s ft2232\\n' {boards}; exit 0;;
-V) echo openFPGALoader v0.10.0; exit 0;;
esac
echo "$@" > {log}
exit {exit_code}
"""
    )
    program.chmod(0o755)
    return log


@contextmanager
def board(name: str, *, garbage: bytes = b"") -> Iterator[str]:
    """Yield a serial port on which a fake board answers IDENTIFY with the configuration ``name``.

    It sends the bytes ``garbage`` before its answer.
    """
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
    assert fujprog.read_text() == f"-j SRAM {bitstream}\n"
    loader = install(tmp_path, "openFPGALoader")
    assert flash.main([BOARD]) == 0
    assert loader.read_text() == f"-b ulx3s -m {bitstream}\n"
    said = capsys.readouterr().out
    assert "is in sram, which is lost at power-off\nnot checked: the board's serial port" in said
    assert flash.main([BOARD, "--to", "flash"]) == 0
    assert loader.read_text() == f"-b ulx3s -f {bitstream}\n"
    assert "is in flash, which is kept at power-off" in capsys.readouterr().out
    loader.unlink()
    (tmp_path / "bin" / "openFPGALoader").rename(tmp_path / "bin" / "openfpgaloader-cli")
    assert flash.main([BOARD, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] == "sram" and loader.exists()


@pytest.mark.parametrize("board", TARGETS)
def test_programmers_are_told_where_to_write(board: str, tmp_path: Path, monkeypatch) -> None:
    """Check that openFPGALoader is always told whether to write SRAM or flash.

    Its default depends on the board and on its version.
    """
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    install(tmp_path, "openFPGALoader")
    for memory, option in (("sram", "-m"), ("flash", "-f")):
        try:
            command, written = flash.programmer(board, memory)
        except FlashError as error:
            assert memory == "sram" and "as it is delivered: leave out --to" in str(error)
            continue
        assert command[:2] == ["openFPGALoader", "-b"] and command[-1] == option
        assert written == memory
    assert flash.programmer(board)[1] == ("flash" if board.startswith("ice") else "sram")


def test_a_programmer_that_does_not_know_the_board(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    install(tmp_path, "openFPGALoader", boards="ulx3s tangnano9k ice40_generic")
    with pytest.raises(FlashError, match=r"openFPGALoader v0.10.0 does not know .* tangnano20k: "):
        flash.programmer("tang-nano-20k")
    assert flash.programmer("ulx3s-85f")[0] == ["openFPGALoader", "-b", "ulx3s", "-m"]


def test_board_names_with_weight_widths_and_unknown_boards(bitstream: Path, capsys) -> None:
    for name, message in (
        (f"{BOARD}/w2", f"there is no bitstream for {BOARD}/w2: build it with 'python -m hw.build"),
        ("de10", "unknown board 'de10': did you mean 'de10-nano'? known are sim, ulx3s-85f"),
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


def test_the_port_of_the_board_is_found(
    bitstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    install(tmp_path, "openFPGALoader")
    monkeypatch.setattr(flash, "START_S", 1.0)
    with board(BOARD) as port, board("icebreaker") as other:
        ports = [
            usb("/dev/ttyUSB8", 0x1A86, 0x7523, "1-1"),  # some other device, which is not opened
            usb(other, 0x0403, 0x6015, "1-2"),
            usb(port, 0x0403, 0x6015, "1-3"),
        ]
        monkeypatch.setattr(list_ports, "comports", lambda: ports)
        assert flash.main([BOARD]) == 0
        assert f"the device answers on {port}\n" in capsys.readouterr().out
        del ports[2]
        assert flash.main([BOARD]) == EXIT_DEVICE
        assert f"the board on {other} is 'icebreaker' with" in capsys.readouterr().err


def test_the_port_may_come_back_late(tmp_path: Path) -> None:
    link = tmp_path / "port"
    with board(BOARD) as port:
        timer = threading.Timer(0.5, link.symlink_to, [port])
        timer.start()
        assert flash.identify(str(link), 10.0)[0] == BOARD
        timer.join()


def test_the_firmware_of_a_bridge_that_does_not_answer_is_said(monkeypatch) -> None:
    master, slave = pty.openpty()
    port = os.ttyname(slave)
    info = usb(port, 0x0403, 0x6010, "1-2:1.1", serial_number="2024122312")
    monkeypatch.setattr(list_ports, "comports", lambda: [info])
    try:
        with pytest.raises(FlashError, match=r"firmware 2024122312, which .* Update it to 2025"):
            flash.identify(port, 0.2)
        info.serial_number = "2025012315"
        with pytest.raises(FlashError, match=r"been unplugged\.$"):
            flash.identify(port, 0.2)
    finally:
        os.close(master)
        os.close(slave)


def usb(port: str, vid: int, pid: int, location: str, **more: str) -> SimpleNamespace:
    """Return a fake serial port with these USB properties, in the form in which pyserial lists
    ports."""
    values = {"serial_number": None, "description": "USB serial", "product": None} | more
    return SimpleNamespace(device=port, vid=vid, pid=pid, location=location, **values)


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
