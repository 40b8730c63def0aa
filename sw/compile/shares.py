"""Division of a layer between the cores of a device."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hw.spec import Config
from sw.network.network import Layer


@dataclass(frozen=True)
class Share:
    """The part of a layer that one core computes."""

    rows: slice
    """Rows of the output map, after pooling."""
    groups: slice
    """Groups of ``config.lanes`` output channels."""

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.rows.stop - self.rows.start

    @property
    def n_groups(self) -> int:
        """Number of channel groups."""
        return self.groups.stop - self.groups.start


def shares_of_cores(layer: Layer, height: int, config: Config) -> list[Share | None]:
    """Return each core's share of a layer with ``height`` output rows, None if it has none.

    The shares are as even as possible. Of equally even divisions, the one by channel groups is
    taken, because groups never share weights, which each core would have to store.
    """
    groups = -(-layer.n_out // config.lanes)
    if layer.output:  # one core compares all logits
        return [Share(slice(0, height), slice(0, groups))] + [None] * (config.cores - 1)

    def largest(n_group_parts: int) -> tuple[int, int]:
        """Return the size of the largest share, and a tie-breaker."""
        n_row_parts = config.cores // n_group_parts
        return -(-groups // n_group_parts) * -(-height // n_row_parts), -n_group_parts

    n_group_parts = min((1 << i for i in range(config.cores.bit_length())), key=largest)
    return [
        Share(rows, part) if rows.start < rows.stop and part.start < part.stop else None
        for part in _split(groups, n_group_parts)
        for rows in _split(height, config.cores // n_group_parts)
    ]


def _split(n: int, n_parts: int) -> list[slice]:
    ends = [-(-n * i // n_parts) for i in range(n_parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]
