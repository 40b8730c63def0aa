"""Tests of NIR graphs: export, checked with SpikingJelly's simulator, and import."""

from __future__ import annotations

import io
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based.nir_exchange import import_from_nir

from hw.spec import Gate, Leak, Reset
from sw.cli import export
from sw.cli import nir as command
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from sw.convert import fold, quantize
from sw.convert.folded import FoldedNetwork, simulate
from sw.exchange import integers, nir_common, nir_write
from sw.exchange.assembly import assemble
from sw.exchange.graph import Connect, Convolve, ExchangeError, FireNode, Node, Scale, Source
from sw.exchange.nir_read import NirOptions, from_graph
from sw.exchange.nir_write import to_nir
from sw.model import checkpoint
from sw.model.config import BlockConfig, StageConfig
from sw.network import netfile, reference
from sw.network.network import IMAGE, Network
from tests import trained
from tests.networks import random_input, random_network
from tests.trained import a_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SEEDS = range(24)


def plain(seed: int) -> Network:
    """Return a random integer network that NIR can express.

    Weights are shared or not, and there may be gates, sums, pooling and an encoder.
    """
    granularity = ("shared", "element")[seed % 2]
    return random_network(
        seed, leak=Leak.NONE, reset=Reset.HARD, granularity=granularity, sums=0.7, pixel_bits=8
    )


def in_spikingjelly(graph: Any, inputs: np.ndarray, timesteps: int) -> np.ndarray:
    """Run a graph in SpikingJelly; return the sum of its outputs over the timesteps.

    ``inputs`` are images (N, C, H, W) or frames (N, T, C, H, W).
    """
    assert sum(isinstance(node, nir.Output) for node in graph.nodes.values()) == 1
    module = import_from_nir(graph, dt=1e-4)
    state, total = None, 0
    with torch.no_grad():
        for t in range(timesteps):
            now = inputs[:, t] if inputs.ndim == 5 else inputs
            out, state = module(torch.from_numpy(now).float(), state)
            total = total + out
    return np.asarray(total)


@pytest.mark.parametrize("seed", SEEDS)
def test_another_simulator_has_the_same_logits(seed: int, tmp_path: Path) -> None:
    """Check that SpikingJelly, which reads the written file, computes the integer reference's
    logits.
    """
    network = plain(seed)
    path = tmp_path / "net.nir"
    nir_write.write(path, to_nir(network))
    images = random_input(network, np.random.default_rng(seed), 3)
    found = in_spikingjelly(nir.read(path), images, network.timesteps)
    np.testing.assert_array_equal(np.rint(found), reference.run(network, images).logits)


def test_the_sample_has_tried_everything() -> None:
    networks = [plain(seed) for seed in SEEDS]
    layers = [layer for network in networks for layer in network.layers]
    assert {layer.gate for layer in layers} == set(Gate)
    assert {layer.pool != (1, 1) for layer in layers} == {True, False}
    assert {layer.n_summed > 1 for layer in layers} == {True, False}
    assert {(layer.output, layer.stacked) for layer in layers} >= {(False, True), (True, True)}
    assert {layer.weight.shape[1] > 1 for layer in layers} == {True, False}
    assert {network.encoder is None for network in networks} == {True, False}


def test_neither_comparator_nor_rounding_matters() -> None:
    """Check that written thresholds lie strictly between neighbouring values of a membrane.

    So it makes no difference whether a simulator compares with ``>`` or ``>=``, or how it rounds.
    """
    network = plain(4)
    graph = to_nir(network)
    for layer in network.layers[:-1]:
        neuron = graph.nodes[f"{layer.name}.neuron"]
        assert layer.threshold is not None
        for integer in np.unique(layer.threshold):
            assert (integer - 1) / integer < neuron.v_threshold.min() < 1
        np.testing.assert_array_equal(
            np.sort(np.unique(neuron.metadata[nir_common.KEY])), np.unique(layer.threshold)
        )


def test_damaged_gates_are_named() -> None:
    graph = to_nir(plain(26))
    name = next(n for n in graph.nodes if n.endswith(".and"))
    for text, message in (
        ({"gate": "NAND", "branch": "input", "identity": "input"}, "NAND"),
        ({"gate": "AND", "branch": "gone", "identity": "input", "parts": []}, "no node 'gone'"),
    ):
        graph.nodes[name].metadata = {nir_common.KEY: json.dumps(text)}
        with pytest.raises(ExchangeError, match="the metadata of its gate is damaged") as error:
            from_graph(graph, NirOptions(timesteps=None))
        assert message in str(error.value)


def small(**changes: Any) -> FoldedNetwork:
    model = trained.lived_in(trained.small_config(**changes))
    return fold.fold_model(model, tuple("0123456789"), {})


@pytest.mark.parametrize("gate", ["AND", "IAND", "OR", "XOR", "ADD"])
@pytest.mark.parametrize("bits", [8, 4])
def test_out_and_in_again_are_the_same_integers(gate: str, bits: int) -> None:
    """Check that a network exported to NIR and imported again has the same integers.

    It has residual blocks with and without weights on their shortcut.
    """
    block = BlockConfig(gate=gate, inner="channel", outer="layer")
    stages = (
        StageConfig(channels=6, blocks=(block,)),
        StageConfig(channels=8, stride=2, blocks=(block,)),
    )
    network = quantize.quantize(small(stem_coefficient="channel", stages=stages), bits)
    file = io.BytesIO()
    nir.write(file, to_nir(network))
    imported = from_graph(nir.read(file), NirOptions(timesteps=None))
    assert (imported.multipliers["fc"] == 1).all(), "logits are sums over the timesteps"
    again = integers.quantised(imported, bits)
    pairs = zip((network.encoder, *network.layers), (again.encoder, *again.layers), strict=True)
    for one, other in pairs:
        assert one is not None and other is not None
        for field in one.structure():
            expected = getattr(one, field)
            if field == "source" and one is network.encoder:
                continue
            assert getattr(other, field) == expected, f"{one.name}.{field}"
        for field in ("weight", "bias", "threshold"):
            left, right = getattr(one, field), getattr(other, field)
            assert (left is None) == (right is None)
            if left is not None:
                full = np.broadcast_shapes(left.shape, right.shape)
                np.testing.assert_array_equal(
                    np.broadcast_to(left, full), np.broadcast_to(right, full), err_msg=field
                )
    images = trained.images(6)
    np.testing.assert_array_equal(
        reference.run(again, images).logits, reference.run(network, images).logits
    )


def folded_static() -> FoldedNetwork:
    """Return a folded network in which all timesteps share weights, and one layer's positions do
    not.
    """
    stage = trained.small_config().stages[0]
    stages = (replace(stage, blocks=(replace(stage.blocks[0], outer="element"),)),)
    return small(stem_coefficient="channel", stages=stages, neuron=trained.LIF)


def test_folded_networks_leak_as_they_do_here() -> None:
    network = folded_static()
    images = trained.images(5)
    expected = simulate(network, images)
    found = in_spikingjelly(to_nir(network), images, network.timesteps)
    np.testing.assert_allclose(found, expected.logits, atol=1e-4)
    imported = from_graph(to_nir(network, dt_s=1e-3), NirOptions(dt_s=1e-3)).folded
    assert imported.encoder is not None
    assert (imported.encoder.leak, imported.encoder.leak_shift) == (Leak.SUBTRACT, 2)


def test_unfolded_networks_have_their_coefficients_as_scale_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained.lived_in(trained.small_config(
        stem_coefficient="channel",
        stages=(replace(trained.small_config().stages[0], blocks=(
            replace(trained.small_config().stages[0].blocks[0], inner="element", gate="OR"),)),),
    ))  # fmt: skip
    values = {
        "model_config": model.config.to_dict(), "model": model.state_dict(), "train_config": {},
        "data": {}, "history": [], "results": {},
    }  # fmt: skip
    network, scales = nir_write.unfolded(values)
    graph = to_nir(network, scales)
    assert {n for n in graph.nodes if n.endswith(".scale")} == {f"{n}.scale" for n in scales}
    assert scales["layer1.0.conv2"].shape[1:] == (6, 7, 5)
    assert isinstance(graph.nodes["layer1.0.conv2"], nir.Conv2d), "unshared only by its scale"
    images = trained.images(5)
    imported = from_graph(graph, NirOptions(timesteps=None)).folded
    expected = simulate(fold.fold(values), images)
    np.testing.assert_allclose(simulate(imported, images).logits, expected.logits, atol=1e-6)
    path = tmp_path / "ckpt.pt"
    checkpoint.save(path, values)
    assert command.main([str(path), "--unfolded"]) == 0
    assert f"wrote {path.with_suffix('.nir')}" in capsys.readouterr().out
    assert command.main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["timesteps"] == 3


@pytest.mark.parametrize(
    ("network", "messages"),
    [
        (lambda: random_network(3, granularity="per-timestep", leak=Leak.NONE, reset=Reset.HARD),
         ["its weights differ from timestep to timestep, which NIR cannot express: train with"]),
        (lambda: random_network(4, granularity="shared", leak=Leak.SUBTRACT, reset=Reset.HARD),
         ["layer1, layer2, layer3, layer4: its leak rounds to integers"]),
        (lambda: random_network(4, granularity="shared", leak=Leak.NONE, reset=Reset.SOFT),
         ["layer1, layer2, layer3, layer4: a soft reset; NIR has only resets to a"]),
        (lambda: random_network(4, encoder=True, pixel_bits=4),
         ["image: its pixels are rounded to 4 bits, which NIR cannot express: export the network"]),
    ],
)  # fmt: skip
def test_what_nir_cannot_say_is_named_layer_by_layer(network: Any, messages: list[str]) -> None:
    with pytest.raises(ExchangeError) as error:
        to_nir(network())
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("kernel", "scale", "message"),
    [
        ((3, 3), 1.0, r"'fc' becomes .*because the output layer has a weight .*; pool the map"),
        ((1, 3), 1.0, r"'conv' becomes .*kernel \(1, 3\) of layer 'conv' is not square"),
        (
            (3, 3),
            np.arange(60.0).reshape(2, 6, 5),
            r"'conv' becomes .*layer 'conv' differ .*convert the ch",
        ),
    ],
)
def test_too_large_a_matrix_is_refused_for_its_reason(
    kernel: tuple[int, int], scale: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nir_write, "MAX_DENSE", 100)
    height, width = 7 - kernel[0], 6 - kernel[1]
    steps: dict[str, Any] = {
        "scale": Scale(factor=np.asarray(scale)),
        "conv": Convolve(weight=np.ones((4, 2, *kernel))),
        "if": FireNode(threshold=np.ones(()), strict=False),
        "fc": Connect(weight=np.ones((3, 4 * height * width))),
    }
    names = [IMAGE, *steps]
    nodes = [
        Node(name=name, step=step, sources=(source,))
        for (name, step), source in zip(steps.items(), names, strict=False)
    ]
    source = Source(timesteps=2, image_shape=(2, 6, 5), pixel_max=None)
    with pytest.raises(ExchangeError, match=r"layer " + message):
        to_nir(assemble(nodes, source, {}).folded)


def neuron_graph(**changes: Any) -> Any:
    """Return a graph with convolution, IF, pooling and classifier; ``changes`` replace nodes."""
    rng = np.random.default_rng(1)
    nodes = {
        "in": nir.Input(input_type={"input": np.array([1, 6, 6])}),
        "conv": nir.Conv2d(
            input_shape=(6, 6), weight=rng.normal(0, 1, (4, 1, 3, 3)), stride=1, padding=1,
            dilation=1, groups=1, bias=rng.normal(0, 0.3, 4),
        ),
        "if": nir.IF(r=np.ones((4, 6, 6)), v_threshold=np.ones((4, 6, 6))),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten(input_type={"input": np.array([4, 3, 3])}, start_dim=0, end_dim=-1),
        "fc": nir.Affine(weight=rng.normal(0, 1, (3, 36)), bias=rng.normal(0, 1, 3)),
        "out": nir.Output(output_type={"output": np.array([3])}),
    }  # fmt: skip
    nodes |= changes
    names = list(nodes)
    return nir.NIRGraph(nodes, list(itertools.pairwise(names)), type_check=False)


def test_units_of_other_writers() -> None:
    """Check that graphs in other units are imported as the same network.

    The graphs differ in the neurons' resistance r, which scales their input: r = 1 with a timestep
    dt of 1, or r = 1 / dt. A third one has threshold and reset shifted by the same value.
    """
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 6, 6), np.uint8)
    full = np.ones((4, 6, 6))
    same = [
        neuron_graph(),
        neuron_graph(**{"if": nir.IF(r=1e4 * full, v_threshold=full)}),
        neuron_graph(**{"if": nir.IF(r=full, v_threshold=3 * full, v_reset=2 * full)}),
    ]
    logits = [simulate(from_graph(g, NirOptions(timesteps=4)).folded, images).logits for g in same]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-12)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-12)
    assert (from_graph(same[0], NirOptions(timesteps=4)).multipliers["fc"] == 4).all(), (
        "logits are means of timesteps"
    )
    half = neuron_graph(**{"if": nir.IF(r=full, v_threshold=2 * full)})
    assert not np.allclose(
        simulate(from_graph(half, NirOptions(timesteps=4)).folded, images).logits, logits[0]
    )
    lif = nir.LIF(tau=4e-4 * full, r=4 * full, v_leak=0 * full, v_threshold=full)
    layer = from_graph(neuron_graph(**{"if": lif}), NirOptions(timesteps=4)).folded.encoder
    assert layer is not None and (layer.leak, layer.leak_shift) == (Leak.SUBTRACT, 2)
    np.testing.assert_allclose(layer.threshold, 1)


def test_the_comparator_is_what_is_asked_for() -> None:
    """Check that the option ``fires_at_threshold`` decides whether a neuron fires if its membrane
    equals the threshold.
    """
    weight = np.ones((1, 1, 3, 3))
    conv = nir.Conv2d((6, 6), weight, 1, 1, 1, 1, np.zeros(1))
    neuron = nir.IF(r=np.ones((1, 6, 6)), v_threshold=np.full((1, 6, 6), 4.0))
    flat = nir.Flatten(input_type={"input": np.array([1, 3, 3])}, start_dim=0, end_dim=-1)
    graph = neuron_graph(conv=conv, flat=flat, fc=nir.Linear(np.eye(9)[:3]), **{"if": neuron})
    for at, threshold in ((True, 4), (False, 5)):
        imported = from_graph(graph, NirOptions(timesteps=4, pixel_max=None, fires_at_threshold=at))
        network = integers.quantised(imported, 8)
        assert network.layers[0].threshold is not None
        assert network.layers[0].threshold.tolist() == [[[threshold]]]


def edges(graph: Any, *more: tuple[str, str]) -> Any:
    return nir.NIRGraph(graph.nodes, [*graph.edges, *more], type_check=False)


def conv_of(**changes: Any) -> Any:
    values = {"input_shape": (6, 6), "weight": np.ones((4, 1, 3, 3)), "stride": 1, "padding": 1,
              "dilation": 1, "groups": 1, "bias": np.zeros(4)}  # fmt: skip
    conv = nir.Conv2d(**values)
    for key, value in changes.items():
        setattr(conv, key, value)
    return conv


FULL = np.ones((4, 6, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"if": nir.Threshold(FULL)}, "if (Threshold): it fires without a membrane; use"),
        ({"if": nir.CubaLIF(FULL, FULL, FULL, FULL, FULL)}, "if (CubaLIF): its synapses have"),
        ({"conv": conv_of(groups=3)}, "conv (Conv2d): 4 output channels cannot be divided into 3"),
        ({"conv": conv_of(weight=np.ones((4, 1, 3, 3, 2)))}, "weight has 5 axes instead of 4"),
        ({"conv": conv_of(weight=np.ones((4, 1, 2, 2)), padding="same")}, "'same' with an even"),
        ({"fc": nir.Affine(np.ones((2, 3, 36)), np.ones((2, 3)))}, "weight has 3 axes instead"),
        ({"if": nir.IF(r=-FULL, v_threshold=FULL)}, "if (IF): its r must be positive"),
        ({"if": nir.LIF(3e-4 * FULL, FULL, 0 * FULL, FULL)}, "is multiplied by 0.6667"),
        ({"if": nir.LIF(np.arange(1, 145).reshape(4, 6, 6) * 1e-4, FULL, 0 * FULL, FULL)},
         "multiplied by 0, 0.6667, 0.8, 0.8333"),
        ({"in": nir.Input(input_type={"input": np.array([2, 3, 4, 5])})}, "has shape (2, 3, 4, 5)"),
        ({"extra": nir.Input(input_type={"input": np.array([1, 6, 6])})}, "this graph has 2"),
    ],
)  # fmt: skip
def test_what_the_device_cannot_do_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExchangeError) as error:
        from_graph(neuron_graph(**changes), NirOptions(timesteps=4))
    assert message in str(error.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ExchangeError) as error:
        from_graph(
            neuron_graph(**{"if": nir.Threshold(FULL), "conv": conv_of(groups=3)}),
            NirOptions(timesteps=4),
        )
    assert "if (Threshold): " in str(error.value) and "conv (Conv2d): " in str(error.value)


def test_graphs_that_are_no_networks() -> None:
    with pytest.raises(ExchangeError, match="NIR does not say how many timesteps"):
        from_graph(neuron_graph(), NirOptions(timesteps=None))
    with pytest.raises(ExchangeError, match=r"(?s)conv .*it is part of a loop.*if "):
        from_graph(edges(neuron_graph(), ("if", "conv")), NirOptions(timesteps=4))
    with pytest.raises(ExchangeError, match="names a node that does not exist"):
        from_graph(edges(neuron_graph(), ("if", "nowhere")), NirOptions(timesteps=4))
    with pytest.raises(ExchangeError, match="one output, this graph has 2"):
        from_graph(edges(neuron_graph(), ("if", "out")), NirOptions(timesteps=4))


def run_export(path: Path, folder: Path, *options: str) -> int:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (5, 1, 6, 6), np.uint8)
    np.savez(folder / "in.npz", images=images, labels=np.zeros(5, np.int64))
    return export.main([str(path), "--input", str(folder / "in.npz"), *options])


def test_export_takes_nir_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.nir"
    nir.write(path, neuron_graph())
    assert run_export(path, tmp_path, "--timesteps", "3") == export.EXIT_OK
    assert "measured   on 5 images of in.npz" in capsys.readouterr().out
    network = netfile.load(tmp_path / "net.spikefold").network
    assert [layer.name for layer in network.layers] == ["fc"] and network.timesteps == 3
    assert network.encoder is not None and network.encoder.name == "conv"
    assert network.provenance["imported"]["file"] == "net.nir"


def test_export_errors_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "net.nir"
    nir.write(good, neuron_graph())
    bad = tmp_path / "bad.nir"
    bad.write_bytes(b"hello")
    images = tmp_path / "images.npy"
    np.save(images, np.zeros(3))
    for path, options, message in (
        (good, [], "net.nir: NIR does not say how many timesteps to run: give --timesteps"),
        (bad, [], "bad.nir is damaged or no NIR file"),
        (tmp_path / "none.nir", [], "none.nir: no such file"),
        (
            good,
            ["--timesteps", "2", "--frames"],
            "of type uint8 and shape (N, 2, 1, 6, 6), not",
        ),
        (good, ["--timesteps", "2", "--input", str(images)], "(N, 1, 6, 6), not float64 (3,)"),
    ):
        assert run_export(path, tmp_path, *options) == export.EXIT_BAD_INPUT, message
        assert message in capsys.readouterr().err
        assert not path.with_suffix(".spikefold").exists()
    assert export.main([str(good), "--timesteps", "2"]) == export.EXIT_OK
    text = capsys.readouterr().out
    assert "measuring nothing: name samples with --data or --input" in text
    assert "measured   nothing: no accuracy, spikes or cycles" in text
    monkeypatch.setitem(sys.modules, "nir", None)
    assert run_export(good, tmp_path, "--timesteps", "2") == export.EXIT_BAD_INPUT
    assert "NIR files need the package 'nir'" in (said := capsys.readouterr().err)
    assert "pip install nir==1.0.8" in said


def test_command_errors_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.spikefold"
    netfile.save(net, random_network(4, granularity="shared", leak=Leak.NONE, reset=Reset.SOFT))
    fine = tmp_path / "fine.spikefold"
    netfile.save(fine, plain(8))
    timed = a_checkpoint(tmp_path / "timed.pt")
    for options, message in (
        ([str(net)], "layer1, layer2, layer3, layer4: a soft reset"),
        ([str(fine), "--unfolded"], "a network file is already folded: give its checkpoint"),
        ([str(fine), "-o", str(tmp_path / "no" / "net.nir")], "net.nir cannot be written"),
        (
            [str(timed), "--unfolded"],
            "fc: its coefficients differ from timestep to timestep: train with",
        ),
        ([str(tmp_path / "none.pt")], "none.pt: no such file"),
        ([str(tmp_path / "none.spikefold")], "none.spikefold"),
        (["."], ".: no such file"),
    ):
        assert command.main(options) == EXIT_BAD_INPUT, message
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.nir"))
    with pytest.raises(SystemExit):
        command.main([str(fine), "--dt", "0"])
    assert "--dt takes a positive number" in capsys.readouterr().err


def test_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "to_nir", interrupt)
    netfile.save(tmp_path / "net.spikefold", plain(8))
    assert command.main([str(tmp_path / "net.spikefold")]) == EXIT_INTERRUPTED
    assert "interrupted, nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "net.nir").exists()


def test_nodes_that_are_not_whole() -> None:
    conv = conv_of(stride=np.array([1, 2, 3]))
    with pytest.raises(ExchangeError, match=r"conv \(Conv2d\): .*is neither one number nor two"):
        from_graph(neuron_graph(conv=conv), NirOptions(timesteps=4))
    graph = neuron_graph()
    loose = nir.NIRGraph(graph.nodes, graph.edges[:1] + graph.edges[2:], type_check=False)
    with pytest.raises(ExchangeError, match="if: no edge leads to it"):
        from_graph(loose, NirOptions(timesteps=4))
