"""Tests of NIR files as other tools write them, against a simulation of their nodes in torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hw.spec import Gate, Reset
from sw.cli import export
from sw.convert.folded import simulate
from sw.exchange import integers, nearest, nir_file
from sw.exchange.graph import ExchangeError
from sw.exchange.nir_read import NirOptions, from_graph, read
from sw.exchange.readers import ReadOptions, find_reader
from sw.network import reference

T = 5
FRAMES = (np.random.default_rng(3).random((12, T, 2, 6, 5)) < 0.3).astype(np.uint8)
OPTIONS = NirOptions(timesteps=T, pixel_max=None, dt_s=1e-4)


def simulated(
    nodes: dict[str, Any], frames: np.ndarray, soft: bool = False, dt: float = 1e-4
) -> np.ndarray:
    """Run nodes one after another in torch; return the last one's mean output over the timesteps.

    ``frames`` are (N, T, C, H, W), and ``dt`` is the duration of a timestep in seconds. With
    ``soft``, a spike subtracts the threshold instead of setting the membrane to ``v_reset``.
    """
    membranes: dict[str, Any] = dict.fromkeys(nodes, 0.0)
    total = torch.zeros(())
    for t in range(frames.shape[1]):
        x = torch.from_numpy(frames[:, t]).double()
        for name, node in nodes.items():
            x, membranes[name] = step(node, x, membranes[name], soft, dt)
        total = total + x
    return (total / frames.shape[1]).numpy().reshape(len(frames), -1)


def step(node: Any, x: Tensor, v: Any, soft: bool, dt: float) -> tuple[Tensor, Any]:
    def parameter(name: str) -> Tensor:
        return torch.as_tensor(np.asarray(getattr(node, name), np.float64))

    if isinstance(node, nir.Conv2d):
        stride, padding = int(node.stride[0]), int(node.padding[0])
        return F.conv2d(x, parameter("weight"), parameter("bias"), stride, padding), v
    if isinstance(node, nir.Conv1d):
        return F.conv1d(x, parameter("weight"), parameter("bias"), node.stride, node.padding), v
    if isinstance(node, nir.Affine | nir.Linear):
        x = x.flatten(1) @ parameter("weight").T
        return x + (parameter("bias") if isinstance(node, nir.Affine) else 0), v
    if isinstance(node, nir.Flatten):
        return x, v
    if isinstance(node, nir.SumPool2d):
        return F.avg_pool2d(x, 2, divisor_override=1), v
    if isinstance(node, nir.IF):
        v = v + x * parameter("r") * dt
    else:
        v = v + (parameter("v_leak") - v + parameter("r") * x) * dt / parameter("tau")
    spikes = (v > parameter("v_threshold")).double()
    if soft:
        return spikes, v - spikes * parameter("v_threshold")
    return spikes, torch.where(spikes > 0, parameter("v_reset"), v)


def chain(neurons: Any, out: int = 3, channels: int = 4) -> dict[str, Any]:
    """Return the nodes of a network by name: a convolution, ``neurons`` and a classifier."""
    rng = np.random.default_rng(1)
    return {
        "conv": nir.Conv2d(
            input_shape=(6, 5), weight=rng.normal(0, 0.6, (channels, 2, 3, 3)), stride=1, padding=1,
            dilation=1, groups=1, bias=rng.normal(0, 0.2, channels),
        ),
        "neurons": neurons,
        "flat": nir.Flatten({"input": np.array([channels, 6, 5])}, start_dim=0, end_dim=-1),
        "fc": nir.Affine(rng.normal(0, 1, (out, channels * 30)), rng.normal(0, 1, out)),
        "neurons2": nir.IF(r=np.full(out, 1e4), v_threshold=np.full(out, 0.8)),
    }  # fmt: skip


def graph_of(nodes: dict[str, Any], shape: Any = (2, 6, 5)) -> Any:
    every = {"in": nir.Input({"input": np.array(shape)}), **nodes}
    every["out"] = nir.Output({"output": np.array([3])})
    names = list(every)
    return nir.NIRGraph(every, list(itertools.pairwise(names)), type_check=False)


def leaky(shape: Any = (4, 6, 5), tau: Any = 4e-4) -> Any:
    tau = np.broadcast_to(tau, shape).copy()
    return nir.LIF(tau, 4 * np.ones(shape), np.zeros(shape), 0.6 * np.ones(shape))


def written(path: Path, graph: Any, change: Callable[[Any], None] | None = None) -> Path:
    """Write a graph to a file, let ``change`` edit the nodes in the file, and return the path."""
    nir.write(path, graph)
    if change is not None:
        with h5py.File(path, "a") as file:
            change(file["node/nodes"])
    return path


def replace_entry(node: Any, name: str, value: Any) -> None:
    del node[name]
    node.create_dataset(name, data=value)


def old(nodes: Any) -> None:
    """Change an open file to the form of nir 1.0.4, in which neurons have no ``v_reset``."""
    for name in ("neurons", "neurons2"):
        del nodes[name]["v_reset"]


def test_files_without_v_reset_need_the_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that files without ``v_reset`` are refused unless the option ``--reset`` is given.

    The package nir wrote such files up to version 1.0.4.
    """
    nodes = chain(leaky())
    path = written(tmp_path / "old.nir", graph_of(nodes), old)
    with pytest.raises(ExchangeError) as error:
        read(path, OPTIONS)
    for name in ("neurons (LIF)", "neurons2 (IF)"):
        assert f"{name}: it has no v_reset, as files of nir 1.0.4 and earlier" in str(error.value)
    counts = {}
    for reset in ("subtract", "zero"):
        imported = read(path, replace(OPTIONS, reset=reset))
        counts[reset] = simulate(imported.folded, FRAMES).logits
        expected = simulated(nodes, FRAMES, reset == "subtract")
        np.testing.assert_allclose(counts[reset], expected, atol=1e-9)
    assert (counts["subtract"] != counts["zero"]).any(), "the reset must make a difference"
    again = read(written(tmp_path / "new.nir", graph_of(nodes)), OPTIONS)
    np.testing.assert_array_equal(simulate(again.folded, FRAMES).logits, counts["zero"])
    np.savez(tmp_path / "in.npz", images=FRAMES, labels=np.zeros(12, np.int64))
    options = [str(path), "--timesteps", str(T), "--frames", "--input", str(tmp_path / "in.npz")]
    assert export.main(options) == export.EXIT_BAD_INPUT
    assert "give --reset subtract" in capsys.readouterr().err
    assert export.main([*options, "--reset", "subtract"]) == export.EXIT_OK


def scalars(nodes: Any) -> None:
    for name, value in (("r", 4.0), ("v_leak", 0.0), ("v_reset", [0.0])):
        replace_entry(nodes["neurons"], name, value)
    replace_entry(nodes["neurons"], "v_threshold", np.full((1, 1, 1), 0.6))
    replace_entry(nodes["neurons"], "tau", np.full((4, 1, 1), 4e-4))


def batches(nodes: Any) -> None:
    for name in ("r", "tau", "v_leak", "v_threshold", "v_reset"):
        replace_entry(nodes["neurons"], name, np.asarray(nodes["neurons"][name])[None])
    replace_entry(nodes["in"], "shape", [1, 2, 6, 5])
    replace_entry(nodes["fc"], "bias", np.asarray(nodes["fc"]["bias"])[None])
    replace_entry(nodes["fc"], "weight", np.asarray(nodes["fc"]["weight"])[None])


def without_shapes(nodes: Any) -> None:
    del nodes["conv"]["input_shape"], nodes["flat"]["input_type"]


@pytest.mark.parametrize("change", [None, scalars, batches, without_shapes])
@pytest.mark.parametrize("name", ["net.nir", "net.h5", "net.hdf5", "net"])
def test_shapes_and_names_of_other_writers(tmp_path: Path, change: Any, name: str) -> None:
    path = written(tmp_path / name, graph_of(chain(leaky())), change)
    reader = find_reader(path, ReadOptions())
    assert reader is not None
    options = ReadOptions(timesteps=T, frames=True, dt=1e-4)
    found = simulate(reader.read(path, options).folded, FRAMES).logits
    np.testing.assert_allclose(found, simulated(chain(leaky()), FRAMES), atol=1e-9)
    assert np.ptp(found, axis=0).max() > 0


@pytest.mark.parametrize("reset", [None, "subtract"])
def test_a_leak_to_another_value_than_the_reset_is_a_bias(reset: str | None) -> None:
    rng = np.random.default_rng(6)
    for rest in (0.3, rng.uniform(-0.2, 0.5, (4, 1, 1)), rng.uniform(-0.2, 0.5, (4, 6, 5))):
        nodes = chain(leaky())
        nodes["neurons"].v_leak = np.broadcast_to(rest, (4, 6, 5)).copy()
        folded = from_graph(graph_of(nodes), replace(OPTIONS, reset=reset)).folded
        found = simulate(folded, FRAMES).logits
        np.testing.assert_allclose(found, simulated(nodes, FRAMES, bool(reset)), atol=1e-9)
        assert np.ptp(found, axis=0).max() > 0


@pytest.mark.parametrize("by", ["channel", "position"])
def test_several_time_constants_in_one_node(by: str) -> None:
    """Check that neurons with several leaks in one node become a layer for each leak.

    OR gates join the spikes of these layers.
    """
    taus = np.array([2e-4, 4e-4, 2e-4, 8e-4])[:, None, None]
    if by == "position":
        taus = np.random.default_rng(2).choice([2e-4, 4e-4, 1e-4 * 4 / 3], (4, 6, 5))
    rng = np.random.default_rng(5)
    before = nir.IF(r=np.full((4, 6, 5), 1e4), v_threshold=np.full((4, 6, 5), 0.4))
    conv = nir.Conv2d((6, 5), rng.normal(0, 0.6, (4, 4, 3, 3)), 1, 1, 1, 1, rng.normal(0, 0.2, 4))
    whole = chain(leaky(tau=taus))
    nodes = {"conv": whole["conv"], "if": before, "conv2": conv}
    nodes |= {name: whole[name] for name in ("neurons", "flat", "fc", "neurons2")}
    imported = from_graph(graph_of(nodes), OPTIONS)
    found = simulate(imported.folded, FRAMES).logits
    np.testing.assert_allclose(found, simulated(nodes, FRAMES), atol=1e-9)
    assert np.ptp(found, axis=0).max() > 0
    parts = [layer for layer in imported.folded.layers if layer.name.startswith("conv2")]
    assert [p.gate for p in parts] == [Gate.NONE, Gate.OR, Gate.OR]
    assert len({(p.leak, p.leak_shift) for p in parts}) == 3
    logits = reference.run(integers.quantised(imported, 8), FRAMES).logits
    assert (logits.argmax(1) == found.argmax(1)).mean() > 0.5
    with pytest.raises(ExchangeError, match="neurons that read the image have several leaks"):
        from_graph(graph_of(chain(leaky(tau=taus))), NirOptions(timesteps=T, dt_s=1e-4))


def test_parameters_that_broadcast_two_ways_are_refused() -> None:
    wide = {"conv": nir.Conv2d((6, 4), np.ones((4, 2, 3, 3)), 1, 1, 1, 1, np.zeros(4))}
    for size, threshold in ((4, [1.0, 2, 3, 4]), (4, [2.0] * 4)):
        neurons = nir.IF(r=np.full(size, 1e4), v_threshold=np.array(threshold))
        nodes = {**wide, "n": neurons, "fc": nir.Linear(np.ones((3, 96)))}
        graph = graph_of(nodes, (2, 6, 4))
        if len(set(threshold)) == 1:
            assert from_graph(graph, OPTIONS).folded.layers[0].threshold is not None
            continue
        with pytest.raises(ExchangeError, match="could be those of the channels or of the columns"):
            from_graph(graph, OPTIONS)


def test_a_graph_in_a_graph(tmp_path: Path) -> None:
    nodes = chain(leaky())
    inner = {"input": nir.Input({"input": np.array([4, 6, 5])}), "neurons": nodes["neurons"]}
    inner |= {"flat": nodes["flat"], "output": nir.Output({"output": np.array([120])})}
    names = list(inner)
    sub = nir.NIRGraph(inner, list(itertools.pairwise(names)), type_check=False)
    outer = {"conv": nodes["conv"], "sub": sub, "fc": nodes["fc"], "neurons2": nodes["neurons2"]}
    path = written(tmp_path / "net.nir", graph_of(outer))
    found = simulate(read(path, OPTIONS).folded, FRAMES).logits
    np.testing.assert_allclose(found, simulated(nodes, FRAMES), atol=1e-9)
    with h5py.File(path, "a") as file:
        del file["node/nodes/sub/nodes/neurons/v_reset"]
    with pytest.raises(ExchangeError, match=r"sub\.neurons \(LIF\): it has no v_reset"):
        read(path, OPTIONS)


def test_loops_are_named_node_by_node() -> None:
    """Check that the error for a loop names all nodes in it, and all other nodes that cannot be
    mapped.
    """
    size = np.ones(4)
    recurrent = {"input": nir.Input({"input": np.array([4])}), "lif": nir.CubaLIF(*[size] * 5)}
    recurrent |= {"w_rec": nir.Linear(np.eye(4)), "output": nir.Output({"output": np.array([4])})}
    edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    sub = nir.NIRGraph(recurrent, edges, type_check=False)
    nodes = {"fc": nir.Linear(np.ones((4, 2))), "rec": sub, "li": nir.LI(size, size, size)}
    with pytest.raises(ExchangeError) as error:
        from_graph(graph_of(nodes, (2,)), OPTIONS)
    for message in (
        "rec.lif (CubaLIF): it is part of a loop, which the device does not support; its synapses",
        "rec.w_rec (Linear): it is part of a loop",
        "li (LI): its membranes are its output",
    ):
        assert message in str(error.value)
    edges[0] = ("input", "lost")
    damaged = nir.NIRGraph(recurrent, edges, type_check=False)
    with pytest.raises(ExchangeError, match=r"edge 'in' -> 'rec.lost' names a node that"):
        from_graph(graph_of({"rec": damaged}, (4,)), OPTIONS)
    loop = graph_of({"fc": nir.Linear(np.eye(2)), "sub": graph_of({"n": nir.Linear(np.eye(2))})})
    loop.edges.append(("sub", "sub"))
    with pytest.raises(ExchangeError, match=r"sub\.n \(Linear\): it is part of a loop"):
        from_graph(loop, OPTIONS)


def test_networks_of_one_axis() -> None:
    rng = np.random.default_rng(4)
    frames = (rng.random((10, T, 2, 1, 20)) < 0.3).astype(np.uint8)
    nodes = {
        "conv": nir.Conv1d(20, rng.normal(0, 1, (3, 2, 5)), 2, 1, 1, 1, rng.normal(0, 0.2, 3)),
        "lif": leaky((3, 9)),
        "conv2": nir.Conv1d(9, rng.normal(0, 1, (4, 3, 3)), 1, 0, 1, 1, np.zeros(4)),
        "lif2": leaky((4, 7)),
        "fc": nir.Linear(rng.normal(0, 1, (3, 28))),
    }
    expected = simulated(nodes, frames[:, :, :, 0])
    for shape in ((2, 20), (1, 2, 20)):
        folded = from_graph(graph_of(nodes, shape), OPTIONS).folded
        assert folded.image_shape == (2, 1, 20)
        np.testing.assert_allclose(simulate(folded, frames).logits, expected, atol=1e-9)
    assert np.ptp(expected, axis=0).max() > 0
    nodes["lif"] = nir.LIF(*(np.full((3, 1), v) for v in (4e-4, 4.0, 0.0, 0.6)))
    found = simulate(from_graph(graph_of(nodes, (2, 20)), OPTIONS).folded, frames).logits
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_shape_of_the_input() -> None:
    for shape, expected in (((7,), (7, 1, 1)), ((1, 7), (7, 1, 1)), ((1, 2, 3, 4), (2, 3, 4))):
        nodes = {
            "fc": nir.Linear(np.ones((3, int(np.prod(shape))))),
            "n": chain(leaky())["neurons2"],
        }
        assert from_graph(graph_of(nodes, shape), OPTIONS).folded.image_shape == expected
    for shape in ((2, 2, 3, 4), (1, 1, 2, 3, 4), (0, 3, 4)):
        with pytest.raises(ExchangeError, match=r"its input has shape .*; use \(channels"):
            from_graph(graph_of({"n": chain(leaky())["neurons2"]}, shape), OPTIONS)


def test_files_that_are_no_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["events"] = np.zeros(3)
    with pytest.raises(
        ExchangeError, match=r"data\.h5 is in HDF5, but holds no NIR.*it has events"
    ):
        read(tmp_path / "data.h5", OPTIONS)
    path = written(tmp_path / "net.nir", graph_of(chain(leaky())))
    monkeypatch.setattr(nir_file, "MAX_NUMBERS", 100)
    with pytest.raises(ExchangeError, match="it holds more than 100 numbers"):
        read(path, OPTIONS)


def test_subtracting_resets_of_integers_stay_exact() -> None:
    """Check that neurons that fire above an integer threshold, and subtract it, are imported
    exactly.
    """
    rng = np.random.default_rng(8)
    out = rng.integers(-3, 4, (3, 120)).astype(np.float64)
    nodes = chain(nir.IF(r=np.full((4, 6, 5), 1e4), v_threshold=np.full((4, 6, 5), 3.0)))
    nodes["conv"].weight = rng.integers(-2, 3, (4, 2, 3, 3)).astype(np.float64)
    nodes["conv"].bias = np.ones(4)
    nodes["fc"] = nir.Linear(out)
    nodes["neurons2"] = nir.IF(r=np.full(3, 1e4), v_threshold=np.full(3, 2.0))
    options = replace(OPTIONS, reset="subtract")
    imported = from_graph(graph_of(nodes), options)
    network = integers.as_integers(imported, 8, 16)
    assert network is not None and network.layers[0].reset == Reset.SOFT
    assert network.layers[0].threshold is not None
    assert network.layers[0].threshold.max() == 3 * (T + 1) + 1
    logits = reference.run(network, FRAMES).logits
    np.testing.assert_array_equal(logits, T * simulated(nodes, FRAMES, soft=True))
    nodes["neurons"].v_threshold = np.full((4, 6, 5), 2.5)
    assert integers.as_integers(from_graph(graph_of(nodes), options), 8, 16) is None


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_nearest_leak_is_taken_on_request(reset: str) -> None:
    nodes = chain(leaky(tau=1e-3))
    options = replace(OPTIONS, reset=reset)
    with pytest.raises(
        ExchangeError, match=r"by 0\.9 at every timestep.*0\.8984, with --nearest-leak"
    ):
        from_graph(graph_of(nodes), options)
    imported = from_graph(graph_of(nodes), replace(options, nearest_leak=1))
    assert imported.folded.provenance["nearest_leak"] == {"conv": {"decay": [pytest.approx(0.9)]}}
    logits, spikes = nearest.in_framework(imported, FRAMES)
    np.testing.assert_allclose(logits, simulated(nodes, FRAMES, reset == "subtract"), atol=1e-9)
    change = nearest.measure(imported, FRAMES)
    found = simulate(imported.folded, FRAMES, keep_spikes=True).spikes["conv"]
    assert change.layers[0].n_changed == (found != spikes["conv"]).sum() > 0
    assert change.layers[0].n_spikes == spikes["conv"].sum()
    assert change.layers[0].n_nearest == found.sum()
    assert change.n_samples == len(FRAMES) and 0 < change.same_class <= 1
    assert "conv: leak 0.9 becomes 0.875; " in change.as_text()
    assert nearest.measure(imported).n_samples == nearest.N_RANDOM, "random frames"
