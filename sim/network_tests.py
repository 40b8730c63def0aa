"""cocotb test of a compiled network on the generated Verilog of the core.

The environment variable ``SPIKEFOLD_NETWORK`` names a network file, ``SPIKEFOLD_VECTORS`` an .npz
file with these arrays: for each image ``i`` the input ``i.sample``, and the expected ``i.logits``
and ``i.spikes.<map>`` (T, C, H, W); ``stall``, the probability per cycle that a stream of the
core's bus waits; and ``pixels``, whether the device also computes the encoder, the first layer of
an image network, instead of the host. :mod:`sim.vectors` writes both files.
"""

from __future__ import annotations

import os

import cocotb
import numpy as np

from sim.core_bench import CoreBench
from sw.compile.compiler import compile_network
from sw.compile.program import PIXELS
from sw.network import netfile


@cocotb.test()
async def every_spike_and_logit(dut) -> None:
    """Check that all spikes of all feature maps, all logits, the class and the counters are as
    expected."""
    file = netfile.load(os.environ["SPIKEFOLD_NETWORK"])
    vectors = np.load(os.environ["SPIKEFOLD_VECTORS"])
    assert file.config is not None, file.unknown
    program = compile_network(file.network, file.config, pixels=bool(vectors["pixels"]))
    bench = CoreBench(dut, program, stall=float(vectors["stall"]))
    await bench.reset()
    await bench.load()
    n_images = sum(key.endswith(".sample") for key in vectors)
    assert n_images > 0, "no image to run"
    for i in range(n_images):
        result = await bench.infer(vectors[f"{i}.sample"], tag=i % 256)
        cocotb.log.info("image %d: class %d in %d cycles", i, result.argmax, result.n_cycles)
        for name, spikes in result.spikes.items():
            if name == PIXELS:
                continue
            expected = vectors[f"{i}.spikes.{name}"]
            wrong = np.argwhere(spikes != expected)
            assert not len(wrong), (
                f"image {i}, map {name}: {len(wrong)} of {expected.size} spikes differ, the first "
                f"at (t, channel, y, x) = {tuple(wrong[0])}"
            )
        logits = vectors[f"{i}.logits"]
        assert (result.logits == logits).all(), f"image {i}: {result.logits} is not {logits}"
        assert result.argmax == np.argmax(logits)
        assert sum(c.n_cycles for c in result.counters.values()) <= result.n_cycles
        for layer in program.layers[:-1]:
            n_spikes = int(vectors[f"{i}.spikes.{layer.name}"].sum())
            assert result.counters[layer.name].n_spikes == n_spikes
