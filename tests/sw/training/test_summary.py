"""Tests of the lines that training prints at its start, and of default networks for own data."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from hw.boards.configs import CONFIGS
from hw.spec import Gate
from sw.compile.compiler import compile_network
from sw.convert import fold, quantize
from sw.convert.outline import outline
from sw.data.dataset import Dataset, Split
from sw.model.config import (
    BlockConfig,
    ModelConfig,
    ModelError,
    NeuronConfig,
    StageConfig,
    with_blocks,
    with_granularity,
)
from sw.model.functional import join
from sw.model.resnet import SpikingResNet
from sw.training import progress, sizing, summary
from sw.training.recipes import RECIPES, TrainConfig, for_own_data
from tests.datasets import easy_data
from tests.trained import lived_in, small_config

CPU = torch.device("cpu")


def lines(model: ModelConfig, dataset: Dataset | None = None, **settings: object) -> str:
    config = TrainConfig(**settings)  # type: ignore[arg-type]
    return "\n".join(summary.summary(dataset or easy_data(), model, config, CPU))


def test_training_says_what_it_does() -> None:
    text = lines(small_config(), epochs=7, batch_size=16, max_images=32)
    assert "fashion-mnist (memory)" in text and "10 classes: T-shirt/top, Trouser" in text
    assert "32 for training, 40 for validation, 60 for testing; images of 1 x 14 x 10" in text
    assert "3 timesteps; stem of 6 channels, stages of 6, 8" in text
    assert "7 epochs, batches of 16, learning rate 0.005, on cpu (" in text
    assert re.search(r"boards    will fit ulx3s-85f, .*; too large for \d+ others", text)
    n_parameters = sum(p.numel() for p in lived_in(small_config()).parameters())
    assert f"{n_parameters:,} parameters" in text


def test_training_warns_of_what_cannot_run_and_of_dark_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = BlockConfig(gate="ADD")
    stage = StageConfig(channels=6, blocks=(block, BlockConfig()))
    mixed = replace(small_config(), stages=(stage,))
    assert "boards    none: block 'layer1.1': its gate IAND would join spikes" in lines(mixed)
    add = with_blocks(small_config(), gate="ADD")
    assert "boards    will fit ulx3s-85f" in lines(add)
    learned = replace(small_config(), neuron=NeuronConfig(leak="LEARNED", leak_shift=2))
    assert not learned.exportable and "once its leaks are rounded" in lines(learned)
    large = replace(small_config(), stages=(StageConfig(channels=512),))
    assert "boards    will fit ulx3s-85f-sdram, colorlight-sdram, tang-20k-sdram; too" in lines(
        large
    )
    monkeypatch.setattr(sizing, "BOARDS", ("ulx3s-85f", "ice40-hx8k"))
    text = lines(large)
    assert (
        "boards    will fit none: ulx3s-85f (" in text and "would fit ulx3s-85f with only" in text
    )
    dark = Split(images=easy_data().train.images // 255, labels=easy_data().train.labels)
    assert "no pixel is above 1 of 255" in lines(small_config(), replace(easy_data(), train=dark))
    assert "no pixel" not in lines(small_config())


def test_a_network_that_needs_fewer_timesteps_is_told_so() -> None:
    model = replace(RECIPES["nmnist"].model, timesteps=64)
    assert re.search(r"would fit ulx3s-85f with \d+ of 64 timesteps", lines(model))


@pytest.mark.parametrize("gate", [None, "ADD"])
@pytest.mark.parametrize("frames", [False, True])
def test_an_outline_fills_memories_as_the_network_will(frames: bool, gate: str | None) -> None:
    model = small_config(frames=frames)
    model = with_blocks(model, gate=gate) if gate else model
    folded = fold.fold_model(lived_in(model), tuple("abcdefghij"), {})
    network = quantize.quantize(folded, 8)
    board = CONFIGS["ulx3s-85f"]
    sizes = compile_network(network, board, pixels=False).usage()
    assert compile_network(outline(model, 8), board, pixels=False).usage() == sizes


def test_an_outline_has_the_neurons_of_the_network() -> None:
    neuron = NeuronConfig(leak="SUBTRACT", leak_shift=3, finer_shifts=(5,), reset="DELAYED")
    model = small_config(neuron=neuron)
    folded = fold.fold_model(SpikingResNet(model).eval(), tuple("abcdefghij"), {})
    found = outline(model, 8)
    assert [layer.structure() for layer in found.layers] == [
        layer.structure() for layer in folded.layers
    ]
    assert found.layers[0].leak_shifts == (3, 5)
    problems = {fit.board: fit.problem for fit in sizing.board_fits(model)}
    assert "its leak has 2 shifts" in problems["icebreaker"] and not problems["ulx3s-85f"]


def test_weights_outside_the_fpga_count_as_room() -> None:
    model = with_granularity(RECIPES["fashion-mnist-85f"].model, "element/per-timestep")
    problems = {fit.board: fit.problem for fit in sizing.board_fits(model)}
    assert [board for board, problem in problems.items() if not problem] == ["ulx3s-85f-sdram"]
    assert problems["ulx3s-85f"] == "34,992,128 weights, room for 360,448"


def test_what_no_device_runs_has_no_outline() -> None:
    relus = replace(with_blocks(small_config(), gate="ADD"), timesteps=1, spiking=False)
    with pytest.raises(ModelError, match="a network of ReLUs"):
        outline(relus, 8)


@pytest.mark.parametrize(
    ("shape", "n_classes", "frames"),
    [
        ((1, 28, 28), 10, None),
        ((3, 224, 224), 10, None),
        ((3, 64, 64), 100, None),
        ((1, 1, 4000), 4, None),
        ((1, 1, 1), 2, None),
        ((2, 2, 3), 2, 3),
        ((2, 128, 128), 11, 4),
    ],
)
def test_the_default_network_fits_a_board(
    shape: tuple[int, int, int], n_classes: int, frames: int | None
) -> None:
    model = for_own_data("mine", shape, n_classes, frames).model
    assert model.image_shape == shape and model.n_classes == n_classes
    assert any(not board.problem for board in sizing.board_fits(model))


def test_small_images_keep_the_usual_network() -> None:
    usual = RECIPES["fashion-mnist"].model
    assert for_own_data("mine", (3, 16, 16), 10, None).model == replace(
        usual, image_shape=(3, 16, 16)
    )


def test_batches_fit_small_data() -> None:
    assert summary.batch_size(100, 60_000, 1) == 100
    assert summary.batch_size(100, 400, 1) == 100
    assert summary.batch_size(100, 40, 1) == 10
    assert summary.batch_size(100, 3, 1) == 1
    assert summary.batch_size(100, 90, 4) == 20
    assert summary.batch_size(64, 2, 4) == 4


def test_progress_is_told_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(np.arange(0, 1000, 4.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.progress(range(40), "epoch 1/3", 40)) == list(range(40))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "epoch 1/3: 2 of 40 batches, about 3 min to go"
    assert len(said) == 3
    assert list(progress.progress(range(4), "epoch 1/3", 4, quiet=True)) == [0, 1, 2, 3]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("n_batches", "durations_s", "speed_s", "known_at"),
    [
        (40, [60, 3, 1, 2], 2, 3),  # the first batch is slow and does not count
        (40, [60, 6], 6, 1),  # slow batches: it is said as soon as possible
        (2, [9, 1], 1, 1),
        (1, [9], 9, 0),
    ],
)
def test_the_first_batches_tell_the_speed(
    n_batches: int,
    durations_s: list[float],
    speed_s: float,
    known_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    said: list[tuple[int, float]] = []
    n_done = 0

    def on_speed(batch_s: float) -> None:
        said.append((n_done, batch_s))

    for n in progress.progress(range(n_batches), "", n_batches, on_speed=on_speed):
        n_done = n
        clock += durations_s[min(n, len(durations_s) - 1)]
    assert said == [(known_at, speed_s)]


def test_an_unknown_gate_is_refused() -> None:
    spikes = torch.tensor([0.0, 1.0])
    for gate in Gate.__members__:
        if gate != "NONE":
            join(gate, spikes, spikes)
    with pytest.raises(ModelError, match="unknown gate 'NAND'"):
        join("NAND", spikes, spikes)
