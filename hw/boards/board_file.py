"""Board files: descriptions, in TOML, of boards whose bitstream is made by the FPGA vendor's tool.

A board file names the board, its pins and clock, and the configuration of the core. A user can
write one for any board with an FPGA; those of :data:`SHIPPED` come with Spikefold. docs/any-fpga.md
explains every key. This module checks a file completely before anything is generated from it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from amaranth.lib import data

from hw.protocol import ARGUMENT_BYTES, DEFAULT_BAUD, Extension, Identity, row_bytes, spaces
from hw.spec import PARAM_BITS, Config, SpecError
from hw.text import did_you_mean

SUFFIX = ".toml"
"""Suffix of a board file's name."""
FILES = Path(__file__).with_name("files")
"""Folder of the board files that come with Spikefold."""
SHIPPED: tuple[str, ...] = tuple(sorted(path.stem for path in FILES.glob(f"*{SUFFIX}")))
"""Names of the boards whose board files come with Spikefold."""
MAX_BYTES = 1 << 16
"""Largest size of a board file; a real one has about one kilobyte."""
MAX_BAUD_ERROR = 0.02
"""Largest accepted relative error of the serial line's rate, which the device derives from its
clock by an integer divisor. A UART with 8 data bits tolerates about twice this error."""
TOOLS = ("vivado", "quartus")
"""Vendor tools for which constraints and scripts can be generated."""

_CORE = {field.name for field in fields(Config)} - {"name", "offchip_depth", "offchip_row_cycles"}
_TABLES = {
    "": {"name", "tool", "part", "luts", "block_ram_kbit"},
    "clock": {"pin", "hz"},
    "reset": {"pin", "active"},
    "uart": {"rx", "tx"},
    "led": {"pin", "active"},
    "io": {"standard"},
    "core": _CORE,
}
"""Keys that each table of a board file may have, by the table's name. The name ``""`` stands for
keys outside tables."""
_MAY_BE_ZERO = {
    *("sum_queue", "pixels", "packed_writes"),
    *("weight_registers", "half_rows", "direct_timesteps"),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,15}")
_PIN = re.compile(r"[A-Za-z0-9_]{1,16}")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class BoardFileError(SpecError):
    """Raised if a board file cannot be used; the message names the file, the key and what to do."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A pin of the FPGA, by its name in the vendor's tool.

    ``active_low`` says that a low level means "on", for example that a button is pressed.
    """

    name: str
    active_low: bool = False


@dataclass(frozen=True, kw_only=True)
class Board:
    """Description of a board, as read from its board file."""

    config: Config
    """Configuration of the core, which has the same name as the board."""
    tool: str | None = None
    """Vendor tool for which constraints and a script are written, one of :data:`TOOLS`. If it is
    None, only Verilog is written, and the board needs no pins."""
    part: str = ""
    """Name of the FPGA in the vendor's tool."""
    luts: int | None = None
    """Number of LUTs (Xilinx) or ALMs (Intel) of the FPGA; None if the file does not say."""
    block_ram_kbit: int | None = None
    """Total size of the FPGA's block RAM in units of 1,024 bits; None if the file does not say."""
    clock_hz: int
    """Frequency in Hz at the clock pin. If it is not ``config.clk_hz``, the top module that is
    written for the board contains a PLL."""
    clock: Pin | None = None
    reset: Pin | None = None
    """Button that resets the device; None if the board has none."""
    rx: Pin | None = None
    """Pin on which the FPGA receives serial data."""
    tx: Pin | None = None
    """Pin on which the FPGA sends serial data."""
    led: Pin | None = None
    """LED that shows activity; None if the board has none."""
    io_standard: str = ""
    """I/O standard of all pins, by its name in the vendor's tool."""

    @property
    def name(self) -> str:
        """Name of the board."""
        return self.config.name

    @property
    def pins(self) -> dict[str, Pin]:
        """Pins that the board has, by port name of the top module, such as ``uart_rx``."""
        every = {
            "clk": self.clock,
            "rst": self.reset,
            "uart_rx": self.rx,
            "uart_tx": self.tx,
            "led": self.led,
        }
        return {port: pin for port, pin in every.items() if pin is not None}


def memory_bits(config: Config) -> dict[str, int]:
    """Return the sizes in bits of the core's large memories, by their names.

    On the FPGA, these memories must be in block RAM.
    """
    return {
        "weights": config.banks * config.weight_depth * config.lanes * config.weight_bits,
        "spikes": config.banks * config.spike_bytes * 8,
        "parameters": config.param_depth * config.fire_lanes * 2 * PARAM_BITS,
    }


def load(path: Path, base: Config | None = None) -> Board:
    """Return the board that a board file describes.

    Parameters
    ----------
    base : configuration that the table ``[core]`` changes. None means the default values of
        :class:`Config`, except that ``baud`` is :data:`hw.protocol.DEFAULT_BAUD`, and ``clk_hz`` is
        the frequency at the clock pin if the file gives it.

    Raises
    ------
    BoardFileError
        The file cannot be read, is no TOML, or has unknown keys or values that cannot be used.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BoardFileError(
            f"{path} cannot be read: {error.strerror or error}. Name a board file, or one of the "
            f"boards {', '.join(SHIPPED)}"
        ) from error
    if len(content) > MAX_BYTES:
        raise BoardFileError(f"{path} has more than {MAX_BYTES} bytes: that is no board file")
    try:
        values = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise BoardFileError(f"{path} is no TOML file: {error}") from error
    try:
        return _board(values, base)
    except SpecError as error:
        raise BoardFileError(f"{path}: {str(error).replace('Config.', '[core] ')}") from error


def _board(values: dict[str, Any], base: Config | None) -> Board:
    _check_keys(values)
    top = _Table("", values)
    name = top.text("name", _NAME, "up to 16 lower-case letters, digits, '-' and '.'")
    if name is None:
        raise SpecError("the key 'name' is missing: give the board a name, such as name = \"mine\"")
    tool = top.text("tool")
    if tool is not None and tool not in TOOLS:
        raise SpecError(
            f"tool = {tool!r} is not known: use {' or '.join(TOOLS)}, or leave it out to get "
            "Verilog only"
        )
    clock, core, uart = (_Table.of(values, key) for key in ("clock", "core", "uart"))
    config, clock_hz = _config(name, core, clock, base)
    board = Board(
        config=config,
        tool=tool,
        part=top.text("part", _WORDS) or "",
        luts=top.number("luts"),
        block_ram_kbit=top.number("block_ram_kbit"),
        clock_hz=clock_hz,
        clock=clock.pin("pin"),
        rx=uart.pin("rx"),
        tx=uart.pin("tx"),
        reset=_Table.of(values, "reset").pin("pin", polarity=True),
        led=_Table.of(values, "led").pin("pin", polarity=True),
        io_standard=_Table.of(values, "io").text("standard", _WORDS) or "",
    )
    _check_pins(board)
    _check_baud(config)
    _check_rows(config)
    _check_memories(board)
    return board


def _shown(value: object) -> str:
    """Return a value of a board file as a text for a message, shortened if it is long."""
    if isinstance(value, int) and value.bit_length() > 100:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number in it has thousands of digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Table:
    """Table of a board file, whose methods return its values after checking them.

    They raise :class:`hw.spec.SpecError` for a value that cannot be used; the message names the
    key.
    """

    def __init__(self, name: str, values: dict[str, Any]):
        self._name = name
        self._values = values

    @classmethod
    def of(cls, values: dict[str, Any], name: str) -> _Table:
        """Return the table ``name`` of a board file with these ``values``.

        The table is empty if the file does not have it.
        """
        return cls(name, values.get(name, {}))

    def _where(self, key: str) -> str:
        return f"[{self._name}] {key}" if self._name else key

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def text(
        self, key: str, pattern: re.Pattern[str] | None = None, accepted: str = ""
    ) -> str | None:
        """Return the text of a key, or None if the file does not have the key.

        ``pattern`` must match the whole text; ``accepted`` says in the error message which texts
        match it.
        """
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
            wanted = accepted or "letters, digits, '_', '-', '.' and spaces"
            raise SpecError(f"{self._where(key)} = {_shown(value)} cannot be used: write {wanted}")
        return value

    def number(self, key: str, limit: int = 1 << 32) -> int | None:
        """Return the whole number of a key, or None if the file does not have the key.

        The number must be less than ``limit``. Only keys of :data:`_MAY_BE_ZERO` may be 0.
        """
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        least = 0 if key in _MAY_BE_ZERO else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < limit:
            raise SpecError(
                f"{self._where(key)} = {_shown(value)} cannot be used: write a whole number from "
                f"{least} to {limit - 1}"
            )
        return value

    def pin(self, key: str, *, polarity: bool = False) -> Pin | None:
        """Return the pin that a key names, or None if the file does not have the key.

        With ``polarity``, the table may also have the key ``active``, which is "high" or "low".
        """
        name = self.text(key, _PIN, "the name of a pin, such as W5")
        active = self.text("active") if polarity else None
        if active not in (None, "high", "low"):
            raise SpecError(
                f"{self._where('active')} = {active!r} cannot be used: write high or low"
            )
        if polarity and name is None and self._values:
            raise SpecError(f"{self._where('pin')} is missing: add it, or leave [{self._name}] out")
        return None if name is None else Pin(name=name, active_low=active == "low")


def _check_keys(values: dict[str, Any]) -> None:
    """Check that every key of a board file is known.

    Raises
    ------
    SpecError
        A key is unknown; the message suggests the key that may be meant.
    """

    def check(key: str, known: Iterable[str], where: str) -> None:
        if key not in known:
            advice = did_you_mean(key, known).strip() or f"use {', '.join(sorted(known))}"
            raise SpecError(f"unknown key {_shown(key)}{where}: {advice}")

    tables = _TABLES.keys() - {""}
    for key, value in values.items():
        check(key, _TABLES[""] | tables, "")
        if key in tables:
            if not isinstance(value, dict):
                raise SpecError(
                    f"{key} = {_shown(value)} cannot be used: [{key}] is a table of keys"
                )
            for inner in value:
                check(inner, _TABLES[key], f" in [{key}]")


def _config(name: str, core: _Table, clock: _Table, base: Config | None) -> tuple[Config, int]:
    """Return the configuration of the core, and the frequency in Hz at the clock pin.

    ``core`` and ``clock`` are the tables of these names; for ``base``, see :func:`load`.
    """
    fields_sent = dict(data.Layout.cast(Identity)) | dict(data.Layout.cast(Extension))
    widths = {key: fields_sent[key].width for key in _CORE}
    numbers = {key: core.number(key, 1 << widths[key]) for key in core}
    clock_hz = clock.number("hz")
    if base is None:
        base = Config(clk_hz=48_000_000, baud=DEFAULT_BAUD)
        if "clk_hz" not in core and clock_hz is not None:
            numbers["clk_hz"] = clock_hz
    config = replace(base, name=name, **numbers)
    return config, config.clk_hz if clock_hz is None else clock_hz


def _check_pins(board: Board) -> None:
    """Check that a board file has everything that the board's tool needs, and that no pin is used
    twice.

    Raises
    ------
    SpecError
        A pin, the part or the I/O standard is missing, or a pin is used twice. Or no tool is given,
        but the core's clock needs a PLL, for which the tool must be known.
    """
    if board.tool is None:
        if board.clock_hz != board.config.clk_hz:
            raise SpecError(
                f"[core] clk_hz = {board.config.clk_hz} needs a PLL to make it from [clock] hz = "
                f"{board.clock_hz}: use the same frequency for both, or say which tool's PLL to "
                f"use (tool = {' or '.join(map(repr, TOOLS))})"
            )
        return
    needed = {
        "part": board.part,
        "[clock] pin": board.clock,
        "[uart] rx": board.rx,
        "[uart] tx": board.tx,
        "[io] standard": board.io_standard,
    }
    missing = [key for key, value in needed.items() if not value]
    if missing:
        raise SpecError(f"tool = {board.tool!r} also needs {', '.join(missing)}: add them")
    users: dict[str, str] = {}
    for port, pin in board.pins.items():
        if (other := users.setdefault(pin.name.upper(), port)) != port:
            raise SpecError(
                f"the ports {other} and {port} have the same pin, {pin.name}: change one"
            )


def _check_baud(config: Config) -> None:
    """Check that the device can make the rates of the serial line by dividing its clock.

    Raises
    ------
    SpecError
        No whole divisor gives the default or the configured rate nearly enough
        (:data:`MAX_BAUD_ERROR`).
    """
    for what, baud in (("default rate", DEFAULT_BAUD), ("[core] baud", config.baud)):
        divisor = max(round(config.clk_hz / baud), 1)
        error = abs(config.clk_hz / divisor / baud - 1)
        if not 4 <= divisor <= 256 or error > MAX_BAUD_ERROR:
            raise SpecError(
                f"[core] clk_hz = {config.clk_hz} divided by an integer from 4 to 256 does not "
                f"give the {what} of {baud} baud to within {MAX_BAUD_ERROR:.0%}: use a clock that "
                f"is a multiple of {baud} Hz, such as {max(divisor, 4) * baud}"
            )


def _check_rows(config: Config) -> None:
    """Check that a frame of the serial line can carry a row of each memory.

    Raises
    ------
    SpecError
        A row is too long, so that the host could not write it.
    """
    longest = max((row_bytes(space, config), space.name) for space in spaces(config))
    needed = longest[0] + ARGUMENT_BYTES
    if needed > config.max_payload_bytes:
        raise SpecError(
            f"[core] max_payload_bytes = {config.max_payload_bytes} cannot hold a row of the "
            f"memory {longest[1]}, which has {longest[0]} bytes: use at least {needed}, and "
            "rx_buffer_bytes above it, or fewer lanes"
        )


def _check_memories(board: Board) -> None:
    """Check that the FPGA has enough block RAM for the core's large memories.

    Nothing is checked if the board file does not say how much the FPGA has.

    Raises
    ------
    SpecError
        The memories do not fit into the block RAM; the message suggests smaller ones.
    """
    if board.block_ram_kbit is None:
        return
    bits = memory_bits(board.config)
    available = 1024 * board.block_ram_kbit
    if sum(bits.values()) > available:
        row_bits = bits["weights"] // board.config.weight_depth
        depth = (available - bits["spikes"] - bits["parameters"]) // row_bits
        sizes = ", ".join(f"{name} {n / 1024:.0f}" for name, n in bits.items())
        advice = (
            f"use a weight_depth of less than {depth + 1}"
            if depth >= 2
            else "use fewer lanes or banks, or a smaller spike_bytes"
        )
        raise SpecError(
            f"the memories take {sum(bits.values()) / 1024:.0f} kbit ({sizes}), but block_ram_kbit "
            f"is {board.block_ram_kbit}: {advice}"
        )
