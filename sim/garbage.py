"""Feed the gateware's frame decoder with random bytes, as many as fit into an hour on the line.

At 1 Mbaud, the rate that a board starts with, an hour is 360 million bytes. Verilator simulates the
decoder alone; with the UART in front of it, this would take a day. The kind of garbage changes
after every second of the line's time, in a cycle of four: random bytes, short frames with many
escapes, a line that is stuck most of the time, and whole frames with one bit flipped. An undamaged
IDENTIFY request follows each second: the decoder must pass it on, and nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from hw.boards.configs import CONFIGS
from hw.link.frame import FrameReceiver
from hw.protocol import DEFAULT_BAUD, Opcode, encode_frame
from sim.verilate import ToolError, build_executable
from sw.cli.commands import EXIT_NO, EXIT_OK, CommandParser, command, exit_codes

MAIN = Path(__file__).with_suffix(".cpp")
BYTES_PER_S = DEFAULT_BAUD // 10
"""Bytes per second on the line: a byte takes 10 bits with its start and stop bits."""
HOUR_S = 3600
PACKET = bytes([0x7D, Opcode.IDENTIFY])
"""Undamaged packet; its sequence number needs an escape."""


@dataclass(frozen=True)
class Outcome:
    """Counts of bytes and frames that the decoder received, dropped and passed on.

    Attributes
    ----------
    n_bytes, n_cycles : number of bytes fed, and of clock cycles simulated.
    n_dropped, n_passed : number of frames dropped, and of frames passed on.
    n_rounds : number of seconds of garbage, each followed by an undamaged frame.
    n_answered : number of undamaged frames that were passed on correctly.
    n_wrong : number of seconds of garbage in which something was passed on.
    """

    n_bytes: int
    n_dropped: int
    n_passed: int
    n_rounds: int
    n_answered: int
    n_wrong: int
    n_cycles: int


def run(n_seconds: int, seed: int = 0, n_second_bytes: int = BYTES_PER_S) -> Outcome:
    """Feed the decoder with ``n_seconds`` parts of ``n_second_bytes`` garbage bytes each.

    An undamaged frame follows each part. ``seed`` determines the garbage.

    Returns
    -------
    Counts of what the decoder dropped and passed on.

    Raises
    ------
    sim.verilate.ToolError
        Yosys, Verilator or the C++ compiler is missing or failed.
    """
    program = build_executable(
        lambda: FrameReceiver(CONFIGS["sim"].max_payload_bytes), MAIN, name="garbage"
    )
    sizes = (str(n_seconds), str(n_second_bytes), str(seed))
    call = [str(program), *sizes, encode_frame(PACKET).hex(), PACKET.hex()]
    done = subprocess.run(call, stdout=subprocess.PIPE, check=True, text=True)
    return Outcome(**json.loads(done.stdout))


@command(ToolError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sim.garbage`` with the arguments ``argv``, and return its exit code."""
    no = "an undamaged frame was lost, or something else was passed on"
    parser = CommandParser(
        prog="python -m sim.garbage",
        description=__doc__,
        epilog="examples:\n  python -m sim.garbage\n  python -m sim.garbage --seconds 60 --json\n\n"
        + exit_codes(no, done="all undamaged frames and nothing else were passed on"),
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=HOUR_S,
        metavar="S",
        help=f"duration of the garbage on a line at 1 Mbaud ({HOUR_S})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the garbage (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    outcome = run(arguments.seconds, arguments.seed)
    if arguments.json:
        print(json.dumps(asdict(outcome)))
    else:
        print(
            f"{outcome.n_bytes:,} bytes: {outcome.n_dropped:,} frames dropped; of "
            f"{outcome.n_rounds:,} undamaged ones {outcome.n_answered:,} passed on; "
            f"{outcome.n_wrong:,} times something else"
        )
    right = outcome.n_answered == outcome.n_rounds and not outcome.n_wrong
    return EXIT_OK if right else EXIT_NO


if __name__ == "__main__":
    sys.exit(main())
