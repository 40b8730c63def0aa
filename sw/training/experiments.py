"""Experiments on the training methods: auxiliary pathway, coefficients, penalty on spikes.

The auxiliary accumulation pathway (AAP) and the Real-Spike coefficients are described in
:mod:`sw.model.resnet`. The experiments are:

- ``ablation``: trains a small network called "vanilla", and variants of it, each with several
  seeds. A variant adds a training method or has other gates. Writes a table and a plot of the
  accuracies.
- ``depth``: like ``ablation``, with fewer variants and three times as many blocks.
- ``rates``: like ``ablation``, with several learning rates of the coefficients as variants.
- ``frontier``: trains one network with increasing penalties on its spikes. Writes a table of the
  accuracy of the network in integers, and of the clock cycles that a device would take.

The best epoch is selected on validation data; every run reads the test set once. Results of
finished runs are kept in the experiment's folder: an interrupted experiment continues where it
stopped, and seeds can be added later.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from hw.boards.configs import config_by_name
from sw.compile import costs
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.convert import fold, quantize
from sw.data.dataset import Dataset
from sw.files import write_whole
from sw.model import checkpoint
from sw.model.config import (
    GRANULARITIES,
    PER_TIMESTEP,
    BlockConfig,
    ModelConfig,
    StageConfig,
    with_blocks,
    with_granularity,
)
from sw.model.functional import EAGER, Backend
from sw.network import reference
from sw.reporting.plots import dot_plot
from sw.training.loop import train
from sw.training.recipes import TrainConfig
from sw.training.significance import Row, blocked_test, compare

N_SEEDS = 6
"""Default number of seeds. With n seeds, the smallest p-value that
:func:`sw.training.significance.permutation_test` can give is 2 / binomial(2n, n): 0.002 for 6."""
MAX_SEEDS = 8
"""Largest number of seeds. With n seeds, "vanilla" and 6 variants with coefficients,
:func:`sw.training.significance.blocked_test` computes 7 ** n sums, too many for a larger n."""
N_IMAGES = 8000
"""Number of training images, few to keep runs short."""
N_VALIDATION = 2000
"""Number of validation images."""
PENALTIES = (0.0, 1.0, 3.0, 10.0)
"""Values of ``spike_penalty`` (:class:`TrainConfig`) in the experiment ``frontier``."""
N_CYCLES = 100
"""Number of validation images for which ``frontier`` predicts a device's clock cycles."""
FRONTIER_BOARD = "ulx3s-25f"
"""Board whose clock cycles ``frontier`` predicts."""
CAPTION = f"Fashion-MNIST, {N_IMAGES:,} training images; test set of 10,000"
"""Caption of the tables: the data on which the accuracies were measured."""


class ExperimentError(RuntimeError):
    """Error: an experiment cannot start or continue; the message says what to do."""


def ablation_network(n_blocks: int = 2) -> ModelConfig:
    """Return the network "vanilla", from which the variants of experiments are derived.

    After the stem (the first convolution) it has two stages of ``n_blocks`` basic blocks, with maps
    of 7x7 and 4x4. It has neither coefficients nor auxiliary pathway.
    """
    blocks = (BlockConfig(gate="OR", inner="none", outer="none"),) * n_blocks
    return ModelConfig(
        stem_channels=16,
        stem_kernel=5,
        stem_stride=2,
        stem_coefficient="none",
        stages=(
            StageConfig(channels=16, blocks=blocks),
            StageConfig(channels=32, stride=2, blocks=blocks),
        ),
        aap=False,
    )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Variant of an experiment: a network, its training, and the variant that it is compared
    with.
    """

    config: ModelConfig
    """Network to train."""
    base: str | None = None
    """Name of the variant to compare with; None for no comparison."""
    coefficient_rate: float = 1.0
    """Learning rate of the coefficients relative to that of all other parameters."""


def ablation_variants() -> dict[str, Variant]:
    """Return the variants of the experiment ``ablation`` by name, in the order of its table."""
    vanilla = ablation_network()
    aap, separate = replace(vanilla, aap=True), replace(vanilla, aap=True, shared_classifier=False)
    granularities = [g + time for g in GRANULARITIES[1:] for time in ("", PER_TIMESTEP)]
    both = "element" + PER_TIMESTEP
    configs = {
        "vanilla": vanilla,
        "AAP": aap,
        "AAP, classifier of its own": separate,
        **{f"Real Spike {g}": with_granularity(vanilla, g) for g in granularities},
        "AAP + Real Spike channel": with_granularity(aap, "channel"),
        f"AAP + Real Spike {both}": with_granularity(aap, both),
        "ADD (not full-spike)": with_blocks(vanilla, gate="ADD"),
    }
    variants = {name: Variant(config=config, base="vanilla") for name, config in configs.items()}
    variants["vanilla"] = Variant(config=vanilla)
    # With the gate IAND, a spike of the residual branch clears the block's output spike, but adds
    # to the auxiliary pathway's sum: the two streams may want different classifiers.
    iand = {name: with_blocks(configs[name], gate="IAND") for name in list(configs)[:3]}
    variants |= {f"IAND {n}": Variant(config=c, base="IAND vanilla") for n, c in iand.items()}
    variants["IAND vanilla"] = Variant(config=iand["vanilla"])
    return variants


def depth_variants() -> dict[str, Variant]:
    """Return the variants of the experiment ``depth`` by name: networks of 12 blocks.

    One network has ADD gates. For each of the gates OR and IAND, one network has the auxiliary
    pathway, and one does not. With OR, the pathway uses the same classifier as the spikes. With
    IAND, it has a classifier of its own: a spike of the residual branch clears the block's output
    spike, but adds to the pathway's sum, so one classifier may not suit both.
    """
    deep = ablation_network(6)
    add = "ADD (not full-spike)"
    variants = {add: Variant(config=with_blocks(deep, gate="ADD"))}
    for gate, shared in (("OR", True), ("IAND", False)):
        vanilla = with_blocks(deep, gate=gate)
        aap = replace(vanilla, aap=True, shared_classifier=shared)
        variants[f"{gate} vanilla"] = Variant(config=vanilla, base=add)
        variants[f"{gate} AAP"] = Variant(config=aap, base=f"{gate} vanilla")
    return variants


def rate_variants() -> dict[str, Variant]:
    """Return the variants of the experiment ``rates`` by name.

    "vanilla" is a network without coefficients (all are 1). In the others, coefficients learn at
    0.1, 1 and 10 times the learning rate of the weights.
    """
    vanilla = ablation_network()
    element = with_granularity(vanilla, "element")
    variants = {"vanilla": Variant(config=vanilla)}
    for rate in (0.1, 1.0, 10.0):
        variants[f"Real Spike element, rate x {rate:g}"] = Variant(
            config=element, base="vanilla", coefficient_rate=rate
        )
    return variants


def ablation_training(seed: int) -> TrainConfig:
    """Return the settings with which all variants are trained, for the given seed."""
    return TrainConfig(epochs=4, batch_size=50, max_images=N_IMAGES, seed=seed)


def as_markdown(rows: Sequence[Row], caption: str) -> str:
    """Return the results of an experiment as a Markdown table, with one line for each variant.

    ``caption`` is the heading of the first column, which has the variants' names.
    """
    lines = [
        f"| {caption} | mean | sd | difference | p | p (Holm) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        compared = ["", "", ""]
        if row.difference is not None and row.p is not None and row.p_holm is not None:
            compared = [f"{row.difference:+.2f}", f"{row.p:.3f}", f"{row.p_holm:.3f}"]
        lines.append(f"| {row.name} | {row.mean:.2f} | {row.sd:.2f} | {' | '.join(compared)} |")
    return "\n".join(lines) + "\n"


def together(accuracies: Mapping[str, Sequence[float]]) -> str:
    """Return a line of text that compares "vanilla" with all Real-Spike variants taken together.

    ``accuracies`` has a list of accuracies, one for each seed, by name of the variant. Real-Spike
    variants are those whose names start with "Real Spike". The text has the difference of the means
    and its p-value. It is empty if there are fewer than two such variants.
    """
    spike = [values for name, values in accuracies.items() if name.startswith("Real Spike")]
    if len(spike) < 2:
        return ""
    difference, p = blocked_test(accuracies["vanilla"], spike)
    what = f"All {len(spike)} variants of Real Spike against vanilla"
    return f"\n{what}: {difference:+.2f}, p = {p:.3f}.\n"


def coefficient_sd(state: Mapping[str, torch.Tensor]) -> float | None:
    """Return how far the Real-Spike coefficients in a state dict have moved from 1, their start.

    The result is the root mean square of their differences from 1; or None without coefficients.
    """
    found = [t.flatten() for name, t in state.items() if "coefficient" in name]
    return float((torch.cat(found) - 1).square().mean().sqrt()) if found else None


def load_results(path: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """Return the results of earlier runs from the file at ``path``.

    If the file is missing, return results without runs. ``setting`` describes the experiment's
    networks, data and training.

    Raises
    ------
    ExperimentError
        The file holds results of another setting.
    """
    if not path.is_file():
        return {"setting": setting, "code": checkpoint.code_version(), "runs": {}}
    done = json.loads(path.read_text())
    if done["setting"] != setting:
        raise ExperimentError(
            f"{path} holds results of another setting: use another folder, or remove it"
        )
    return done


EXPERIMENTS: dict[str, Callable[[], dict[str, Variant]]] = {
    "ablation": ablation_variants,
    "depth": depth_variants,
    "rates": rate_variants,
}
"""Experiments that compare variants, by name: functions that return the variants."""


def run_ablation(
    folder: Path,
    dataset: Dataset,
    *,
    seeds: Sequence[int] = range(1, N_SEEDS + 1),
    variants: dict[str, Variant],
    training: TrainConfig | None = None,
    backend: Backend = EAGER,
) -> list[Row]:
    """Train every variant with every seed, compare their accuracies, and return the table's rows.

    Results are written to ``results.json``, ``table.md`` and ``plot.svg`` in ``folder``; runs whose
    results this folder already holds are not repeated. By default, the settings of ``training`` are
    those of :func:`ablation_training`.

    Raises
    ------
    ExperimentError
        ``folder`` holds results of other networks, data or training settings.
    """
    training = training or ablation_training(0)
    setting: dict[str, Any] = {
        "training": {**asdict(training), "seed": None},
        "data": dataset.sha256,
        "variants": {
            name: {"model": variant.config.to_dict(), "coefficient_rate": variant.coefficient_rate}
            for name, variant in variants.items()
        },
    }
    path = folder / "results.json"
    done = load_results(path, setting)
    for seed in seeds:  # in the outer loop, so that finished runs can be compared at any time
        for name, variant in variants.items():
            key = f"{name}, seed {seed}"
            if key in done["runs"]:
                continue
            print(key, file=sys.stderr, flush=True)
            out = folder / "running.pt"
            config = replace(training, seed=seed, coefficient_rate=variant.coefficient_rate)
            values = train(variant.config, config, dataset, out, backend=backend)
            out.unlink()
            found = values["results"]
            done["runs"][key] = {
                "variant": name,
                "seed": seed,
                "coefficient_sd": coefficient_sd(values["model"]),
                "best_epoch": found["best_epoch"],
                "validation": found["validation"]["spike"],
                "test": found["test"]["spike"],
            }
            write_whole(path, (json.dumps(done, indent=1) + "\n").encode())
    accuracies = {
        name: [done["runs"][f"{name}, seed {seed}"]["test"] for seed in seeds] for name in variants
    }
    rows = compare(accuracies, {name: variant.base for name, variant in variants.items()})
    caption = f"{CAPTION}; {len(seeds)} seeds"
    text = as_markdown(rows, caption) + together(accuracies)
    write_whole(folder / "table.md", text.encode())
    plot = dot_plot(
        [(row.name, row.accuracies) for row in rows], f"{caption}: test accuracy in percent"
    )
    write_whole(folder / "plot.svg", plot.encode())
    return rows


def run_frontier(
    folder: Path,
    dataset: Dataset,
    *,
    penalties: Sequence[float] = PENALTIES,
    model: ModelConfig | None = None,
    training: TrainConfig | None = None,
    backend: Backend = EAGER,
) -> list[dict[str, float]]:
    """Train a network once for each penalty on spikes, and return accuracy and cycles of each run.

    Results are written to ``results.json`` and ``table.md`` in ``folder``; penalties whose results
    this folder already holds are not trained again. Each dictionary of the result describes a run:

    - ``penalty``: value of ``spike_penalty``;
    - ``validation``: accuracy of the float network on the validation data, in percent;
    - ``test``: accuracy of the integer network on the test set, in percent;
    - ``n_cycles``: mean clock cycles per validation image, predicted for :data:`FRONTIER_BOARD`
      (:mod:`sw.compile.cycles`);
    - ``n_spikes``: mean spikes per validation image.

    By default, the network is that of :func:`ablation_network` with a coefficient per channel, and
    the settings of ``training`` are those of :func:`ablation_training`.

    Raises
    ------
    ExperimentError
        ``folder`` holds results of other networks, data or training settings.
    """
    model = model or with_granularity(ablation_network(), "channel")
    training = training or ablation_training(1)
    setting = {
        "training": asdict(training),
        "data": dataset.sha256,
        "model": model.to_dict(),
        "board": FRONTIER_BOARD,
    }
    path = folder / "results.json"
    done = load_results(path, setting)
    images = dataset.validation.images[:: max(1, len(dataset.validation) // N_CYCLES)][:N_CYCLES]
    for penalty in penalties:
        if str(penalty) in done["runs"]:
            continue
        print(f"penalty {penalty}", file=sys.stderr, flush=True)
        out = folder / "running.pt"
        config = replace(training, spike_penalty=penalty)
        values = train(model, config, dataset, out, backend=backend)
        out.unlink()
        network = quantize.quantize(fold.fold(values), 8)
        program = compile_network(network, config_by_name(FRONTIER_BOARD))
        trace = reference.run(network, images)
        maps = costs.device_maps(network, images, trace.spikes)
        cycles = [sum(predict_cycles(program, maps[n]).values()) for n in range(len(images))]
        test = reference.run(network, dataset.test.images, keep_spikes=False).predictions
        done["runs"][str(penalty)] = {
            "penalty": penalty,
            "validation": values["results"]["validation"]["spike"],
            "test": 100 * float((test == dataset.test.labels).mean()),
            "n_cycles": mean(cycles),
            "n_spikes": float(sum(v.sum() for v in trace.n_spikes.values())) / len(images),
        }
        write_whole(path, (json.dumps(done, indent=1) + "\n").encode())
    rows = [done["runs"][str(penalty)] for penalty in penalties]
    write_whole(folder / "table.md", frontier_markdown(rows).encode())
    return rows


def frontier_markdown(rows: Sequence[dict[str, float]]) -> str:
    """Return the results of :func:`run_frontier` as a Markdown table.

    Each row has a penalty, the accuracy, the mean cycles per image, in brackets their ratio to the
    cycles of the first row, and the mean spikes per image.
    """
    first = rows[0]["n_cycles"]
    lines = [
        f"| penalty | on the device, {CAPTION} | cycles ({FRONTIER_BOARD}) | spikes |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['penalty']:g} | {row['test']:.2f} | {row['n_cycles']:,.0f} "
        f"({row['n_cycles'] / first:.2f}) | {row['n_spikes']:,.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
