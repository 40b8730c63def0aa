"""Torch modules of the network: layers of neurons, batch-norm over timesteps, coefficients."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from sw.model.config import LEARNED, PER_TIMESTEP, NeuronConfig
from sw.model.functional import EAGER, Backend, NeuronFunction, PooledNeuronFunction, widened
from sw.network.network import Shape


class NeuronLayer(nn.Module):
    """Layer of IF or LIF neurons, which turn drives (input currents) into binary spikes.

    If the leak is trained (:data:`sw.model.config.LEARNED`), the sigmoid of the parameter
    ``decay_logit`` is the factor by which membranes decay in a timestep. Otherwise this parameter
    is None.
    """

    def __init__(self, config: NeuronConfig, timesteps: int):
        super().__init__()
        self.config = config
        self.timesteps = timesteps
        self.backend: Backend = EAGER
        """Functions that compute the neurons; ``SpikingResNet.set_backend`` sets them."""
        self.decay_logit = (
            nn.Parameter(torch.logit(torch.tensor(config.decay)))
            if config.leak == LEARNED
            else None
        )

    def forward(
        self, drive: Tensor, repeated: bool = False, pool: tuple[int, int] = (1, 1)
    ) -> Tensor:
        """Return spikes ``(T * N, C, H, W)``, OR-pooled over windows of size ``pool``.

        ``drive`` is ``(T * N, C, H, W)``; or, if ``repeated``, ``(N, C, H, W)`` and the same at
        every timestep.
        """
        n_drives = 1 if repeated else self.timesteps
        config = self.config
        decay = config.decay if self.decay_logit is None else torch.sigmoid(self.decay_logit)
        timed = drive.unflatten(0, (n_drives, len(drive) // n_drives))
        # The order of the neurons does not matter: contiguous memory makes the loops fast.
        channels_last = drive.is_contiguous(memory_format=torch.channels_last)
        if channels_last:
            timed = timed.permute(0, 1, 3, 4, 2)
        fused = max(pool) > 1 and self.decay_logit is None
        if fused:
            axis = 2 if channels_last else 3
            fired = PooledNeuronFunction.apply(
                timed, self.timesteps, config, pool, axis, self.backend
            )
        else:
            fired = NeuronFunction.apply(
                timed, decay, self.timesteps, config, config.threshold, None, self.backend
            )
        spikes = cast(Tensor, fired)
        if channels_last:
            spikes = spikes.permute(0, 1, 4, 2, 3)
        spikes = spikes.flatten(0, 1)
        return spikes if fused or max(pool) == 1 else F.max_pool2d(spikes, pool)


class Rectifier(NeuronLayer):
    """ReLU and max-pooling, in place of the neurons in a network without spikes."""

    def forward(
        self, drive: Tensor, repeated: bool = False, pool: tuple[int, int] = (1, 1)
    ) -> Tensor:
        return F.relu(drive if max(pool) == 1 else F.max_pool2d(drive, pool))


class _MeanOverProcesses(torch.autograd.Function):
    """Autograd function that averages a tensor over all processes of a distributed training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        return cast(Tensor, _MeanOverProcesses.apply(grads[0].contiguous()))


class Norm(nn.BatchNorm2d):
    """Batch-norm of ``(T * N, C, H, W)``, with statistics over all timesteps or per timestep.

    ``timesteps`` is the number of separate statistics. It is 1 for statistics over all timesteps,
    with running statistics ``(C,)``, and T for statistics per timestep, with running statistics
    ``(T, C)``. Gain and bias ``(C,)`` are shared by all timesteps. In distributed training the
    statistics are those of all processes' batches, on CPUs as well as on GPUs (torch's
    SyncBatchNorm needs GPUs).
    """

    def __init__(self, n_channels: int, timesteps: int = 1):
        super().__init__(n_channels)
        self.timesteps = timesteps
        if timesteps > 1:
            self.running_mean = torch.zeros(timesteps, n_channels)
            self.running_var = torch.ones(timesteps, n_channels)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and dist.is_initialized() and dist.get_world_size() > 1:
            return self._synchronised(input)
        if self.timesteps == 1:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        parts = zip(input.chunk(self.timesteps), self.running_mean, self.running_var, strict=True)
        done = [
            F.batch_norm(
                x, mean, var, self.weight, self.bias, self.training, self.momentum or 0.1, self.eps
            )
            for x, mean, var in parts
        ]
        return torch.cat(done)

    def _synchronised(self, input: Tensor) -> Tensor:
        """Return ``input`` normalised by the mean and variance over the batches of all processes.

        The batches must have the same size. Gradients pass through mean and variance.
        """
        x = widened(input).unflatten(0, (self.timesteps, -1))
        n_processes = dist.get_world_size()
        axes = (1, 3, 4)
        mean = cast(Tensor, _MeanOverProcesses.apply(x.mean(axes)))
        centred = x - mean[:, None, :, None, None]
        var = cast(Tensor, _MeanOverProcesses.apply(centred.square().mean(axes)))
        n_values = n_processes * x[0].numel() // x.shape[2]
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            momentum = self.momentum or 0.1
            shape = self.running_mean.shape
            unbiased = var * (n_values / max(1, n_values - 1))
            self.running_mean.lerp_(mean.reshape(shape), momentum)
            self.running_var.lerp_(unbiased.reshape(shape), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        gain = self.weight * torch.rsqrt(var + self.eps)
        result = centred * gain[:, None, :, None, None] + self.bias[:, None, None]
        return result.flatten(0, 1).to(input.dtype)


class Coefficient(nn.Module):
    """Real-Spike coefficient: a trainable factor of spikes (Guo et al., arXiv 2210.06686).

    The spikes ``(T * N, C, H, W)`` of one layer are multiplied by ``value``, of shape
    ``(T|1, C|1, H|1, W|1)``. Along an axis of size 1, all spikes share a factor; the granularity
    says which axes these are (:class:`sw.model.config.BlockConfig`). All factors start at 1. With
    the granularity ``none``, ``value`` is None and the spikes are not changed.

    A layer reads scaled spikes through :class:`Scaled`.
    """

    def __init__(self, granularity: str, timesteps: int, shape: Shape):
        super().__init__()
        spatial = granularity.removesuffix(PER_TIMESTEP)
        channels, height, width = shape
        axes = {
            "layer": (1, 1, 1),
            "channel": (channels, 1, 1),
            "element": (channels, height, width),
        }
        n_times = timesteps if granularity.endswith(PER_TIMESTEP) else 1
        self.value = (
            None if spatial == "none" else nn.Parameter(torch.ones(n_times, *axes[spatial]))
        )

    @property
    def by_channel(self) -> bool:
        """Whether all spikes of a channel have the same factor at all positions and timesteps."""
        return self.value is None or (len(self.value) == 1 and self.value.shape[2:] == (1, 1))

    def scaled(self, conv: nn.Conv2d) -> Tensor:
        """Return the weights of a convolution times the factors of the channels that it reads.

        A convolution of spikes with these weights equals one of scaled spikes with the weights of
        ``conv``. Scaling the weights takes fewer products, since maps are larger than weights.
        :attr:`by_channel` must be true.
        """
        return conv.weight if self.value is None else conv.weight * self.value

    def forward(self, spikes: Tensor) -> Tensor:
        """Return the scaled spikes ``(T * N, C, H, W)``."""
        if self.value is None:
            return spikes
        if len(self.value) == 1:
            return spikes * self.value
        n_times = len(self.value)
        timed = spikes.unflatten(0, (n_times, len(spikes) // n_times))
        return (timed * self.value[:, None]).flatten(0, 1)


class Scaled:
    """Spikes ``(T * N, C, H, W)`` of a layer, together with the coefficient that scales them.

    If each channel has one factor, the factors go into the weights of the convolutions that read
    the spikes. Otherwise the spikes are multiplied once, for all layers that read them.
    """

    def __init__(self, spikes: Tensor, coefficient: Coefficient):
        self.coefficient = coefficient
        self.values = spikes if coefficient.by_channel else coefficient(spikes)
        """The spikes, multiplied by their factors if factors differ within a channel. Otherwise the
        spikes are unchanged, and the factors go into the weights."""

    def through(self, conv: nn.Conv2d) -> Tensor:
        """Return the output of a convolution (without bias) that reads the scaled spikes."""
        if not self.coefficient.by_channel:
            return conv(self.values)
        padding = cast(tuple[int, int], conv.padding)
        weight = self.coefficient.scaled(conv)
        return F.conv2d(self.values, weight, None, conv.stride, padding)

    def means(self) -> Tensor:
        """Return the means ``(T * N, C)`` of the scaled spikes over all positions."""
        means = self.values.mean((2, 3))
        value = self.coefficient.value
        return (
            means * value.flatten() if value is not None and self.coefficient.by_channel else means
        )
