"""Progressive timesteps: a network is trained with few timesteps first, and with all of them last.

An epoch with one timestep takes a fraction of the time of an epoch with four. A schedule such as
``1x60,2x15,4x20`` means 60 epochs with one timestep, then 15 with two, then 20 with four, all under
one schedule of the learning rate. Where the number of timesteps changes, all that has one value per
timestep (coefficients, batch-norm statistics, and their optimiser state) is extended by repeating
the values of the last timestep.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sw.model.config import MAX_NUMBER, ModelConfig
from sw.training.resume import TrainError

EXAMPLE = "1x60,2x15,4x20"
"""Schedule that messages and help texts give as an example."""

TIMED_NDIM = (2, 4)
"""Numbers of axes of the tensors whose first axis is time: 2 for batch-norm statistics (T, C), and
4 for coefficients (T, C, H, W)."""


@dataclass(frozen=True)
class Phase:
    """Part of a training run with a fixed number of timesteps."""

    timesteps: int
    """Number of timesteps in this phase."""
    n_epochs: int
    """Number of epochs in this phase."""


def parse(text: str) -> tuple[Phase, ...]:
    """Return the phases that a text such as ``1x60,2x15,4x20`` describes.

    Raises
    ------
    TrainError
        The text has another form, a number is 0 or too large, or timesteps do not rise from phase
        to phase.

    >>> parse("1x6, 4x2")
    (Phase(timesteps=1, n_epochs=6), Phase(timesteps=4, n_epochs=2))
    """
    option = f"--timestep-schedule {text}"
    phases = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,9})x([0-9]{1,9})\s*", part)
        if found is None:
            raise TrainError(
                f"{option}: {part.strip()!r} is not a number of timesteps, x, and a number of "
                f"epochs: write it as in {EXAMPLE}"
            )
        phase = Phase(int(found[1]), int(found[2]))
        if not (0 < phase.timesteps < MAX_NUMBER and phase.n_epochs > 0):
            raise TrainError(
                f"{option}: {part.strip()!r}: use 1 to {MAX_NUMBER - 1} timesteps and at least 1 "
                "epoch"
            )
        if phases and phase.timesteps <= phases[-1].timesteps:
            raise TrainError(
                f"{option}: {phase.timesteps} timesteps follow {phases[-1].timesteps}: let them "
                f"rise from phase to phase, as in {EXAMPLE}"
            )
        phases.append(phase)
    return tuple(phases)


def n_epochs(text: str) -> int:
    """Return the number of epochs of a schedule, all phases together."""
    return sum(phase.n_epochs for phase in parse(text))


def check(text: str, epochs: int, weight_bits: int, model: ModelConfig) -> None:
    """Check that a network can be trained by the schedule ``text``; an empty one is always valid.

    Raises
    ------
    TrainError
        The schedule is malformed, does not end with the network's number of timesteps, or does not
        have ``epochs`` epochs. Or it has several phases, and the network cannot change its
        timesteps: because its input is frames, whose number is fixed; or because ``weight_bits`` is
        not 0, so that it is trained in integers, with scales that are determined once, for all
        timesteps.
    """
    if not text:
        return
    phases = parse(text)
    option = f"--timestep-schedule {text}"
    if phases[-1].timesteps != model.timesteps:
        raise TrainError(
            f"{option} ends with {phases[-1].timesteps} timesteps, the network has "
            f"{model.timesteps}: let the schedule end with as many, or change the network with "
            f"--set timesteps={phases[-1].timesteps}"
        )
    if n_epochs(text) != epochs:
        raise TrainError(
            f"{option} has {n_epochs(text)} epochs, --epochs {epochs}: leave --epochs out"
        )
    if len(phases) > 1 and model.frames:
        raise TrainError(
            f"{option}: samples are sequences of {model.timesteps} frames, one per timestep, so "
            f"their number is fixed: leave --timestep-schedule out"
        )
    if len(phases) > 1 and weight_bits:
        raise TrainError(
            f"{option}: with --bits, scales are determined for all timesteps at the start: train "
            "in floats with the schedule, then use --bits without it"
        )


def timesteps_in(text: str, epoch: int, timesteps: int) -> int:
    """Return the number of timesteps in an epoch, counted from 0.

    ``text`` is the schedule. Without one, or after its last epoch, the result is ``timesteps``, the
    network's own number.
    """
    end = 0
    for phase in parse(text) if text else ():
        end += phase.n_epochs
        if epoch < end:
            return phase.timesteps
    return timesteps


def of_phase(
    history: Sequence[dict[str, Any]], text: str, timesteps: int, last: int
) -> list[dict[str, Any]]:
    """Return the entries of a checkpoint's ``history`` for epochs with ``timesteps`` timesteps.

    ``text`` is the schedule, and ``last`` the network's own number of timesteps.
    """
    return [e for e in history if timesteps_in(text, e["epoch"] - 1, last) == timesteps]


def at_timesteps(config: ModelConfig, timesteps: int) -> ModelConfig:
    """Return the configuration of the same network with another number of timesteps."""
    return config if timesteps == config.timesteps else replace(config, timesteps=timesteps)


def fitted(value: Tensor, shape: torch.Size) -> Tensor:
    """Return a coefficient or a batch-norm statistic, repeated until it has the ``shape``.

    Coefficients are (T, C, H, W); statistics are (T, C), or (C,) for a single timestep. Timesteps
    that are missing repeat the last one; surplus timesteps are left out. A coefficient that all
    channels, rows or columns share is repeated for each of them. If ``shape`` differs in any other
    way, ``value`` is returned as it is.
    """
    timed = value if value.ndim in TIMED_NDIM else value[None]
    n_times, *rest = shape if len(shape) in TIMED_NDIM else (1, *shape)
    repeats = timed.ndim - 1 == len(rest) and all(
        old in (1, new) for old, new in zip(timed.shape[1:], rest, strict=True)
    )
    if value.shape == shape or not repeats:
        return value
    times = timed[torch.arange(n_times).clamp(max=len(timed) - 1)]
    return times.expand(n_times, *rest).reshape(shape).clone()


def is_timed(name: str) -> bool:
    """Return whether an entry of a state dict may have values per timestep, by its name."""
    return "coefficient" in name or name.endswith((".running_mean", ".running_var"))


def fitted_state(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict, fitted to the number of timesteps of ``model``."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return {
        name: fitted(tensor, shapes[name]) if name in shapes and is_timed(name) else tensor
        for name, tensor in state.items()
    }


def fitted_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state dict whose tensors have the shapes of the parameters of
    ``optimizer``.

    The parameters of ``optimizer`` may be those of a network with another number of timesteps.
    Parameters are matched by their order, which does not depend on the number of timesteps.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries = {
        index: {
            name: fitted(value, parameters[index].shape) if value.ndim else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    return {**state, "state": entries}
