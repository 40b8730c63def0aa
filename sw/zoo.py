"""The shipped networks side by side: one table, each figure of it measured by this command.

Accuracy on the device is that of the integer reference, which the device equals, on the whole test
set; operations are means over some test samples. Energy follows the papers' convention, 0.9 pJ for
an accumulation and 4.6 pJ for a multiply-accumulation (of the stem, on the host); it is an estimate
that leaves out memories, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw.boards import BOARDS, config_by_name
from sw import checkpoint, fold, quantize, reference, report
from sw.checkpoint import CheckpointError
from sw.compiler import FitError, Program, compile_network
from sw.cycles import predict_cycles
from sw.data import DataError, Split
from sw.model import ModelConfig, ModelError
from sw.network import Network
from sw.quantize import QuantizeError
from sw.train import detail

FOLDER = Path(__file__).parent / "checkpoints"
N_MEASURED = 100


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network. Accuracies are in percent, of the data set's metric; None: not measured, because
    the network was trained as integers. Spikes, operations, cycles and energy are per sample."""

    name: str
    data: str
    note: str
    metric: str
    granularity: str
    weight_bits: int
    n_parameters: int
    """Trained ones, without the auxiliary pathway's."""
    n_synapses: int
    """Weights that the device stores."""
    board: str | None
    """The smallest that it fits."""
    with_aap: float | None
    full_spike: float | None
    on_device: float
    f1: tuple[float, ...]
    """By class."""
    n_spikes: float
    n_synaptic_ops: float
    n_multiplications: int
    """By the host, in the stem."""
    n_cycles: float | None
    energy_nj: float
    command: str


def granularities(config: ModelConfig) -> str:
    """The granularities of its coefficients."""
    found = [config.stem_coefficient]
    for stage in config.stages:
        for block in stage.blocks:
            found += [block.inner, block.outer]
    return ", ".join(dict.fromkeys(found))


def smallest_board(network: Network) -> tuple[str | None, Program | None]:
    """The board with the least memory for weights that the network fits, and its program."""
    configs = [config_by_name(name).with_weight_bits(network.weight_bits) for name in BOARDS]
    for config in sorted(configs, key=lambda c: c.weight_depth * c.lanes * c.weight_bits):
        try:
            return report.board_name(config), compile_network(network, config)
        except FitError:
            continue
    return None, None


def measure(path: Path, data_root: Path | None = None) -> Entry:
    """Everything about one checkpoint.

    Raises
    ------
    sw.checkpoint.CheckpointError, sw.data.DataError, sw.model.ModelError, sw.quantize.QuantizeError
    """
    values = checkpoint.load(path)
    config = ModelConfig.from_dict(values["model_config"])
    folder = None
    if data_root is not None:
        folder = data_root / str(values["data"].get("name", "fashion-mnist"))
    dataset = checkpoint.dataset(values, folder)
    folded = fold.fold(values)
    bits = folded.scales.weight_bits if folded.scales else 8
    network = quantize.quantize(folded, bits)
    test = dataset.test
    predicted = reference.run(network, test.images, keep_spikes=False).predictions
    scores = detail(predicted, test.labels)
    chosen = np.linspace(0, len(test) - 1, min(N_MEASURED, len(test))).astype(int)
    few = Split(images=test.images[chosen], labels=test.labels[chosen])
    trace = reference.run(network, few.images)
    board, program = smallest_board(network)
    ops, cycles, spikes = [], [], []
    for maps in report.device_maps(network, few.images, trace.spikes):
        ops.append(sum(report.n_synaptic_ops(la, maps[la.source]) for la in network.layers))
        spikes.append(sum(int(maps[name].sum()) for name in trace.spikes))
        if program is not None:
            cycles.append(sum(predict_cycles(program, maps).values()))
    multiplications = 0
    if network.encoder is not None:
        outputs = int(np.prod(network.encoder.conv_shape(network.image_shape)))
        multiplications = outputs * network.image_shape[0] * int(np.prod(network.encoder.kernel))
    results: dict[str, Any] = values["results"]
    floats = {} if folded.scales else results["test"]
    energy_pj = (
        report.PJ_PER_ACCUMULATION * np.mean(ops) + report.PJ_PER_MULTIPLICATION * multiplications
    )
    return Entry(
        name=path.stem,
        data=dataset.name,
        note=dataset.note,
        metric=dataset.metric,
        granularity=granularities(config),
        weight_bits=bits,
        n_parameters=sum(
            t.numel()
            for name, t in values["model"].items()
            if not name.startswith("aap.") and "running" not in name and "num_batches" not in name
        ),
        n_synapses=sum(layer.weight.size for layer in network.layers),
        board=board,
        with_aap=floats.get("both"),
        full_spike=floats.get("spike"),
        on_device=scores[dataset.metric],
        f1=tuple(scores["f1"]),
        n_spikes=float(np.mean(spikes)),
        n_synaptic_ops=float(np.mean(ops)),
        n_multiplications=multiplications,
        n_cycles=float(np.mean(cycles)) if cycles else None,
        energy_nj=float(energy_pj) / 1000,
        command=values["command"],
    )


def as_markdown(entries: Sequence[Entry]) -> str:
    """Two tables, what the networks are and how they do, and the commands."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = [
        "| network | data | granularity | bits | parameters | stored synapses | smallest board |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{e.name}` | {e.data} | {e.granularity} | {e.weight_bits} | {e.n_parameters:,} | "
        f"{e.n_synapses:,} | {e.board or 'none'} |"
        for e in entries
    ]
    lines += [
        "",
        "| network | training (with AAP) | full-spike | **on the device** | spikes | synaptic "
        "operations | cycles | energy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        cycles = "" if e.n_cycles is None else f"{e.n_cycles:,.0f}"
        mark = " balanced" if e.metric == "balanced" else ""
        lines.append(
            f"| `{e.name}` | {percent(e.with_aap)} | {percent(e.full_spike)} | "
            f"**{percent(e.on_device)}**{mark} | {e.n_spikes:,.0f} | {e.n_synaptic_ops:,.0f} | "
            f"{cycles} | {e.energy_nj:,.1f} nJ |"
        )
    lines.append("")
    for e in entries:
        if e.note:
            lines.append(f"`{e.name}`: {e.note}.")
        if e.metric == "balanced":
            lines.append(f"`{e.name}`: F1 by class {', '.join(f'{v:.1f}' for v in e.f1)}.")
    lines += ["", *(f"    {e.command}" for e in entries)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    p = argparse.ArgumentParser(
        prog="python -m sw.zoo",
        description="Measure checkpoints on their test sets and print their table.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python -m sw.zoo                                     all shipped checkpoints
  python -m sw.zoo ckpt.pt --data-root ~/data          data in ~/data/fashion-mnist, ~/data/nmnist

exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 130 interrupted""",
    )
    p.add_argument("checkpoints", type=Path, nargs="*", help="(default: the shipped ones)")
    p.add_argument("--data-root", type=Path, help="folder with a folder for every data set")
    p.add_argument("--json", action="store_true", help="print the entries as JSON")
    args = p.parse_args(argv)
    try:
        paths = args.checkpoints or sorted(FOLDER.glob("*.pt"))
        entries = [measure(path, args.data_root) for path in paths]
    except (CheckpointError, DataError, ModelError, QuantizeError) as error:
        print(f"sw.zoo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sw.zoo: interrupted", file=sys.stderr)
        return 130
    print(json.dumps([asdict(e) for e in entries]) if args.json else as_markdown(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
