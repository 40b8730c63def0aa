"""Measure how the spikes and classes of an imported network change when its leaks are approximated.

A leak multiplies membranes by a factor, the *decay*, at every timestep. The device has only some
decays, so an import may take the nearest of them (:mod:`sw.exchange.neurons`). :func:`measure` runs
the network twice in float64: as it was imported, and with the decays of the framework's neurons
(:attr:`sw.exchange.assembly.Imported.near`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hw.spec import Reset, decay
from sw.convert.folded import DOUBLE, FoldedLayer, FoldedNetwork, simulate
from sw.exchange.assembly import Imported
from sw.exchange.graph import FireNode, Float
from sw.exchange.linear import to_rows
from sw.network.engine import drive, fire, inputs_of, join_and_pool, summed
from sw.network.network import IMAGE, INPUT

N_RANDOM = 64
"""Number of random samples to measure on if there are no others."""
RANDOM_DENSITY = 0.1
"""Fraction of ones in random binary frames."""


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """Effect on one layer of replacing its leak by the device's nearest leak.

    ``decays`` are the factors by which the framework multiplies membranes at every timestep, and
    ``nearest`` is the device's factor. The other fields count spikes over all samples, timesteps
    and neurons: ``n_spikes`` with the framework's decays; ``n_nearest`` with the device's nearest
    leak; and ``n_changed`` those that occur in only one of the two runs.
    """

    layer: str
    decays: tuple[float, ...]
    nearest: float
    n_spikes: int
    n_nearest: int
    n_changed: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """Effect on a network of replacing its leaks by the device's nearest ones, measured on
    ``n_samples`` samples.

    ``layers`` has an entry for each layer whose leak differs from the leak in the framework.
    """

    layers: tuple[LayerChange, ...]
    same_class: float
    """Fraction of samples that get the same class with both leaks."""
    n_samples: int

    def as_text(self) -> str:
        """Return the replaced leaks and their effect as a text of several lines."""
        lines = []
        for layer in self.layers:
            leaks = ", ".join(f"{value:.4g}" for value in layer.decays[:4])
            leaks += ", ..." if len(layer.decays) > 4 else ""
            share = layer.n_changed / max(1, layer.n_spikes + layer.n_nearest)
            lines.append(
                f"nearest    {layer.layer}: leak {leaks} becomes {layer.nearest:.4g}; "
                f"{layer.n_spikes:,} spikes become {layer.n_nearest:,}, and {share:.2%} of both "
                "have no counterpart at the same timestep"
            )
        lines.append(
            f"nearest    same class as in the framework in {self.same_class:.2%} of "
            f"{self.n_samples} samples; --data DATA --fine-tune 3 trains its integers with these "
            "leaks, to win back what is lost"
        )
        return "\n".join(lines)


def random_samples(network: FoldedNetwork, n_samples: int = N_RANDOM) -> NDArray[np.uint8]:
    """Return random images or binary frames that the network takes, the same at every call.

    The result is uint8 (N, C, H, W) for images, whose brightness increases from first to last, and
    (N, T, C, H, W) for frames.
    """
    rng = np.random.default_rng(0)
    if network.encoder is None:
        shape = (n_samples, network.timesteps, *network.image_shape)
        return (rng.random(shape) < RANDOM_DENSITY).astype(np.uint8)
    brightness = np.linspace(0.2, 1, n_samples)[:, None, None, None]
    pixels = rng.integers(0, 256, (n_samples, *network.image_shape))
    return (brightness * pixels).astype(np.uint8)


def measure(imported: Imported, samples: NDArray[np.uint8] | None = None) -> Change:
    """Run an imported network twice, with the nearest leaks of the device and with the framework's
    leaks, and return the differences.

    Parameters
    ----------
    samples : images or frames that the network takes; None for random ones.
    """
    network = imported.folded
    samples = random_samples(network) if samples is None else samples
    found = simulate(network, samples, keep_spikes=True)
    logits, spikes = in_framework(imported, samples)
    layers = {layer.name: layer for layer in network.layers}
    changes = []
    for name, step in imported.near.items():
        layer = network.encoder if name == IMAGE else layers[name]
        assert layer is not None and step.decay is not None
        key = INPUT if name == IMAGE else name
        changes.append(
            LayerChange(
                layer=layer.name,
                decays=tuple(map(float, np.unique(step.decay))),
                nearest=decay(layer.leak, *layer.leak_shifts),
                n_spikes=int(spikes[key].sum()),
                n_nearest=int(found.spikes[key].sum()),
                n_changed=int((spikes[key] != found.spikes[key]).sum()),
            )
        )
    same = float(np.mean(logits.argmax(axis=1) == found.predictions)) if len(samples) else 1.0
    return Change(layers=tuple(changes), same_class=same, n_samples=len(samples))


@torch.no_grad()
def in_framework(
    imported: Imported, samples: NDArray[np.uint8]
) -> tuple[Float, dict[str, NDArray[np.uint8]]]:
    """Run a network in float64, with the leaks that it had in the framework it was imported from.

    The imported network itself has the nearest leaks that the device can compute. ``samples`` are
    images or binary frames that the network takes.

    Returns
    -------
    The logits (N, n_classes), and the spikes (N, T, C, H, W) by name of the map.
    """
    network = imported.folded
    maps = {INPUT: torch.from_numpy(samples)}

    def run(layer: FoldedLayer, source: Tensor, step: FireNode | None) -> Tensor:
        identity = None if layer.identity is None else maps[layer.identity]
        drives = drive(layer, source, DOUBLE)
        if step is None:
            spikes = fire(layer, drives, network.timesteps, DOUBLE)
        else:
            spikes = _fire(layer, step, drives, network.timesteps)
        return join_and_pool(layer, spikes, identity)

    if network.encoder is not None:
        maps[INPUT] = run(network.encoder, maps[INPUT][:, None], imported.near.get(IMAGE))
    for layer in network.layers[:-1]:
        maps[layer.name] = run(layer, inputs_of(layer, maps), imported.near.get(layer.name))
    last = network.layers[-1]
    sums = drive(last, inputs_of(last, maps), DOUBLE)[..., 0, 0].sum(1) + summed(last.bias, DOUBLE)
    return sums.numpy(), {name: spikes.numpy() for name, spikes in maps.items()}


def _fire(layer: FoldedLayer, step: FireNode, drives: Tensor, timesteps: int) -> Tensor:
    """Return the spikes (N, T, O, H, W) of neurons with the framework's decay, ``step.decay``.

    ``drives`` (N, T|1, O, H, W) are the neurons' weighted sums, without bias.
    """
    assert layer.threshold is not None and step.decay is not None
    _, _, channels, height, width = drives.shape

    def to_map(rows: Float) -> Tensor:
        return torch.from_numpy(rows).permute(2, 0, 1)

    factor = to_map(to_rows(step.decay, (channels, height, width)))
    threshold, bias = to_map(layer.threshold), to_map(layer.bias[0])
    membrane = torch.zeros_like(drives[:, 0])
    late = torch.zeros_like(membrane)
    spikes = torch.empty((len(drives), timesteps, *drives.shape[2:]), dtype=torch.uint8)
    for t in range(timesteps):
        now = drives[:, min(t, drives.shape[1] - 1)] + bias
        charged = membrane * factor + now - late
        fired = charged >= threshold
        spikes[:, t] = fired
        membrane = charged
        if layer.reset == Reset.HARD:
            membrane = torch.where(fired, torch.zeros_like(charged), charged)
        elif layer.reset == Reset.DELAYED:
            late = fired * threshold
        else:
            membrane = charged - fired * threshold
    return spikes
