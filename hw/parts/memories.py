"""Kinds of memory on FPGAs, with their sizes, and which devices have them.

The argument ``platform`` of the functions here is Amaranth's platform of a board, or None in
simulation, which has none of these memories.
"""

SPRAM_DEVICES = frozenset({"iCE40UP5K", "iCE40UP3K"})
"""Devices with single-ported RAM (Lattice FPGA-DS-02008)."""
SPRAM_BITS = 16
"""Width of an SPRAM's port in bits."""
SPRAM_DEPTH = 16384
"""Number of words of an SPRAM."""
N_SPRAMS = 4
"""Number of SPRAMs of each device in :data:`SPRAM_DEVICES`."""

BLOCK_RAM_SHAPES = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18))
"""Shapes (depth, width in bits) of an ECP5's block RAM (Lattice FPGA-TN-02204), deepest first."""


def has_spram(platform: object) -> bool:
    """Return whether the device has SPRAM, the single-ported RAM of an iCE40 UltraPlus."""
    return getattr(platform, "device", None) in SPRAM_DEVICES


def has_block_ram_shapes(platform: object) -> bool:
    """Return whether the device is an ECP5, whose block RAMs have :data:`BLOCK_RAM_SHAPES`."""
    return str(getattr(platform, "device", "")).startswith("LFE5U")


LUT_RAM_DEPTH = 64
"""Largest number of rows of a memory that is built from logic cells on an ECP5."""


def shallow(depth: int, platform: object) -> dict[str, str]:
    """Return attributes that make synthesis build a shallow Amaranth memory from logic cells
    instead of block RAM.

    The reason is speed: the output of a block RAM comes too late in a cycle to be followed by much
    logic, and the block RAM may be far away. The attributes are empty if the memory has more than
    :data:`LUT_RAM_DEPTH` rows or the device is no ECP5.
    """
    in_cells = depth <= LUT_RAM_DEPTH and has_block_ram_shapes(platform)
    return {"ram_style": "distributed"} if in_cells else {}
