"""Test of a network from training in SpikingJelly to the virtual board."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional
from torch.nn import functional as F

from hw.boards.configs import config_by_name
from sim.virtual_board import virtual_board
from sw.cli import export
from sw.compile.compiler import compile_network
from sw.data import catalogue
from sw.driver.board import Board
from sw.driver.device import Device
from sw.exchange.describe import describe
from sw.network import encoder, netfile, reference
from tests.sw.csnn import CSNN, T

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
