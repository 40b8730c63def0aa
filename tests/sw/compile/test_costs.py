"""Tests of a network's costs, and of the changes proposed for networks that do not fit a board."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.boards.configs import BOARDS, CONFIGS, board_name, config_by_name
from hw.spec import N_PLANES, Config, Gate, Leak, Reset
from sw.compile import costs, fitting
from sw.compile.compiler import compile_network
from sw.compile.program import PIXELS, FitError
from sw.network.network import INPUT, Layer, Network
from sw.reporting import tables
from tests.networks import random_network

ROOMY = dataclasses.replace(CONFIGS["sim"], weight_depth=1 << 17, param_depth=1 << 14)


def random_maps(network: Network, seed: int) -> costs.Maps:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.random((network.timesteps, *shape)) < 0.2).astype(np.uint8)
        for name, shape in network.map_shapes().items()
    } | {PIXELS: rng.integers(0, 2, (N_PLANES, *network.image_shape[-3:]), np.uint8)}


def count_additions(layer: Layer, spikes: np.ndarray) -> tuple[int, int]:
    """Count the synapses of a layer, and the additions that given spikes cause, one by one."""
    timesteps, *source = spikes.shape
    channels, height, width = layer.map_shape((source[0], source[1], source[2]))
    synapses = additions = 0
    for y in range(height * layer.pool[0]):
        for x in range(width * layer.pool[1]):
            for ky in range(layer.kernel[0]):
                for kx in range(layer.kernel[1]):
                    sy = y * layer.stride[0] + ky - layer.padding[0]
                    sx = x * layer.stride[1] + kx - layer.padding[1]
                    if 0 <= sy < source[1] and 0 <= sx < source[2]:
                        synapses += timesteps * source[0] * channels
                        additions += int(spikes[:, :, sy, sx].sum()) * channels
    return synapses, additions


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_synapses_and_operations_are_counted_right(seed: int) -> None:
    network = random_network(seed)
    maps = random_maps(network, seed)
    layers = costs.measured(network, None, [maps])
    for layer, reported in zip(network.layers, layers, strict=True):
        read = [maps[name] for name in layer.sources]
        counts = [count_additions(layer, spikes) for spikes in read]
        synapses, additions = (sum(parts) for parts in zip(*counts, strict=True))
        assert reported.n_synapses == synapses, layer.name
        assert reported.n_synaptic_ops == additions, layer.name
        assert reported.input_density == pytest.approx(np.mean([x.mean() for x in read]))


def test_table_has_every_layer_and_right_totals() -> None:
    network = random_network(3)
    program = compile_network(network, ROOMY)
    maps = [random_maps(network, seed) for seed in (1, 2)]
    layers = costs.measured(network, program, maps)
    text = tables.as_text(layers, network.weight_bits, ROOMY)
    for layer in network.layers:
        assert re.search(rf"^{re.escape(layer.name)} ", text, re.MULTILINE)
    total = text.splitlines()[-1].split()
    assert total[0] == "total"
    assert total[1] == f"{sum(layer.n_neurons for layer in layers):,}"
    assert total[-1] == f"{sum(layer.n_cycles or 0 for layer in layers):,.0f}"


def test_membrane_bits_are_the_proved_ones() -> None:
    """Check that 9 bits are reported as the membrane width that two weights of -128 need."""
    layer = Layer(
        name="fc",
        source="input",
        kernel=(1, 1),
        weight=np.full((1, 1, 1, 1, 2, 1, 1), -128, np.int8),
        bias=np.zeros((1, 1, 1, 1), np.int32),
        output=True,
    )
    network = Network(
        timesteps=1,
        image_shape=(2, 1, 1),
        encoder=None,
        layers=(layer,),
        weight_bits=8,
        labels=("only",),
    )
    assert costs.layer_reports(network)[0].membrane_bits == 9


def apply(network: Network, config: Config, remedy: str) -> tuple[Network, Config]:
    """Apply a proposed remedy; return the changed network and the changed device configuration."""
    bits = re.search(r"--bits (\d)", remedy)
    if bits:
        config = config.with_weight_bits(int(bits[1]))
    low, high = -(1 << (config.weight_bits - 1)), (1 << (config.weight_bits - 1)) - 1
    layers = []
    for layer in network.layers:
        axes: list[slice] = [slice(None)] * 3
        change = re.search(rf"(^|, ){re.escape(layer.name)} shared over ([\w ]+)", remedy)
        if change and "timesteps" in change[2]:
            axes[0] = slice(0, 1)
        if change and "positions" in change[2]:
            axes[1] = axes[2] = slice(0, 1)
        t, y, x = axes
        layers.append(
            dataclasses.replace(
                layer,
                weight=np.clip(layer.weight[t, y, x], low, high),
                bias=layer.bias[t, y, x],
                threshold=None if layer.threshold is None else layer.threshold[y, x],
            )
        )
    bits_now = min(network.weight_bits, config.weight_bits)
    changed = dataclasses.replace(network, layers=tuple(layers), weight_bits=bits_now)
    times = re.search(r"(\d+) of (\d+) timesteps", remedy)
    if times is None:
        return changed, config
    assert int(times[2]) == network.timesteps
    return first_timesteps(changed, int(times[1])), config


def first_timesteps(network: Network, n: int) -> Network:
    layers = (
        dataclasses.replace(layer, weight=layer.weight[:n], bias=layer.bias[:n])
        for layer in network.layers
    )
    return dataclasses.replace(network, timesteps=n, layers=tuple(layers))


def test_remedies_help_and_are_needed() -> None:
    """Check that every change proposed for a network that does not fit a board makes it fit."""
    kinds = set()
    for seed in range(30):
        network = random_network(seed)
        config = dataclasses.replace(
            CONFIGS["sim"].with_weight_bits(network.weight_bits),
            weight_depth=3000,
            fire_lanes=4,
            max_layers=8,
            param_depth=448,
        )
        board = fitting.board_report(network, config)
        if board.fits:
            assert board.remedies == () and board.problem is None
            continue
        assert board.problem and board.remedies
        for remedy in board.remedies:
            if remedy.startswith("only"):
                kinds.add("smaller")
                continue
            kinds |= {kind for kind in ("--bits", "timesteps", "shared over") if kind in remedy}
            compile_network(*apply(network, config, remedy))
            with pytest.raises(FitError):
                compile_network(network, config)
    assert {"--bits", "timesteps", "shared over"} <= kinds, "the sample must have tried all"


def test_fewer_timesteps_are_named_where_they_suffice() -> None:
    """Check that fewer timesteps are the only proposal if spike memory is too small.

    Spike memory is proportional to timesteps, while sharing weights does not reduce it.
    """
    network = random_network(2, timesteps=8)
    full = compile_network(network, ROOMY).usage()["spike"][0]
    config = dataclasses.replace(ROOMY, spike_bytes=full // 16 * 8)
    (remedy,) = fitting.board_report(network, config).remedies
    timesteps = int(remedy.split()[0])
    assert remedy == f"{timesteps} of 8 timesteps (train with fewer)" and 1 < timesteps < 8
    compile_network(first_timesteps(network, timesteps), config)
    with pytest.raises(FitError):
        compile_network(first_timesteps(network, timesteps + 1), config)


def test_sizes_are_named_before_addresses() -> None:
    """Check that a network with huge maps is refused because of the size of spike memory.

    The compiler must report this before it finds that the addresses exceed a descriptor's fields.
    """
    network = random_network(2)
    huge = conv_network((64, 120, 120))
    for config in map(config_by_name, BOARDS):
        with pytest.raises(FitError) as error:
            compile_network(huge, config.with_weight_bits(8))
        assert "spike needs" in str(error.value) and error.value.needs["spike"]
    assert fitting.board_report(network, CONFIGS["sim"]).problem is None


def conv_network(shape: tuple[int, int, int]) -> Network:
    """Return a network for frames of this shape: a convolution with a gate, and a classifier."""
    n = shape[0]
    conv = Layer(
        name="conv",
        source=INPUT,
        kernel=(3, 3),
        padding=(1, 1),
        weight=np.zeros((1, 1, 1, n, n, 3, 3), np.int8),
        bias=np.zeros((1, 1, 1, n), np.int32),
        threshold=np.ones((1, 1, n), np.int32),
    )
    gated = dataclasses.replace(conv, name="gated", source="conv", gate=Gate.OR, identity="conv")
    fc = Layer(
        name="fc",
        source="gated",
        kernel=shape[1:],
        weight=np.zeros((1, 1, 1, 2, n, 1, 1), np.int8),
        bias=np.zeros((1, 1, 1, 2), np.int32),
        output=True,
    )
    return Network(
        timesteps=4,
        image_shape=shape,
        encoder=None,
        layers=(conv, gated, fc),
        weight_bits=8,
        labels=("a", "b"),
    )


def test_sharing_weights_shares_thresholds_and_biases() -> None:
    """Check that sharing weights is proposed if only parameter memory is too small.

    Sharing weights over positions and timesteps also shares thresholds and biases.
    """
    config = dataclasses.replace(ROOMY, fire_lanes=4, max_layers=8, param_depth=128)
    tried = 0
    for seed in range(20):
        network = random_network(seed)
        board = fitting.board_report(network, config.with_weight_bits(network.weight_bits))
        if not board.fits:
            tried += 1
            assert set(board.usage) == {"param"}
            assert any(" shared over " in remedy for remedy in board.remedies), seed
    assert tried > 3


def test_a_network_that_nothing_helps_is_told_so() -> None:
    config = dataclasses.replace(CONFIGS["sim"], spike_bytes=16)
    network = conv_network((8, 9, 9))
    board = fitting.board_report(network, config)
    (remedy,) = board.remedies
    assert remedy.startswith("only a smaller network: short of spike even with all weights shared")
    assert " and one timestep; use less of: channels, rows and columns (more stride" in remedy
    assert "spike" in tables.board_text(board) and "would fit with only" in tables.board_text(board)


def test_all_boards_are_named_so_that_they_can_be_chosen() -> None:
    network = random_network(2)
    boards = fitting.all_boards(network)
    assert len(boards) == len(BOARDS)
    for board in boards:
        config = config_by_name(board.board)
        assert config == CONFIGS[board.board] and board_name(config) == board.board


def test_a_board_built_for_narrower_weights_is_a_remedy() -> None:
    network = random_network(4, weight_bits=4, granularity="element")
    rows = compile_network(network, ROOMY.with_weight_bits(4)).usage()["weight"][0]
    config = dataclasses.replace(ROOMY.with_weight_bits(8), weight_depth=rows * 3 // 4)
    assert fitting.board_report(network, config).remedies[0] == "--bits 4 --board sim/w4"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"reset": Reset.DELAYED}, "another reset (training with reset = 'SOFT')"),
        (
            {"leak": Leak.SUBTRACT, "leak_shift": 3, "finer_shifts": (5,)},
            "one shift (--nearest-leak 1 of the export, or training with finer_shifts = ())",
        ),
    ],
)
def test_neurons_that_a_small_board_lacks(change: dict[str, Any], remedy: str) -> None:
    network = random_network(5, encoder=False, n_layers=2, weight_bits=4, full_neurons=False)
    network = replace(network, layers=(replace(network.layers[0], **change), *network.layers[1:]))
    assert compile_network(network, CONFIGS["ulx3s-25f"].with_weight_bits(4)).layers
    report = fitting.board_report(network, CONFIGS["icebreaker"])
    assert report.problem is not None and network.layers[0].name in report.problem
    assert report.remedies[0].startswith("a board with an ECP5") and len(report.remedies) == 1
    assert report.remedies[0].endswith(remedy)
