"""Tests of networks that are trained in SpikingJelly, imported, and run on the virtual board."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn import functional as F

from hw.boards.configs import config_by_name
from sim.virtual_board import virtual_board
from sw.cli import export
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.convert.folded import simulate
from sw.convert.quantize import quantize
from sw.data import catalogue
from sw.driver.board import Board
from sw.driver.device import Device
from sw.exchange.describe import describe
from sw.exchange.statedict import from_state_dict
from sw.network import encoder, netfile, reference
from tests.sw.csnn import CSNN, T
from tests.sw.exchange.test_statedict import BasicBlock, lived_in

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SIZE = 12
CHANNELS = 4
N_EPOCHS = 6
BATCH = 40
N_ON_BOARD = 5


def small_images() -> tuple[np.ndarray, np.ndarray]:
    """Return the shipped images at half their size and without margin, and their classes."""
    split = catalogue.load_samples()
    halves = split.images.reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5)).astype(np.uint8)
    return halves[:, :, 1:-1, 1:-1].copy(), split.labels.astype(np.int64)


def trained(images: np.ndarray, labels: np.ndarray) -> tuple[CSNN, list[float]]:
    """Train a network for a few seconds as in SpikingJelly's example; return it and its losses."""
    torch.manual_seed(0)
    net = CSNN(CHANNELS, SIZE)
    functional.set_step_mode(net, "m")
    optimiser = torch.optim.Adam(net.parameters(), 2e-2)
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    losses = []
    for _ in range(N_EPOCHS):
        total = 0.0
        for start in range(0, len(x), BATCH):
            batch = x[start : start + BATCH]
            rates = net(batch.unsqueeze(0).expand(T, -1, -1, -1, -1)).mean(0)
            loss = F.mse_loss(rates, F.one_hot(y[start : start + BATCH], 10).float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            functional.reset_net(net)
            total += float(loss.detach())
        losses.append(total)
    return net.eval(), losses


def rates(net: CSNN, images: np.ndarray) -> np.ndarray:
    """Return firing rates of the output neurons, computed by SpikingJelly in float64."""
    net = net.double()
    x = torch.from_numpy(images).double() / 255
    with torch.no_grad():
        found = net(x.unsqueeze(0).expand(T, -1, -1, -1, -1)).mean(0).numpy()
    functional.reset_net(net)
    net.float()
    return found


def test_from_training_to_the_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = small_images()
    net, losses = trained(images, labels)
    assert losses[-1] < 0.9 * losses[0], "it must have learned something"
    torch.save(net.state_dict(), tmp_path / "csnn.pt")
    (tmp_path / "csnn.json").write_text(json.dumps(describe(net, T, (1, SIZE, SIZE))))
    theirs = rates(net, images).argmax(axis=1)
    np.savez(tmp_path / "in.npz", images=images, labels=theirs)

    options = ["--topology", str(tmp_path / "csnn.json"), "--input", str(tmp_path / "in.npz")]
    assert export.main([str(tmp_path / "csnn.pt"), *options, "--json"]) == export.EXIT_OK
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert accuracy["folded"] == 1.0, "every class is the one that SpikingJelly says"
    assert accuracy["quantised"] > 0.8

    network = netfile.load(tmp_path / "csnn.spikefold").network
    trace = reference.run(network, images[:N_ON_BOARD])
    with virtual_board(config_by_name("sim/w8")) as port, Board(Device.open(port)) as board:
        program = compile_network(network, board.config)
        frames = encoder.inputs(network, images[:N_ON_BOARD], program.pixels)
        board.load(program)
        for n in range(N_ON_BOARD):
            result = board.observe(frames[n], maps=True)
            assert result.prediction == trace.predictions[n]
            np.testing.assert_array_equal(result.logits, trace.logits[n])
            for name, spikes in trace.spikes.items():
                np.testing.assert_array_equal(result.maps[name], spikes[n], err_msg=name)


class AddingBlock(nn.Module):
    """Block as in SpikingJelly's ``spiking_resnet``: its last neurons receive branch plus
    shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.conv1 = layer.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.sn1 = neuron.IFNode()
        self.conv2 = layer.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.downsample = layer.Conv2d(n_in, n_out, 1, stride) if stride > 1 else nn.Identity()
        self.sn2 = neuron.IFNode()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sn2(self.conv2(self.sn1(self.conv1(x))) + self.downsample(x))


class Adding(nn.Module):
    """Network with two kinds of residual block. In the first two blocks, the sum of branch and
    shortcut is the input current of the last neurons; in the other two, the spikes of branch and
    shortcut are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(1, 4, 3, padding=1)
        self.sn1 = neuron.IFNode()
        self.spiking = nn.Sequential(AddingBlock(4, 4, 1), AddingBlock(4, 6, 2))
        self.sew = nn.Sequential(BasicBlock(6, 6, 1, "ADD"), BasicBlock(6, 6, 1, "ADD"))
        self.fc = layer.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.sew(self.spiking(self.sn1(self.conv1(x)))).mean((2, 3)))


def test_sums_on_the_board() -> None:
    """Check every logit, spike and cycle of a network whose layers read sums of maps.

    The samples are written to the board's input regions in turn.
    """
    net = lived_in(Adding(), 3)
    images, _ = small_images()
    folded = from_state_dict(net.state_dict(), describe(net, T, (1, SIZE, SIZE))).folded
    theirs = sum(net(torch.from_numpy(images[:20]).float() / 255) for _ in range(T)).detach() / T
    functional.reset_net(net)
    np.testing.assert_allclose(simulate(folded, images[:20]).logits, theirs.numpy(), atol=1e-4)
    network = quantize(folded)
    assert {layer.n_summed for layer in network.layers} == {1, 2, 3}
    assert any(layer.stacked for layer in network.layers)
    trace = reference.run(network, images[:N_ON_BOARD])
    with virtual_board(config_by_name("sim/w8")) as port, Board(Device.open(port)) as board:
        for pixels in (False, True):
            program = compile_network(network, board.config, pixels=pixels)
            assert 1 < len(program.inputs) <= N_ON_BOARD
            board.load(program)
            frames = encoder.inputs(network, images[:N_ON_BOARD], pixels)
            for n, result in enumerate(board.stream(frames)):
                np.testing.assert_array_equal(result.logits, trace.logits[n])
            result = board.observe(frames[0], maps=True)
            for name, spikes in trace.spikes.items():
                np.testing.assert_array_equal(result.maps[name], spikes[0], err_msg=name)
            for name, n_cycles in predict_cycles(program, result.maps).items():
                assert result.counters[name].n_cycles == n_cycles
