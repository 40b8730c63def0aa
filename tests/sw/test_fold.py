from __future__ import annotations

import numpy as np
import pytest
import torch

from sw import checkpoint, fold
from sw.encoder import InputError
from sw.model import BlockConfig, ModelConfig, NeuronConfig, StageConfig, fashion_mnist
from tests.trained import KEEP_SOFT, LIF, images, lived_in, small_config

N_IMAGES = 12


def assert_folds_exactly(config: ModelConfig, seed: int) -> fold.FoldedNetwork:
    """Training network and folded network in float64: same spikes, same classes, same logits."""
    model = lived_in(config, seed).double()
    folded = fold.fold_model(model, tuple("abcdefghij"), {})
    pixels = images(N_IMAGES, seed)
    with torch.no_grad():
        logits, maps = model.spike_maps(torch.from_numpy(pixels).double() / 255)
    trace = fold.simulate(folded, pixels, keep_spikes=True, batch=5)
    assert list(trace.spikes) == list(maps)
    for name, spikes in maps.items():
        wanted = spikes.transpose(0, 1).numpy()
        assert 0 < wanted.mean() < 1, f"{name} proves nothing"
        np.testing.assert_array_equal(trace.spikes[name], wanted, err_msg=name)
    np.testing.assert_allclose(trace.logits, logits.spike.numpy(), atol=1e-9)
    np.testing.assert_array_equal(trace.predictions, logits.spike.argmax(1).numpy())
    return folded


@pytest.mark.parametrize("neuron", [NeuronConfig(), LIF, KEEP_SOFT])
@pytest.mark.parametrize("seed", [1, 2])
def test_folded_network_equals_training_network(neuron: NeuronConfig, seed: int) -> None:
    assert_folds_exactly(small_config(neuron=neuron), seed)


@pytest.mark.parametrize("suffix", ["", "/per-timestep"])
@pytest.mark.parametrize(
    ("spatial", "inner", "classifier"),
    [
        ("none", (1, 1, 1, 6, 6, 3, 3), (1, 1, 1, 10, 6, 1, 1)),
        ("layer", (1, 1, 1, 6, 6, 3, 3), (1, 1, 1, 10, 6, 1, 1)),
        ("channel", (1, 1, 1, 6, 6, 3, 3), (1, 1, 1, 10, 6, 1, 1)),
        ("element", (1, 7, 5, 6, 6, 3, 3), (1, 1, 1, 10, 6, 7, 5)),
    ],
)
def test_weights_vary_only_along_the_coefficients_axes(
    spatial: str, suffix: str, inner: tuple[int, ...], classifier: tuple[int, ...]
) -> None:
    if spatial == "none":
        suffix = ""
    granularity = spatial + suffix
    config = small_config(
        stages=(
            StageConfig(
                channels=6, blocks=(BlockConfig(gate="OR", inner=granularity, outer=granularity),)
            ),
        )
    )
    folded = assert_folds_exactly(config, 3)
    layers = {layer.name: layer for layer in folded.layers}
    n_times = 3 if suffix else 1
    assert layers["layer1.0.conv2"].weight.shape == (n_times, *inner[1:])
    assert layers["fc"].weight.shape == (n_times, *classifier[1:])
    assert layers["fc"].kernel == (7, 5)


def test_taps_outside_the_map_have_weight_0() -> None:
    folded = fold.fold_model(lived_in(small_config()), tuple("abcdefghij"), {})
    strided = next(layer for layer in folded.layers if layer.name == "layer2.0.conv1")
    assert strided.weight.shape[1:3] == (4, 3)
    assert np.all(strided.weight[:, 0, :, :, :, 0, :] == 0)
    assert np.all(strided.weight[:, :, 0, :, :, :, 0] == 0)
    assert np.all(strided.weight[:, 1, 1] != 0)


def test_embedded_preset_stays_within_its_weights() -> None:
    """At most 300,000 weights, one unshared layer and one unshared per-timestep one."""
    folded = fold.fold_model(lived_in(fashion_mnist()), tuple("abcdefghij"), {})
    assert sum(layer.weight.size for layer in folded.layers) <= 300_000
    rows = sum(
        layer.weight.size // layer.weight.shape[3] * -(-layer.weight.shape[3] // 16)
        for layer in folded.layers
    )
    assert rows <= 20_480
    shapes = {layer.name: layer.weight.shape for layer in folded.layers}
    assert shapes["layer3.0.conv2"][:3] == (1, 4, 4)
    assert shapes["fc"] == (4, 1, 1, 10, 32, 4, 4)


def test_checkpoint_folds_with_its_provenance(tmp_path) -> None:
    model = lived_in(small_config())
    values = {
        "model_config": model.config.to_dict(),
        "model": model.state_dict(),
        "train_config": {"seed": 7},
        "data": {"sha256": "abc"},
        "history": [],
        "results": {},
        "calibration": torch.from_numpy(images(4)),
    }
    path = tmp_path / "small.pt"
    checkpoint.save(path, values)
    folded = fold.fold(path)
    assert folded.provenance["train_config"] == {"seed": 7}
    assert folded.labels[0] == "T-shirt/top"
    assert folded.calibration is not None
    np.testing.assert_array_equal(folded.calibration, images(4))
    again = fold.fold(checkpoint.load(path))
    np.testing.assert_array_equal(again.layers[0].weight, folded.layers[0].weight)


def test_wrong_images_are_refused() -> None:
    folded = fold.fold_model(lived_in(small_config()), tuple("abcdefghij"), {})
    with pytest.raises(InputError, match=r"1, 14, 10"):
        fold.simulate(folded, np.zeros((2, 1, 28, 28), np.uint8))
