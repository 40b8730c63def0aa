"""Tests that ``describe`` returns a topology that computes what the network computes, or names the
part that it cannot map.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, weight_norm

from hw.spec import Gate
from sw.convert.folded import FoldedNetwork, simulate
from sw.exchange.describe import describe
from sw.exchange.graph import ExchangeError
from sw.exchange.statedict import from_state_dict
from tests.sw.exchange.test_statedict import IMAGES, SHAPE, Snn, T, jelly, lived_in

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)


def same(net: nn.Module, expected: np.ndarray, **options: Any) -> FoldedNetwork:
    """Check that the imported network has the logits ``expected``; return its folded form."""
    values = json.loads(json.dumps(describe(net, T, SHAPE, **options)))
    folded = from_state_dict(net.state_dict(), values).folded
    np.testing.assert_allclose(simulate(folded, IMAGES).logits, expected, atol=1e-9)
    assert np.ptp(expected, axis=0).max() > 0, "the answers must depend on the images"
    return folded


class Net(nn.Module):
    """Network of a convolution, neurons and a classifier, whose forward method is the function
    ``way``.

    Parameters
    ----------
    size : height and width of the map that the classifier reads.
    two : whether there are a second convolution and second neurons.
    make : called to make each layer of neurons.
    """

    def __init__(self, way: Any, size: int = 12, two: bool = False, make: Any = neuron.IFNode):
        super().__init__()
        self.conv = layer.Conv2d(1, 3, 3, padding=1)
        self.sn = make()
        if two:
            self.conv2 = layer.Conv2d(3, 3, 3, padding=1)
            self.sn2 = make()
        self.fc = layer.Linear(3 * size * size, 5)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def fire(n: Any, x: Tensor) -> Tensor:
    return n.sn(n.conv(x))


def head(n: Any, x: Tensor) -> Tensor:
    return n.fc(torch.flatten(x, 1))


WAYS = {
    "flatten": (12, lambda n, x: n.fc(fire(n, x).flatten(1))),
    "view": (12, lambda n, x: n.fc(fire(n, x).view(x.shape[0], -1))),
    "view of a size": (12, lambda n, x: n.fc(fire(n, x).view(x.size(0), -1))),
    "reshape": (12, lambda n, x: n.fc(fire(n, x).reshape(-1, 432))),
    "mean": (1, lambda n, x: n.fc(fire(n, x).mean((2, 3)))),
    "squeeze": (1, lambda n, x: n.fc(F.avg_pool2d(fire(n, x), 12).squeeze(-1).squeeze(-1))),
    "pools": (2, lambda n, x: head(n, F.avg_pool2d(F.max_pool2d(fire(n, x), 2), (3, 3)))),
    "adaptive": (3, lambda n, x: head(n, F.adaptive_avg_pool2d(fire(n, x), (3, 3)))),
    "overlap": (6, lambda n, x: head(n, F.max_pool2d(fire(n, x), 3, 2, 1))),
    "dropout": (12, lambda n, x: head(n, F.dropout(fire(n, x), 0.5, n.training))),
    "pooled sums": (6, lambda n, x: head(n, n.sn(F.avg_pool2d(n.conv(x), 2)))),
    "number of axes": (12, lambda n, x: head(n, fire(n, x if len(x.shape) == x.dim() == 4 else 2))),
    "float": (12, lambda n, x: head(n, fire(n, x.double()).contiguous())),
}


@pytest.mark.parametrize(("size", "way"), WAYS.values(), ids=WAYS.keys())
def test_forward_methods_of_ones_own(size: int, way: Any) -> None:
    net = lived_in(Net(way, size), 1)
    same(net, jelly(net))


GATES = {
    "AND": (Gate.AND, lambda a, b: a * b),
    "IAND": (Gate.IAND, lambda a, b: a * (1.0 - b)),
    "IAND of the branch": (Gate.IAND, lambda a, b: (1 - a) * b),
    "OR": (Gate.OR, lambda a, b: 1 - (1 - a) * (1 - b)),
}


@pytest.mark.parametrize(("gate", "join"), GATES.values(), ids=GATES.keys())
def test_gates_in_forward_methods(gate: Gate, join: Any) -> None:
    def way(n: Any, x: Tensor) -> Tensor:
        a = fire(n, x)
        return head(n, join(a, n.sn2(n.conv2(a))))

    net = lived_in(Net(way, two=True), 1)
    folded = same(net, jelly(net))
    assert [x.gate for x in folded.layers if x.gate != Gate.NONE] == [gate]


def test_one_convolution_at_two_places() -> None:
    """Check that a network may apply one convolution at two places, since it keeps no membranes."""

    def way(n: Any, x: Tensor) -> Tensor:
        return head(n, n.sn2(n.conv2(n.sn3(n.conv2(fire(n, x))))))

    net = Net(way, two=True)
    net.sn3 = neuron.IFNode()
    net = lived_in(net, 1)
    assert len(same(net, jelly(net)).layers) == 3


class Wrapped(nn.Module):
    """Network that contains another network, and uses a subclass of a container."""

    class Stage(nn.Sequential):
        def __init__(self, *parts: nn.Module):
            super().__init__(*parts)

    class Conv(layer.Conv2d):
        def __init__(self, n_in: int, n_out: int):
            super().__init__(n_in, n_out, 3, padding=1, bias=False)

    def __init__(self) -> None:
        super().__init__()
        norm = layer.BatchNorm2d(3)
        self.body = self.Stage(self.Conv(1, 3), norm, neuron.IFNode(), layer.MaxPool2d(2))
        self.head = Net(lambda n, x: n.fc(n.sn(n.conv(x)).flatten(1)), 6)
        self.head.conv = layer.Conv2d(3, 3, 3, padding="same", dilation=2, groups=3)

    def forward(self, x: Tensor, scale: float = 1.0, times: int = 1) -> Tensor:
        for _ in range(times):
            x = self.body(x)
        return self.head(x)


def test_networks_in_networks() -> None:
    net = lived_in(Wrapped(), 1)
    net.train()
    expected = jelly(net.eval())
    net.train()
    same(net, expected)
    assert net.training and net.head.training, "the network stays in the mode it was in"
    same(nn.DataParallel(net).module, expected)
    values = describe(nn.DataParallel(net), T, SHAPE)
    assert values == describe(net, T, SHAPE)


def steps(n: Any, x: Tensor) -> Tensor:
    """Return the mean output of the network ``n`` for ``x`` over T timesteps, computed in a loop as
    in SpikingJelly's examples.
    """
    total = n.fc(fire(n, x).flatten(1))
    for _ in range(T - 1):
        total += n.fc(fire(n, x).flatten(1))
    return total / T


def sequence(n: Any, x: Tensor) -> Tensor:
    x_seq = x.unsqueeze(0).expand(T, -1, -1, -1, -1)
    return n.fc(n.sn(n.conv(x_seq)).flatten(2)).mean(0)


@pytest.mark.parametrize(("mode", "way"), [("s", steps), ("m", sequence)])
def test_loops_and_sequences_of_timesteps(mode: str, way: Any) -> None:
    net = lived_in(Net(way), 1).double()
    functional.set_step_mode(net, mode)
    with torch.no_grad():
        expected = net(torch.from_numpy(IMAGES).double() / 255).numpy()
    functional.reset_net(net)
    same(net.float(), expected)


def test_functions_for_sequences() -> None:
    def way(n: Any, x: Tensor) -> Tensor:
        x_seq = functional.seq_to_ann_forward(x.unsqueeze(0).repeat(T, 1, 1, 1, 1), n.conv)
        x_seq = functional.multi_step_forward(x_seq, [n.sn, n.pool])
        return functional.seq_to_ann_forward(x_seq, (n.flat, n.fc)).mean(0)

    net = Net(way, 6)
    net.pool, net.flat = layer.MaxPool2d(2), nn.Flatten()
    net = lived_in(net, 1).double()
    with torch.no_grad():
        expected = net(torch.from_numpy(IMAGES).double() / 255).numpy()
    functional.reset_net(net)
    original = functional.multi_step_forward
    same(net.float(), expected)
    assert functional.multi_step_forward is original
    net.way = lambda n, x: functional.seq_to_ann_forward(x, nn.Sequential(n.conv, n.sn))
    with pytest.raises(ExchangeError, match="give order="):
        describe(net, T, SHAPE)
    net.way = lambda n, x: head(n, functional.seq_to_ann_forward(x, (n.conv, n.sn)))
    with pytest.raises(ExchangeError, match="sn: a neuron in a seq_to_ann_forward takes timesteps"):
        describe(net, T, SHAPE)


def test_what_is_no_network_of_floats() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    compiled = torch.jit.trace(net, torch.zeros(1, *SHAPE))
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    for other, message in (
        (net.state_dict(), "a OrderedDict is no network: describe the torch.nn.Module itself"),
        (compiled, "its code is compiled: describe the network that it was made from"),
        (quantised, "1: a Linear of torch.ao is quantised, in another way than the device's"),
        (lazy, "1: its weight, bias has no size yet: run the network on a sample once"),
    ):
        with pytest.raises(ExchangeError, match=message):
            describe(other, T, SHAPE)  # type: ignore[arg-type]
    describe(torch.fx.symbolic_trace(net), T, SHAPE)


def test_a_second_input_is_refused() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return head(self, fire(self, x)) + y

    with pytest.raises(ExchangeError, match="a number cannot be added to a map"):
        describe(Two(None), T, SHAPE)


def test_arguments_that_are_no_shapes_or_labels() -> None:
    net = Net(WAYS["flatten"][1])
    for options, message in (
        ({"image_shape": "abc"}, "image_shape 'abc' must be"),
        ({"image_shape": 5}, "image_shape 5 must be"),
        ({"image_shape": (1, 2, 3, 4)}, '"image_shape" must be'),
        ({"timesteps": 0}, '"timesteps" must be'),
        ({"labels": 3}, '"labels" must be'),
    ):
        given: dict[str, Any] = {"timesteps": T, "image_shape": SHAPE} | options
        with pytest.raises(ExchangeError, match=message):
            describe(net, **given)


def test_containers_of_sequences() -> None:
    """Check that SpikingJelly's containers are imported, which apply single-step modules to all
    timesteps.
    """
    part = layer.SeqToANNContainer(nn.Conv2d(1, 3, 3, padding=1), nn.AvgPool2d(2))
    steps = layer.MultiStepContainer(neuron.IFNode(), nn.Flatten())
    net = lived_in(nn.Sequential(part, steps, nn.Linear(108, 5)), 1).double()
    x = torch.from_numpy(IMAGES).double() / 255
    with torch.no_grad():
        expected = net(x.expand(T, *x.shape)).mean(0).numpy()
    functional.reset_net(net)
    same(net.float(), expected)


def test_snntorch_loops_are_rolled_up() -> None:
    net = lived_in(Snn(beta=0.5, reset_mechanism="zero", threshold=0.25), 2).double()
    with torch.no_grad():
        expected = net(torch.from_numpy(IMAGES).double() / 255).numpy()
    same(net, expected)
    with pytest.raises(ExchangeError, match=r"lif1: the forward method runs it 4 times.*are 8"):
        describe(net, 8, SHAPE)


class Stateful(Snn):
    """Network of snnTorch's neurons that loops over frames and stacks its outputs.

    ``way`` is called at every timestep with the network, its input, the number of the timestep and
    the membranes of the first neurons. It returns the frame to convolve, and the membranes with
    which the first neurons start the timestep.
    """

    def __init__(self, way: Any):
        super().__init__(beta=0.5, reset_mechanism="zero")
        self.way = way

    def forward(self, x: Tensor) -> Any:
        mem1 = x.new_zeros(x.shape[1], 4, 12, 12)
        mem2 = self.lif2.reset_mem()
        spikes, membranes = [], []
        for t in range(T):
            frame, start = self.way(self, x, t, mem1)
            a, mem1 = self.lif1(self.conv(frame), start)
            b, mem2 = self.lif2(self.fc(a.flatten(1)), mem2)
            spikes.append(b)
            membranes.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class Residual(nn.Module):
    """A block that adds its input to the sums of its second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.sn1 = nn.Conv2d(3, 3, 3, padding=1), neuron.IFNode()
        self.conv2, self.sn2 = nn.Conv2d(3, 3, 3, padding=1), neuron.IFNode()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.sn2(F.avg_pool2d(self.conv1(self.sn1(x)), 1))) + x


LOOPS: dict[str, Any] = {
    "": lambda n, spikes: n.fc(torch.stack(spikes).flatten(2).mean(0)),
    "it returns the results of the timesteps 3 only": lambda n, spikes: head(n, spikes[-1]),
    "it returns the results of the timesteps 0, 1 only": lambda n, spikes: spikes[0] + spikes[1],
    "it returns the results of the timesteps 2 only": lambda n, spikes: torch.stack(spikes)[-2],
    "it stacks the timesteps 1, 2, 3 instead": lambda n, spikes: torch.stack(spikes[1:]),
    "it adds the map of a timestep twice": lambda n, spikes: sum(spikes) + spikes[1],
    "it joins maps of different timesteps": lambda n, spikes: spikes[0] * spikes[1],
    "late: it takes the map of timestep 0 at timestep 3": lambda n, spikes: again(
        n, spikes, reversed(range(T))
    ),
    "fc: it adds its bias once to a sum": lambda n, spikes: head(n, sum(spikes)),
}


def again(n: Any, spikes: list[Tensor], times: Any) -> Tensor:
    """Return the mean of the spikes of further neurons, which run in a loop of their own."""
    stack = torch.stack(spikes)
    return n.fc(torch.stack([n.late(stack[t]) for t in times]).flatten(2)).mean(0)


def test_a_loop_for_every_layer() -> None:
    def way(n: Any, x: Tensor) -> Tensor:
        return again(n, [fire(n, x) for _ in range(T)], range(T))

    net = Net(way)
    net.late = neuron.IFNode(v_threshold=2.0)
    net = lived_in(net, 1).double()
    with torch.no_grad():
        expected = net(torch.from_numpy(IMAGES).double() / 255).numpy()
    functional.reset_net(net)
    same(net.float(), expected)


@pytest.mark.parametrize(("message", "way"), LOOPS.items(), ids=LOOPS.keys())
def test_a_loop_must_return_all_timesteps(message: str, way: Any) -> None:
    net = Net(lambda n, x: way(n, [fire(n, x) for _ in range(T)]))
    net.late = neuron.IFNode()
    if not message:
        describe(net, T, SHAPE)
        return
    with pytest.raises(ExchangeError) as error:
        describe(net, T, SHAPE)
    assert message in str(error.value)


def test_blocks_in_a_loop_are_the_same_at_every_timestep() -> None:
    """Check that a loop over timesteps may contain blocks with operations of their own.

    The sum of a block, which is no module, must be recognised as the same at every timestep.
    """
    stem = nn.Conv2d(1, 3, 3, padding=1)
    steps = nn.Sequential(stem, neuron.IFNode(), Residual(), Residual(), neuron.IFNode())
    steps.append(nn.Flatten(1, 3)).append(nn.Linear(3 * 12 * 12, 5))
    net = lived_in(steps, 2)
    whole = Net(lambda n, x: torch.stack([n.sn(x) for _ in range(T)]).mean(0), make=lambda: net)
    del whole.conv, whole.fc
    same(whole, jelly(steps))
    del steps[1]
    with pytest.raises(ExchangeError, match="put neurons behind the weights that read the image"):
        from_state_dict(steps.state_dict(), describe(steps, T, SHAPE))


def test_frames_with_the_samples_first_and_loops_to_their_number() -> None:
    """Check that networks may swap the axes of inputs (N, T, ...), or loop over the input's length.

    Both kinds of networks must have the layers of a network for one timestep.
    """
    functions = (
        lambda n, x: n.fc(torch.flatten(n.sn(n.conv(x.transpose(0, 1).contiguous())), 2)),
        lambda n, x: n.fc(torch.flatten(n.sn(n.conv(x.permute(1, 0, 2, 3, 4))), 2)).mean(0),
    )
    expected = describe(Net(lambda n, x: n.fc(fire(n, x).flatten(1))), T, SHAPE, pixel_max=None)
    for way in functions:
        net = Net(way)
        functional.set_step_mode(net, "m")
        assert describe(net, T, SHAPE, pixel_max=None)["layers"] == expected["layers"]
        with pytest.raises(ExchangeError, match="its input is no image but binary frames"):
            describe(net, T, SHAPE)
    for size in (lambda x: x.size(0), lambda x: x.shape[0], lambda x: x.size()[0]):
        net = Net(
            lambda n, x, size=size: sum(n.fc(fire(n, x[t]).flatten(1)) for t in range(size(x)))
        )
        assert describe(net, T, SHAPE, pixel_max=None)["layers"] == expected["layers"]
    with pytest.raises(ExchangeError, match="give order="):
        describe(Net(lambda n, x: [fire(n, x) for _ in range(x.size(1))]), T, SHAPE)


def test_loops_over_frames() -> None:
    for way in (lambda n, x, t, mem: (x[t], mem), lambda n, x, t, mem: (x[:, t], mem.detach())):
        layers = describe(Stateful(way), T, SHAPE, pixel_max=None)["layers"]
        assert [next(iter(e)) for e in layers] == ["conv", "neuron", "flatten", "linear", "neuron"]
    with pytest.raises(ExchangeError, match="its input is no image but binary frames; pass pixel"):
        describe(Stateful(lambda n, x, t, mem: (x[t], mem)), T, SHAPE)
    with pytest.raises(ExchangeError, match="its input is an image, not frames; pass the value of"):
        describe(Snn(beta=0.5, reset_mechanism="zero"), T, SHAPE, pixel_max=None)
    with pytest.raises(ExchangeError, match="its input is an image, not frames; pass the value of"):
        describe(Net(sequence, make=lambda: neuron.IFNode(step_mode="m")), T, SHAPE, pixel_max=None)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (lambda n, x, t, mem: (x[t], n.lif1.reset_mem()), "lif1: its membranes are set by the"),
        (lambda n, x, t, mem: (x[t], mem * 0.5), "lif1: its membranes are set by the forward"),
        (lambda n, x, t, mem: (x[t], mem + x[t]), "operation add: a number cannot be added"),
        (lambda n, x, t, mem: (x[0], mem), "input: the forward method takes the frames 0, 0, 0"),
        (lambda n, x, t, mem: (x[T - 1 - t], mem), "takes the frames 3, 2, 1, 0 instead of one"),
        (lambda n, x, t, mem: (x[2 * t], mem), "takes the frames 0, 2, 4, 6 instead of one for"),
        (lambda n, x, t, mem: (x[t : t + 1], mem), "operation getitem: a part of a map"),
    ],
)
def test_membranes_and_frames_that_the_device_has_not(way: Any, message: str) -> None:
    with pytest.raises(ExchangeError) as error:
        describe(Stateful(way), T, SHAPE, pixel_max=None)
    assert message in str(error.value)


def pair(part: nn.Module) -> nn.Module:
    """Return a network that contains the module ``part``, under the name ``part``."""
    net = nn.Sequential()
    net.add_module("first", layer.Conv2d(1, 2, 3))
    net.add_module("part", part)
    return net


class Custom(layer.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class CustomNode(neuron.IFNode):
    def single_step_functional_forward(self, inputs: Any, states: Any, **_: Any) -> Any:
        return inputs, states


class Soft(surrogate.Sigmoid):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, given, result: -result)
    return module


def patched(module: nn.Module) -> nn.Module:
    module.forward = lambda x: -x  # type: ignore[method-assign, assignment]
    return module


def started(v: float) -> nn.Module:
    module = neuron.IFNode()
    module.set_reset_value("v", v)
    return module


def leaky(**options: Any) -> nn.Module:
    return snntorch.Leaky(beta=0.5, init_hidden=True, **options)


PARTS = {
    "padding_mode='circular'": lambda: layer.Conv2d(2, 2, 3, padding_mode="circular"),
    "padding 'same' with an even": lambda: nn.Conv2d(2, 2, 2, padding="same"),
    "dilation=2 cannot be mapped": lambda: layer.MaxPool2d(2, dilation=2),
    "return_indices": lambda: nn.MaxPool2d(2, return_indices=True),
    "count_include_pad=False": lambda: nn.AvgPool2d(3, padding=1, count_include_pad=False),
    "no running statistics": lambda: nn.BatchNorm2d(2, track_running_stats=False),
    "start_dim=0, end_dim=-1": lambda: nn.Flatten(0),
    "is a Conv2d with its own _conv_forward": lambda: Custom(2, 2, 3),
    "is a IFNode with its own single_step_functional_forward": CustomNode,
    "its own forward": lambda: patched(nn.AvgPool2d(2)),
    "hooks (<lambda>)": lambda: hooked(layer.AvgPool2d(2)),
    "remove_weight_norm": lambda: weight_norm(nn.Conv2d(2, 2, 3)),
    "remove_parametrizations": lambda: parametrizations.weight_norm(nn.Conv2d(2, 2, 3)),
    "a WSConv2d cannot be mapped: it scales": lambda: layer.WSConv2d(2, 2, 3),
    "a LinearRecurrentContainer cannot be mapped: it is recurrent": lambda: (
        layer.LinearRecurrentContainer(neuron.IFNode(), 2, 2)
    ),
    "a ReLU cannot be mapped: its output is numbers": nn.ReLU,
    "do not enlarge maps: a Linear layer": lambda: nn.ConvTranspose2d(2, 2, 3),
    "Upsample cannot be mapped: layers of the device do not enlarge": lambda: nn.Upsample(2),
    "a Unflatten cannot be mapped: a Linear layer makes": lambda: nn.Unflatten(1, (2, 1)),
    "a LayerNorm cannot be mapped": lambda: nn.LayerNorm(10),
    "a NeuNorm cannot be mapped: modules that can be": lambda: layer.NeuNorm(2, 10, 10),
    "a QIFNode cannot be mapped: its membrane": neuron.QIFNode,
    "set_spiking_mode": lambda: neuron.IFNode(surrogate_function=surrogate.Sigmoid(spiking=False)),
    "does not give spikes of 0 and 1": lambda: neuron.LIFNode(surrogate_function=Soft()),
    "its membrane starts at 0.5": lambda: started(0.5),
    "inhibition=True": lambda: leaky(inhibition=True),
    "state_quant": lambda: leaky(state_quant=lambda v: v.round()),
    "reset_delay=False": lambda: leaky(reset_delay=False),
    "its spike_grad does not": lambda: leaky(spike_grad=torch.sigmoid),
    "a Synaptic cannot be mapped: its synapses": lambda: snntorch.Synaptic(0.5, 0.5),
    "a RLeaky cannot be mapped: it is recurrent": lambda: snntorch.RLeaky(0.5, linear_features=2),
    "a Lapicque cannot be mapped": lambda: snntorch.Lapicque(beta=0.5),
}


@pytest.mark.parametrize(("message", "make"), PARTS.items(), ids=PARTS.keys())
def test_what_would_be_another_network_is_refused_by_name(message: str, make: Any) -> None:
    with pytest.raises(ExchangeError) as error:
        describe(pair(make()), T, SHAPE)
    assert "\n  part: " in str(error.value) and message in str(error.value)
    with pytest.raises(ExchangeError) as error:
        describe(pair(make()), T, SHAPE, order=["first", "part"])
    assert message in str(error.value), "the same module is refused if order names it"


def test_what_follows_from_a_refused_module_is_no_further_problem() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.synaptic = snntorch.Synaptic(0.5, 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            synapses, membranes = self.synaptic.init_synaptic()
            spikes, synapses, membranes = self.synaptic(x, synapses, membranes)
            return spikes

    with pytest.raises(ExchangeError) as error:
        describe(Net(), 1, SHAPE)
    assert [line[:12] for line in str(error.value).splitlines()[1:]] == ["  synaptic: "]


HARMLESS = {
    "detach_reset": lambda: neuron.LIFNode(detach_reset=True, decay_input=False, store_v_seq=True),
    "surrogate": lambda: neuron.IFNode(surrogate_function=surrogate.ATan(), v_reset=None),
    "slope": lambda: leaky(spike_grad=snntorch.surrogate.fast_sigmoid(), learn_beta=True),
    "learned threshold": lambda: leaky(learn_threshold=True, output=True),
    "even": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "divisor": lambda: nn.AvgPool2d(2, divisor_override=3),
    "threshold-dependent": lambda: layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 2),
}


@pytest.mark.parametrize("make", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_changes_nothing_is_taken(make: Any) -> None:
    assert len(describe(pair(make()), T, SHAPE)["layers"]) == 2


def in_steps(n: Any, x: Tensor) -> Tensor:
    """Return the output of the network's neurons ``late`` for ``x``, whose first axis is time if
    they are in multi-step mode.
    """
    return n.late(x)


def in_place(n: Any, x: Tensor) -> Tensor:
    """Return a network's output for ``x``, in which a map is changed in place by an AND gate before
    it is read again.
    """
    y = x
    y *= n.late(n.conv(x))
    return head(n, x * y)


OPERATIONS = {
    "operation cat": lambda n, x: head(n, torch.cat([fire(n, x), fire(n, x)], 1)),
    "operation relu: it cannot": lambda n, x: head(n, F.relu(n.conv(x))),
    "operation dropout: it drops out at all": lambda n, x: head(n, F.dropout(fire(n, x))),
    "cannot be multiplied by a number": lambda n, x: head(n, fire(n, x) * 0.5),
    "a number cannot be added": lambda n, x: head(n, fire(n, x) + 1),
    "only 1 - spikes": lambda n, x: head(n, 2 - fire(n, x)),
    "its input is no map of spikes": lambda n, x: head(n, 1 - fire(n, x)),
    "operation getitem: a part of a map": lambda n, x: head(n, fire(n, x)[:, :1]),
    "does not flatten a whole map": lambda n, x: n.fc(fire(n, x).view(3, -1)),
    "axes [1] cannot be mapped": lambda n, x: head(n, fire(n, x).mean(1)),
    "axes [None] cannot": lambda n, x: head(n, fire(n, x)).mean(),
    "it is used at two places": lambda n, x: head(n, n.sn(n.conv(n.sn(x)))),
    "arguments alpha": lambda n, x: head(n, torch.add(fire(n, x), fire(n, x), alpha=2)),
    "a conversion to torch.int32 rounds": lambda n, x: head(n, fire(n, x).to(torch.int32)),
    "operation half: it cannot": lambda n, x: head(n, n.sn(n.conv(x).half())),
    "it changes the input: do that before": lambda n, x: head(n, fire(n, x / 255)),
    "operation gt: it cannot": lambda n, x: head(n, (n.conv(x) > 1).float()),
    "only a first axis, of timesteps": lambda n, x: head(n, fire(n, x.unsqueeze(1))),
    "different maps cannot be stacked": lambda n, x: torch.stack([fire(n, x), n.conv(x)]),
    "axes (2, 3) cannot be mapped": lambda n, x: in_steps(n, fire(n, x).mean((2, 3))),
    "it changes a map in place": lambda n, x: in_place(n, fire(n, x)),
    "repeated 3 times": lambda n, x: head(n, fire(n, x.repeat(3, 1, 1, 1))),
    "dilation=2 cannot be mapped": lambda n, x: head(n, F.max_pool2d(fire(n, x), 2, dilation=2)),
    "operation mul: logits can only": lambda n, x: in_steps(n, fire(n, x)).mean(0) * -1,
    "axis 0 is that of samples": lambda n, x: head(n, fire(n, x)).mean(0),
    "it returns no spikes or sums": lambda n, x: x.shape,
    "it returns 1 minus spikes": lambda n, x: 1 - fire(n, x),
    "has several: conv, fc": lambda n, x: (n.conv(x), head(n, n.sn(x))),
}


@pytest.mark.parametrize(("message", "way"), OPERATIONS.items(), ids=OPERATIONS.keys())
def test_operations_that_would_be_another_network_are_named(message: str, way: Any) -> None:
    net = Net(way)
    if "axes (2, 3)" in message or "logits" in message:
        net.sn.step_mode = "m"
    net.late = neuron.IFNode(step_mode=net.sn.step_mode)
    with pytest.raises(ExchangeError) as error:
        describe(net, T, SHAPE)
    assert message in str(error.value)


def test_all_parts_are_named_at_once_by_their_own_names() -> None:
    net = nn.Sequential(pair(nn.ReLU()), pair(nn.Softmax(1)), Net(OPERATIONS["operation cat"]))
    with pytest.raises(ExchangeError) as error:
        describe(net, T, SHAPE)
    for name in ("0.part: a ReLU", "1.part: a Softmax", "2, operation cat: "):
        assert f"\n  {name}" in str(error.value)


def test_forward_methods_that_cannot_be_traced_need_an_order() -> None:
    def way(n: Any, x: Tensor) -> Tensor:
        return head(n, fire(n, x)) if x.sum() > 0 else x

    net = lived_in(Net(way), 1)
    message = r"the network \(Net\): the order in which .*: give order=.*; it has conv, sn, fc$"
    with pytest.raises(ExchangeError, match=message):
        describe(net, T, SHAPE)
    same(net, jelly(net), order=["conv", "sn", "fc"])
    with pytest.raises(ExchangeError, match=r"order names 'con', but .*; it has conv, sn"):
        describe(net, T, SHAPE, order=["con", "sn", "fc"])


def test_neurons_of_two_kinds_are_refused() -> None:
    mixed = nn.Sequential(nn.Conv2d(1, 2, 3), neuron.IFNode(), nn.Flatten(), leaky())
    with pytest.raises(ExchangeError, match=r"neurons of several libraries \(1, 3\)"):
        describe(mixed, T, SHAPE)
    modes = nn.Sequential(layer.Conv2d(1, 2, 3), neuron.IFNode(step_mode="m"), neuron.IFNode())
    with pytest.raises(ExchangeError, match=r"2: its step_mode is 's', but that of others is 'm'"):
        describe(modes, T, SHAPE)
    part = layer.SeqToANNContainer(nn.Conv2d(1, 2, 3), neuron.IFNode())
    with pytest.raises(ExchangeError, match=r"0\.1: a neuron in a SeqToANNContainer"):
        describe(nn.Sequential(part), T, SHAPE)


def test_connections_that_cross_are_refused() -> None:
    """Check that a network is refused whose gates join paths that overlap without being nested."""

    def way(n: Any, x: Tensor) -> Tensor:
        a = fire(n, x)
        b, c = n.sn2(n.conv2(a)), n.sn3(n.conv3(a))
        return head(n, (a * b) * (b * c))

    net = Net(way, two=True)
    net.conv3, net.sn3 = layer.Conv2d(3, 3, 3, padding=1), neuron.IFNode()
    with pytest.raises(ExchangeError, match="its connections cross"):
        describe(net, T, SHAPE)


def test_networks_of_one_axis() -> None:
    net = nn.Sequential(
        layer.Conv1d(3, 4, 3, padding=1, stride=2), layer.BatchNorm1d(4), neuron.IFNode(),
        layer.MaxPool1d(2), layer.Conv1d(4, 6, 3, dilation=2, groups=2), neuron.IFNode(),
        layer.AvgPool1d(3), layer.Flatten(), layer.Linear(12, 5),
    )  # fmt: skip
    images = np.random.default_rng(1).integers(0, 256, (30, 3, 1, 44), np.uint8)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    expected = jelly(net.eval(), images[:, :, 0])
    values = describe(net, T, (3, 44))
    assert values["image_shape"] == [3, 1, 44]
    folded = from_state_dict(net.state_dict(), values).folded
    np.testing.assert_allclose(simulate(folded, images).logits, expected, atol=1e-9)
    assert np.ptp(expected, axis=0).max() > 0
