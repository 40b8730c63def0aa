"""Configurations of the known boards, with which their bitstreams are built.

To add a board, add its configuration to :data:`CONFIGS` and an entry with its pins, clock source
and programmers to :data:`hw.boards.platforms.TARGETS`.

The memory sizes in a configuration follow from the memories of the device. ECP5 (Lattice
FPGA-DS-02012) has block RAMs of 18 kbit: 56 on the 12F and the 25F, which have the same die; 108
on the 45F; and 208 on the 85F. iCE40 UltraPlus (FPGA-DS-02008) has four SPRAMs of 256 kbit and
thirty block RAMs of 4 kbit.

The suffix ``/w2``, ``/w4`` or ``/w8`` of a name stands for the same board built for another weight
width, with the same number of bits of weight memory. The ULX3S-85F has two entries: ``ulx3s-85f``
has one bank (:class:`hw.spec.Config`) and 8-bit weights, ``ulx3s-85f-wide`` four banks and 4-bit
weights.
"""

from __future__ import annotations

from hw.spec import Config, SpecError, did_you_mean

_60_MHZ = {"clk_hz": 60_000_000, "baud": 3_000_000}
_75_MHZ = {"clk_hz": 75_000_000, "baud": 3_000_000}
_ECP5_85F = {"lanes": 32, "weight_depth": 11264, "membrane_slots": 16}
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
        Config(
            name="ulx3s-85f-wide",
            banks=4,
            lanes=32,
            weight_bits=4,
            weight_depth=4096,
            chunk_bits=32,
            fire_lanes=8,
            sum_bits=14,
            membrane_bits=18,
            membrane_slots=16,
            spike_bytes=8192,
            **_60_MHZ,
        ),
        Config(name="ulx3s-45f", **_TWO_BANKS, weight_depth=4608, spike_bytes=16384, **_75_MHZ),
        Config(name="ulx3s-25f", **_ECP5_25F, **_75_MHZ),
        Config(name="ulx3s-12f", **_ECP5_25F, **_75_MHZ),
        Config(name="colorlight-i5", **_ECP5_25F, clk_hz=75_000_000, baud=1_000_000),
        Config(
            name="tang-nano-20k",
            weight_depth=3072,
            fire_lanes=4,
            spike_bytes=16384,
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
BOARDS_HELP = f"{', '.join(BOARDS)}, each also with /w2, /w4 or /w8 for another weight width"
"""List of board names for help texts."""


def config_by_name(name: str) -> Config:
    """Return the configuration with this name, for example ``"ulx3s-85f"`` or ``"ulx3s-85f/w4"``.

    Raises
    ------
    SpecError
        The board or weight width is unknown; the message lists the known ones.
    """
    board, _, width = name.partition("/")
    if board not in CONFIGS or width not in ("", "w2", "w4", "w8"):
        raise SpecError(
            f"unknown board {name!r}: {did_you_mean(board, CONFIGS)}known are "
            f"{', '.join(CONFIGS)}, each also with /w2, /w4, /w8"
        )
    config = CONFIGS[board]
    return config.with_weight_bits(int(width[1:])) if width else config


def board_name(config: Config) -> str:
    """Return the name of a configuration, for example ``"ulx3s-85f"`` or ``"ulx3s-85f/w4"``.

    :func:`config_by_name` finds the configuration by this name.
    """
    usual = CONFIGS.get(config.name)
    plain = usual is not None and usual.weight_bits == config.weight_bits
    return config.name if plain else f"{config.name}/w{config.weight_bits}"
