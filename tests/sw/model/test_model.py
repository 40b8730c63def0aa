"""Tests of the network: neurons, gates, gradients, spike maps, shapes and configurations."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hw.spec import Gate, Leak, Reset, leaked
from sw.model.config import (
    GRANULARITIES,
    KINDS,
    SURROGATES,
    BlockConfig,
    ModelConfig,
    ModelError,
    NeuronConfig,
    StageConfig,
    with_blocks,
    with_granularity,
)
from sw.model.functional import EAGER, Backend, compiled, join, neuron_backward, neuron_forward
from sw.model.modules import Coefficient, NeuronLayer, Norm
from sw.model.presets import fashion_mnist, resnet
from sw.model.resnet import SpikingResNet, round_leaks, to_input
from sw.network.network import INPUT
from tests.trained import KEEP_SOFT, LIF, images, lived_in, small_config


def pixels(n_images: int) -> torch.Tensor:
    return to_input(torch.from_numpy(images(n_images)))


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


FINE_DELAYED = NeuronConfig(leak="SUBTRACT", leak_shift=3, finer_shifts=(5,), reset="DELAYED")


@pytest.mark.parametrize("neuron", [NeuronConfig(), LIF, KEEP_SOFT, FINE_DELAYED])
def test_neuron_follows_its_equation(neuron: NeuronConfig) -> None:
    torch.manual_seed(3)
    drive = torch.randn(5, 40) + 0.3
    spikes = NeuronLayer(neuron, 5)(drive.flatten()[:, None]).view(5, 40)
    kept = 2.0**-neuron.leak_shift - sum(2.0**-shift for shift in neuron.finer_shifts)
    decay = {"NONE": 1.0, "SUBTRACT": 1 - kept, "KEEP": kept}
    membrane, late = torch.zeros(40), torch.zeros(40)
    fired = 0
    for t in range(5):
        membrane = decay[neuron.leak] * membrane + drive[t] - late
        late = torch.zeros(40)
        for i in range(40):
            expected = membrane[i] >= neuron.threshold
            assert bool(spikes[t, i]) == bool(expected)
            if expected:
                fired += 1
                if neuron.reset == "DELAYED":
                    late[i] = neuron.threshold
                else:
                    soft = neuron.reset == "SOFT"
                    membrane[i] = membrane[i] - neuron.threshold if soft else 0.0
    assert 20 < fired < 180


def test_neuron_fires_at_a_tie() -> None:
    spikes, membranes = neuron_forward(torch.full((4, 1), 0.25), 4, 1.0, 0.5, Reset.HARD)
    assert spikes.flatten().tolist() == [0, 1, 0, 1]
    assert membranes.flatten().tolist() == [0.25, 0.5, 0.25, 0.5]


class Surrogate(torch.autograd.Function):
    """Step function with a surrogate gradient, for comparison with automatic differentiation."""

    @staticmethod
    def forward(ctx, above, surrogate, slope):
        ctx.save_for_backward(above)
        ctx.kind = surrogate, slope
        return (above >= 0).to(above.dtype)

    @staticmethod
    def backward(ctx, grad):
        (above,) = ctx.saved_tensors
        surrogate, slope = ctx.kind
        x = slope * above
        derivative = {
            "sigmoid": torch.sigmoid(x) * (1 - torch.sigmoid(x)),
            "arctan": 1 / 2 / (1 + (torch.pi / 2 * x) ** 2),
            "rectangle": (abs(x) <= 1 / 2).to(x.dtype),
            "triangle": (1 - abs(x)).clamp(min=0),
        }[surrogate]
        return grad * slope * derivative, None, None


@pytest.mark.parametrize("surrogate", SURROGATES)
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

    spikes = NeuronLayer(neuron, 4)(drive.flatten(0, 1)[:, None], repeated).view(4, 30)
    (found,) = torch.autograd.grad((factors * spikes).sum(), drive)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("pool", [(2, 2), (1, 2), (3, 2)])
@pytest.mark.parametrize("leak", ["SUBTRACT", "LEARNED"])
def test_pooling_in_the_neurons_is_max_pooling_behind_them(
    leak: str, pool: tuple[int, int], repeated: bool, channels_last: bool
) -> None:
    """Check that pooling inside a layer of neurons equals max pooling after it, gradients
    included.

    Rows and columns that do not fill a window must get no gradient.
    """
    torch.manual_seed(6)
    neuron = NeuronLayer(NeuronConfig(leak=leak, leak_shift=2, reset="SOFT"), 3).double()
    drive = torch.randn(4 if repeated else 12, 5, 9, 7, dtype=torch.float64) + 0.4
    if channels_last:
        drive = drive.to(memory_format=torch.channels_last)
    behind, within = (drive.clone(memory_format=torch.preserve_format) for _ in range(2))
    wanted = torch.nn.functional.max_pool2d(neuron(behind.requires_grad_(), repeated), pool)
    found = neuron(within.requires_grad_(), repeated, pool)
    assert torch.equal(found, wanted) and 0.1 < found.mean() < 0.95
    factors = torch.randn_like(found)
    found.backward(factors)
    wanted.backward(factors)
    torch.testing.assert_close(within.grad, behind.grad)


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
    """Check that every map of a network is binary, for every gate.

    Coefficients are far from 1, so that a coefficient applied before a gate would be noticed.
    """
    config = small_config(
        stages=(StageConfig(channels=6, blocks=(BlockConfig(gate=gate), BlockConfig(gate=gate))),)
    )
    model = lived_in(config)
    logits, maps = model.spike_maps(pixels(5))
    assert logits.spike.shape == (5, 10)
    for name, spikes in maps.items():
        assert spikes.shape[:2] == (3, 5)
        assert set(spikes.unique().tolist()) == {0.0, 1.0}, name


def test_the_auxiliary_pathway_sums_branches_and_detaches_without_a_trace() -> None:
    model = lived_in(small_config())
    given = pixels(6)
    attached = model(given)
    plain = model.detach_aap()
    detached = plain(given)
    assert attached.aap is not None and detached.aap is None
    assert torch.equal(attached.spike, detached.spike)
    assert not any(name.startswith("aap") for name in plain.state_dict())
    # Without down-sampling, the pathway is the sum of the spikes of the stem and all branches.
    config = small_config(
        stages=(StageConfig(channels=6, blocks=(BlockConfig(gate="OR"), BlockConfig(gate="AND"))),)
    )
    model = lived_in(config)
    branches: list[torch.Tensor] = []
    for name in model.block_names:
        model.block(name).register_forward_hook(lambda _, __, out: branches.append(out[2]))
    logits, maps = model.spike_maps(given)
    sums = maps["input"].flatten(0, 1) + branches[0] + branches[1]
    assert sums.max() > 1
    wanted = model.fc(sums.mean((2, 3)).unflatten(0, (3, 6)).mean(0))
    assert logits.aap is not None
    torch.testing.assert_close(logits.aap, wanted)


def test_gradients_reach_everything() -> None:
    model = SpikingResNet(small_config()).train()
    logits = model(pixels(4))
    assert logits.aap is not None
    (logits.spike.square().sum() + logits.aap.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


def test_a_backend_computes_all_neurons_and_gates_of_a_network_and_its_copies() -> None:
    """Check that a network and its copies compute all neurons and gates with the backend that was
    set.

    The backend here counts its calls. Another network keeps the default backend.
    """
    calls: dict[str, int] = {}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return getattr(EAGER, name)(*args)

        return call

    names = [field.name for field in dataclasses.fields(EAGER)]
    backend = Backend(**{name: counted(name) for name in names})
    other = SpikingResNet(small_config())
    model = SpikingResNet(small_config()).set_backend(backend).train()
    layers = len(model.neurons())
    for network in (model, copy.deepcopy(model), model.detach_aap()):
        calls.clear()
        assert network.backend is backend and other.backend is EAGER
        network(pixels(4)).spike.sum().backward()
        assert calls == {
            "neuron_forward": layers - 1,
            "neuron_backward": layers - 1,
            "pooled_forward": 1,
            "pooled_backward": 1,
            "join": 3,
        }
    calls.clear()
    other(pixels(4)).spike.sum().backward()
    assert not calls


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own code
@pytest.mark.parametrize("neuron", [NeuronConfig(), KEEP_SOFT])
def test_compiled_neurons_equal_the_eager_ones(neuron: NeuronConfig) -> None:
    """Check that the compiled backend gives a whole network the same gradients as the eager one."""
    given = pixels(6).double()
    grads = []
    for backend in (EAGER, compiled()):
        torch.manual_seed(1)
        model = SpikingResNet(small_config(neuron=neuron)).set_backend(backend).double().train()
        logits = model(given)
        (logits.spike.square().sum() + logits.aap.square().sum()).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(grads[1], grads[0])
    assert all(bool(grad.any()) for grad in grads[0].values())


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


def test_neurons_of_a_missing_layer_are_refused() -> None:
    with pytest.raises(ModelError, match="neurons: there are no layers cnov1"):
        SpikingResNet(small_config(neurons={"conv1": LIF, "cnov1": LIF}))


def test_configuration_survives_json() -> None:
    for config in (small_config(neurons={"conv1": LIF}), fashion_mnist(), resnet(50)):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_add_trains_and_sends_integers() -> None:
    config = with_blocks(small_config(), gate="ADD")
    model = lived_in(config)
    logits, maps = model.spike_maps(pixels(5))
    assert logits.spike.shape == (5, 10)
    assert all(set(spikes.unique().tolist()) <= {0, 1} for spikes in maps.values())
    sums: list[torch.Tensor] = []
    model.block("layer1.1").register_forward_hook(lambda *given: sums.append(given[2][0]))
    model(pixels(5))
    parts = [maps[name] for name in (INPUT, "layer1.0.conv2", "layer1.1.conv2")]
    torch.testing.assert_close(sums[0].unflatten(0, (3, 5)), sum(parts[1:], parts[0]))
    assert sums[0].max() > 1 and "ADD" not in Gate.__members__


def test_without_spikes_every_neuron_is_a_relu() -> None:
    """Check that ReLUs take the place of neurons in a network with ``spiking=False``.

    It is refused for images with several timesteps and for gates other than ADD. For frames, its
    class scores are the mean over the timesteps.
    """
    add = with_blocks(small_config(), gate="ADD")
    with pytest.raises(ModelError, match=r"timesteps = 3 of equal images .* use 1"):
        dataclasses.replace(add, spiking=False)
    config = dataclasses.replace(add, spiking=False, timesteps=1)
    assert add.exportable and small_config().exportable and not config.exportable
    with pytest.raises(ModelError, match=r"without them .* use ADD"):
        dataclasses.replace(small_config(), timesteps=1, spiking=False)
    model, x = lived_in(config), pixels(5)
    logits, maps = model.spike_maps(x)
    drive = model.bn1(model.conv1(x))
    torch.testing.assert_close(maps[INPUT][0], torch.nn.functional.max_pool2d(drive, 2).relu())
    assert logits.spike.shape == (5, 10)
    inner = maps["layer1.0.conv1"]
    assert inner.min() == 0 and len(inner.unique()) > 100
    plain = with_granularity(add, "element")
    frames = lived_in(dataclasses.replace(plain, spiking=False, frames=True))
    x = (torch.rand(5, 3, *config.image_shape) < 0.3).to(drive.dtype)
    mean = torch.stack([frames(x[:, t : t + 1].expand_as(x)).spike for t in range(3)]).mean(0)
    torch.testing.assert_close(frames(x).spike, mean)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_family_has_its_layers_and_parameters(depth: int) -> None:
    """Check that each ResNet has the depth and the number of parameters that He et al. give.

    The depth counts the convolutions on the longest path and the classifier.
    """
    with torch.device("meta"):
        model = SpikingResNet(
            dataclasses.replace(with_granularity(resnet(depth), "none"), aap=False)
        )
    convs = sum(model.block(name).n_convs for name in model.block_names)
    assert 1 + convs + 1 == depth
    millions = {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}[depth]
    found = sum(p.numel() for p in model.parameters()) / 1e6
    # In both, the 3x3 convolution of each stage's first bottleneck has the stride.
    assert found == pytest.approx(millions, abs=0.01)
    assert model.block(model.block_names[-1]).shape[1:] == (7, 7)


def test_a_plan_without_numbers_draws_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a network on torch's meta device, without numbers, draws no random weights.

    Drawing them would load torch's compiler, which takes two seconds.
    """

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights are drawn")

    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", fail)
    with torch.device("meta"):
        SpikingResNet(ModelConfig())
    with pytest.raises(AssertionError, match="weights are drawn"):
        SpikingResNet(ModelConfig())


@pytest.mark.parametrize("kind", KINDS)
def test_one_description_makes_images_frames_and_signals(kind: str) -> None:
    block = BlockConfig(gate="OR", kind=kind, outer="element")
    stages = (
        StageConfig(channels=8, blocks=(block,)),
        StageConfig(channels=16, stride=2, blocks=(block, block)),
    )
    for shape, frames, height in (
        ((3, 32, 32), False, 8),
        ((2, 34, 34), True, 9),
        ((1, 1, 128), False, 1),
    ):
        model = lived_in(small_config(image_shape=shape, frames=frames, stages=stages))
        size = (4, 3, *shape) if frames else (4, *shape)
        given = torch.from_numpy(np.random.default_rng(1).integers(0, 2, size, np.uint8))
        logits, maps = model.spike_maps(to_input(given))
        assert logits.spike.shape == (4, 10)
        assert model.block("layer2.1").shape[1] == height
        assert ("conv1" in maps) == frames
        for name, spikes in maps.items():
            assert set(spikes.unique().tolist()) <= {0.0, 1.0}, name
    assert model.conv1.kernel_size == (1, 3)


def test_the_classifier_is_shared_or_not() -> None:
    shared, separate = (
        SpikingResNet(small_config(shared_classifier=shared)) for shared in (True, False)
    )
    assert len(list(separate.parameters())) == len(list(shared.parameters())) + 2
    logits = separate(pixels(3))
    logits.aap.sum().backward()
    assert separate.fc.weight.grad is None
    assert "aap.fc.weight" in separate.state_dict()
    assert not any("aap" in name for name in separate.detach_aap().state_dict())


def test_statistics_per_timestep_are_those_of_each_timestep() -> None:
    torch.manual_seed(1)
    norm = Norm(3, timesteps=2)
    x = torch.randn(2, 50, 3, 4, 4) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1, 1)
    done = norm(x.flatten(0, 1)).unflatten(0, (2, 50))
    assert done.mean((1, 3, 4)).abs().max() < 1e-5
    torch.testing.assert_close(done.var((1, 3, 4)), torch.ones(2, 3), atol=0.01, rtol=0)
    assert norm.running_var is not None and norm.running_mean is not None
    assert norm.running_var[1].min() > 2 and norm.running_var[0].max() < 1.2
    norm.eval()
    mean, var = norm.running_mean[:, None, :, None, None], norm.running_var[:, None, :, None, None]
    expected = (x - mean) / (var + norm.eps).sqrt()
    torch.testing.assert_close(norm(x.flatten(0, 1)), expected.flatten(0, 1))


def test_learned_leaks_get_the_gradient_and_are_rounded_to_shifts() -> None:
    torch.manual_seed(2)
    drive = torch.randn(4, 30, dtype=torch.float64) + 0.3
    factors = torch.randn(4, 30, dtype=torch.float64)
    for reset in ("HARD", "SOFT"):
        config = NeuronConfig(leak="LEARNED", leak_shift=2, reset=reset)
        neuron = NeuronLayer(config, 4).double()
        assert neuron.decay_logit is not None
        spikes = neuron(drive.flatten(0, 1)[:, None]).view(4, 30)
        (found,) = torch.autograd.grad((factors * spikes).sum(), neuron.decay_logit)
        decay = torch.sigmoid(neuron.decay_logit)
        membrane, expected = torch.zeros(30, dtype=torch.float64), torch.zeros(())
        for t in range(4):
            membrane = decay * membrane + drive[t]
            spike = Surrogate.apply(membrane - 1.0, "sigmoid", 4.0)
            assert isinstance(spike, torch.Tensor)
            expected = expected + (factors[t] * spike).sum()
            fired = spike.detach()
            membrane = membrane - fired if reset == "SOFT" else membrane * (1 - fired)
        (wanted,) = torch.autograd.grad(expected, neuron.decay_logit)
        torch.testing.assert_close(found, wanted)
    model = SpikingResNet(small_config(neuron=NeuronConfig(leak="LEARNED", leak_shift=1)))
    neurons = model.neurons()
    decays = [0.999999, 0.88, 0.52, 0.23, 0.06]
    wanted = [("NONE", 0), ("SUBTRACT", 3), ("SUBTRACT", 1), ("KEEP", 2), ("KEEP", 4)]
    with torch.no_grad():
        for neuron, decay in zip(neurons.values(), decays, strict=False):
            assert neuron.decay_logit is not None
            neuron.decay_logit.copy_(torch.logit(torch.tensor(decay)))
    rounded = round_leaks(model, 1)
    for name, leak in zip(neurons, wanted, strict=False):
        assert (rounded.neurons[name].leak, rounded.neurons[name].leak_shift) == leak
    for name, decay in zip(neurons, decays, strict=False):  # with three shifts
        assert abs(round_leaks(model).neurons[name].decay - decay) <= 1 / 64
    again = SpikingResNet(rounded)
    again.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.endswith("decay_logit")}
    )


@pytest.mark.parametrize("kind", SURROGATES)
def test_surrogates_have_area_1(kind: str) -> None:
    membranes = torch.linspace(-400, 400, 400_001, dtype=torch.float64)[None]
    ones = torch.ones_like(membranes)
    slopes = neuron_backward(ones, membranes, 1.0, 0.5, Reset.HARD, kind, 3.0)[0]
    assert float(slopes.sum()) * 800 / 400_000 == pytest.approx(1, abs=0.005)
    assert float((membranes[0] * slopes).sum() / slopes.sum()) == pytest.approx(0.5, abs=0.01)


def test_integer_leaks_are_the_devices() -> None:
    drive = torch.randint(-90, 100, (5, 200), generator=torch.Generator().manual_seed(1))
    kinds = itertools.product(
        (Leak.KEEP, Leak.SUBTRACT), ((2,), (1,), (3, 5), (1, 2, 4)), (Reset.SOFT, Reset.DELAYED)
    )
    for leak, shifts, reset in kinds:
        _, membranes = neuron_forward(drive.double(), 5, 1.0, 70.0, reset, (leak, shifts))
        v = last = torch.zeros(200, dtype=torch.int64)
        for t in range(5):
            v = leaked(v, leak, *shifts) + drive[t]  # type: ignore[arg-type]
            v = v - 70 * (last >= 70) if reset == Reset.DELAYED else v
            assert torch.equal(membranes[t].long(), v)
            last = v
            v = torch.where(v >= 70, v - 70, v) if reset == Reset.SOFT else v


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockConfig(gate="NAND"), "gate = 'NAND'"),
        (lambda: BlockConfig(kind="dense"), "kind = 'dense'"),
        (
            lambda: StageConfig(channels=6, blocks=(BlockConfig(kind="bottleneck"),)),
            "multiple of 4",
        ),
        (lambda: StageConfig(channels=6, blocks=()), "blocks: use at least one"),
        (lambda: ModelConfig(stem_kernel=4), "stem_kernel = 4"),
        (lambda: ModelConfig(batch_norm="none"), "batch_norm = 'none'"),
        (lambda: resnet(20), "depth = 20"),
        (
            lambda: SpikingResNet(ModelConfig(image_shape=(1, 2, 2), stem_pool=4)),
            r"the map shrinks to \(32, 0, 0\): use less stride",
        ),
        (lambda: BlockConfig(inner="pixel"), "granularity 'pixel'"),
        (lambda: BlockConfig(outer="none/per-timestep"), "granularity"),
        (lambda: NeuronConfig(leak="SUBTRACT"), "leak_shift = 0"),
        (lambda: NeuronConfig(leak_shift=2), "leak_shift = 2"),
        (lambda: NeuronConfig(leak="SOMETIMES"), "leak = 'SOMETIMES'"),
        (lambda: NeuronConfig(reset="ZERO"), "reset = 'ZERO'"),
        (lambda: NeuronConfig(surrogate="relu"), "surrogate = 'relu'"),
        (lambda: NeuronConfig(threshold=0.0), "threshold = 0.0"),
        (lambda: ModelConfig(timesteps=0), "timesteps = 0"),
        (lambda: ModelConfig(stages=()), "stages: use at least one"),
        (lambda: ModelConfig(timesteps="4"), "timesteps = '4': use a value of type int"),
        (lambda: ModelConfig(frames=1), "frames = 1: use a value of type bool"),
        (lambda: NeuronConfig(threshold=float("nan")), "threshold = nan: use a value of type flo"),
        (lambda: ModelConfig(image_shape=(1, 28)), "image_shape = .*: use three positive numbers"),
        (lambda: ModelConfig(stem_coefficient="pixel"), "granularity 'pixel': use one of"),
        (lambda: NeuronConfig(surrogate_slope=-1.0), "surrogate_slope = -1.0: use a positive"),
        (lambda: StageConfig(channels=0), "channels = 0, stride = 1: use at least 1"),
        (lambda: StageConfig(channels=4, stride=0), "channels = 4, stride = 0: use at least 1"),
        (lambda: ModelConfig.from_dict({"timesteps": 4}), "not a model configuration"),
    ],
)
def test_bad_configurations_are_named(build, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()
