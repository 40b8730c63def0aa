"""Checks (rungs) of the ladder of :mod:`sim.ladder.rungs` that need no gateware.

One compares the trained network with the folded one, whose batch-norms have been merged into the
weights; the other checks the integer reference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sim.ladder import independent_model
from sim.ladder.netlist import LadderError
from sim.ladder.vectors import SHIPPED, Vector, shipped_samples
from sw import shipped
from sw.convert import fold
from sw.convert.folded import simulate
from sw.model import checkpoint
from sw.model.resnet import to_input
from sw.network import netfile

N_FOLDED = 20
"""Number of samples for the comparison of the trained with the folded network."""
LOGIT_TOLERANCE = 1e-9
"""Largest accepted difference between the logits of the trained and the folded network, both in
float64."""


def folded_equals_trained(vectors: Sequence[Vector]) -> str:
    """Compare the trained network in PyTorch with the folded one, both in float64.

    In the folded network, batch-norms have been merged into the weights. The network is the shipped
    one among ``vectors``, or the default shipped network if there is none. All spikes and classes
    must be equal. Logits may differ by up to :data:`LOGIT_TOLERANCE`.

    Returns
    -------
    Text that says what was compared.

    Raises
    ------
    LadderError
        Something differs; the message says what.
    """
    names = [vector.checkpoint for vector in vectors if vector.name == SHIPPED]
    path = shipped.CHECKPOINTS / f"{names[0]}.pt" if names else shipped.CHECKPOINT
    given = shipped_samples(path.stem)[:N_FOLDED]
    model = checkpoint.build(checkpoint.load(path)).eval().double()
    with torch.no_grad():
        logits, maps = model.spike_maps(to_input(torch.from_numpy(given), torch.float64))
    trace = simulate(fold.fold(path), given, keep_spikes=True)
    if set(trace.spikes) != set(maps):
        raise LadderError(f"{path.stem}: trained and folded network have different layers")
    for name, spikes in maps.items():
        n_wrong = int((trace.spikes[name] != spikes.transpose(0, 1).numpy()).sum())
        if n_wrong:
            raise LadderError(f"{path.stem}: {n_wrong} spikes of {name} differ after folding")
    trained = logits.spike.numpy()
    worst = float(np.abs(trace.logits - trained).max())
    if worst > LOGIT_TOLERANCE or (trace.predictions != trained.argmax(1)).any():
        raise LadderError(f"{path.stem}: a logit differs by {worst:g} after folding")
    n_spikes = sum(spikes.size for spikes in trace.spikes.values())
    return f"{path.stem}, {len(given)} samples, {n_spikes:,} spikes; logits differ by {worst:.0e}"


def model_equals_reference(vectors: Sequence[Vector]) -> str:
    """Compare the integer reference in PyTorch with :mod:`sim.ladder.independent_model`.

    The model reads each network of ``vectors`` from a file, and shares no code with the reference.

    Returns
    -------
    Text that says what was compared.

    Raises
    ------
    LadderError
        Something differs; the message says what.
    """
    n_spikes = n_samples = 0
    for vector in vectors:
        with tempfile.TemporaryDirectory(prefix="spikefold-") as folder:
            path = Path(folder, f"network{netfile.SUFFIX}")
            netfile.save(path, vector.network)
            file = independent_model.read(path)
        for index, sample in enumerate(vector.samples):
            maps, logits, prediction = independent_model.classify(file, sample)
            where = f"{vector.name}, sample {index}"
            for name, spikes in vector.trace.spikes.items():
                if not np.array_equal(maps[name], spikes[index]):
                    raise LadderError(f"{where}: spikes of {name} differ")
                n_spikes += spikes[index].size
            if logits.tolist() != vector.trace.logits[index].tolist():
                raise LadderError(f"{where}: logits differ")
            if prediction != vector.trace.predictions[index]:
                raise LadderError(f"{where}: the class differs")
            n_samples += 1
    return f"{len(vectors)} networks, {n_samples} samples, {n_spikes:,} spikes"
