"""Tests of :func:`sw.convert.unshare.unshare`: results do not change, and more rows of memory are
used.
"""

from dataclasses import replace

import numpy as np
import pytest

from hw.boards.configs import CONFIGS
from hw.protocol import Space, row_bytes
from sw.compile.compiler import compile_network
from sw.convert.unshare import UNSHARED, unshare
from sw.network import reference
from tests.networks import random_input, random_network


@pytest.mark.parametrize("over", UNSHARED)
def test_copies_change_no_spike(over: str) -> None:
    network = random_network(3, granularity="shared", weight_bits=4, timesteps=3, n_layers=4)
    samples = random_input(network, np.random.default_rng(0), 2)
    copied = unshare(network, over)
    assert sum(layer.weight.size for layer in copied.layers) > 2 * sum(
        layer.weight.size for layer in network.layers
    )
    one, other = (reference.run(each, samples) for each in (network, copied))
    assert (one.logits == other.logits).all()
    for name, spikes in one.spikes.items():
        assert (spikes == other.spikes[name]).all()


def test_the_layers_that_are_read_most_per_row_stay_on_the_fpga() -> None:
    """Check that the layers that read each of their rows most often stay on an FPGA that is too
    small for all rows.

    This is the classifier here. The rows of some other layer must be stored outside the FPGA, and
    no row must be lost.
    """
    config = replace(CONFIGS["ulx3s-85f-sdram"], weight_depth=1024)
    shared = random_network(
        0, granularity="shared", weight_bits=4, timesteps=2, n_layers=4, encoder=False
    )
    program = compile_network(unshare(shared, UNSHARED[1]), config)
    kept = {plan.name: not plan.weights_offchip for plan in program.layers}
    assert kept["fc"] and not all(kept.values())
    rows = {
        space: len(image) // row_bytes(space, config) for space, image in program.images.items()
    }
    off = sum(plan.weight_rows for plan in program.layers if plan.weights_offchip)
    off += config.param_chunks * sum(p.param_rows for p in program.layers if p.params_offchip)
    assert rows[Space.OFFCHIP] - off in range(config.banks)
    assert rows[Space.WEIGHT] <= config.banks * config.weight_depth
    fits = compile_network(shared, CONFIGS["ulx3s-85f-sdram"])
    assert not fits.images[Space.OFFCHIP]
