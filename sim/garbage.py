"""``python -m sim.garbage``: an hour of garbage for the gateware's frame decoder.

An hour of a line at 1 Mbaud, the rate that a board begins with, is 360 million bytes. The verilated
decoder takes them without the serial line before it, which would take a day. Seconds of random
bytes, of short frames with many escapes, of a line that is stuck, and of whole frames with a bit
flipped take turns; after each comes an undamaged IDENTIFY, which must be handed on, and nothing
else may have been.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hw.boards.configs import CONFIGS
from hw.link.frame import FrameReceiver
from hw.protocol import DEFAULT_BAUD, Opcode, encode_frame
from sim.verilate import ToolError, build_executable

MAIN = Path(__file__).with_suffix(".cpp")
BYTES_PER_S = DEFAULT_BAUD // 10
HOUR_S = 3600
PACKET = bytes([0x7D, Opcode.IDENTIFY])


@dataclass(frozen=True)
class Outcome:
    """What the decoder did."""

    n_bytes: int
    n_dropped: int
    """Frames."""
    n_passed: int
    n_rounds: int
    n_answered: int
    """Undamaged frames that were handed on as they should be."""
    n_wrong: int
    """Seconds in which anything else was."""
    n_cycles: int


def run(n_seconds: int, seed: int = 0, n_second_bytes: int = BYTES_PER_S) -> Outcome:
    """Gives the decoder garbage of so many seconds.

    Raises
    ------
    sim.verilate.ToolError
        Yosys, Verilator or the C++ compiler is missing or failed.
    """
    program = build_executable(
        lambda: FrameReceiver(CONFIGS["sim"].max_payload_bytes), MAIN, name="garbage"
    )
    sizes = (str(n_seconds), str(n_second_bytes), str(seed))
    command = [str(program), *sizes, encode_frame(PACKET).hex(), PACKET.hex()]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return Outcome(**json.loads(done.stdout))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sim.garbage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m sim.garbage\n  python -m sim.garbage --seconds 60 --json\n\n"
        "exit codes: 0 every undamaged frame was handed on and nothing else, 1 not so",
    )
    parser.add_argument(
        "--seconds", type=int, default=HOUR_S, metavar="S", help=f"of a line at 1 Mbaud ({HOUR_S})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the garbage (0)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    try:
        outcome = run(arguments.seconds, arguments.seed)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(outcome.__dict__))
    else:
        print(
            f"{outcome.n_bytes:,} bytes: {outcome.n_dropped:,} frames dropped; of "
            f"{outcome.n_rounds:,} undamaged ones {outcome.n_answered:,} handed on; "
            f"{outcome.n_wrong:,} times anything else"
        )
    return 0 if outcome.n_answered == outcome.n_rounds and not outcome.n_wrong else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
