"""Pure step functions of spiking neurons and gates, and their hand-written gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from sw.model.config import NeuronConfig

Functions = tuple[Callable[..., Any], ...]
"""What :func:`use` takes, in the order of :data:`PLAIN`."""


def widened(x: Tensor) -> Tensor:
    """``x`` in float32, if it has less than 32 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _run(
    drives: Sequence[Tensor],
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    shift: int = 0,
) -> tuple[list[Tensor], list[Tensor]]:
    """Spikes and membranes before reset, by timestep."""
    spikes, membranes = [], []
    left = torch.zeros_like(drives[0])
    for drive in drives:
        if shift:
            shifted = torch.floor(left * 2.0 ** -abs(shift))
            left = shifted if shift > 0 else left - shifted
        else:
            left = decay * left
        membrane = left + drive
        spike = (membrane >= threshold).to(drive.dtype)
        left = membrane * (1 - spike) if hard else membrane - threshold * spike
        spikes.append(spike)
        membranes.append(membrane)
    return spikes, membranes


def _run_back(
    grad: Sequence[Tensor],
    membranes: Sequence[Tensor],
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    surrogate: str,
    slope: float | Tensor,
) -> list[Tensor]:
    """Gradients of the drives from those of the spikes, by timestep."""
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
        kept = left * (above < 0).to(left.dtype) if hard else left
        grads.append(grad[t] * (slope * here) + kept)
        left = decay * grads[-1]
    return grads[::-1]


def _by_time(drive: Tensor, timesteps: int) -> list[Tensor]:
    return [drive[t if len(drive) > 1 else 0] for t in range(timesteps)]


def neuron_forward(
    drive: Tensor,
    timesteps: int,
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    shift: int = 0,
) -> tuple[Tensor, Tensor]:
    """Spikes and membranes before reset, both ``(T, ...)``; ``drive`` is ``(T, ...)`` or, if it is
    the same at every timestep, ``(1, ...)``. Fires at ``membrane >= threshold``.

    Membranes shrink by ``decay``; or, where ``shift`` is not 0, as integers do
    (:func:`hw.spec.leaked`): to ``v >> shift``, and if it is negative by ``v >> -shift``.
    """
    spikes, membranes = _run(_by_time(drive, timesteps), decay, threshold, hard, shift)
    return torch.stack(spikes), torch.stack(membranes)


def neuron_backward(
    grad: Tensor,
    membranes: Tensor,
    decay: float | Tensor,
    threshold: float | Tensor,
    hard: bool,
    surrogate: str,
    slope: float | Tensor,
    total: bool = False,
) -> Tensor:
    """Gradient ``(T, ...)`` of the drive from that of the spikes, or its ``total`` over time
    ``(1, ...)``; the reset is not differentiated (Chen et al.)."""
    grads = _run_back(list(grad), list(membranes), decay, threshold, hard, surrogate, slope)
    return sum(grads[1:], grads[0])[None] if total else torch.stack(grads)


def _windows(maps: Tensor, pool: tuple[int, int], axis: int) -> list[Tensor]:
    """The first, second, ... element of every window of pooling over ``axis`` and the next."""
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
    hard: bool,
    pool: tuple[int, int],
    axis: int,
) -> Tensor:
    """:func:`neuron_forward`'s spikes, OR-pooled over ``axis`` and the next."""
    runs = [
        _run(_by_time(part, timesteps), decay, threshold, hard)[0]
        for part in _windows(drive, pool, axis)
    ]
    return torch.stack([reduce(torch.maximum, spikes) for spikes in zip(*runs, strict=True)])


def pooled_backward(
    grad: Tensor,
    drive: Tensor,
    decay: float,
    threshold: float,
    hard: bool,
    surrogate: str,
    slope: float,
    pool: tuple[int, int],
    axis: int,
) -> list[Tensor]:
    """Gradients of the drive, window element by window element (:func:`_windows`). Runs the neurons
    again, which costs less than to keep what they did. The gradient goes to the first spike of a
    window, or to its first neuron, as in max-pooling."""
    timesteps = len(grad)
    parts = _windows(drive, pool, axis)
    runs = [_run(_by_time(part, timesteps), decay, threshold, hard) for part in parts]
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
        grads = _run_back(taken, membranes, decay, threshold, hard, surrogate, slope)
        result.append(sum(grads[1:], grads[0])[None] if len(drive) == 1 else torch.stack(grads))
    return result


_forward: Callable[..., tuple[Tensor, Tensor]] = neuron_forward
_backward: Callable[..., Tensor] = neuron_backward
_pooled_forward: Callable[..., Tensor] = pooled_forward
_pooled_backward: Callable[..., list[Tensor]] = pooled_backward


_gate: Callable[[str, Tensor, Tensor], Tensor]  # set below, where gates are


def use(functions: Functions) -> None:
    """Compute neurons and gates with these from now on."""
    global _forward, _backward, _pooled_forward, _pooled_backward, _gate
    _forward, _backward, _pooled_forward, _pooled_backward, _gate = functions


def compiled(functions: Functions) -> Functions:
    """By torch's compiler, which fuses their loops."""
    torch._dynamo.config.recompile_limit = 256  # shapes of maps; beyond, it compiles no more
    return tuple(torch.compile(function, dynamic=False) for function in functions)


def compile_neurons() -> None:
    """Let torch's compiler fuse the loops of neurons and the gates: about 1.5 times as fast on a
    CPU, but a minute of compilation and a C++ compiler first. For long training runs."""
    use(compiled(PLAIN))


class Fire(torch.autograd.Function):
    """Neurons over all timesteps, with a hand-written backward pass through time."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        decay: Tensor | float,
        timesteps: int,
        config: NeuronConfig,
        threshold: float | Tensor,
        shift: int,
    ) -> Tensor:
        """``drive`` (T|1, ...) and spikes (T, ...); membranes are never of less than 32 bits.

        ``threshold`` may differ from the configuration's, and be one per neuron: membranes are then
        in other units, by which the surrogate's slope is divided.
        """
        hard = config.reset == "HARD"
        wide = widened(drive)
        spikes, membranes = _forward(wide, timesteps, decay, threshold, hard, shift)
        learned = decay if isinstance(decay, Tensor) else None
        unit = threshold if isinstance(threshold, Tensor) else None
        ctx.save_for_backward(membranes, learned, unit)
        ctx.config, ctx.repeated = config, len(drive) < timesteps
        ctx.decay = None if isinstance(decay, Tensor) else decay
        return spikes.to(drive.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        membranes, learned, unit = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        hard = config.reset == "HARD"
        decay = ctx.decay if learned is None else learned
        threshold = config.threshold if unit is None else unit
        slope = config.surrogate_slope
        if unit is not None:
            slope = slope * config.threshold / unit
        grad = _backward(
            grads[0].to(membranes.dtype),
            membranes,
            decay,
            threshold,
            hard,
            config.surrogate,
            slope,
            ctx.repeated and learned is None,
        )
        of_decay = None
        if learned is not None:
            before = membranes[:-1]
            fired = (before >= threshold).to(before.dtype)
            left = before * (1 - fired) if hard else before - threshold * fired
            of_decay = (grad[1:] * left).sum()
        if ctx.repeated and learned is not None:
            grad = grad.sum(0, keepdim=True)
        return grad.to(grads[0].dtype), of_decay, None, None, None, None


class FirePooled(torch.autograd.Function):
    """:class:`Fire` and OR-pooling in one, without a map in between, for leaks that are constant.
    ``drive`` (T|1, ...) has rows and columns at ``axis`` and the next."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        timesteps: int,
        config: NeuronConfig,
        pool: tuple[int, int],
        axis: int,
    ) -> Tensor:
        hard = config.reset == "HARD"
        ctx.save_for_backward(drive)
        ctx.config, ctx.pool, ctx.axis = config, pool, axis
        spikes = _pooled_forward(
            widened(drive), timesteps, config.decay, config.threshold, hard, pool, axis
        )
        return spikes.to(drive.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (drive,) = ctx.saved_tensors
        config: NeuronConfig = ctx.config
        wide = widened(drive)
        parts = _pooled_backward(
            grads[0].to(wide.dtype),
            wide,
            config.decay,
            config.threshold,
            config.reset == "HARD",
            config.surrogate,
            config.surrogate_slope,
            ctx.pool,
            ctx.axis,
        )
        sizes = drive.shape[ctx.axis : ctx.axis + 2]
        whole = all(n % p == 0 for n, p in zip(sizes, ctx.pool, strict=True))
        result = torch.empty_like(drive) if whole else torch.zeros_like(drive)
        for place, part in zip(_windows(result, ctx.pool, ctx.axis), parts, strict=True):
            place.copy_(part)
        return result, None, None, None, None


def join(gate: str, branch: Tensor, identity: Tensor) -> Tensor:
    """Binary gate of two binary tensors, see :class:`hw.spec.Gate`, in differentiable form; or
    their sum."""
    if gate == "AND":
        return identity * branch
    if gate == "IAND":
        return identity * (1 - branch)
    if gate == "OR":
        return identity + branch - identity * branch
    if gate == "ADD":
        return identity + branch
    return identity + branch - 2 * identity * branch


PLAIN: Functions = neuron_forward, neuron_backward, pooled_forward, pooled_backward, join
_gate = join
