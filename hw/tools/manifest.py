"""Manifests, which describe how bitstreams were built, and a table of the boards that have one."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from hw.boards.configs import BOARDS, has_usb
from hw.boards.platforms import TARGETS
from hw.protocol import spec_hash
from hw.tools.folders import IN_CHECKOUT, ROOT, bitstream_dir
from hw.tools.netlist import BuildError, Netlist, StaleError
from hw.tools.place import Routed, least_to_spare

BITSTREAMS = bitstream_dir()
"""Folder that contains the bitstreams and their manifests."""
VERSION = 1
"""Version of the manifest's format."""
LADDER = "ladder"
"""Key of the manifest under which the checks that a bitstream has passed are recorded, by name
(:mod:`sim.ladder.rungs`)."""


def manifest_path(board: str) -> Path:
    """Return the path of a board's manifest, whether it exists or not."""
    return BITSTREAMS / f"{board.replace('/', '-')}.json"


def load_manifest(board: str) -> dict:
    """Return the manifest of a board's bitstream.

    Raises
    ------
    BuildError
        The manifest or the bitstream is missing, or the bitstream does not match the manifest.
    """
    path = manifest_path(board)
    command = f"python -m hw.build {board}"
    if not path.exists():
        raise BuildError(f"there is no bitstream for {board}: build it with '{command}'")
    manifest = json.loads(path.read_text())
    bitstream = path.with_name(manifest["bitstream"])
    if not bitstream.exists():
        raise BuildError(f"{bitstream} is missing: build it with '{command}'")
    if hashlib.sha256(bitstream.read_bytes()).hexdigest() != manifest["sha256"]:
        raise BuildError(f"{bitstream} is damaged: build it again with '{command}'")
    return manifest


def check_current(source: Netlist) -> dict:
    """Return the manifest of the bitstream that was built from exactly this netlist.

    Raises
    ------
    BuildError
        The bitstream or its manifest is missing or damaged.
    StaleError
        The bitstream was built from another netlist.
    """
    manifest = load_manifest(source.board)
    if manifest["netlist"] != source.digest:
        raise StaleError(
            f"{manifest_path(source.board)} is stale: its bitstream was built from other sources. "
            f"Build it again with 'python -m hw.build {source.board}'"
        )
    return manifest


def _commit() -> str | None:
    """Return the git commit of the sources, or None if they are not in a git repository.

    ``-dirty`` follows if files in ``hw`` differ from the commit.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    if not IN_CHECKOUT or (head := git("rev-parse", "HEAD")).returncode:
        return None
    dirty = git("status", "--porcelain", "--", "hw").stdout.strip()
    return head.stdout.strip() + ("-dirty" if dirty else "")


def tool_versions(source: Netlist) -> dict[str, str]:
    """Return the version of each Python package with a tool that builds this netlist."""
    place, pack = source.place[0], source.pack[0]
    packages = ["amaranth", "amaranth-boards", "pyosys", f"yowasp-{place}"]
    packages += ["apycula"] if pack == "gowin_pack" else []
    packages += ["luna-usb", "usb-protocol"] if has_usb(source.config) else []
    return {package: metadata.version(package) for package in packages}


def write_manifest(source: Netlist, best: Routed, tried: dict[int, float]) -> dict:
    """Write the bitstream and then its manifest, each by an atomic rename.

    Parameters
    ----------
    best : result of place and route that becomes the bitstream.
    tried : maximum clock frequency in MHz for each seed of placement that was tried.

    Returns
    -------
    The manifest.
    """
    content = (best.folder / source.product).read_bytes()
    path = manifest_path(source.board)
    bitstream = path.with_suffix(source.suffix)
    manifest = {
        "version": VERSION,
        "board": source.board,
        "device": source.device,
        "gateware_hash": f"{spec_hash(source.config):016x}",
        "netlist": source.digest,
        "source_commit": _commit(),
        "tools": tool_versions(source),
        "seed": best.seed,
        "fmax_mhz_by_seed": {str(seed): fmax for seed, fmax in sorted(tried.items())},
        "clocks": best.clocks,
        "utilization": best.utilization,
        "config": asdict(source.config),
        "bitstream": bitstream.name,
        "n_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    path.parent.mkdir(exist_ok=True)
    _write(bitstream, content)
    _write(path, _json(manifest))
    return manifest


def climbed(manifest: dict) -> dict[str, dict]:
    """Return the records of the checks that a bitstream has passed, by the names of the checks.

    These checks are called rungs (:mod:`sim.ladder.rungs`). Records that were made for another
    netlist or bitstream are left out.
    """
    return {
        rung: record
        for rung, record in manifest.get(LADDER, {}).items()
        if all(record[key] == manifest[key] for key in ("netlist", "sha256"))
    }


def record_rung(board: str, rung: str, values: dict | None) -> None:
    """Record in a bitstream's manifest that it has passed a check, or that it has failed it.

    Parameters
    ----------
    rung : name of the check, a rung of :mod:`sim.ladder.rungs`.
    values : JSON values that describe the check's result. None means that the check failed, and
        removes the record of an earlier pass.

    Raises
    ------
    BuildError
        The board has no bitstream, or it is damaged.
    """
    manifest = load_manifest(board)
    records = climbed(manifest)
    records.pop(rung, None)
    if values is not None:
        same = {key: manifest[key] for key in ("netlist", "sha256")}
        records[rung] = values | {"source_commit": _commit()} | same
    _write(manifest_path(board), _json(manifest | {LADDER: records}))


def _json(manifest: dict) -> bytes:
    return (json.dumps(manifest, indent=2) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    """Write a file so that no other process can see it partly written."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def table() -> str:
    """Return a Markdown table of the boards that have bitstreams, from their manifests."""
    rows = [
        "| board, device | clock (Fmax) | logic | block RAM | banks × lanes × bits "
        "| SOP / cycle | GSOP/s | of the ports' bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for board in BOARDS:
        if not manifest_path(board).exists():
            continue
        manifest = load_manifest(board)
        clk_mhz = manifest["config"]["clk_hz"] / 1e6
        banks, lanes, bits = (
            manifest["config"].get(k, 1) for k in ("banks", "lanes", "weight_bits")
        )
        n_lanes = banks * lanes
        used = manifest["utilization"]
        logic = "lut" if "lut" in used else "logic_cell"
        memories = [
            f"{used[key][0]} of {used[key][1]}{suffix}"
            for key, suffix in (("block_ram", ""), ("spram", " SPRAM"))
            if key in used
        ]
        fmax_mhz = least_to_spare(manifest["clocks"])["fmax_mhz"]
        rows.append(
            f"| `{board}`, {manifest['device']} "
            f"| {clk_mhz:g} MHz ({fmax_mhz:.1f}) "
            f"| {used[logic][0]:,} of {used[logic][1]:,} {'LUT' if logic == 'lut' else 'LC'} "
            f"| {', '.join(memories)} "
            f"| {f'{banks} × ' if banks > 1 else ''}{lanes} × {bits} "
            f"| {n_lanes} "
            f"| {n_lanes * clk_mhz / 1e3:.2f} "
            f"| {n_lanes * bits / TARGETS[board].port_bits:.1%} |"
        )
    return "\n".join(rows) + "\n"
