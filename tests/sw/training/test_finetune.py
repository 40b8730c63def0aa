from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sw.convert import fold, quantize
from sw.convert.folded import FoldedNetwork
from sw.model import checkpoint
from sw.model.config import BlockConfig, ModelConfig, NeuronConfig, StageConfig, with_blocks
from sw.model.resnet import to_input
from sw.network import reference
from sw.training import finetune
from sw.training.finetune import IntegerNet
from tests.trained import KEEP_SOFT, LIF, images, lived_in, small_config

LABELS = tuple("abcdefghij")
BOTTLENECK = BlockConfig(gate="AND", kind="bottleneck", outer="element/per-timestep")


def configurations() -> Iterator[tuple[str, ModelConfig]]:
    yield "images", small_config()
    yield "LIF", small_config(neuron=LIF)
    yield "soft reset", small_config(neuron=KEEP_SOFT)
    yield "per-timestep statistics", small_config(batch_norm="per-timestep")
    frames = {"image_shape": (2, 12, 10), "frames": True}
    yield "frames", small_config(**frames, neurons={"layer1.0.conv1": LIF})
    yield "sums", with_blocks(small_config(), gate="ADD")
    stages = (StageConfig(channels=8, stride=2, blocks=(BOTTLENECK, BOTTLENECK)),)
    yield "signal", small_config(image_shape=(1, 1, 64), stages=stages)


def given(config: ModelConfig, n: int = 16) -> np.ndarray:
    if config.frames:
        size = (n, config.timesteps, *config.image_shape)
        return np.random.default_rng(1).integers(0, 2, size, np.uint8)
    if config.image_shape == (1, 14, 10):
        return images(n)
    return np.random.default_rng(1).integers(0, 256, (n, *config.image_shape), np.uint8)


def exported(net: IntegerNet) -> FoldedNetwork:
    """Return the folded network that the exporter makes of the trained network."""
    values = {
        "model_config": net.model.config.to_dict(),
        "model": net.model.state_dict(),
        "quantisation": net.scales.to_dict(),
    }
    return fold.fold(values)


def assert_equals_the_reference(net: IntegerNet, pixels: np.ndarray) -> None:
    """Check that the trained network has the same spikes and logits as the exported integer
    network.
    """
    network = quantize.quantize(exported(net), net.scales.weight_bits)
    trace = reference.run(network, pixels)
    maps: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        logits = net(to_input(torch.from_numpy(pixels)), maps.__setitem__).spike
    assert set(maps) == set(trace.spikes)
    for name, spikes in maps.items():
        np.testing.assert_array_equal(spikes.transpose(0, 1).numpy(), trace.spikes[name], name)
    integers = (logits.double() / net.scales.output).numpy()
    np.testing.assert_allclose(integers, trace.logits, atol=0.01, rtol=1e-6)
    np.testing.assert_array_equal(logits.argmax(1).numpy(), trace.predictions)


@pytest.mark.parametrize("weight_bits", [2, 4, 8])
@pytest.mark.parametrize(("name", "config"), list(configurations()))
def test_forward_is_the_exported_network_before_and_after_training(
    name: str, config: ModelConfig, weight_bits: int
) -> None:
    pixels = given(config)
    net = finetune.prepare(lived_in(config), weight_bits, pixels)
    # Before training, the network is that of quantisation alone, with calibrated biases.
    folded = fold.fold_model(lived_in(config).detach_aap(), LABELS, {})
    plain = reference.run(quantize.quantize(folded, weight_bits, calibration=pixels), pixels)
    with torch.no_grad():
        logits = net(to_input(torch.from_numpy(pixels))).spike.double() / net.scales.output
    np.testing.assert_allclose(logits.numpy(), plain.logits, atol=0.01, rtol=1e-6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    labels = torch.arange(len(pixels)) % 10
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(
            net(to_input(torch.from_numpy(pixels))).spike, labels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
    changed = net(to_input(torch.from_numpy(pixels))).spike.double() / net.scales.output
    assert (changed.round().detach().numpy() != plain.logits).any(), "training changed nothing"
    assert_equals_the_reference(net, pixels)


def test_large_integers_take_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "EXACT", 1)
    seen: list[torch.dtype] = []
    sums = finetune._weighted_sums

    def spy(part, source, weight, n_times):
        seen.append(source.dtype)
        return sums(part, source, weight, n_times)

    monkeypatch.setattr(finetune, "_weighted_sums", spy)
    config = small_config()
    assert_equals_the_reference(finetune.prepare(lived_in(config), 8, given(config)), given(config))
    assert set(seen) == {torch.float64}


def test_gradients_are_those_of_the_float_network_where_rounding_is_fine() -> None:
    """Check that gradients through the 8-bit network are close to those of the float network.

    Rounding weights to 8 bits changes them little.
    """
    config = small_config(neuron=NeuronConfig(surrogate="arctan", surrogate_slope=1.0))
    model = lived_in(config).detach_aap()
    net = finetune.prepare(model, 8, given(config))
    pixels = to_input(torch.from_numpy(given(config, 60)))
    labels = torch.arange(60) % 10
    gradients = []
    for network in (net.model.eval(), net):
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(pixels).spike, labels).backward()
        gradients.append({n: p.grad for n, p in net.model.named_parameters()})
    for kind in ("conv", "bn", "coefficient", "fc", "downsample"):
        wanted, found = (
            torch.cat([g.flatten() for n, g in part.items() if kind in n and g is not None])
            for part in gradients
        )
        cosine = torch.nn.functional.cosine_similarity(wanted, found, dim=0)
        assert cosine > 0.8, (kind, float(cosine))
        assert float(found.norm() / wanted.norm()) == pytest.approx(1, abs=0.25), kind


def test_a_checkpoint_keeps_the_scales_and_other_widths_ignore_them(tmp_path) -> None:
    config = small_config()
    net = finetune.prepare(lived_in(config), 4, given(config))
    values = {
        "model_config": net.model.config.to_dict(),
        "model": net.model.state_dict(),
        "train_config": {},
        "data": {},
        "history": [],
        "results": {},
        "quantisation": net.scales.to_dict(),
        "calibration": torch.from_numpy(given(config)),
    }
    checkpoint.save(tmp_path / "tuned.pt", values)
    folded = fold.fold(tmp_path / "tuned.pt")
    assert folded.scales is not None and folded.scales.weight_bits == 4
    network = quantize.quantize(folded, 4)
    for layer in network.layers[:-1]:
        np.testing.assert_array_equal(layer.threshold, net.scales.thresholds[layer.name])
    other = quantize.quantize(folded, 8)
    assert max(int(layer.weight.max()) for layer in other.layers) > 7
