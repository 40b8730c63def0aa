"""Configurations of the known boards, with which their bitstreams are built.

To add a board, add its configuration to :data:`CONFIGS` and an entry with its pins, clock source
and programmers to :data:`hw.boards.platforms.TARGETS`.

The memory sizes in a configuration follow from the memories of the device. ECP5 (Lattice
FPGA-DS-02012) has block RAMs of 18 kbit: 56 on the 12F and the 25F, which have the same die; 108
on the 45F; and 208 on the 85F. iCE40 UltraPlus (FPGA-DS-02008) has four SPRAMs of 256 kbit and
thirty block RAMs of 4 kbit.

The suffix ``/w2``, ``/w4`` or ``/w8`` of a name stands for the same board built for another weight
width, with the same number of bits of weight memory. The ULX3S-85F has several entries:
``ulx3s-85f`` has one bank (:class:`hw.spec.Config`) and 8-bit weights, ``ulx3s-85f-wide`` four
banks and 4-bit weights; ``ulx3s-85f-usb`` is ``ulx3s-85f-wide`` with a second serial port, on the
connector US2; ``ulx3s-85f-256`` has twice as many lanes and that port, too, at a slower clock.

Boards whose bitstream is made by a vendor's tool have board files instead
(:mod:`hw.boards.board_file`). Boards whose files come with Spikefold are known by their names,
other boards by the paths of their files.
"""

from __future__ import annotations

from pathlib import Path

from hw.boards.board_file import FILES, SHIPPED, SUFFIX, Board, BoardFileError, load
from hw.offchip.timing import CHIPS, SdramChip
from hw.spec import Config, SpecError
from hw.text import did_you_mean

_60_MHZ = {"clk_hz": 60_000_000, "baud": 3_000_000}
_75_MHZ = {"clk_hz": 75_000_000, "baud": 3_000_000}
_ECP5_85F = {"lanes": 32, "weight_depth": 11264, "membrane_slots": 16}
_32_LANES_OF_4_BITS = {"lanes": 32, "weight_bits": 4, "sum_bits": 14, "membrane_bits": 18}
_FOUR_BANKS = {
    **_32_LANES_OF_4_BITS,
    "banks": 4,
    "chunk_bits": 32,
    "fire_lanes": 8,
    "membrane_slots": 16,
}
_ECP5_85F_WIDE = {**_FOUR_BANKS, "weight_depth": 4096, "spike_bytes": 8192, "packed_writes": 1}
_ECP5_85F_256 = {
    **_ECP5_85F_WIDE,
    "lanes": 64,
    "weight_depth": 2048,
    "fire_lanes": 16,
    "weight_registers": 1,
    "half_rows": 1,
    "direct_timesteps": 1,
}
_TWO_BANKS = {"banks": 2, "chunk_bits": 32, "fire_lanes": 4}
_ECP5_25F = {**_TWO_BANKS, "weight_depth": 2048, "spike_bytes": 8192}
_ICE40 = {
    "count_bits": 8,
    "param_depth": 256,
    "chunk_bits": 32,
    "membrane_slots": 8,
    "sum_queue": 0,
    "max_layers": 8,
    "pixels": 0,
    "rx_buffer_bytes": 512,
    "max_payload_bytes": 256,
}

CONFIGS: dict[str, Config] = {
    config.name: config
    for config in (
        # The default virtual board: the core of the ULX3S-85F behind the fastest possible UART.
        Config(name="sim", **_ECP5_85F),
        Config(name="ulx3s-85f", **_ECP5_85F, **_60_MHZ),
        Config(name="ulx3s-85f-wide", **_ECP5_85F_WIDE, **_60_MHZ),
        Config(name="ulx3s-85f-256", **_ECP5_85F_256, clk_hz=45_000_000, baud=9_000_000),
        # About what full-speed USB carries: 1 MB/s, with 10 bits per byte.
        Config(name="ulx3s-85f-usb", **_ECP5_85F_WIDE, clk_hz=60_000_000, baud=10_000_000),
        Config(
            name="ulx3s-85f-sdram",
            **_FOUR_BANKS,
            weight_depth=3072,
            spike_bytes=16384,
            offchip_depth=1 << 19,
            offchip_row_cycles=8,
            **_60_MHZ,
        ),
        Config(name="ulx3s-45f", **_TWO_BANKS, weight_depth=4608, spike_bytes=16384, **_75_MHZ),
        Config(name="ulx3s-25f", **_ECP5_25F, **_75_MHZ),
        Config(name="ulx3s-12f", **_ECP5_25F, **_75_MHZ),
        Config(name="colorlight-i5", **_ECP5_25F, clk_hz=75_000_000, baud=1_000_000),
        Config(
            name="colorlight-sdram",
            **_32_LANES_OF_4_BITS,
            **_TWO_BANKS,
            weight_depth=1024,
            spike_bytes=16384,
            offchip_depth=1 << 18,
            offchip_row_cycles=4,
            clk_hz=70_000_000,
            baud=1_000_000,
        ),
        Config(
            name="tang-nano-20k",
            weight_depth=3072,
            fire_lanes=4,
            spike_bytes=16384,
            clk_hz=48_600_000,
            baud=1_000_000,
        ),
        Config(
            name="tang-20k-sdram",
            **_32_LANES_OF_4_BITS,
            weight_depth=2048,
            fire_lanes=4,
            spike_bytes=32768,
            offchip_depth=1 << 19,
            offchip_row_cycles=4,
            clk_hz=48_600_000,
            baud=1_000_000,
        ),
        Config(
            name="icebreaker",
            lanes=16,
            weight_bits=4,
            membrane_bits=16,
            sum_bits=14,
            weight_depth=16384,
            fire_lanes=2,
            spike_bytes=4096,
            result_rows=8,
            clk_hz=30_000_000,
            baud=3_000_000,
            **_ICE40,
        ),
        Config(
            name="ice40-hx8k",
            lanes=8,
            membrane_bits=18,
            sum_bits=18,
            weight_depth=512,
            fire_lanes=1,
            spike_bytes=2048,
            clk_hz=72_000_000,
            baud=3_000_000,
            **_ICE40,
        ),
    )
}
"""Configuration of every board, and of the virtual board ``sim``, by name."""
BOARDS: tuple[str, ...] = tuple(name for name in CONFIGS if name != "sim")
"""Names of the real boards."""
USB_BOARDS = ("ulx3s-85f-256", "ulx3s-85f-usb")
"""Names of the boards whose FPGA is itself a USB device (:mod:`hw.usb`)."""
BOARDS_HELP = f"{', '.join(BOARDS)}, each also with /w2, /w4 or /w8 for another weight width"
"""List of board names for help texts."""
CONFIGS_HELP = f"{', '.join(BOARDS)}, {', '.join(SHIPPED)} (also with /w2, /w4, /w8), a board file"
"""List of the names that :func:`config_by_name` accepts besides ``sim``, for help texts."""


def load_board(name: str, base: Config | None = None) -> Board:
    """Return the board that a board file describes.

    Parameters
    ----------
    name : path of the file, which ends with ``.toml``, or name of a board whose file comes with
        Spikefold (:data:`hw.boards.board_file.SHIPPED`).
    base : configuration that the file changes, see :func:`hw.boards.board_file.load`.

    Raises
    ------
    hw.boards.board_file.BoardFileError
        There is no such file, it cannot be used, or it has the name of a board of :data:`CONFIGS`.
    """
    path = FILES / f"{name}{SUFFIX}" if name in SHIPPED else Path(name)
    board = load(path, base)
    if board.name in CONFIGS:
        raise BoardFileError(
            f"{path}: the name {board.name!r} is that of another board: choose one of your own"
        )
    return board


def config_by_name(name: str) -> Config:
    """Return the configuration with this name, for example ``"ulx3s-85f"`` or ``"ulx3s-85f/w4"``.

    A name that ends with ``.toml`` is the path of a board file.

    Raises
    ------
    SpecError
        The board or weight width is unknown, and the message lists the known ones; or the board
        file cannot be used.
    """
    if name.endswith(SUFFIX):
        return load_board(name).config
    board, _, width = name.partition("/")
    if board not in (*CONFIGS, *SHIPPED) or width not in ("", "w2", "w4", "w8"):
        raise SpecError(
            f"unknown board {name!r}: {did_you_mean(board, (*CONFIGS, *SHIPPED))}known are "
            f"{', '.join((*CONFIGS, *SHIPPED))}, each also with /w2, /w4, /w8. For another board "
            "write a board file (docs/any-fpga.md) and give its path, which ends with .toml"
        )
    config = CONFIGS[board] if board in CONFIGS else load_board(board).config
    return config.with_weight_bits(int(width[1:])) if width else config


def sdram_of(config: Config) -> SdramChip:
    """Return the SDRAM chip of the board with the configuration ``config``.

    Raises
    ------
    SpecError
        The board has no SDRAM.
    """
    chip = CHIPS.get(config.name.partition("-")[0])
    if chip is not None:
        return chip
    raise SpecError(f"{config.name!r} has no SDRAM: use Config.offchip_depth = 0")


def has_usb(config: Config) -> bool:
    """Return whether a board's bitstream has a serial port over USB besides its UART."""
    return config.name in USB_BOARDS


def is_known(config: Config) -> bool:
    """Return whether :func:`config_by_name` knows the board of a configuration, for any width of
    weights.

    It does not know the boards of a user's own board files.
    """
    return config.name in CONFIGS or config.name in SHIPPED


def board_name(config: Config) -> str:
    """Return the name of a configuration, for example ``"ulx3s-85f"`` or ``"ulx3s-85f/w4"``.

    :func:`config_by_name` finds the configuration by this name, unless the configuration is that of
    a user's board file.
    """
    if config.name in SHIPPED:
        usual = load_board(config.name).config
    else:
        usual = CONFIGS.get(config.name, config)
    plain = usual.weight_bits == config.weight_bits
    return config.name if plain else f"{config.name}/w{config.weight_bits}"
