from __future__ import annotations

import numpy as np
import pytest
import torch

from hw.spec import Gate, Leak
from sw.convert import fold
from sw.convert.folded import FoldedNetwork, simulate
from sw.model import checkpoint
from sw.model.checkpoint import CheckpointError
from sw.model.config import (
    GRANULARITIES,
    KINDS,
    PER_TIMESTEP,
    BlockConfig,
    ModelConfig,
    ModelError,
    NeuronConfig,
    StageConfig,
    with_blocks,
    with_granularity,
)
from sw.model.presets import fashion_mnist
from sw.model.resnet import to_input
from sw.network.encoder import InputError
from sw.network.network import INPUT
from sw.training import finetune
from tests.trained import KEEP_SOFT, LIF, images, lived_in, small_config

N_IMAGES = 12


def assert_folds_exactly(
    config: ModelConfig, seed: int, given: np.ndarray | None = None
) -> FoldedNetwork:
    """Check that a network in training and its folded form agree in spikes, classes and logits.

    Both compute in float64. ``given`` are the images or frames to run; by default, they are random
    images. Return the folded network.
    """
    model = lived_in(config, seed).double()
    folded = fold.fold_model(model, tuple("abcdefghij"), {})
    pixels = images(N_IMAGES, seed) if given is None else given
    with torch.no_grad():
        logits, maps = model.spike_maps(to_input(torch.from_numpy(pixels), torch.float64))
    trace = simulate(folded, pixels, keep_spikes=True, batch=5)
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


LEAKS = (("NONE", 0), ("SUBTRACT", 2), ("KEEP", 1))


@pytest.mark.parametrize("reset", ["HARD", "SOFT"])
@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("gate", ["AND", "IAND", "OR", "XOR"])
@pytest.mark.parametrize(
    "granularity",
    ["none", *(g + s for g in GRANULARITIES[1:] for s in ("", PER_TIMESTEP))],
)
def test_every_granularity_gate_neuron_and_reset_folds(
    granularity: str, gate: str, leak: tuple[str, int], reset: str
) -> None:
    config = small_config(
        neuron=NeuronConfig(leak=leak[0], leak_shift=leak[1], reset=reset),
        stages=(StageConfig(channels=6, stride=2, blocks=(BlockConfig(gate=gate),)),),
        batch_norm="per-timestep" if reset == "SOFT" else "shared",
    )
    assert_folds_exactly(with_granularity(config, granularity), 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_norm", ["shared", "per-timestep"])
def test_frames_signals_and_bottlenecks_fold(kind: str, batch_norm: str) -> None:
    """Check that networks for frames and for 1-D signals, and bottleneck blocks, fold exactly.

    Layers have neurons with different leaks and resets.
    """
    block = BlockConfig(gate="XOR", kind=kind, inner="element", outer="channel/per-timestep")
    stages = (
        StageConfig(channels=8, blocks=(block,)),
        StageConfig(channels=12, stride=2, blocks=(block,)),
    )
    rng = np.random.default_rng(1)
    for shape, frames in (((2, 11, 10), True), ((2, 1, 40), False), ((2, 1, 40), True)):
        size = (N_IMAGES, 3, *shape) if frames else (N_IMAGES, *shape)
        given = rng.integers(0, 2 if frames else 256, size, np.uint8)
        config = small_config(
            image_shape=shape,
            frames=frames,
            stages=stages,
            batch_norm=batch_norm,
            neurons={"layer1.0.conv1": LIF, "layer2.0.downsample": KEEP_SOFT, "conv1": LIF},
        )
        folded = assert_folds_exactly(config, 5, given)
        assert (folded.encoder is None) == frames
        first = folded.layers[0] if folded.encoder is None else folded.encoder
        assert (first.leak, first.leak_shift) == (Leak.SUBTRACT, 2)
        times = {layer.name: layer.weight.shape[0] for layer in folded.layers}
        assert times["layer2.0.downsample"] == 3
        assert times["layer1.0.conv2"] == (3 if batch_norm == "per-timestep" else 1)


@pytest.mark.parametrize("frames", [False, True])
def test_add_gates_become_maps_that_later_layers_read(frames: bool) -> None:
    """Check that layers read all maps that ``ADD`` gates have summed before them.

    The sum grows from block to block. A block with a stride starts a new sum, because its shortcut
    has neurons.
    """
    config = with_blocks(small_config(frames=frames), gate="ADD")
    given = None
    if frames:
        shape = (N_IMAGES, config.timesteps, *config.image_shape)
        given = (np.random.default_rng(1).random(shape) < 0.4).astype(np.uint8)
    folded = assert_folds_exactly(config, 3, given)
    layers = {layer.name: layer for layer in folded.layers}
    stem, sums = "conv1" if frames else INPUT, ("layer1.0.conv2", "layer1.1.conv2")
    assert layers["layer1.0.conv1"].sources == (stem,)
    assert layers["layer1.1.conv1"].sources == (stem, sums[0])
    assert layers["layer2.0.conv1"].sources == layers["layer2.0.downsample"].sources
    assert layers["layer2.0.downsample"].sources == (stem, *sums)
    assert layers["fc"].sources == ("layer2.0.downsample", "layer2.0.conv2")
    assert all(layer.gate == Gate.NONE and not layer.stacked for layer in folded.layers)


def with_gates(*gates: str, stride: int = 1) -> ModelConfig:
    """Return the configuration of a network with two stages and one block for each of ``gates``.

    The last block is the second stage, whose stride is ``stride``; all others are the first stage.
    """
    blocks = tuple(BlockConfig(gate=gate) for gate in gates)
    last = StageConfig(channels=6, stride=stride, blocks=blocks[-1:])
    return small_config(stages=(StageConfig(channels=6, blocks=blocks[:-1]), last))


def test_gates_join_sums_only_behind_neurons() -> None:
    folded = assert_folds_exactly(with_gates("ADD", "IAND", stride=2), 4)
    last = folded.layers[-2]
    assert (last.gate, last.identity, last.addends) == (Gate.IAND, "layer2.0.downsample", ())
    assert folded.layers[-3].sources == (INPUT, "layer1.0.conv2")
    assert_folds_exactly(with_gates("OR", "ADD", "ADD"), 2)
    assert_folds_exactly(with_gates("ADD", "ADD", "XOR", stride=2), 1)


def test_what_the_device_cannot_do_is_not_folded() -> None:
    for config, message in (
        (
            with_gates("ADD", "IAND"),
            "block 'layer2.0': its gate IAND would join spikes with the sums of block 'layer1.0'",
        ),
        (with_gates(*["ADD"] * 64), "block 'layer2.0': its output is the sum of 65 maps"),
        (
            small_config(neuron=NeuronConfig(leak="LEARNED", leak_shift=1)),
            "layer 'conv1': its leak is LEARNED",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            fold.fold_model(lived_in(config), tuple("abcdefghij"), {})


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
    """Check that the network of the recipe for Fashion-MNIST has at most 300,000 weights after
    folding.

    One layer must have weights of its own for each position, and the classifier for each timestep
    as well.
    """
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


def test_damage_is_named() -> None:
    net = finetune.prepare(lived_in(small_config()), 4, images(8))
    whole = {
        "model_config": net.model.config.to_dict(),
        "model": net.model.state_dict(),
        "data": {"labels": list("abcdefghij")},
        "quantisation": net.scales.to_dict(),
    }
    fold.fold(whole)
    for path, value, message in (
        ("data labels", ["a"], r"10 classes, but their labels are \['a'\]"),
        ("quantisation output", "much", "its quantisation scales cannot be read: "),
        ("quantisation thresholds", 3, "its quantisation scales cannot be read: "),
        ("quantisation output", 0.0, "its quantisation scales are not positive numbers"),
        (
            "quantisation thresholds",
            {},
            "its quantisation scales do not fit the neurons of stem, layer1.0.conv1",
        ),
    ):
        part, name = path.split()
        with pytest.raises(CheckpointError, match=f"the checkpoint is damaged: {message}"):
            fold.fold({**whole, part: {**whole[part], name: value}})


def test_wrong_images_are_refused() -> None:
    folded = fold.fold_model(lived_in(small_config()), tuple("abcdefghij"), {})
    with pytest.raises(InputError, match=r"1, 14, 10"):
        simulate(folded, np.zeros((2, 1, 28, 28), np.uint8))
