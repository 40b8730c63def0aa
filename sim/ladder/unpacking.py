"""Conversion of bitstream files to text, with the unpacking tool of each device family."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hw.tools.place import tool_command
from hw.tools.verilog import run_program

FILE, TEXT = "bits.bin", "bits.txt"
"""File names of the bitstream and of the text, in the temporary folder in which the tool runs."""


def unpacked(bitstream: Path, tool: str, *arguments: str) -> str:
    """Return the text into which a tool converts a bitstream file.

    Parameters
    ----------
    arguments : arguments of the tool, which reads :data:`FILE` and writes :data:`TEXT`.

    Raises
    ------
    BuildError
        The tool is missing, or it failed because the file is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="spikefold-") as folder:
        # The tool runs in a sandbox, which sees only files beside each other.
        Path(folder, FILE).write_bytes(bitstream.read_bytes())
        command = [*tool_command(tool), *arguments]
        run_program(command, f"unpacking {bitstream.name}", cwd=folder)
        return Path(folder, TEXT).read_text()
