"""``python -m sw.zoo``: measure the shipped networks and print a table of them.

With ``--update`` the figures are stored in ``checkpoints/zoo.json``, and the tables are updated in
``docs/results.md`` and ``checkpoints/README.md``.

Accuracy on the device is that of the integer reference (:mod:`sw.network.reference`) on the whole
test set; the device computes the same, bit for bit. Operations, spikes and cycles are means over
:data:`N_MEASURED` test samples. Energy is the estimate that is usual in papers, which leaves out
the memories: 0.9 pJ for an accumulation, and 4.6 pJ for a multiply-accumulation.
Multiply-accumulations occur only in the stem (the first convolution), if the host computes it from
pixels.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hw.boards.configs import BOARDS, board_name, config_by_name
from hw.spec import Config
from sw import shipped
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, CommandParser, command
from sw.compile import costs
from sw.compile.compiler import compile_network
from sw.compile.cycles import predict_cycles
from sw.compile.program import FitError, Program, device_layers
from sw.convert import fold, quantize
from sw.convert.folded import FoldedNetwork
from sw.convert.quantize import QuantizeError
from sw.data.dataset import DataError, Split, spread
from sw.data.metrics import detail, interval
from sw.files import write_whole
from sw.model import checkpoint, datasets
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelConfig, ModelError
from sw.network import reference
from sw.network.network import Network

FOLDER = shipped.CHECKPOINTS
"""Folder of the shipped checkpoints."""
TABLE = FOLDER / "zoo.json"
"""File that the entries are stored in."""
RESULTS = FOLDER.parents[1] / "docs" / "results.md"
"""Document that has the tables of all networks."""
N_MEASURED = 100
"""Number of test samples over which operations, spikes and cycles are averaged."""


class ZooError(RuntimeError):
    """Raised if a document lacks the pair of comments that must enclose its table; the message
    names these comments.
    """


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Figures of one shipped network: a row of the table.

    Accuracies are in percent. The data set's ``metric`` says whether they are shares of all samples
    (``accuracy``) or means over classes (``balanced``). Spikes, operations, cycles and energy are
    means per sample; ``n_cycles`` is None if the network fits no board.
    """

    name: str
    sha256: str
    """SHA-256 of the checkpoint."""
    data: str
    note: str
    metric: str
    n_test: int
    """Number of test samples."""
    granularity: str
    """Granularities of the Real-Spike coefficients, see :class:`sw.model.config.BlockConfig`."""
    weight_bits: int
    n_parameters: int
    """Number of trained parameters, without those of the auxiliary pathway."""
    n_synapses: int
    """Number of weights that the device stores."""
    board: str | None
    """Name of the smallest board that the network fits; None if it fits no board."""
    with_aap: float | None
    """Accuracy of the float network with its auxiliary pathway; None if trained as integers."""
    full_spike: float | None
    """Accuracy of the float network without its auxiliary pathway; None if trained as integers."""
    on_device: float
    """Accuracy of the integer network, which the device reproduces."""
    interval: tuple[float, float]
    """95 % confidence interval of ``on_device`` (:func:`sw.data.metrics.interval`)."""
    f1: tuple[float, ...]
    """F1 scores in percent, by class."""
    n_spikes: float
    n_synaptic_ops: float
    n_multiplications: int
    """Number of multiplications per sample with which the host computes the stem; 0 if the device
    computes the stem by additions."""
    n_cycles: float | None
    energy_nj: float
    command: str
    """Command line that trained the network."""


def granularities(config: ModelConfig) -> str:
    """Return the granularities of the network's Real-Spike coefficients, separated by commas.

    A granularity (:class:`sw.model.config.BlockConfig`) says which spikes share a coefficient. With
    ``channel``, for example, all spikes of a channel do. Each granularity is listed once.
    """
    found = [config.stem_coefficient]
    for stage in config.stages:
        for block in stage.blocks:
            found += [block.inner, block.outer]
    return ", ".join(dict.fromkeys(found))


def smallest_board(network: Network) -> tuple[str | None, Program | None]:
    """Return the name of the smallest board that the network fits, and the network compiled for it.

    The smallest board is the one with the least weight memory; boards with memory outside the FPGA
    count as larger than all others. Both results are None if the network fits no board.
    """
    configs = [config_by_name(name).with_weight_bits(network.weight_bits) for name in BOARDS]

    def size(config: Config) -> tuple[bool, int]:
        row_bits = config.lanes * config.weight_bits
        return config.offchip_depth > 0, config.banks * config.weight_depth * row_bits

    for config in sorted(configs, key=size):
        try:
            return board_name(config), compile_network(network, config)
        except FitError:
            continue
    return None, None


def described(
    path: Path, values: dict[str, Any], network: Network, board: str | None
) -> dict[str, Any]:
    """Return the fields of :class:`Entry`, by name, that need no data set.

    They follow from the checkpoint at ``path`` and its ``values``, from the integer ``network``
    made from it, and from the smallest ``board`` that the network fits.
    """
    tuned = "quantisation" in values
    floats = {} if tuned else values["results"].get("test", {})
    return {
        "name": path.stem,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "data": values["data"].get("name", "fashion-mnist"),
        "granularity": granularities(ModelConfig.from_dict(values["model_config"])),
        "weight_bits": network.weight_bits,
        "n_parameters": sum(
            t.numel()
            for name, t in values["model"].items()
            if not name.startswith("aap.") and "running" not in name and "num_batches" not in name
        ),
        "n_synapses": network.n_weights,
        "board": board,
        "with_aap": floats.get("both"),
        "full_spike": floats.get("spike"),
        "command": values.get("command", ""),
    }


def weight_bits(folded: FoldedNetwork) -> int:
    """Return the weights' width in bits that a network was trained for; 8 if trained in floats."""
    return folded.scales.weight_bits if folded.scales else 8


def measure(path: Path, data_root: Path | None = None, accuracies: Entry | None = None) -> Entry:
    """Measure the checkpoint at ``path`` on the test set of its data set, and return the figures.

    Parameters
    ----------
    data_root : folder that holds the data sets' folders. None means the places where
        :func:`sw.data.catalogue.load` looks.
    accuracies : earlier entry of the same checkpoint. Its accuracies are used instead of measuring
        them again, unless the checkpoint has changed since.

    Raises
    ------
    sw.model.checkpoint.CheckpointError, sw.data.dataset.DataError
        The checkpoint or its data set cannot be read.
    sw.model.config.ModelError
        No device can run the network, for example because its leaks were learned.
    sw.convert.quantize.QuantizeError
        A bias or a threshold does not fit the device's width of parameters.
    """
    values = checkpoint.load(path)
    folded = fold.fold(values)
    network = quantize.quantize(folded, weight_bits(folded))
    board, program = smallest_board(network)
    known = described(path, values, network, board)
    if accuracies is not None and accuracies.sha256 != known["sha256"]:
        accuracies = None
    dataset = datasets.load_for(values, None if data_root is None else data_root / known["data"])
    test = dataset.test
    if accuracies is None:
        predicted = reference.run(network, test.images, keep_spikes=False).predictions
        scores = detail(predicted, test.labels)
        on_device, f1 = scores[dataset.metric], tuple(scores["f1"])
        ends = interval(scores, dataset.metric)
    else:
        on_device, f1, ends = accuracies.on_device, accuracies.f1, accuracies.interval
    chosen = spread(len(test), N_MEASURED)
    few = Split(images=test.images[chosen], labels=test.labels[chosen])
    trace = reference.run(network, few.images)
    takes_pixels = program is not None and program.pixels
    layers = device_layers(network, takes_pixels)
    ops, cycles, spikes = [], [], []
    for maps in costs.device_maps(network, few.images, trace.spikes):
        ops.append(sum(costs.n_synaptic_ops(la, maps) for la in layers))
        spikes.append(sum(int(maps[name].sum()) for name in trace.spikes))
        if program is not None:
            cycles.append(sum(predict_cycles(program, maps).values()))
    multiplications = 0
    if network.encoder is not None and not takes_pixels:
        outputs = int(np.prod(network.encoder.conv_shape(network.image_shape)))
        multiplications = outputs * network.image_shape[0] * int(np.prod(network.encoder.kernel))
    energy_pj = (
        costs.PJ_PER_ACCUMULATION * np.mean(ops) + costs.PJ_PER_MULTIPLICATION * multiplications
    )
    return Entry(
        **known,
        note=dataset.note,
        metric=dataset.metric,
        n_test=len(test),
        on_device=on_device,
        interval=ends,
        f1=f1,
        n_spikes=float(np.mean(spikes)),
        n_synaptic_ops=float(np.mean(ops)),
        n_multiplications=multiplications,
        n_cycles=float(np.mean(cycles)) if cycles else None,
        energy_nj=float(energy_pj) / 1000,
    )


def load(path: Path | None = None) -> list[Entry]:
    """Return the figures of the shipped networks, as stored in a JSON file.

    The default is ``checkpoints/zoo.json``. There is one :class:`Entry` for each network.
    """
    entries = json.loads((path or TABLE).read_text())
    return [
        Entry(**{**entry, **{name: tuple(entry[name]) for name in ("f1", "interval")}})
        for entry in entries
    ]


def as_json(entries: Sequence[Entry]) -> str:
    """Return the figures of networks as the text of a JSON file that :func:`load` reads."""
    return json.dumps([asdict(e) for e in entries], indent=1) + "\n"


def as_markdown(entries: Sequence[Entry]) -> str:
    """Return two Markdown tables: the networks' properties, and their accuracies and costs."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = [
        "| network | data | coefficients | bits | parameters | stored synapses | smallest board |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{e.name}` | {e.data} | {e.granularity} | {e.weight_bits} | {e.n_parameters:,} | "
        f"{e.n_synapses:,} | {f'`{e.board}`' if e.board else 'none'} |"
        for e in entries
    ]
    lines += [
        "",
        "| network | training, with AAP | full-spike | **on the device** | 95 % interval | spikes "
        "| synaptic operations | cycles | energy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        cycles = "" if e.n_cycles is None else f"{e.n_cycles:,.0f}"
        lines.append(
            f"| `{e.name}` | {percent(e.with_aap)} | {percent(e.full_spike)} | "
            f"**{percent(e.on_device)}** | {e.interval[0]:.2f} to {e.interval[1]:.2f} | "
            f"{e.n_spikes:,.0f} | {e.n_synaptic_ops:,.0f} | "
            f"{cycles} | {e.energy_nj / 1000:.2f} uJ |"
        )
    lines += [
        "",
        "Intervals are of the accuracy on the device. They take test samples to be independent, "
        "which the heartbeats of one patient are not, and say nothing about the spread over seeds.",
    ]
    for e in entries:
        if e.note:
            lines.append(f"`{e.name}`: {e.note}; {e.n_test:,} test samples.")
        if e.metric == "balanced":
            f1 = ", ".join(f"{value:.1f}" for value in e.f1)
            lines.append(f"Its accuracies are balanced, means over classes; F1 by class: {f1} %.")
    return "\n".join(lines).rstrip() + "\n"


def commands(entries: Sequence[Entry]) -> str:
    """Return the command lines that trained the networks, one per line, as Markdown code."""
    return "\n".join(f"    {e.command}" for e in entries) + "\n"


def inserted(text: str, name: str, part: str) -> str:
    """Return ``text`` with ``part`` between ``<!-- name -->`` and ``<!-- /name -->``.

    It replaces all that was between these two comments.

    Raises
    ------
    ZooError
        ``text`` lacks one of these comments.
    """
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->\n")
    if not begin or not end:
        raise ZooError(f"there are no marks <!-- {name} --> and <!-- /{name} --> for the table")
    return f"{before}{begin}{part}{end}{after}"


def pages(entries: Sequence[Entry]) -> dict[Path, str]:
    """Return the new text of each document that has tables of the shipped networks, by its path.

    The tables are made from ``entries``, one for each network. Nothing is written.
    """
    parts = {RESULTS: ("zoo", as_markdown), FOLDER / "README.md": ("commands", commands)}
    return {
        path: inserted(path.read_text(), name, make(entries))
        for path, (name, make) in parts.items()
    }


@command(*(CheckpointError, DataError, ModelError, OSError, QuantizeError, ZooError))
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sw.zoo`` with the arguments ``argv`` and return its exit code."""
    p = CommandParser(
        prog="python -m sw.zoo",
        description="Measure checkpoints on their test sets and print their table.",
        epilog=f"""examples:
  python -m sw.zoo                                     measure all shipped checkpoints
  python -m sw.zoo --update                            the same, and update the documents
  python -m sw.zoo --update sw/checkpoints/nmnist.pt   measure one, keep the others' figures
  python -m sw.zoo ckpt.pt --data-root ~/data          data in ~/data/fashion-mnist, ~/data/nmnist

exit codes: {EXIT_OK} done, {EXIT_BAD_INPUT} bad input (the message says what to do),
{EXIT_INTERRUPTED} interrupted""",
    )
    p.add_argument(
        "checkpoints",
        type=Path,
        nargs="*",
        help="checkpoints to measure (default: the shipped ones)",
    )
    p.add_argument("--data-root", type=Path, help="folder that holds the data sets' folders")
    p.add_argument(
        "--update", action="store_true", help="write zoo.json and the tables in the documents"
    )
    p.add_argument(
        "--costs",
        action="store_true",
        help="keep the stored accuracies: for changes of boards or core",
    )
    p.add_argument("--json", action="store_true", help="print the entries as JSON")
    args = p.parse_args(argv)
    paths = args.checkpoints or sorted(FOLDER.glob("*.pt"))
    entries = []
    kept = load() if args.costs or (args.update and args.checkpoints) else []
    known = {entry.name: entry for entry in kept} if args.costs else {}
    for path in paths:
        print(path.stem, file=sys.stderr, flush=True)
        entries.append(measure(path, args.data_root, known.get(path.stem)))
    if args.update:
        found = {entry.name: entry for entry in [*kept, *entries]}
        entries = [found[name] for name in sorted(found)]
        for place, text in {**pages(entries), TABLE: as_json(entries)}.items():
            write_whole(place, text.encode())
    print(as_json(entries) if args.json else f"{as_markdown(entries)}\n{commands(entries)}", end="")
    return EXIT_OK
