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
from amaranth.lib import data

from hw.boards.configs import BOARDS_HELP
from hw.boards.platforms import target
from hw.protocol import (
    BREAK_BAUD,
    DEFAULT_BAUD,
    END,
    HEADER_BYTES,
    MAGIC,
    REPLY,
    STATUS_BYTES,
    Identity,
    Opcode,
    decode_frame,
    encode_frame,
    n_bytes,
    unpack,
)
from hw.spec import SpecError
from hw.tools.command import EXIT_OK, CommandParser, ending, exit_codes
from hw.tools.manifest import load_manifest, manifest_path
from hw.tools.netlist import BuildError

START_S = 3.0
"""Longest time that a board may take to load its bitstream and answer."""

SETTLE_S = 0.005
"""Time for a serial adapter to send what it still holds when the operating system has sent all."""

_STDERR = 2
"""File descriptor for the programmer's output, since standard output is for ``--json``."""


class FlashError(RuntimeError):
    """Raised if the board does not run the bitstream; the message says what to do."""


def programmer(board: str) -> list[str]:
    """Return the command that programs a board, without the file name of the bitstream.

    Of the board's programmers, the first that is installed is used.

    Raises
    ------
    FlashError
        None of the board's programmers is installed.
    """
    commands = target(board).programmers
    for command in commands:
        if shutil.which(command[0]):
            return list(command)
    names = " or ".join(command[0] for command in commands)
    raise FlashError(
        f"no programmer for {board} is installed: install {names} (distributions have them as "
        f"packages), or load bitstreams/{load_manifest(board)['bitstream']} by other means"
    )


def identify(port: str) -> tuple[str, int]:
    """Return the name of the board on a serial port, and the hash of its gateware's interface.

    The hash is that of :func:`hw.protocol.spec_hash`.

    Raises
    ------
    FlashError
        The port cannot be opened, or no board answers on it.
    """
    end = bytes([END])
    # The leading end byte ends whatever the device may have taken for the start of a frame.
    frame = end + encode_frame(bytes([0, Opcode.IDENTIFY]))
    try:
        with serial.Serial(port, DEFAULT_BAUD, timeout=0.3, exclusive=True) as line:
            deadline = time.monotonic() + START_S
            while time.monotonic() < deadline:
                line.baudrate = BREAK_BAUD
                line.write(b"\0")  # brings a running board back to the default rate
                line.flush()
                time.sleep(SETTLE_S)
                line.baudrate = DEFAULT_BAUD
                line.write(frame)
                while raw := line.read_until(end):
                    if (identity := _parse(raw.rstrip(end))) is not None:
                        name = int(identity.name).to_bytes(16, "little").rstrip(b"\0")
                        return name.decode("ascii", "replace"), int(identity.spec_hash)
    except (OSError, ValueError) as error:
        raise FlashError(f"cannot use {port}: {error}") from error
    raise FlashError(
        f"no board answers on {port}. Is it the port of this board? Some boards load a new "
        "bitstream only after they have been unplugged"
    )


def _parse(raw: bytes) -> data.Const | None:
    """Return the :class:`hw.protocol.Identity` in a frame, or None if it has none or is damaged."""
    packet = decode_frame(raw)
    if packet is None or packet[1] != Opcode.IDENTIFY | REPLY:
        return None
    payload = packet[HEADER_BYTES + STATUS_BYTES :]
    if len(payload) != n_bytes(Identity):
        return None
    identity = unpack(Identity, payload)
    return identity if identity.magic == MAGIC else None


def flash(board: str, *, port: str | None = None) -> dict:
    """Program a board with its bitstream, and check its identity if ``port`` is given.

    Returns
    -------
    The bitstream's manifest.

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
    command = [*programmer(board), str(manifest_path(board).with_name(manifest["bitstream"]))]
    print(" ".join(command), file=sys.stderr)
    try:
        done = subprocess.run(command, check=False, stdout=_STDERR)
    except OSError as error:
        raise FlashError(f"cannot start {command[0]}: {error}") from error
    if done.returncode != 0:
        raise FlashError(
            f"{command[0]} failed with exit code {done.returncode}. Is the board plugged in, and "
            "may your user access it (udev rules)?"
        )
    if port is not None:
        config = manifest["config"]
        name, spec_hash = identify(port)
        if (name, f"{spec_hash:016x}") != (config["name"], manifest["gateware_hash"]):
            raise FlashError(
                f"the board on {port} is {name!r} with gateware {spec_hash:016x}, not "
                f"{config['name']!r} with {manifest['gateware_hash']}: it runs another bitstream"
            )
    return manifest


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m hw.flash",
        description="Program a board with its bitstream from bitstreams/, through openFPGALoader "
        "or the board's own programmer.",
        epilog="examples:\n"
        "  python -m hw.flash ulx3s-85f\n"
        "  python -m hw.flash icebreaker --port /dev/ttyUSB1    # and check its identity\n\n"
        + exit_codes(device=True),
    )
    parser.add_argument("board", metavar="BOARD", help=f"one of {BOARDS_HELP}")
    parser.add_argument("--port", help="serial port of the board, to check its identity afterwards")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    return parser


@ending(BuildError, SpecError, device=(FlashError,))
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m hw.flash`` with the arguments ``argv``, and return its exit code."""
    args = _parser().parse_args(argv)
    manifest = flash(args.board, port=args.port)
    if args.json:
        print(json.dumps(manifest, indent=2))
    else:
        answered = f", answers on {args.port}" if args.port else ""
        print(f"{args.board}: gateware {manifest['gateware_hash']} is loaded{answered}")
    return EXIT_OK
