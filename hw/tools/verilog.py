"""Convert Amaranth components to RTLIL and Verilog, with Yosys from the ``pyosys`` wheel."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from amaranth import Const, Value
from amaranth.back import rtlil
from amaranth.lib import wiring

from hw.tools.netlist import BuildError, no_garbage_collection

TOP = "top"
"""Default name of the top module."""


class ToolError(BuildError):
    """Raised if a tool is missing or fails; the message has its output or says what to install."""


def run_program(command: Sequence[str | Path], what: str, **kwargs) -> str:
    """Run a program, and return what it printed.

    Parameters
    ----------
    command : the program and its arguments.
    what : name of this step in messages.
    kwargs : further arguments of :func:`subprocess.run`.

    Raises
    ------
    ToolError
        The program cannot be started or failed; the message has the end of its output.
    """
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **kwargs,
        )
    except OSError as error:
        raise ToolError(f"{what}: cannot start {command[0]}: {error}") from error
    if done.returncode != 0:
        raise ToolError(f"{what} failed with exit code {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def run_yosys(script: Path, what: str) -> str:
    """Run a Yosys script in a process of its own, and return what it printed.

    Yosys keeps global state and prints to file descriptor 1, so it cannot run in this process.
    ``what`` names this step in messages.

    Raises
    ------
    ToolError
        The script failed.
    """
    program = (
        "import sys; from pyosys import libyosys as ys;"
        "ys.run_pass('script ' + sys.argv[1], ys.Design())"
    )
    return run_program([sys.executable, "-c", program, script], what)


def _without_zero_contents(text: str) -> str:
    """Return the RTLIL ``text`` without the initial contents of memories that start at zero.

    Verilator, and every FPGA's block RAM, starts at zero by itself. The initial contents would
    become a statement per row, which takes long to compile.
    """
    kept: list[str] = []
    cell: list[str] = []
    for line in text.splitlines(keepends=True):
        if cell or line.lstrip().startswith("cell $meminit_v2 "):
            cell.append(line)
            if line.strip() == "end":
                data = next(word for word in cell if word.lstrip().startswith("connect \\DATA "))
                if data.rstrip().rpartition("'")[2].strip("0"):
                    kept.extend(cell)
                cell = []
        else:
            kept.append(line)
    return "".join(kept)


@no_garbage_collection()
def to_rtlil(component: wiring.Component, *, emit_src: bool = False, name: str = TOP) -> str:
    """Return a component as RTLIL, the intermediate language of Yosys.

    The ports are the members of the component's signature, such as ``i__payload``, and ``clk`` and
    ``rst``. Memories that start at zero have no initial contents, because simulators and FPGAs
    start them at zero by themselves.

    Parameters
    ----------
    emit_src : include positions in the Python sources; the text then depends on their folder.
    name : name of the top module.
    """
    ports = {
        "__".join(map(str, path)): (Value.cast(value), None)
        for path, _, value in component.signature.flatten(component)
        if not isinstance(value, Const)  # the `ready` of a stream that never waits
    }
    text = rtlil.convert(component, name=name, ports=ports, emit_src=emit_src)
    return _without_zero_contents(text)


def verilog_of(text: str, passes: str) -> str:
    """Run Yosys passes on a design in RTLIL, and return the result as Verilog.

    Parameters
    ----------
    text : the design in RTLIL, the intermediate language of Yosys.
    passes : Yosys commands, one per line, which must turn processes into cells.

    Raises
    ------
    ToolError
        Yosys failed.
    """
    with tempfile.TemporaryDirectory(prefix="spikefold-") as folder:
        rtlil_path, verilog_path, script = (
            Path(folder, name) for name in ("top.il", "top.v", "top.ys")
        )
        rtlil_path.write_text(text)
        script.write_text(
            f"read_rtlil {rtlil_path}\n{passes}\nwrite_verilog -norename {verilog_path}\n"
        )
        run_yosys(script, "conversion to Verilog (pyosys)")
        return verilog_path.read_text()
