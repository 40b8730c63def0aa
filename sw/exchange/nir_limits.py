"""Decide which layers NIR graphs cannot express, and which only as dense matrices.

:mod:`sw.exchange.nir_write` uses these functions before it writes a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.spec import Leak, Reset
from sw.exchange.nir_common import Float, NirLayer


def unsupported(layer: NirLayer, integers: bool) -> str | None:
    """Return the reason why NIR cannot express a layer; None if it can.

    ``integers`` says whether the layer's network is in integers; only then are its leaks rounded.
    """
    if layer.weight.shape[0] > 1 or layer.bias.shape[0] > 1:
        return (
            "its weights differ from timestep to timestep, which NIR cannot express: train with "
            "coefficients of a granularity without /per-timestep"
        )
    if layer.reset != Reset.HARD and not layer.output:
        return f"a {layer.reset.name.lower()} reset; NIR has only resets to a fixed value"
    if integers and layer.leak != Leak.NONE:
        return (
            "its leak rounds to integers, which NIR's does not; convert the checkpoint instead of "
            "the network file"
        )
    return None


@dataclass(frozen=True)
class Dense:
    """Reason why layers must be written as dense matrices on flat vectors, and how to avoid
    that."""

    reason: str
    remedy: str


def why_dense(layer: NirLayer, divisor: Float) -> Dense | None:
    """Return why a layer must be written as a dense matrix; None if a convolution can express it.

    ``divisor`` (y|1, x|1, o) holds the numbers by which the layer's weights are divided, one for
    each output channel o and position (y, x); y and x have length 1 if all positions share their
    numbers.
    """
    if max(*layer.weight.shape[1:3], *layer.bias.shape[1:3], *divisor.shape[:2]) > 1:
        return Dense(
            f"the weights of layer {layer.name!r} differ from position to position",
            "convert the checkpoint with --unfolded, or train with a coarser granularity",
        )
    if layer.output:
        return Dense("the output layer has a weight for every input", "pool the map before it")
    # The shape check of nir 1.0.8 assumes square kernels.
    if layer.kernel[0] != layer.kernel[1]:
        return Dense(
            f"the kernel {layer.kernel} of layer {layer.name!r} is not square, which nir does not "
            "support",
            "use a square kernel with weights of 0",
        )
    return None
