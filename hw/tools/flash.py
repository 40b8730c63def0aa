"""``python -m hw.flash``: program a board with its bitstream and check that the board runs it."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import serial
from serial.tools import list_ports

from hw.boards.configs import BOARDS_HELP
from hw.boards.platforms import OPEN_FPGA_LOADER, target
from hw.boards.usb import bridge_of, port_advice
from hw.protocol import (
    BREAK_BAUD,
    DEFAULT_BAUD,
    END,
    HEADER_BYTES,
    MAGIC,
    REPLY,
    STATUS_BYTES,
    Opcode,
    decode_frame,
    encode_frame,
    identity_name,
    parse_identity,
)
from hw.spec import SpecError
from hw.tools.command import EXIT_OK, CommandParser, ending, exit_codes
from hw.tools.manifest import load_manifest, manifest_path
from hw.tools.netlist import BuildError

START_S = 10.0
"""Longest time in seconds until the serial port of a programmed board is back and its device
answers."""

SETTLE_S = 0.005
"""Time in seconds for a serial adapter to send its remaining bytes, after the operating system has
sent all."""

RETRY_S = 0.2
"""Time in seconds between two attempts to open a port that is not back yet."""

_STDERR = 2
"""File descriptor to which the programming tool's output goes; standard output is kept for
``--json``."""

KEPT = {"sram": "which is lost at power-off", "flash": "which is kept at power-off"}
"""Memories of a board that can hold a bitstream; for each, a phrase that says whether the bitstream
is lost at power-off."""

_ALIASES = {OPEN_FPGA_LOADER: (OPEN_FPGA_LOADER, "openfpgaloader-cli")}
"""Names of executables by which a program may be installed, for programs with several."""


class FlashError(RuntimeError):
    """Raised if a board cannot be programmed or does not run the bitstream; the message says what
    to do."""


def _installed(name: str) -> str | None:
    """Return the name of the executable by which a program is installed, or None if it is not."""
    return next((alias for alias in _ALIASES.get(name, (name,)) if shutil.which(alias)), None)


def programmer(board: str, memory: str | None = None) -> tuple[list[str], str]:
    """Return the command that programs a board, and the memory that it writes (``"sram"`` or
    ``"flash"``).

    The bitstream's file name must be appended to the command. Of the programs that can program the
    board, the first that is installed is used.

    Parameters
    ----------
    memory : ``"sram"`` or ``"flash"``; None means SRAM if the board can be programmed in this way.

    Raises
    ------
    FlashError
        None of the board's programmers is installed or can write this memory, or the one that is
        installed does not know the board.
    """
    programmers = target(board).programmers
    wanted = memory or ("sram" if any(p.sram is not None for p in programmers) else "flash")
    able = [p for p in programmers if getattr(p, wanted) is not None]
    if not able:
        raise FlashError(
            f"{board} cannot be programmed into its {wanted} as it is delivered: leave out --to"
        )
    for one in able:
        name = _installed(one.name)
        if name is not None:
            _check_known(name, one.board)
            return [name, *getattr(one, wanted)], wanted
    names = " or ".join(p.name for p in able)
    raise FlashError(
        f"no programmer for {board} is installed: install {names} (distributions have them as "
        f"packages), or load bitstreams/{load_manifest(board)['bitstream']} by other means"
    )


def _check_known(name: str, board: str | None) -> None:
    """Check that the installed openFPGALoader supports a board.

    Raises
    ------
    FlashError
        openFPGALoader has a list of boards, and this board is not in it.
    """
    if board is None:
        return
    try:
        listed = subprocess.run(
            [name, "--list-boards"], capture_output=True, text=True, check=False
        )
        version = subprocess.run([name, "-V"], capture_output=True, text=True, check=False)
    except OSError:
        return  # the attempt to program the board will tell
    boards = {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    if listed.returncode == 0 and "ice40_generic" in boards and board not in boards:
        known = " ".join((version.stdout or version.stderr).split()) or name
        raise FlashError(
            f"the installed {known} does not know the board {board}: install a newer one. Debian "
            "12 has 0.10, the Tang Nano 20K needs 0.11; the newest is in the Python package "
            "openfpgaloader"
        )


def identify(port: str, wait_s: float | None = None) -> tuple[str, int]:
    """Return the name of the board on a serial port, and the hash of its gateware's interface.

    The hash is that of :func:`hw.protocol.spec_hash`. The port may be missing at first: some boards
    disconnect from USB while they are programmed.

    Parameters
    ----------
    wait_s : longest time to wait for the port and the answer, in seconds; None means
        :data:`START_S`.

    Raises
    ------
    FlashError
        The port cannot be opened, or no board answers on it.
    """
    deadline = time.monotonic() + (START_S if wait_s is None else wait_s)
    problem: Exception | None = None
    while True:
        try:
            with serial.Serial(port, DEFAULT_BAUD, timeout=0.3, exclusive=True) as line:
                problem = None
                while time.monotonic() < deadline:
                    if (found := _ask(line)) is not None:
                        return found
        except (OSError, ValueError) as error:
            problem = error
        if time.monotonic() >= deadline:
            break
        time.sleep(RETRY_S)
    if problem is not None:
        raise FlashError(f"cannot use {port}: {problem}") from problem
    raise FlashError(
        f"no board answers on {port}. Is it the port of this board? Some boards load a new "
        f"bitstream only after they have been unplugged.{port_advice(port)}"
    )


def _ask(line: serial.Serial) -> tuple[str, int] | None:
    """Ask the board on an open port once for its name and the hash of its gateware's interface.

    Returns both, or None if no valid answer arrives.
    """
    end = bytes([END])
    line.baudrate = BREAK_BAUD
    line.write(b"\0")  # brings a running board back to the default rate
    line.flush()
    time.sleep(SETTLE_S)
    line.baudrate = DEFAULT_BAUD
    # The leading end byte ends whatever the device may have taken for the start of a frame.
    line.write(end + encode_frame(bytes([0, Opcode.IDENTIFY])))
    while raw := line.read_until(end):
        if (identity := _parse(raw.rstrip(end))) is not None:
            return identity_name(identity), identity["spec_hash"]
    return None


def board_ports(board: str) -> list[str]:
    """Return the serial ports to which a board may be connected, judged by their USB bridges."""
    name = board.partition("/")[0]
    ports = []
    for info in list_ports.comports():
        bridge = bridge_of(info.vid, info.pid, info.location, info.product)
        if bridge is not None and name in bridge.boards:
            ports.append(info.device)
    return sorted(ports)


def _parse(raw: bytes) -> dict[str, int] | None:
    """Return the device's identity (:func:`hw.protocol.parse_identity`) from received bytes of a
    frame.

    Return None if the frame is damaged or holds no identity.
    """
    packet = decode_frame(raw)
    if packet is None or packet[1] != Opcode.IDENTIFY | REPLY:
        return None
    identity = parse_identity(packet[HEADER_BYTES + STATUS_BYTES :])
    return identity if identity is not None and identity["magic"] == MAGIC else None


def flash(board: str, *, port: str | None = None, memory: str | None = None) -> dict:
    """Program a board with its bitstream, and check the identity of the device that then runs.

    Parameters
    ----------
    port : serial port of the board; None means to look at all ports with the board's USB bridge.
    memory : see :func:`programmer`.

    Returns
    -------
    The bitstream's manifest, with ``memory``, the memory that was written, and ``port``, the port
    on which the device answered; None if the board has no port that could be found.

    Raises
    ------
    hw.tools.netlist.BuildError, hw.spec.SpecError
        The bitstream is missing or damaged, or the board is unknown.
    FlashError
        No programmer is installed, the programmer failed, or the board on ``port`` does not answer
        or runs another gateware.
    """
    target(board)
    manifest = load_manifest(board)
    options, memory = programmer(board, memory)
    command = [*options, str(manifest_path(board).with_name(manifest["bitstream"]))]
    print(" ".join(command), file=sys.stderr)
    try:
        done = subprocess.run(command, check=False, stdout=_STDERR)
    except OSError as error:
        raise FlashError(f"cannot start {command[0]}: {error}") from error
    if done.returncode != 0:
        advice = "".join(port_advice(found) for found in board_ports(board)[:1])
        raise FlashError(
            f"{command[0]} failed with exit code {done.returncode}. Is the board plugged in, and "
            f"may your user access it (udev rules)?{advice}"
        )
    return manifest | {"memory": memory, "port": _verified(manifest, port)}


def _verified(manifest: dict, port: str | None) -> str | None:
    """Return the port on which a device answers whose gateware is that of the manifest.

    ``port`` is the only port to try; if it is None, all ports with a USB bridge of the board are
    tried. The result is None if there is no such port.

    Raises
    ------
    FlashError
        No device answers, or only devices with other gateware do.
    """
    deadline = time.monotonic() + START_S
    ports = [port] if port is not None else board_ports(manifest["board"])
    expected = manifest["config"]["name"], manifest["gateware_hash"]
    problem = None
    for candidate in ports:
        try:
            name, spec_hash = identify(candidate, max(deadline - time.monotonic(), 0.5))
        except FlashError as error:
            problem = problem or error
            continue
        if (name, f"{spec_hash:016x}") == expected:
            return candidate
        problem = FlashError(
            f"the board on {candidate} is {name!r} with gateware {spec_hash:016x}, not "
            f"{expected[0]!r} with {expected[1]}: it runs another bitstream"
        )
    if problem is not None:
        raise problem
    return None


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m hw.flash",
        description="Program a board with its bitstream from bitstreams/, through openFPGALoader "
        "or the board's own\nprogrammer, and check that the device answers on its serial port.",
        epilog="examples:\n"
        "  python -m hw.flash ulx3s-85f\n"
        "  python -m hw.flash ulx3s-85f --to flash              # kept at power-off\n"
        "  python -m hw.flash icebreaker --port /dev/ttyUSB1    # if several are plugged in\n\n"
        + exit_codes(device=True),
    )
    parser.add_argument("board", metavar="BOARD", help=f"one of {BOARDS_HELP}")
    parser.add_argument(
        "--to",
        choices=tuple(KEPT),
        help="memory to write: sram is lost at power-off, flash is kept (sram, or flash for boards "
        "that only start from it)",
    )
    parser.add_argument(
        "--port", help="serial port on which the device must answer afterwards (found by itself)"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    return parser


@ending(BuildError, SpecError, device=(FlashError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m hw.flash`` with the arguments ``argv``, and return its exit code."""
    args = _parser().parse_args(argv)
    done = flash(args.board, port=args.port, memory=args.to)
    if args.json:
        print(json.dumps(done, indent=2))
        return EXIT_OK
    print(
        f"{args.board}: gateware {done['gateware_hash']} is in {done['memory']}, "
        f"{KEPT[done['memory']]}"
    )
    if done["port"] is not None:
        print(f"the device answers on {done['port']}")
    else:
        print("not checked: the board's serial port was not found; name it with --port")
    return EXIT_OK
