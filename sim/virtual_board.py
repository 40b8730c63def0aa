"""The virtual board: the gateware of a board, simulated by Verilator behind a serial port.

Any program opens the port like that of a real board. The device's clock stands still while the
board is idle; otherwise it runs as fast as the machine allows. The baud rate that is set on the
port determines how many clock cycles a bit takes, as on a real board. If it differs from the
device's rate, neither side understands the other. A board with a serial port over USB is simulated
with a USB host at D+ and D- in place of the UART, see ``usb_host.hpp``.

The signal SIGUSR1 resets the device. SIGUSR2 prints numbers of cycles and bytes and the speed so
far as JSON on standard output; the option ``--stats`` prints the same at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from amaranth.lib import wiring

from hw.boards.configs import CONFIGS_HELP, config_by_name, has_usb, sdram_of
from hw.core.core import Core
from hw.spec import Config, SpecError
from hw.tools.portable import MODULE
from sim import sdram_model
from sim.verilate import ToolError, build_executable
from sim.virtual_top import VirtualTop
from sw.cli.commands import CommandParser, command

MAIN = Path(__file__).with_suffix(".cpp")
GATEWARE = Path(__file__).resolve().parents[1] / "hw"
NOT_SIMULATED = frozenset({"boards", "tools"})
"""Packages of ``hw`` that are no part of the simulated gateware."""


def _fingerprint(config: Config) -> str:
    """Return a text that changes whenever the gateware does: its sources and the configuration."""
    sources = [
        *sorted(path for path in GATEWARE.rglob("*.py") if path.parent.name not in NOT_SIMULATED),
        Path(__file__).with_name("virtual_top.py"),
    ]
    packages = [metadata.version(name) for name in ("luna-usb", "usb-protocol")]
    usb = packages if has_usb(config) else []
    return "\0".join(
        [repr(config), *usb, *(f"{path.name}\0{path.read_text()}" for path in sources)]
    )


def executable(
    config: Config,
    *,
    core: Callable[[], wiring.Component] | None = None,
    verilog: str | None = None,
) -> Path:
    """Return the path of the program that simulates a board, compiled unless it is in the cache.

    Parameters
    ----------
    core : function that makes a component to use in place of the core, for tests of the link.
    verilog : portable Verilog of the board (:mod:`hw.tools.portable`), which is simulated in place
        of the sources. This takes about twice as long per cycle.

    Raises
    ------
    sim.verilate.ToolError
        Yosys, Verilator or the C++ compiler is missing or failed.
    """
    name = f"board-{config.name.replace('/', '-')}"
    defines = {"CLK_HZ": config.clk_hz}
    if config.offchip_depth:
        defines |= sdram_model.defines(sdram_of(config), config.clk_hz)
    if has_usb(config):
        defines |= {"USB": 1}
    if verilog is not None:
        return build_executable(
            verilog, MAIN, name=name, top=MODULE, defines=defines | {"PORTABLE": 1}
        )
    return build_executable(
        lambda: VirtualTop(config, Core(config) if core is None else core()),
        MAIN,
        name=name,
        fingerprint=_fingerprint(config) if core is None else None,
        defines=defines,
    )


@contextmanager
def virtual_board(
    config: Config,
    *,
    core: Callable[[], wiring.Component] | None = None,
    verilog: str | None = None,
) -> Iterator[str]:
    """Run a virtual board within a ``with`` block, which gets the path of the board's serial port.

    The parameters are those of :func:`executable`.

    Raises
    ------
    sim.verilate.ToolError
        Yosys, Verilator or the C++ compiler is missing or failed.
    """
    with subprocess.Popen(
        [executable(config, core=core, verilog=verilog)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as board:
        assert board.stdout is not None
        try:
            yield board.stdout.readline().strip()
        finally:
            board.terminate()


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m sim.virtual_board",
        description="Run a virtual board and print its serial port. It ends with Ctrl-C, or when "
        "the\nprogram that started it ends.",
        epilog="examples:\n"
        "  python -m sim.virtual_board\n"
        "  python -m sim.virtual_board --config ulx3s-85f --link ttyV0 --stats\n"
        "  python -m sim.virtual_board --config mine.toml --verilog mine/mine.v",
    )
    parser.add_argument(
        "--config",
        default="sim",
        metavar="NAME",
        help=f"one of sim, {CONFIGS_HELP} (default: %(default)s)",
    )
    parser.add_argument(
        "--verilog",
        type=Path,
        metavar="FILE",
        help="simulate this Verilog, which 'python -m hw.build --verilog' wrote for the same "
        "configuration",
    )
    parser.add_argument("--link", type=Path, metavar="PATH", help="make PATH a link to the port")
    parser.add_argument(
        "--latency",
        type=float,
        default=0.0,
        metavar="MS",
        help="delay of a simulated USB adapter in each direction, in milliseconds of simulated "
        "time (default: 0)",
    )
    parser.add_argument(
        "--direct",
        action="store_true",
        help="take rows to write past the serial line from standard input, for the driver",
    )
    parser.add_argument(
        "--sdram",
        type=Path,
        metavar="FILE",
        help="keep the contents of the board's SDRAM in this file, which other processes may "
        "write while the board is idle",
    )
    parser.add_argument(
        "--vcd", type=Path, metavar="FILE", help="write a trace of D+ and D- of a board with USB"
    )
    parser.add_argument(
        "--usb-errors",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the USB packets that are damaged or lost (default: 0)",
    )
    parser.add_argument(
        "--stats", action="store_true", help="print cycles, bytes and speed as JSON at the end"
    )
    return parser


@command(SpecError, ToolError, OSError)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sim.virtual_board`` with the arguments ``argv``, and return its exit code."""
    arguments = _parser().parse_args(argv)
    link: Path | None = arguments.link
    config = config_by_name(arguments.config)
    if link is not None and os.path.lexists(link) and not link.is_symlink():
        raise FileExistsError(f"{link} exists and is no link: name a different path")
    verilog = None if arguments.verilog is None else arguments.verilog.read_text()
    program = executable(config, verilog=verilog)
    options = [
        f"--latency={arguments.latency / 1e3}",
        *["--stats"] * arguments.stats,
        *["--direct"] * arguments.direct,
    ]
    if arguments.vcd is not None:
        options.append(f"--vcd={arguments.vcd}")
    if arguments.usb_errors:
        options.append(f"--usb-errors={arguments.usb_errors}")
    if arguments.sdram is not None:
        options.append(f"--sdram={arguments.sdram}")
    if link is None:
        os.execv(program, [str(program), *options])
    with subprocess.Popen([program, *options], stdout=subprocess.PIPE, text=True) as board:
        assert board.stdout is not None
        port = board.stdout.readline().strip()
        try:
            link.unlink(missing_ok=True)
            link.symlink_to(port)
            print(link, flush=True)
            return board.wait()
        except KeyboardInterrupt:
            return board.wait()
        finally:
            if link.is_symlink() and str(link.readlink()) == port:
                link.unlink()
            board.terminate()


if __name__ == "__main__":
    # Exit in order, so that neither an ended compilation nor an ended board leaves files behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
