"""Tests of the speed benchmark: all contenders run the same network, and ratios are right."""

from __future__ import annotations

import builtins
import importlib

import pytest
import torch

from sw.cli import speed as command
from sw.cli.commands import EXIT_BAD_INPUT
from sw.model import functional, resnet
from sw.model.config import NeuronConfig
from sw.training import speed


def test_a_peer_is_the_same_network() -> None:
    """Check that the benchmark's copy of a network, made for the neurons of another framework (a
    peer), has the same class scores and gradients if it gets our neurons instead.
    """

    class Plain(torch.nn.Module):
        def forward(self, drives: torch.Tensor) -> torch.Tensor:
            neuron = NeuronConfig()
            return functional.NeuronFunction.apply(  # type: ignore
                drives, 1.0, len(drives), neuron, 1.0, None, functional.EAGER
            )

    model_config = speed.network(3, 12, 4)
    torch.manual_seed(1)
    own = resnet.SpikingResNet(model_config).train()
    peer = speed.PeerNet(own, Plain)
    images, labels = torch.rand(5, 1, 12, 12), torch.arange(5)
    gradients = []
    for net in (own, peer):
        scores = speed.one_pass(net, images, labels)
        gradients.append([scores, *(p.grad for p in own.parameters())])
    for wanted, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)


def test_rates_are_positive_and_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--image-size", "8", "--channels", "4", "--batch", "2", "--rounds", "2"]
    words += ["--seconds", "0.01", "--no-compile", "--threads", "1", "--peers"]
    assert command.main(words) == 0
    assert "spikefold " in capsys.readouterr().out
    rates = speed.measure(
        speed.network(2, 8, 4), batch=2, rounds=3, seconds=0.01, peers=(), compiled=False
    )
    assert len(rates["spikefold"]) == 3 and min(rates["spikefold"]) > 0


def test_ratios_are_taken_within_rounds() -> None:
    """Check that a speed is divided by that of the fastest other framework in the same round.

    The median is taken afterwards, so it does not matter if all are slower in one round.
    """
    rates = {
        "spikefold": [20.0, 2.0, 30.0],
        "snntorch": [9.0, 1.0, 8.0],
        "spikingjelly": [10.0, 1.0, 10.0],
    }
    assert speed.compared(rates) == {"spikefold": 2.0, "snntorch": 0.9, "spikingjelly": 1.0}
    assert speed.compared({"spikefold": [1.0]}) == {}


def test_a_missing_peer_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> object:
        raise builtins.ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert command.main(["--no-compile", "--peers", "snntorch"]) == EXIT_BAD_INPUT
    assert "snntorch is not installed: pip install" in capsys.readouterr().err


def test_a_missing_device_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--no-compile", "--device", "abacus"]) == EXIT_BAD_INPUT
    assert "error: --device abacus" in capsys.readouterr().err


def test_peers_with_other_scores_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(torch.nn.Module):
        def forward(self, drives: torch.Tensor) -> torch.Tensor:
            return drives * 0

    def contenders(config, peers, compiled):
        plain = resnet.SpikingResNet(config).train()
        silent = speed.PeerNet(plain, Silent)
        layout = torch.contiguous_format
        return {
            "spikefold": speed.Contender(plain, layout, lambda: None),
            "spikingjelly": speed.Contender(silent, layout, lambda: None),
        }

    monkeypatch.setattr(speed, "contenders", contenders)
    with pytest.raises(speed.SpeedError, match="not the same network"):
        speed.measure(speed.network(2, 8, 4), batch=4, rounds=1, seconds=0.01)
