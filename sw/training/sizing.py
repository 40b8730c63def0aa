"""Find out before training which boards a network will fit, and choose a default network that
fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hw.boards.configs import BOARDS, CONFIGS
from hw.spec import Config
from sw.compile import fitting
from sw.compile.compiler import compile_network
from sw.compile.program import FitError
from sw.convert.outline import outline
from sw.model.config import ModelConfig, ModelError, with_granularity
from sw.network.network import Network

MAX_MAP = 16
"""Largest height and width of the stem's map in a default network, in positions. The map of a
one-dimensional signal may be as wide as the square of this number."""


@dataclass(frozen=True, kw_only=True)
class BoardFit:
    """Result of checking, before training, whether a network will fit a board.

    The network is assumed to have weights of the width, in bits, for which the board's gateware is
    built.
    """

    board: str
    problem: str
    """Text that says which resource of the board is too small; empty if the network fits."""


def board_fits(config: ModelConfig) -> list[BoardFit]:
    """Return, for every known board, whether a network of this configuration will fit it.

    Raises
    ------
    sw.model.config.ModelError
        No device can run such a network (:func:`sw.convert.fold.check`).
    """
    widths = {CONFIGS[name].weight_bits for name in BOARDS}
    networks = {bits: outline(config, bits) for bits in widths}
    return [
        BoardFit(board=name, problem=_problem(networks[board.weight_bits], board))
        for name, board in ((name, CONFIGS[name]) for name in BOARDS)
    ]


def _problem(network: Network, board: Config) -> str:
    """Return a text that says which resource of a board is too small for a network; empty if it
    fits.
    """
    if network.n_weights > board.n_weights:  # quicker than compiling one that is much too large
        return f"{network.n_weights:,} weights, room for {board.n_weights:,}"
    try:
        compile_network(network, board)
    except FitError as error:
        needs = (f"{what} {a:,} of {b:,}" for what, (a, b) in error.needs.items())
        return ", ".join(needs) or str(error)
    return ""


def remedies(config: ModelConfig, board: str) -> tuple[str, ...]:
    """Return texts that each describe a change with which a network of this configuration fits a
    board.

    :func:`sw.compile.fitting.remedies` lists the kinds of changes.
    """
    return fitting.remedies(outline(config, CONFIGS[board].weight_bits), CONFIGS[board])


def first_that_fits(candidates: Iterable[ModelConfig], boards: Iterable[str]) -> ModelConfig:
    """Return the first of ``candidates`` that fits one of ``boards``; if none does, the last one.

    All candidates are tried on the first board before any is tried on the second one.
    """
    tried = list(candidates)
    for board in boards:
        for config in tried:
            try:
                if not _problem(outline(config, CONFIGS[board].weight_bits), CONFIGS[board]):
                    return config
            except ModelError:
                continue
    return tried[-1]


def smaller(config: ModelConfig) -> Iterator[ModelConfig]:
    """Yield ``config`` and three smaller configurations with as many stages and blocks.

    For a large input, the stem (the first convolution) of all four gets enough stride and pooling
    to keep its map within :data:`MAX_MAP`; for a tiny one, it gets none. The second configuration
    has the same channels as the first, but shares weights over timesteps and positions. The third
    has half as many channels as the second, and the fourth a quarter.
    """
    _, height, width = config.image_shape
    reduction = -(-width // MAX_MAP**2) if height == 1 else -(-max(height, width) // MAX_MAP)
    if (width if height == 1 else min(height, width)) < config.stem_stride * config.stem_pool:
        config = replace(config, stem_stride=1, stem_pool=1)
    elif reduction > config.stem_stride * config.stem_pool:
        pool = 4 if reduction > 8 else 2
        stride = -(-reduction // pool)
        config = replace(
            config, stem_pool=pool, stem_stride=stride, stem_kernel=max(3, stride + 1 - stride % 2)
        )
    yield config
    for divisor in (1, 2, 4):
        shared = with_granularity(config, "channel")
        yield replace(
            shared,
            stem_channels=max(1, config.stem_channels // divisor),
            stages=tuple(
                replace(stage, channels=max(1, stage.channels // divisor))
                for stage in shared.stages
            ),
        )
