"""Memories of devices; a ``platform`` is None in simulation, which has none of these."""

SPRAM_DEVICES = frozenset({"iCE40UP5K", "iCE40UP3K"})
SPRAM_BITS = 16
SPRAM_DEPTH = 16384
N_SPRAMS = 4

BLOCK_RAM_SHAPES = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18))
"""(depth, width) that a block RAM of an ECP5 can have (Lattice FPGA-TN-02204)."""


def has_spram(platform: object) -> bool:
    """Whether the device is one with SPRAM."""
    return getattr(platform, "device", None) in SPRAM_DEVICES


def has_block_ram_shapes(platform: object) -> bool:
    """Whether the device's block RAMs have :data:`BLOCK_RAM_SHAPES`."""
    return str(getattr(platform, "device", "")).startswith("LFE5U")


LUT_RAM_DEPTH = 64
"""Rows of the deepest memory that is worth logic cells, on an ECP5."""


def shallow(depth: int, platform: object) -> dict[str, str]:
    """Attributes of a memory of few rows: where that is possible it is in logic cells. A block RAM
    is slow to be followed by logic, and may be far away."""
    in_cells = depth <= LUT_RAM_DEPTH and has_block_ram_shapes(platform)
    return {"ram_style": "distributed"} if in_cells else {}
