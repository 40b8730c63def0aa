"""The ``spikefold`` command, which runs every command of this package: ``spikefold NAME ...``."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import sys
import textwrap
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from hw.text import did_you_mean
from sw.cli.commands import EXIT_OK, CommandParser, called_through

GROUPS = {
    "run networks on boards": ("run", "monitor", "boards", "throughput", "flash"),
    "make networks": ("train", "export", "nir", "checkpoint"),
    "look at networks": ("report", "evaluate", "zoo"),
    "repeat experiments": ("experiments", "speed"),
    "build gateware": ("build", "area"),
}
"""Names of all commands, grouped as the help shows them."""

NAMES = [name for names in GROUPS.values() for name in names]
GATEWARE = frozenset({"build", "flash", "area"})
"""Commands of :mod:`hw.tools`; the others are in :mod:`sw.cli`."""

COMPLETION = f"""\
# Load this with: source <(spikefold completion bash)
_spikefold() {{
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{" ".join(NAMES)} --help --version" -- "${{COMP_WORDS[1]}}"))
    fi
}}
complete -o default -F _spikefold spikefold
"""


def module_of(name: str) -> str:
    """Return the name of the module whose ``main`` runs the command ``name``."""
    return f"hw.tools.{name}" if name in GATEWARE else f"sw.cli.{name}"


def summary_of(name: str) -> str:
    """Return the first sentence of a command's module docstring, without importing the module."""
    spec = find_spec(module_of(name))
    assert spec is not None and spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    text = re.sub(r"^``python -m [^`]*``: *", "", " ".join(docstring.split()))
    sentence = re.split(r"(?<=[^.])\.(?: |$)", text, maxsplit=1)[0].replace("``", "")
    return sentence[:1].upper() + sentence[1:]


def _listing() -> str:
    """Return the help's list of all commands: by group, each with a summary of a line or two."""
    width = max(map(len, NAMES))
    columns = min(shutil.get_terminal_size().columns, 100)
    lines = []
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        for name in names:
            lines += textwrap.wrap(
                summary_of(name),
                columns,
                initial_indent=f"  {name:<{width}}  ",
                subsequent_indent=" " * (width + 4),
            )
    return "\n".join(lines[1:])


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog=prog,
        usage=f"{prog} [-h] [--version] COMMAND ...",
        description="Run networks of spiking neurons on small FPGA boards, bit-exactly.\n"
        f"'{prog} COMMAND --help' explains a command.\n\n{_listing()}",
        epilog=f"""examples:
  {prog} run --board sim             the shipped network on the virtual board
  {prog} export ckpt.pt              a checkpoint to a network file
  source <({prog} completion bash)   complete commands in this shell""",
    )
    parser.add_argument("--version", action="version", version=metadata.version("spikefold"))
    return parser


def _unknown(name: str, prog: str) -> str:
    advice = did_you_mean(name, NAMES).strip() or f"{prog} --help lists the commands"
    return f"unknown command {name!r}: {advice}"


def main(argv: list[str] | None = None, prog: str = "spikefold") -> int:
    """Run the command that the first argument names, and return its exit code.

    Parameters
    ----------
    argv : arguments, beginning with the command's name; None means this process's arguments.
    prog : how the user called this program, for help and messages, such as ``python -m sw``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["completion"]:
        return _print_completion(arguments[1:], prog)
    if arguments and arguments[0] in NAMES:
        with called_through(prog):
            return importlib.import_module(module_of(arguments[0])).main(arguments[1:])
    parser = _parser(prog)
    if not arguments:
        parser.error(f"name a command: {prog} --help lists them")
    if not arguments[0].startswith("-"):
        parser.error(_unknown(arguments[0], prog))
    parser.parse_args(arguments)
    return EXIT_OK


def _print_completion(arguments: list[str], prog: str) -> int:
    parser = CommandParser(
        prog=f"{prog} completion",
        description="Print a script that completes commands in a shell.",
        epilog=f"example:\n  source <({prog} completion bash)",
    )
    parser.add_argument("shell", choices=("bash",))
    parser.parse_args(arguments)
    print(COMPLETION, end="")
    return EXIT_OK
