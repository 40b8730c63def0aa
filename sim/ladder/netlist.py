"""Netlists of the cells of an FPGA, read from the JSON files that Yosys and nextpnr write.

A pin with several bits is divided into pins of one bit each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from hw.tools.netlist import BuildError

Bit = int | str
"""Connection of a one-bit pin: the number of a net, or a constant ``"0"``, ``"1"`` or ``"x"``."""


class LadderError(BuildError):
    """Raised if a check of the ladder (:mod:`sim.ladder.rungs`) finds a difference, or cannot be
    done because simulation does not support something in a netlist or bitstream."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of an FPGA.

    Attributes
    ----------
    pins : net of each connected pin. The bits of a pin ``A`` with several bits are ``A_0``,
        ``A_1`` and so on.
    """

    name: str
    type: str
    parameters: dict[str, str] = field(default_factory=dict)
    pins: dict[str, Bit] = field(default_factory=dict)

    def number(self, parameter: str, default: int = 0) -> int:
        """Return the value of a parameter that is a binary number, in which bits ``x`` count as 0.

        If the cell does not have the parameter, return ``default``.
        """
        text = self.parameters.get(parameter, "").strip().replace("x", "0")
        return int(text, 2) if text else default

    def text(self, parameter: str, default: str = "") -> str:
        """Return the value of a parameter as text; ``default`` if the cell does not have the
        parameter."""
        return self.parameters.get(parameter, default).strip()

    def bus(self, pin: str, width: int, separator: str = "_") -> list[Bit | None]:
        """Return the nets of the bits of a pin, the lowest bit first; None for a bit that is not
        connected.

        ``separator`` stands between the pin's name and the number of a bit. It is empty for cells
        whose data sheet already names single bits as pins, such as ``DOA3``.
        """
        return [self.pins.get(f"{pin}{separator}{i}") for i in range(width)]


@dataclass(frozen=True, kw_only=True)
class Netlist:
    """Netlist of a whole device."""

    cells: list[Cell]
    ports: dict[str, Bit]
    """Net of each pin of the device, by the pin's name."""


def read_json(path: Path) -> Netlist:
    """Read the netlist that Yosys or nextpnr wrote to a JSON file.

    Raises
    ------
    LadderError
        The file has no module named ``top``.
    """
    module = json.loads(path.read_text())["modules"].get("top")
    if module is None:
        raise LadderError(f"{path} has no module 'top': build it again")
    return Netlist(
        cells=[
            Cell(
                name=name,
                type=cell["type"],
                parameters={key: str(value) for key, value in cell["parameters"].items()},
                pins=_single_bits(cell["connections"]),
            )
            for name, cell in module["cells"].items()
            if cell["type"] != "$scopeinfo"
        ],
        ports=_single_bits({name: port["bits"] for name, port in module["ports"].items()}),
    )


def _single_bits(connections: dict[str, list[Bit]]) -> dict[str, Bit]:
    """Return the net of each single bit by the bit's name, from the nets of pins of several
    bits."""
    return {
        name if len(bits) == 1 else f"{name}_{i}": bit
        for name, bits in connections.items()
        for i, bit in enumerate(bits)
    }
