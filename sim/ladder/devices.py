"""Checks of the netlists and bits of a board's FPGA.

They are the last rungs of the ladder (:mod:`sim.ladder.rungs`), a series of checks from the trained
network down to the bitstream that is flashed. The netlist after synthesis, the netlist after
routing, and the netlist that an iCE40's bits configure are converted to Verilog, which is
simulated. The bits of an ECP5 are compared with the routed design.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hw.spec import Config
from hw.tools.manifest import check_current, manifest_path
from hw.tools.netlist import BuildError, Netlist, netlist
from hw.tools.place import routed_netlist, synthesised
from sim.ladder import ecp5_bits, ecp5_cells, gowin_cells, ice40_bits, ice40_cells
from sim.ladder.boundary import Boundary, boundary
from sim.ladder.netlist import LadderError, read_json
from sim.ladder.netlist import Netlist as Cells

FAMILIES: dict[str, Callable[[Cells, Boundary], str]] = {
    "nextpnr-ice40": ice40_cells.verilog,
    "nextpnr-ecp5": ecp5_cells.verilog,
    "nextpnr-himbaechel-gowin": gowin_cells.verilog,
}
"""Function that converts a netlist to Verilog, for each place-and-route tool."""

ICE40, ECP5, GOWIN = FAMILIES
"""Names of the supported families of devices; each is the name of the family's place-and-route
tool."""


def family_of(manifest: dict) -> str:
    """Return the family of devices of a bitstream, from its manifest.

    It is the name of the tool that placed the bitstream, such as ``"nextpnr-ecp5"``.
    """
    return next(
        (name.removeprefix("yowasp-") for name in manifest["tools"] if "nextpnr" in name), ""
    )


@dataclass(frozen=True, kw_only=True)
class Build:
    """Sources of a board's gateware, and the bitstream that was built from them."""

    source: Netlist
    shipped: dict | None
    """Manifest of the bitstream; None if it was built from other sources, or does not exist."""
    stale: BuildError | None = None
    """Error that tells why :attr:`shipped` is None."""

    @classmethod
    def of(cls, board: str) -> Build:
        """Return the sources of a board's gateware, with the bitstream built from them, if there is
        one.

        Raises
        ------
        SpecError
            The board is unknown, or is one for which Spikefold makes no bitstream.
        """
        source = netlist(board)
        try:
            return cls(source=source, shipped=check_current(source))
        except BuildError as error:
            return cls(source=source, shipped=None, stale=error)

    @property
    def manifest(self) -> dict:
        """Manifest of the bitstream that was built from the present sources.

        Raises
        ------
        BuildError
            The board has no bitstream, or it is damaged or was built from other sources.
        """
        if self.shipped is None:
            assert self.stale is not None
            raise self.stale
        return self.shipped

    @property
    def config(self) -> Config:
        return self.source.config

    @property
    def bitstream(self) -> Path:
        """Path of the bitstream's file."""
        return manifest_path(self.source.board).with_name(self.manifest["bitstream"])

    @property
    def family(self) -> str:
        """Family of the device: the name of the tool that places it, see :data:`FAMILIES`."""
        return self.source.place[0]

    def verilog(self, path: Path) -> str:
        """Return the Verilog of the netlist in the JSON file ``path``.

        Raises
        ------
        LadderError
            The simulation does not support the family or something in the netlist.
        """
        if self.family not in FAMILIES:
            raise LadderError(f"netlists of {self.source.device} cannot be simulated")
        pins = boundary(self.source.board, self.config.clk_hz)
        return FAMILIES[self.family](read_json(path), pins)


def after_synthesis(build: Build) -> str:
    """Return the Verilog of the netlist after synthesis.

    The gateware is synthesised unless an earlier build has left the result.

    Raises
    ------
    BuildError
        The bitstream was built from another netlist.
    """
    return build.verilog(_synthesised(build) / "top.json")


def after_routing(build: Build) -> str:
    """Return the Verilog of the netlist after place and route.

    Place and route are repeated for this, because the shipped files do not contain that netlist.

    Raises
    ------
    LadderError
        The repeated place and route yields another bitstream than the shipped one.
    """
    folder, path = _routed(build)
    again = (folder / build.source.product).read_bytes()
    if again != build.bitstream.read_bytes():
        raise LadderError(f"built again, {build.bitstream.name} has other bytes")
    return build.verilog(path)


def _synthesised(build: Build) -> Path:
    """Return the folder with the netlist after synthesis.

    Raises
    ------
    BuildError
        The bitstream was built from another netlist.
    """
    if build.stale is not None:
        raise build.stale
    return synthesised(build.source, build.source.folder)


def _routed(build: Build) -> tuple[Path, Path]:
    """Repeat place and route of the shipped bitstream; return the folder with the new bitstream,
    and the path of the routed netlist."""
    return routed_netlist(build.source, _synthesised(build), build.manifest["seed"])


def compared_bits(build: Build) -> str:
    """Compare the bits of the shipped bitstream with the routed design, and return a summary.

    This is for ECP5 devices, whose bits are not turned into a netlist.

    Raises
    ------
    LadderError
        A setting differs, or the routed design is not that of the shipped bitstream.
    """
    # The build has left the configuration, unless its intermediate files were removed.
    source = build.source
    folder = source.folder / f"seed-{build.manifest['seed']}"
    if not folder.exists():
        folder, _ = _routed(build)
    if (folder / source.product).read_bytes() != build.bitstream.read_bytes():
        raise LadderError(f"{folder} is the result of another build than {build.bitstream.name}")
    routed = (folder / "top.config").read_text()
    return ecp5_bits.compare(routed, ecp5_bits.unpack(build.bitstream))


def of_bitstream(build: Build) -> str:
    """Return the Verilog of the netlist that the bits of an iCE40's shipped bitstream configure.

    Raises
    ------
    LadderError
        The bits use something of the device that is not supported.
    """
    options = build.source.place
    package = options[options.index("--package") + 1]
    constraints = build.source.files["top.pcf"]
    pins = dict(re.findall(r"^set_io (\S+) (\S+)$", constraints, re.MULTILINE))
    cells = ice40_bits.netlist(ice40_bits.unpack(build.bitstream), package, pins)
    return FAMILIES[build.family](cells, boundary(build.source.board, build.config.clk_hz))
