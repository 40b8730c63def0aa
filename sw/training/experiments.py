"""Experiments: do the auxiliary pathway and the coefficients help, as their papers say, and what
does a cycle less cost?

``ablation`` trains one small network in variants that differ in one thing each, over several seeds,
and writes a table and a plot; ``depth`` does so with three times as many blocks, ``rates`` with
other learning rates of the coefficients. ``frontier`` trains the network with more and more weight
on the cost of its spikes, and writes accuracy on the device against cycles. A model is selected on
validation data; every run reads the test set once. A run that is done is not repeated, so an
interrupted experiment goes on where it stopped, and takes more seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import torch

from hw.boards.configs import config_by_name
from sw.compile import costs
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.convert import fold, quantize
from sw.data import dataset
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
from sw.network import reference
from sw.training.loop import TrainConfig, train

N_SEEDS = 6
"""The smallest p that n seeds can give is 2 in (2n over n): 0.1 for 3, 0.002 for 6."""
MAX_SEEDS = 8
"""The exact test of all granularities together takes ``7 ** seeds`` sums."""
N_IMAGES = 8000
N_VALIDATION = 2000
PENALTIES = (0.0, 1.0, 3.0, 10.0)
N_CYCLES = 100
"""Validation images that cycles are predicted for."""
FRONTIER_BOARD = "ulx3s-25f"
WHAT = f"Fashion-MNIST, {N_IMAGES:,} training images; test set of 10,000"


class ExperimentError(RuntimeError):
    """An experiment cannot start or go on; the message says what to do."""


def ablation_network(n_blocks: int = 2) -> ModelConfig:
    """The common network: a stem on the host, two stages of ``n_blocks`` of two convolutions, with
    maps of 7x7 and 4x4."""
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
    """A network, and the name of the one that it is compared with."""

    config: ModelConfig
    base: str | None = None
    coefficient_rate: float = 1.0
    """Learning rate of the coefficients, relative to the others'."""


def ablation_variants() -> dict[str, Variant]:
    """Networks by name, in the order of the table."""
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
    # IAND is the gate under which the branch's spikes mean the opposite in both streams.
    iand = {name: with_blocks(configs[name], gate="IAND") for name in list(configs)[:3]}
    variants |= {f"IAND {n}": Variant(config=c, base="IAND vanilla") for n, c in iand.items()}
    variants["IAND vanilla"] = Variant(config=iand["vanilla"])
    return variants


def depth_variants() -> dict[str, Variant]:
    """Networks of 12 blocks, 24 convolutions and the stem; each gate with the kind of auxiliary
    pathway that suits it."""
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
    """Coefficients that learn slower and faster than the weights."""
    vanilla = ablation_network()
    element = with_granularity(vanilla, "element")
    variants = {"vanilla": Variant(config=vanilla)}
    for rate in (0.1, 1.0, 10.0):
        variants[f"Real Spike element, rate x {rate:g}"] = Variant(
            config=element, base="vanilla", coefficient_rate=rate
        )
    return variants


def ablation_training(seed: int) -> TrainConfig:
    """How every variant is trained."""
    return TrainConfig(epochs=4, batch_size=50, max_images=N_IMAGES, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant: test accuracies in percent by seed, and the comparison with its base: the
    difference of means, the probability of one at least as large by chance (exact permutation
    test, two-sided), and the same after Holm's correction for the number of comparisons."""

    name: str
    accuracies: tuple[float, ...]
    difference: float | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def mean(self) -> float:
        return mean(self.accuracies)

    @property
    def sd(self) -> float:
        """Standard deviation over seeds."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def permutation_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Share of all ways to divide the values into groups of these sizes in which the means differ
    by at least as much as those of ``a`` and ``b`` do."""
    values = [*a, *b]
    total, n_a, n_b = sum(values), len(a), len(b)
    found = abs(mean(a) - mean(b))
    n_ways = n_extreme = 0
    for chosen in combinations(range(len(values)), n_a):
        part = sum(values[i] for i in chosen)
        n_ways += 1
        n_extreme += abs(part / n_a - (total - part) / n_b) >= found - 1e-9
    return n_extreme / n_ways


def blocked_test(base: Sequence[float], others: Sequence[Sequence[float]]) -> tuple[float, float]:
    """By how much the mean of all ``others`` is above the base's, and the share of all ways to
    choose one of the values of each seed as the base's in which it differs by at least as much."""
    blocks = np.array([base, *others]).T  # (seeds, values)
    chosen = np.zeros(1)
    for block in blocks:
        chosen = (chosen[:, None] + block).reshape(-1)
    n_seeds, n_values = blocks.shape
    differences = (blocks.sum() - chosen) / (n_seeds * (n_values - 1)) - chosen / n_seeds
    found = float(blocks[:, 1:].mean() - blocks[:, 0].mean())
    return found, float((np.abs(differences) >= abs(found) - 1e-9).mean())


def compare(
    accuracies: Mapping[str, Sequence[float]], bases: Mapping[str, str | None]
) -> list[Row]:
    """Rows of the table; ``bases`` says what each is compared with, if with anything."""
    compared = []
    for name, values in accuracies.items():
        row = Row(name=name, accuracies=tuple(values))
        base = bases[name]
        if base is not None:
            reference = accuracies[base]
            p = permutation_test(row.accuracies, reference)
            row = replace(row, difference=row.mean - mean(reference), p=p)
        compared.append(row)
    tested = sorted((row for row in compared if row.p is not None), key=lambda row: row.p or 0)
    corrected: dict[str, float] = {}
    worst = 0.0
    for n, row in enumerate(tested):
        worst = max(worst, min(1.0, (row.p or 0) * (len(tested) - n)))
        corrected[row.name] = worst
    return [replace(row, p_holm=corrected.get(row.name)) for row in compared]


def as_markdown(rows: Sequence[Row], caption: str) -> str:
    """The table."""
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
    """The line about all granularities of Real Spike together, if there are several."""
    spike = [values for name, values in accuracies.items() if name.startswith("Real Spike")]
    if len(spike) < 2:
        return ""
    difference, p = blocked_test(accuracies["vanilla"], spike)
    what = f"All {len(spike)} variants of Real Spike against vanilla"
    return f"\n{what}: {difference:+.2f}, p = {p:.3f}.\n"


def as_svg(rows: Sequence[Row], caption: str) -> str:
    """A dot for every seed and a bar for the mean of every variant."""
    left, width, step, top = 290, 640, 24, 34
    low = min(min(row.accuracies) for row in rows)
    high = max(max(row.accuracies) for row in rows)
    margin = max(0.2, 0.05 * (high - low))
    low, high = low - margin, high + margin
    height = top + step * len(rows) + 34

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 16)

    bottom = top + step * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="18">{escape(caption)}: test accuracy in percent</text>',
        f'<line x1="{x(rows[0].mean):.1f}" x2="{x(rows[0].mean):.1f}" y1="{top - 6}" '
        f'y2="{bottom}" stroke="#bbb" stroke-dasharray="4 3"/>',
    ]
    for n, row in enumerate(rows):
        y = top + step * n + step / 2
        parts.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>'
        )
        parts += [
            f'<circle cx="{x(value):.1f}" cy="{y}" r="3.5" fill="#1f77b4" fill-opacity="0.5"/>'
            for value in row.accuracies
        ]
        parts.append(
            f'<line x1="{x(row.mean):.1f}" x2="{x(row.mean):.1f}" y1="{y - 8}" y2="{y + 8}" '
            f'stroke="#d62728" stroke-width="2"/>'
        )
    for n in range(5):
        value = low + (high - low) * n / 4
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 20}" text-anchor="middle" fill="#555">'
            f"{value:.1f}</text>"
        )
    return "\n".join([*parts, "</svg>\n"])


def coefficient_sd(state: Mapping[str, torch.Tensor]) -> float | None:
    """How far the coefficients of a state dict have gone from 1, where they began; None: it has
    none."""
    found = [t.flatten() for name, t in state.items() if "coefficient" in name]
    return float((torch.cat(found) - 1).square().mean().sqrt()) if found else None


def _begun(path: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """What is done of an experiment already."""
    if not path.is_file():
        return {"setting": setting, "code": checkpoint.code_version(), "runs": {}}
    done = json.loads(path.read_text())
    if done["setting"] != setting:
        raise ExperimentError(f"{path} is of another setting; name another folder, or remove it")
    return done


EXPERIMENTS: dict[str, Callable[[], dict[str, Variant]]] = {
    "ablation": ablation_variants,
    "depth": depth_variants,
    "rates": rate_variants,
}
"""Variants of each experiment that is a comparison of them."""


def run_ablation(
    folder: Path,
    dataset: dataset.Dataset,
    *,
    seeds: Sequence[int] = range(1, N_SEEDS + 1),
    variants: dict[str, Variant],
    training: TrainConfig | None = None,
) -> list[Row]:
    """Train what is not done yet and write ``results.json``, ``table.md`` and ``plot.svg``.

    Raises
    ------
    ExperimentError
        ``folder`` holds results of another setting.
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
    done = _begun(path, setting)
    for seed in seeds:  # seed by seed, so that what is there is comparable at any time
        for name, variant in variants.items():
            key = f"{name}, seed {seed}"
            if key in done["runs"]:
                continue
            print(key, file=sys.stderr, flush=True)
            out = folder / "running.pt"
            config = replace(training, seed=seed, coefficient_rate=variant.coefficient_rate)
            values = train(variant.config, config, dataset, out)
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
    caption = f"{WHAT}; {len(seeds)} seeds"
    text = as_markdown(rows, caption) + together(accuracies)
    write_whole(folder / "table.md", text.encode())
    write_whole(folder / "plot.svg", as_svg(rows, caption).encode())
    return rows


def run_frontier(
    folder: Path,
    dataset: dataset.Dataset,
    *,
    penalties: Sequence[float] = PENALTIES,
    model: ModelConfig | None = None,
    training: TrainConfig | None = None,
) -> list[dict[str, float]]:
    """Train what is not done yet and write ``results.json`` and ``table.md``. Cycles are predicted
    (:mod:`sw.compile.cycles`) for :data:`FRONTIER_BOARD` on validation images, accuracy is the integers'.

    Raises
    ------
    ExperimentError
        ``folder`` holds results of another setting.
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
    done = _begun(path, setting)
    images = dataset.validation.images[:: max(1, len(dataset.validation) // N_CYCLES)][:N_CYCLES]
    for penalty in penalties:
        if str(penalty) in done["runs"]:
            continue
        print(f"penalty {penalty}", file=sys.stderr, flush=True)
        out = folder / "running.pt"
        values = train(model, replace(training, spike_penalty=penalty), dataset, out)
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
    """The table."""
    first = rows[0]["n_cycles"]
    lines = [
        f"| penalty | on the device, {WHAT} | cycles ({FRONTIER_BOARD}) | spikes |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['penalty']:g} | {row['test']:.2f} | {row['n_cycles']:,.0f} "
        f"({row['n_cycles'] / first:.2f}) | {row['n_spikes']:,.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
