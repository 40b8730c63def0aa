"""Test that the virtual board runs layers that only imported networks have, with the spikes of the
integer reference."""

from __future__ import annotations

import numpy as np

from hw.boards.configs import config_by_name
from hw.spec import Gate, Leak, Reset
from sim.virtual_board import virtual_board
from sw.compile.compiler import compile_network
from sw.driver.board import Board
from sw.driver.device import Device
from sw.exchange.assembly import assemble
from sw.exchange.graph import Connect, Convolve, FireNode, Join, Node, Pool, Source
from sw.exchange.integers import quantised
from sw.exchange.neurons import neurons
from sw.network import reference
from sw.network.network import IMAGE

T = 3
SHAPE = (2, 6, 6)
N_SAMPLES = 2


def imported_nodes() -> list[Node]:
    """Return the graph of an imported network with features that Spikefold's own training does not
    make.

    One map has neurons with several leaks, pooling windows overlap, and a gate's branch is also
    read by another layer.
    """
    rng = np.random.default_rng(1)

    def conv(n_in: int) -> Convolve:
        return Convolve(weight=rng.normal(0, 0.6, (4, n_in, 3, 3)), padding=(1, 1))

    def fire(decay: float | np.ndarray) -> FireNode:
        return neurons(0.5, decay, soft=False, strict=True)

    leaks = np.array([1.0, 0.5, 0.75, 0.25])[:, None, None]
    pool = Pool(kind="max", kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    fc = Connect(weight=rng.normal(0, 1, (3, 36)))
    steps = [
        ("conv", conv(2), (IMAGE,)), ("leaky", fire(leaks), ("conv",)),
        ("pool", pool, ("leaky",)), ("inner", conv(4), ("pool",)), ("sn", fire(1.0), ("inner",)),
        ("join", Join(gate=Gate.IAND), ("pool", "sn")),
        ("last", Join(gate=Gate.OR), ("sn", "join")), ("fc", fc, ("last",)),
    ]  # fmt: skip
    return [Node(name=name, step=step, sources=sources) for name, step, sources in steps]


def test_layers_of_leaks_and_ors_and_copies_on_the_board() -> None:
    imported = assemble(
        imported_nodes(), Source(timesteps=T, image_shape=SHAPE, pixel_max=None), {}
    )
    network = quantised(imported, 8)
    assert [x.gate for x in network.layers].count(Gate.OR) == 4
    assert {x.leak for x in network.layers} == set(Leak)
    assert all(x.reset == Reset.HARD for x in network.layers)
    frames = (np.random.default_rng(2).random((N_SAMPLES, T, *SHAPE)) < 0.3).astype(np.uint8)
    trace = reference.run(network, frames)
    with virtual_board(config_by_name("sim/w8")) as port, Board(Device.open(port)) as board:
        board.load(compile_network(network, board.config))
        for n in range(N_SAMPLES):
            result = board.observe(frames[n], maps=True)
            np.testing.assert_array_equal(result.logits, trace.logits[n])
            for name, spikes in trace.spikes.items():
                np.testing.assert_array_equal(result.maps[name], spikes[n], err_msg=name)
                assert spikes.any() and not spikes.all()
