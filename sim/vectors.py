"""Run the cocotb test of a compiled network (:mod:`sim.network_tests`) with expected results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw.core.core import Core
from sim.runner import BUILD_DIR, CocotbResults, run_cocotb
from sw.compile.program import Program
from sw.network import netfile
from sw.network.network import INPUT, Network

Expected = tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]
"""Spikes (T, C, H, W) of every map by its name, including ``input``, and logits (n_classes,)."""


def run_network(
    network: Network,
    program: Program,
    expected: Sequence[Expected],
    *,
    samples: Sequence[NDArray[np.uint8]] | None = None,
    name: str,
    stall: float = 0.0,
    seed: int | None = None,
) -> CocotbResults:
    """Run ``program`` on the generated Verilog of the core, and check its results.

    All spikes and logits must equal those in ``expected``.

    Parameters
    ----------
    network : network from which ``program`` was compiled. The simulation compiles it again for the
        program's configuration.
    expected : expected spikes and logits of each inference.
    samples : input of each inference; by default the expected spikes of the input map.
    name : name of a folder under ``build/cocotb``. Programs for one configuration may share it, so
        that Verilator compiles the core only once.
    stall : probability per cycle that a stream of the core's bus waits.
    seed : seed of these stalls; random by default.

    Returns
    -------
    Paths of the simulation's log and waveform. Everything that was compared is equal.

    Raises
    ------
    sim.runner.CocotbError
        A result differs, and the message says which, where and in which image; or the simulation
        could not be built.
    """
    folder: Path = BUILD_DIR / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"network{netfile.SUFFIX}"
    netfile.save(file, network, program.config)
    vectors: dict[str, NDArray] = {
        "stall": np.float64(stall),
        "pixels": np.bool_(program.pixels),
    }
    for i, (maps, logits) in enumerate(expected):
        vectors[f"{i}.sample"] = maps[INPUT] if samples is None else samples[i]
        vectors[f"{i}.logits"] = logits
        vectors |= {f"{i}.spikes.{key}": spikes for key, spikes in maps.items()}
    np.savez(folder / "vectors.npz", **vectors)
    return run_cocotb(
        Core(program.config),
        "sim.network_tests",
        name=name,
        seed=seed,
        env={
            "SPIKEFOLD_NETWORK": str(file),
            "SPIKEFOLD_VECTORS": str(folder / "vectors.npz"),
        },
    )
