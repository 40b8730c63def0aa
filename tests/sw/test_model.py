from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch

from hw.spec import Gate
from sw.model import (
    GRANULARITIES,
    PRESETS,
    BlockConfig,
    Coefficient,
    ModelConfig,
    ModelError,
    Neuron,
    NeuronConfig,
    SpikingResNet,
    StageConfig,
    fashion_mnist,
    join,
    neuron_forward,
)
from tests.trained import KEEP_SOFT, LIF, images, lived_in, small_config


def to_input(n_images: int) -> torch.Tensor:
    return torch.from_numpy(images(n_images)).float() / 255


@pytest.mark.parametrize("gate", ["AND", "IAND", "OR", "XOR"])
def test_gates_have_the_papers_truth_tables(gate: str) -> None:
    expected = {
        "AND": lambda o, s: o and s,
        "IAND": lambda o, s: o and not s,
        "OR": lambda o, s: o or s,
        "XOR": lambda o, s: o != s,
    }[gate]
    for o, s in itertools.product((0.0, 1.0), repeat=2):
        assert join(gate, torch.tensor(s), torch.tensor(o)).item() == float(expected(o, s))


@pytest.mark.parametrize("neuron", [NeuronConfig(), LIF, KEEP_SOFT])
def test_neuron_follows_its_equation(neuron: NeuronConfig) -> None:
    torch.manual_seed(3)
    drive = torch.randn(5, 40) + 0.3
    spikes = Neuron(neuron, 5)(drive.flatten()[:, None]).view(5, 40)
    decay = {"NONE": 1.0, "SUBTRACT": 1 - 2.0**-neuron.leak_shift, "KEEP": 2.0**-neuron.leak_shift}
    membrane = torch.zeros(40)
    fired = 0
    for t in range(5):
        membrane = decay[neuron.leak] * membrane + drive[t]
        for i in range(40):
            expected = membrane[i] >= neuron.threshold
            assert bool(spikes[t, i]) == bool(expected)
            if expected:
                fired += 1
                membrane[i] = membrane[i] - neuron.threshold if neuron.reset == "SOFT" else 0.0
    assert 20 < fired < 180


def test_neuron_fires_at_a_tie() -> None:
    spikes, membranes = neuron_forward(torch.full((4, 1), 0.25), 4, 1.0, 0.5, True)
    assert spikes.flatten().tolist() == [0, 1, 0, 1]
    assert membranes.flatten().tolist() == [0.25, 0.5, 0.25, 0.5]


class Surrogate(torch.autograd.Function):
    """A step whose gradient is the surrogate's, for automatic differentiation through time."""

    @staticmethod
    def forward(ctx, above, surrogate, slope):
        ctx.save_for_backward(above)
        ctx.kind = surrogate, slope
        return (above >= 0).to(above.dtype)

    @staticmethod
    def backward(ctx, grad):
        (above,) = ctx.saved_tensors
        surrogate, slope = ctx.kind
        if surrogate == "sigmoid":
            s = torch.sigmoid(slope * above)
            return grad * slope * s * (1 - s), None, None
        return grad * slope / 2 / (1 + (torch.pi / 2 * slope * above) ** 2), None, None


@pytest.mark.parametrize("surrogate", ["sigmoid", "arctan"])
@pytest.mark.parametrize("neuron", [NeuronConfig(), LIF, KEEP_SOFT])
@pytest.mark.parametrize("repeated", [False, True])
def test_backward_equals_automatic_differentiation(
    neuron: NeuronConfig, surrogate: str, repeated: bool
) -> None:
    neuron = dataclasses.replace(neuron, surrogate=surrogate, surrogate_slope=3.0)
    torch.manual_seed(5)
    drive = (torch.randn(1 if repeated else 4, 30, dtype=torch.float64) + 0.2).requires_grad_()
    factors = torch.randn(4, 30, dtype=torch.float64)

    membrane = torch.zeros(30, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for t in range(4):
        membrane = neuron.decay * membrane + drive[0 if repeated else t]
        spike = Surrogate.apply(membrane - neuron.threshold, surrogate, 3.0)
        assert isinstance(spike, torch.Tensor)
        expected = expected + (factors[t] * spike).sum()
        fired = spike.detach()
        membrane = (
            membrane - neuron.threshold * fired
            if neuron.reset == "SOFT"
            else membrane * (1 - fired)
        )
    (wanted,) = torch.autograd.grad(expected, drive)

    spikes = Neuron(neuron, 4)(drive.flatten(0, 1)[:, None], repeated).view(4, 30)
    (found,) = torch.autograd.grad((factors * spikes).sum(), drive)
    torch.testing.assert_close(found, wanted)


def test_coefficients_have_the_shape_of_their_granularity() -> None:
    shapes = {"layer": (1, 1, 1), "channel": (2, 1, 1), "element": (2, 3, 5)}
    spikes = torch.ones(4 * 6, 2, 3, 5)
    for spatial, suffix in itertools.product(GRANULARITIES[1:], ("", "/per-timestep")):
        coefficient = Coefficient(spatial + suffix, 4, (2, 3, 5))
        assert coefficient.value is not None
        n_times = 4 if suffix else 1
        assert coefficient.value.shape == (n_times, *shapes[spatial])
        with torch.no_grad():
            coefficient.value.copy_(torch.rand(coefficient.value.shape))
        scaled = coefficient(spikes).unflatten(0, (4, 6))
        for t in range(4):
            wanted = coefficient.value[min(t, n_times - 1)].expand(6, 2, 3, 5)
            torch.testing.assert_close(scaled[t], wanted)
    assert Coefficient("none", 4, (2, 3, 5))(spikes) is spikes


@pytest.mark.parametrize("gate", ["AND", "IAND", "OR", "XOR"])
def test_every_map_is_binary_and_every_gate_works_on_the_binary_identity(gate: str) -> None:
    """Coefficients are far from 1: were one applied before a gate, maps would not be binary."""
    config = small_config(
        stages=(StageConfig(channels=6, blocks=(BlockConfig(gate=gate), BlockConfig(gate=gate))),)
    )
    model = lived_in(config)
    logits, maps = model.spike_maps(to_input(5))
    assert logits.spike.shape == (5, 10)
    for name, spikes in maps.items():
        assert spikes.shape[:2] == (3, 5)
        assert set(spikes.unique().tolist()) == {0.0, 1.0}, name


def test_the_auxiliary_pathway_sums_branches_and_detaches_without_a_trace() -> None:
    model = lived_in(small_config())
    pixels = to_input(6)
    attached = model(pixels)
    plain = model.detach_aap()
    detached = plain(pixels)
    assert attached.aap is not None and detached.aap is None
    assert torch.equal(attached.spike, detached.spike)
    assert not any(name.startswith("aap") for name in plain.state_dict())
    # Without a carry the pathway is the stem's spikes plus every branch's.
    config = small_config(
        stages=(StageConfig(channels=6, blocks=(BlockConfig(gate="OR"), BlockConfig(gate="AND"))),)
    )
    model = lived_in(config)
    branches: list[torch.Tensor] = []
    for name in model.block_names:
        model.block(name).register_forward_hook(lambda _, __, out: branches.append(out[2]))
    logits, maps = model.spike_maps(pixels)
    sums = maps["input"].flatten(0, 1) + branches[0] + branches[1]
    assert sums.max() > 1
    wanted = model.fc(sums.mean((2, 3)).unflatten(0, (3, 6)).mean(0))
    assert logits.aap is not None
    torch.testing.assert_close(logits.aap, wanted)


def test_gradients_reach_everything() -> None:
    model = SpikingResNet(small_config()).train()
    logits = model(to_input(4))
    assert logits.aap is not None
    (logits.spike.square().sum() + logits.aap.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


def test_state_dict_has_resnet_names() -> None:
    names = set(SpikingResNet(fashion_mnist()).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer1.0.bn2.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.bias",
        "layer3.0.coefficient2.value",
        "fc.weight",
    } <= names
    assert not any(name.startswith("layer1.0.downsample") for name in names)


def test_configuration_survives_json() -> None:
    for config in (small_config(neuron=LIF), *(preset() for preset in PRESETS.values())):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_add_is_refused_as_not_full_spike() -> None:
    with pytest.raises(ModelError, match="not full-spike"):
        BlockConfig(gate="ADD")
    values = small_config().to_dict()
    values["stages"][0]["blocks"][0]["gate"] = "ADD"
    with pytest.raises(ModelError, match="not full-spike"):
        ModelConfig.from_dict(values)
    assert "ADD" not in Gate.__members__


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockConfig(gate="NAND"), "gate = 'NAND'"),
        (lambda: BlockConfig(inner="pixel"), "granularity 'pixel'"),
        (lambda: BlockConfig(outer="none/per-timestep"), "granularity"),
        (lambda: NeuronConfig(leak="SUBTRACT"), "leak_shift = 0"),
        (lambda: NeuronConfig(leak_shift=2), "leak_shift = 2"),
        (lambda: NeuronConfig(leak="SOMETIMES"), "leak = 'SOMETIMES'"),
        (lambda: NeuronConfig(reset="ZERO"), "reset = 'ZERO'"),
        (lambda: NeuronConfig(surrogate="relu"), "surrogate = 'relu'"),
        (lambda: NeuronConfig(threshold=0.0), "threshold = 0.0"),
        (lambda: ModelConfig(timesteps=0), "timesteps = 0"),
        (lambda: ModelConfig(stages=()), "stages"),
        (lambda: ModelConfig.from_dict({"timesteps": 4}), "not a model configuration"),
    ],
)
def test_bad_configurations_are_named(build, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()
