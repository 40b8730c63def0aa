"""Division of a layer between the cores of a device, by output rows and channel groups.

A *channel group* is ``lanes`` output channels, which a core computes side by side.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hw.spec import Config
from sw.network.network import Layer


@dataclass(frozen=True)
class Share:
    """Part of a layer that one core computes: some output rows of some channel groups."""

    rows: slice
    """Rows of the layer's output, after pooling."""
    groups: slice
    """Groups of ``config.lanes`` output channels."""

    @property
    def height(self) -> int:
        """Number of output rows in the share, after pooling."""
        return self.rows.stop - self.rows.start

    @property
    def n_groups(self) -> int:
        """Number of channel groups in the share."""
        return self.groups.stop - self.groups.start


def shares_of_cores(layer: Layer, height: int, config: Config) -> list[Share | None]:
    """Return the share of each core in a layer with ``height`` output rows; None for an idle core.

    The largest share is as small as possible. Where several divisions are equal in this, the one
    into most parts by channel groups is taken: groups never share weights, but rows may, and then
    each core that computes some of the rows has to store these weights. An output layer is not
    divided.
    """
    groups = -(-layer.n_out // config.lanes)
    if layer.output:  # one core compares all logits
        return [Share(slice(0, height), slice(0, groups))] + [None] * (config.cores - 1)

    def largest(n_group_parts: int) -> tuple[int, int]:
        """Return the size of the largest share if the groups are divided into ``n_group_parts``.

        The second number decides between equal sizes: it prefers more parts.
        """
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
