"""Known boards, each as the configuration that its bitstream is built with.

Sizes follow from the devices' memories (Lattice FPGA-DS-02012 for ECP5: 18 kbit block RAMs, 56 on
the 25F, whose die the 12F is, 108 on the 45F and 208 on the 85F; FPGA-DS-02008 for iCE40
UltraPlus: four 256 kbit SPRAMs, thirty 4 kbit block RAMs). A suffix ``/w2``, ``/w4`` or ``/w8``
names the same board built for another weight width, with the same bits of weight memory. The
ULX3S-85F is there twice: ``ulx3s-85f-quad`` has four cores. What else a board is, its pins and its
clock source, is in :mod:`hw.boards.platforms`.
"""

from __future__ import annotations

from hw.spec import Config, SpecError

_60_MHZ = {"clk_hz": 60_000_000, "baud": 3_000_000}
_75_MHZ = {"clk_hz": 75_000_000, "baud": 3_000_000}
_ECP5_85F = {"lanes": 32, "weight_depth": 11264, "membrane_slots": 16}
_ECP5_25F = {"weight_depth": 4096, "fire_lanes": 4, "spike_bytes": 16384}
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
        # The virtual board's default: the ULX3S-85F's core behind the fastest possible UART.
        Config(name="sim", **_ECP5_85F),
        Config(name="ulx3s-85f", **_ECP5_85F, **_60_MHZ),
        Config(
            name="ulx3s-85f-quad",
            cores=4,
            lanes=32,
            weight_bits=4,
            weight_depth=4096,
            fire_lanes=4,
            membrane_bits=18,
            membrane_slots=16,
            spike_bytes=16384,
            **_60_MHZ,
        ),
        Config(name="ulx3s-45f", weight_depth=9216, fire_lanes=4, **_75_MHZ),
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
            weight_depth=512,
            fire_lanes=1,
            spike_bytes=2048,
            clk_hz=72_000_000,
            baud=3_000_000,
            **_ICE40,
        ),
    )
}
BOARDS: tuple[str, ...] = tuple(name for name in CONFIGS if name != "sim")
"""Names of the real boards."""
BOARDS_HELP = f"{', '.join(BOARDS)}, each also with /w2, /w4 or /w8 for another weight width"


def config_by_name(name: str) -> Config:
    """Configuration of ``name``, for example ``"ulx3s-85f"`` or ``"ulx3s-85f/w4"``.

    Raises
    ------
    SpecError
        No such board or weight width; the message lists the known ones.
    """
    board, _, width = name.partition("/")
    if board not in CONFIGS or width not in ("", "w2", "w4", "w8"):
        raise SpecError(
            f"unknown board {name!r}: known are {', '.join(CONFIGS)}, each also with /w2, /w4, /w8"
        )
    config = CONFIGS[board]
    return config.with_weight_bits(int(width[1:])) if width else config


def board_name(config: Config) -> str:
    """Name that :func:`hw.boards.configs.config_by_name` takes for this configuration."""
    usual = CONFIGS.get(config.name)
    plain = usual is not None and usual.weight_bits == config.weight_bits
    return config.name if plain else f"{config.name}/w{config.weight_bits}"
