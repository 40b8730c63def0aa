"""Spiking neurons over time and binary gates as pure functions, with hand-written gradients.

The *drive* of a neuron is its input current, which is added to the membrane at each timestep. A
network calls these functions through a :class:`Backend`: :data:`EAGER` holds the functions as they
are written here, and :func:`compiled` returns them compiled by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from hw.spec import Leak, Reset, after_leak, fire, leak_terms
from sw.model.config import ADD, ModelError, NeuronConfig


def widened(x: Tensor) -> Tensor:
    """Return ``x`` converted to float32 if it is float16 or bfloat16, else ``x`` itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _run(
    drives: Sequence[Tensor],
    decay: float | Tensor,
    threshold: float | Tensor,
    reset: Reset,
    integer_leak: tuple[Leak, tuple[int, ...]] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run neurons on their drives (input currents) at all timesteps; for the other parameters, see
    :func:`neuron_forward`.

    Return their spikes and their membranes before the reset, both as lists over timesteps.
    """
    spikes, membranes = [], []
    left = torch.zeros_like(drives[0])
    for drive in drives:
        membrane = left + drive
        fires, left = fire(membrane, threshold, reset)
        spikes.append(fires.to(drive.dtype))
        membranes.append(membrane)
        if integer_leak is None:
            left = decay * left
        else:
            leak, shifts = integer_leak
            left = leak_terms(leak, left, [torch.floor(left * 2.0**-shift) for shift in shifts])
        left = after_leak(left, spikes[-1], threshold, reset)
    return spikes, membranes


def _run_back(
    grad: Sequence[Tensor],
    membranes: Sequence[Tensor],
    decay: float | Tensor,
    threshold: float | Tensor,
    reset: Reset,
    surrogate: str,
    slope: float | Tensor,
) -> list[Tensor]:
    """Return the gradients of a loss with respect to the drives of :func:`_run`.

    ``grad`` are the gradients of the loss with respect to the spikes, and ``membranes`` is the
    second result of :func:`_run`. Gradients and membranes are lists over timesteps. In place of the
    spike's derivative, the surrogate gradient with the name ``surrogate`` and the steepness
    ``slope`` is used (:data:`sw.model.config.SURROGATES`). For the other parameters, see
    :func:`neuron_forward`.
    """
    grads: list[Tensor] = []
    left = torch.zeros_like(grad[0])
    for t in reversed(range(len(grad))):
        above = membranes[t] - threshold
        x = slope * above
        if surrogate == "sigmoid":
            sigmoid = torch.sigmoid(x)
            here = sigmoid * (1 - sigmoid)
        elif surrogate == "arctan":
            here = 0.5 / (1 + (torch.pi / 2 * x) ** 2)
        elif surrogate == "rectangle":
            here = (x.abs() <= 0.5).to(left.dtype)
        else:
            here = torch.relu(1 - x.abs())
        kept = left * (above < 0).to(left.dtype) if reset == Reset.HARD else left
        grads.append(grad[t] * (slope * here) + kept)
        left = decay * grads[-1]
    return grads[::-1]


def _by_time(drive: Tensor, timesteps: int) -> list[Tensor]:
    """Return a list with the drive of each timestep; a drive (1, ...) is repeated."""
    return [drive[t if len(drive) > 1 else 0] for t in range(timesteps)]


def neuron_forward(
    drive: Tensor,
    timesteps: int,
    decay: float | Tensor,
    threshold: float | Tensor,
    reset: Reset,
    integer_leak: tuple[Leak, tuple[int, ...]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run IF or LIF neurons over all timesteps, from membranes of 0.

    Return their spikes and their membranes before the reset, both ``(T, ...)``.

    ``drive`` is ``(T, ...)``, or ``(1, ...)`` if it is the same at every timestep. A neuron fires
    where ``membrane >= threshold``; its membrane is then reset as ``reset`` says.

    Between two timesteps, every membrane leaks: it is multiplied by ``decay``. If ``integer_leak``
    is given, membranes leak by shifts instead, as on the device (:func:`hw.spec.leaked`). They must
    then be integers, in a floating-point type. ``integer_leak`` is the kind of leak and its shifts.
    """
    spikes, membranes = _run(_by_time(drive, timesteps), decay, threshold, reset, integer_leak)
    return torch.stack(spikes), torch.stack(membranes)


def neuron_backward(
    grad: Tensor,
    membranes: Tensor,
    decay: float | Tensor,
    threshold: float | Tensor,
    reset: Reset,
    surrogate: str,
    slope: float | Tensor,
    total: bool = False,
) -> Tensor:
    """Return the gradient ``(T, ...)`` of a loss with respect to the drive of neurons.

    ``grad`` is the gradient of the loss with respect to the spikes, and ``membranes`` is the second
    result of :func:`neuron_forward`. No gradient passes through the reset's dependence on the spike
    (Chen et al., arXiv 2301.11929). With ``total``, the result is summed over time to ``(1, ...)``,
    for a drive that is the same at every timestep. ``surrogate`` is one of
    :data:`sw.model.config.SURROGATES`, and ``slope`` its steepness. For the other parameters, see
    :func:`neuron_forward`.
    """
    grads = _run_back(list(grad), list(membranes), decay, threshold, reset, surrogate, slope)
    return sum(grads[1:], grads[0])[None] if total else torch.stack(grads)


def _windows(maps: Tensor, pool: tuple[int, int], axis: int) -> list[Tensor]:
    """Return one view of maps for each position in a pooling window.

    The first view has the first element of every window, the second view the second, and so on.
    Windows are ``pool`` (rows, columns) large; the maps' rows lie along ``axis``, their columns
    along the next axis. Rows and columns that do not fill a window are left out, as in torch's
    max-pooling.
    """
    sizes = [n // p * p for n, p in zip(maps.shape[axis : axis + 2], pool, strict=True)]
    maps = maps.narrow(axis, 0, sizes[0]).narrow(axis + 1, 0, sizes[1])
    rows = [maps[(slice(None),) * axis + (slice(y, None, pool[0]),)] for y in range(pool[0])]
    return [
        row[(slice(None),) * (axis + 1) + (slice(x, None, pool[1]),)]
        for row in rows
        for x in range(pool[1])
    ]


def pooled_forward(
    drive: Tensor,
    timesteps: int,
    decay: float,
    threshold: float,
    reset: Reset,
    pool: tuple[int, int],
    axis: int,
) -> Tensor:
    """Run neurons as :func:`neuron_forward` does, and return their OR-pooled spikes.

    A pooled spike is 1 if any neuron of its window fires. Windows are ``pool`` (rows, columns)
    large; the rows of the maps lie along ``axis`` and their columns along the next axis. For the
    other parameters, see :func:`neuron_forward`.
    """
    runs = [
        _run(_by_time(part, timesteps), decay, threshold, reset)[0]
        for part in _windows(drive, pool, axis)
    ]
    return torch.stack([reduce(torch.maximum, spikes) for spikes in zip(*runs, strict=True)])


def pooled_backward(
    grad: Tensor,
    drive: Tensor,
    decay: float,
    threshold: float,
    reset: Reset,
    surrogate: str,
    slope: float,
    pool: tuple[int, int],
    axis: int,
) -> list[Tensor]:
    """Return the gradient of a loss with respect to the drive of neurons with pooled spikes.

    ``grad`` is the gradient of the loss with respect to the pooled spikes. The result is a list
    with one tensor for each position in a pooling window, in the order of :func:`_windows`. Within
    a window, the gradient of the pooled spike goes to the first neuron that fired, or to the first
    neuron if none did, as in max-pooling.

    The neurons run again here, which is faster than storing their membranes in the forward pass.
    For the other parameters, see :func:`neuron_backward` and :func:`pooled_forward`.
    """
    timesteps = len(grad)
    parts = _windows(drive, pool, axis)
    runs = [_run(_by_time(part, timesteps), decay, threshold, reset) for part in parts]
    left = list(grad)
    result = []
    for n, (spikes, membranes) in enumerate(runs):
        taken = []
        for t in range(timesteps):
            takes = spikes[t]
            if n == 0:
                takes = takes + 1 - reduce(torch.maximum, [run[0][t] for run in runs])
            taken.append(left[t] * takes)
            left[t] = left[t] - taken[t]
        grads = _run_back(taken, membranes, decay, threshold, reset, surrogate, slope)
        result.append(sum(grads[1:], grads[0])[None] if len(drive) == 1 else torch.stack(grads))
    return result


def join(gate: str, branch: Tensor, identity: Tensor) -> Tensor:
    """Return the spikes of a residual branch and of the identity, joined by a gate.

    ``gate`` is the name of a :class:`hw.spec.Gate` other than ``NONE``; or ``ADD``, which sums the
    spikes to integers. Gates are computed as polynomials, through which gradients pass.

    Raises
    ------
    sw.model.config.ModelError
        There is no such gate.
    """
    if gate == "AND":
        return identity * branch
    if gate == "IAND":
        return identity * (1 - branch)
    if gate == "OR":
        return identity + branch - identity * branch
    if gate == ADD:
        return identity + branch
    if gate == "XOR":
        return identity + branch - 2 * identity * branch
    raise ModelError(f"unknown gate {gate!r}: use AND, IAND, OR, XOR or ADD")


@dataclass(frozen=True)
class Backend:
    """Set of functions with which a network computes its neurons and gates.

    They have the signatures of :func:`neuron_forward`, :func:`neuron_backward`,
    :func:`pooled_forward`, :func:`pooled_backward` and :func:`join`.
    """

    neuron_forward: Callable[..., tuple[Tensor, Tensor]]
    neuron_backward: Callable[..., Tensor]
    pooled_forward: Callable[..., Tensor]
    pooled_backward: Callable[..., list[Tensor]]
    join: Callable[[str, Tensor, Tensor], Tensor]

    def __deepcopy__(self, memo: dict[int, Any]) -> Backend:
        """Return the backend itself, so that copies of a network share its compiled functions."""
        return self


EAGER = Backend(neuron_forward, neuron_backward, pooled_forward, pooled_backward, join)
"""Backend of uncompiled functions, which needs no C++ compiler."""


def compiled(backend: Backend = EAGER) -> Backend:
    """Return a backend whose functions are compiled by ``torch.compile``, which fuses their loops.

    Use it for long runs: training is about 1.5 times as fast on a CPU, but compilation takes a
    minute first, and needs a C++ compiler.
    """
    # One compilation for each shape of a map; beyond this limit torch would run uncompiled.
    torch._dynamo.config.recompile_limit = 256
    functions = (getattr(backend, field.name) for field in fields(backend))
    return Backend(*(torch.compile(function, dynamic=False) for function in functions))


class NeuronFunction(torch.autograd.Function):
    """Autograd function that runs neurons over all timesteps, with a hand-written backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        decay: Tensor | float,
        timesteps: int,
        config: NeuronConfig,
        threshold: float | Tensor,
        integer_leak: tuple[Leak, tuple[int, ...]] | None,
        backend: Backend,
    ) -> Tensor:
        """Return the spikes (T, ...) for a drive (T|1, ...); see :func:`neuron_forward`.

        Membranes are computed with at least 32 bits.

        ``threshold`` is ``config.threshold`` or, in an integer network, a tensor with one integer
        for each neuron. The slope of the surrogate gradient is meant for membranes in the units of
        ``config``. For integer membranes it is therefore multiplied by the threshold of ``config``
        and divided by the integer threshold.
        """
        reset = Reset[config.reset]
        wide = widened(drive)
        spikes, membranes = backend.neuron_forward(
            wide, timesteps, decay, threshold, reset, integer_leak
        )
        learned = decay if isinstance(decay, Tensor) else None
        unit = threshold if isinstance(threshold, Tensor) else None
        ctx.save_for_backward(membranes, learned, unit)
        ctx.config, ctx.repeated, ctx.backend = config, len(drive) < timesteps, backend
        ctx.decay = None if isinstance(decay, Tensor) else decay
        return spikes.to(drive.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        membranes, learned, unit = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        reset = Reset[config.reset]
        decay = ctx.decay if learned is None else learned
        threshold = config.threshold if unit is None else unit
        slope = config.surrogate_slope
        if unit is not None:
            slope = slope * config.threshold / unit
        grad = ctx.backend.neuron_backward(
            grads[0].to(membranes.dtype),
            membranes,
            decay,
            threshold,
            reset,
            config.surrogate,
            slope,
            ctx.repeated and learned is None,
        )
        decay_grad = None
        if learned is not None:
            before = membranes[:-1]
            _, left = fire(before, threshold, reset)
            decay_grad = (grad[1:] * left).sum()
        if ctx.repeated and learned is not None:
            grad = grad.sum(0, keepdim=True)
        return grad.to(grads[0].dtype), decay_grad, None, None, None, None, None


class PooledNeuronFunction(torch.autograd.Function):
    """Autograd function that runs neurons without a trained leak, and OR-pools their spikes.

    For the backward pass it keeps only the drive. This needs less memory than all spikes and
    membranes before pooling.
    """

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        timesteps: int,
        config: NeuronConfig,
        pool: tuple[int, int],
        axis: int,
        backend: Backend,
    ) -> Tensor:
        """Return the pooled spikes (T, ...) for a drive (T|1, ...); see :func:`pooled_forward`.

        Maps have their rows along ``axis`` and their columns along the next axis.
        """
        reset = Reset[config.reset]
        ctx.save_for_backward(drive)
        ctx.config, ctx.pool, ctx.axis, ctx.backend = config, pool, axis, backend
        spikes = backend.pooled_forward(
            widened(drive), timesteps, config.decay, config.threshold, reset, pool, axis
        )
        return spikes.to(drive.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (drive,) = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        wide = widened(drive)
        parts = ctx.backend.pooled_backward(
            grads[0].to(wide.dtype),
            wide,
            config.decay,
            config.threshold,
            Reset[config.reset],
            config.surrogate,
            config.surrogate_slope,
            ctx.pool,
            ctx.axis,
        )
        sizes = drive.shape[ctx.axis : ctx.axis + 2]
        whole = all(n % p == 0 for n, p in zip(sizes, ctx.pool, strict=True))
        result = torch.empty_like(drive) if whole else torch.zeros_like(drive)
        for view, part in zip(_windows(result, ctx.pool, ctx.axis), parts, strict=True):
            view.copy_(part)
        return result, None, None, None, None, None
