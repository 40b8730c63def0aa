"""Training: dual-stream loss, model selection on validation data, one reading of the test set.

The same command trains floats or the integers of a device, on one process or, under ``torchrun``,
on several. A run that was killed at any moment goes on with ``--resume`` and ends with the weights
that it would have had: everything random follows from seed and epoch, and checkpoints are atomic.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sw import checkpoint, finetune, fold
from sw import data as datasets
from sw.checkpoint import CheckpointError
from sw.data import DataError, Dataset, Split
from sw.fold import Scales
from sw.model import (
    ModelConfig,
    ModelError,
    SpikingResNet,
    compile_neurons,
    round_leaks,
    to_input,
    widened,
)
from sw.quantize import WEIGHT_BITS, QuantizeError
from sw.recipes import RECIPES, Recipe, TrainConfig, for_own_data

EVAL_BATCH = 100
LANES = 16
"""Output channels whose weights the device adds in one cycle, for :func:`spike_cost`."""
MANY = 10**9
"""More than anyone wants of anything."""
ERRORS = (CheckpointError, DataError, ModelError, QuantizeError)


class TrainError(RuntimeError):
    """Training cannot start or go on; the message says what to do."""


def augment(images: Tensor, shift_px: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random shift by up to ``shift_px`` in both directions, black moving in, and random mirroring;
    ``uint8 (N, C, H, W)`` or ``(N, T, C, H, W)`` in and out. A signal (height 1) moves in time
    only, and all frames of a recording move together."""
    if images.ndim == 5:
        moved = augment(images.flatten(1, 2), shift_px, flip, generator)
        return moved.unflatten(1, images.shape[1:3])
    n_images, _, height, width = images.shape
    if shift_px:
        shift_y = shift_px if height > 1 else 0
        padded = F.pad(images, (shift_px, shift_px, shift_y, shift_y))
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        limits = torch.tensor([[2 * shift_y + 1], [2 * shift_px + 1]])
        offsets = (torch.rand(2, n_images, generator=generator) * limits).long()
        offsets = offsets.to(images.device)
        every = torch.arange(n_images, device=images.device)
        images = windows[every, :, offsets[0], offsets[1]]
    if flip:
        mirrored = torch.rand(n_images, generator=generator) < 0.5
        mirrored = mirrored.to(images.device)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
    return images


def batches(
    split: Split,
    config: TrainConfig,
    epoch: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    n_processes: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled and augmented batches of one epoch, which follow from seed and epoch alone, so that
    a resumed run continues identically; of several processes, each gets its part of every batch.
    A last batch that is not full is dropped."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    images = torch.from_numpy(split.images).to(device)
    labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
    order = torch.randperm(len(labels), generator=generator)
    share = config.batch_size // n_processes
    own = slice(rank * share, (rank + 1) * share)
    for chosen in order.to(device).split(config.batch_size):
        if len(chosen) == config.batch_size:
            picked = augment(images[chosen], config.shift_px, config.flip, generator)
            yield to_input(picked[own]), labels[chosen[own]]


def learning_rate(config: TrainConfig, epochs_done: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if epochs_done < config.warmup_epochs:
        return config.learning_rate * epochs_done / config.warmup_epochs
    rest = (epochs_done - config.warmup_epochs) / max(1e-9, config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))


@torch.no_grad()
def predictions(
    model: nn.Module, split: Split, description: str, device: torch.device | str = "cpu"
) -> dict[str, NDArray[np.int64]]:
    """Classes (N,) by the spike stream (``spike``, the full-spike network), by the auxiliary
    pathway (``aap``), and by the sum of their logits (``both``: the network that keeps the pathway,
    which a host can run, not the device); the last two only while the pathway is attached."""
    model.eval()
    found: dict[str, list[Tensor]] = {}
    images = torch.from_numpy(split.images)
    for start in tqdm(range(0, len(split), EVAL_BATCH), description, leave=False, disable=None):
        logits = model(to_input(images[start : start + EVAL_BATCH].to(device)))
        heads = {"spike": logits.spike}
        if logits.aap is not None:
            heads |= {"aap": logits.aap, "both": logits.spike + logits.aap}
        for name, head in heads.items():
            found.setdefault(name, []).append(head.argmax(1).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def detail(predicted: NDArray[np.int64], labels: NDArray[np.integer]) -> dict[str, Any]:
    """In percent: ``accuracy``; ``balanced``, the mean over classes of the share found of each; and
    ``f1`` of each class, the harmonic mean of the share found and the share rightly called so."""
    n_classes = int(max(labels.max(), predicted.max())) + 1
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (labels.astype(np.int64), predicted), 1)
    right, present = np.diag(table), table.sum(1) > 0
    recall = right[present] / table.sum(1)[present]
    f1 = 2 * right / np.maximum(1, table.sum(0) + table.sum(1))
    return {
        "accuracy": 100 * float(right.sum()) / len(labels),
        "balanced": 100 * float(recall.mean()),
        "f1": [100 * float(v) for v in f1],
    }


def accuracies(
    found: dict[str, NDArray[np.int64]], split: Split, metric: str = "accuracy"
) -> dict[str, float]:
    """The metric (see :func:`detail`) of each head's predictions."""
    return {name: detail(classes, split.labels)[metric] for name, classes in found.items()}


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on convolution and classifier weights only, and a learning rate of their
    own for coefficients."""
    groups: dict[str, list[nn.Parameter]] = {"decayed": [], "free": [], "coefficients": []}
    for name, parameter in model.named_parameters():
        if "coefficient" in name:
            groups["coefficients"].append(parameter)
        else:
            groups["decayed" if parameter.ndim >= 2 else "free"].append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if name == "decayed" else 0.0,
                "rate": config.coefficient_rate if name == "coefficients" else 1.0,
            }
            for name, parameters in groups.items()
            if parameters
        ],
        lr=config.learning_rate,
    )


def rows_per_spike(model: SpikingResNet) -> dict[str, float]:
    """Rows of weights that the device reads for a spike of each map, which is what a spike costs
    in cycles: for every layer that reads the map, windows that overlap at a position times groups
    of :data:`LANES` output channels."""
    rows: dict[str, float] = {}
    for part in fold.parts(model):
        windows, n_out = 1.0, part.module.weight.shape[0]
        if isinstance(part.module, nn.Conv2d):
            windows = math.prod(part.module.kernel_size) / math.prod(part.module.stride)
        if part.source != "image":
            groups = -(-n_out // LANES)
            rows[part.source] = rows.get(part.source, 0.0) + windows * groups
    return rows


def spike_cost(maps: dict[str, Tensor], rows: dict[str, float]) -> Tensor:
    """Mean density of spikes, each weighted with what it costs (:func:`rows_per_spike`): the share
    of the cycles that the network would take were every neuron to fire at every timestep."""
    total = sum(spikes[:, 0].numel() * rows[name] for name, spikes in maps.items() if name in rows)
    read = [
        spikes.sum() / spikes.shape[1] * rows[name] for name, spikes in maps.items() if name in rows
    ]
    return torch.stack(read).sum() / total


def class_weights(split: Split, power: float) -> Tensor:
    """Each class's frequency to minus ``power``, 1 on average over the samples."""
    counts = np.bincount(split.labels.astype(np.int64))
    weights = np.maximum(1, counts) ** -power
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def processes() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@torch.no_grad()
def answers(teacher: SpikingResNet, images: Tensor, temperature: float) -> Tensor:
    """Probabilities (N, n_classes) that a teacher gives the classes, softened by the temperature.
    Computed in bfloat16 where that is fast: an answer's third digit teaches nothing."""
    fast = images.is_cuda or torch.cpu._is_avx512_bf16_supported()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=fast):
        logits = teacher(images).spike
    return F.softmax(widened(logits) / temperature, 1)


def loss_of(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    rows: dict[str, float],
    weights: Tensor | None,
    teacher: SpikingResNet | None = None,
) -> Tensor:
    """Mean over the batch: cross-entropy of both heads, 1:1 (Chen et al.), and the spikes' cost.

    With a teacher, who sees the same images, a head's cross-entropy counts ``1 - w``, and ``w``
    the divergence of its classes' probabilities from the teacher's, both softened by the
    temperature, times its square (Hinton et al., arXiv 1503.02531).
    """
    maps: dict[str, Tensor] = {}
    taught = None if teacher is None else answers(teacher, images, config.temperature)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.amp):
        logits = net(images, maps.__setitem__ if config.spike_penalty else None)
    loss = torch.zeros((), device=images.device)
    for head in logits:
        if head is not None:
            each = F.cross_entropy(
                widened(head), labels, reduction="none", label_smoothing=config.label_smoothing
            )
            if taught is not None:
                own = F.log_softmax(widened(head) / config.temperature, 1)
                apart = F.kl_div(own, taught, reduction="none").sum(1)
                each = each + config.teacher_weight * (config.temperature**2 * apart - each)
            loss = loss + (each if weights is None else each * weights[labels]).mean()
    if config.spike_penalty:
        loss = loss + config.spike_penalty * spike_cost(maps, rows)
    return loss


def train_epoch(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    config: TrainConfig,
    epoch: int,
    device: torch.device | str = "cpu",
    rows: dict[str, float] | None = None,
    teacher: SpikingResNet | None = None,
) -> float:
    """One epoch; returns the mean loss."""
    net.train()
    split = dataset.train
    if config.max_images:
        split = Split(
            images=split.images[: config.max_images], labels=split.labels[: config.max_images]
        )
    n_batches = len(split) // config.batch_size
    if not n_batches:
        raise TrainError(
            f"{len(split)} training images do not fill a batch of {config.batch_size}: use a "
            f"smaller --batch-size"
        )
    weights = class_weights(split, config.class_power).to(device) if config.class_power else None
    rank, n_processes = processes()
    total = torch.zeros((), device=device)
    progress = tqdm(
        batches(split, config, epoch, device, rank, n_processes),
        f"epoch {epoch + 1}",
        n_batches,
        leave=False,
        disable=True if rank else None,
    )
    for n, (images, labels) in enumerate(progress):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch + n / n_batches) * group["rate"]
        loss = loss_of(net, images, labels, config, rows or {}, weights, teacher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    mean = float(total) / n_batches
    if not math.isfinite(mean):
        raise TrainError(f"the loss of epoch {epoch + 1} is {mean}: use a smaller --learning-rate")
    return mean


def build(
    model_config: ModelConfig,
    config: TrainConfig,
    dataset: Dataset,
    init: dict[str, Tensor] | None,
    scales: Scales | None = None,
) -> tuple[SpikingResNet, finetune.IntegerNet | None]:
    """The network to train, and it as integers if the configuration has a weight width; ``scales``
    are those of a run that goes on."""
    model = SpikingResNet(model_config)
    if init is not None:
        own = model.state_dict()
        model.load_state_dict(
            own | {k: v for k, v in init.items() if k in own and v.shape == own[k].shape}
        )
    if not config.weight_bits:
        return model, None
    if scales is not None:
        return model, finetune.IntegerNet(model, scales)
    net = finetune.prepare(model, config.weight_bits, datasets.calibration(dataset))
    return net.model, net


def train(
    model_config: ModelConfig,
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    *,
    resume: bool = False,
    init: dict[str, Tensor] | None = None,
    teacher: SpikingResNet | None = None,
    command: str = "",
    device: torch.device | str = "cpu",
    log_dir: Path | None = None,
) -> dict[str, Any]:
    """Train and write a checkpoint to ``out`` after every epoch; returns the last one.

    Parameters
    ----------
    resume : continue from ``out``, exactly as if there had been no interruption; begin if it is not
        there.
    init : start from these parameters where name and shape agree (fine-tuning).
    teacher : learn from this network, too; ``config.teacher`` says which it is.
    device : where to train; under ``torchrun`` every process has its own.
    log_dir : folder for TensorBoard's logs.

    Raises
    ------
    TrainError
        ``out`` cannot be resumed: it is another run's; or the batch does not divide.
    """
    rank, n_processes = processes()
    if config.batch_size % n_processes:
        raise TrainError(
            f"a batch of {config.batch_size} does not divide among {n_processes} processes: use a "
            f"multiple of it as --batch-size"
        )
    if config.weight_bits:
        model_config = replace(model_config, aap=False)
    torch.manual_seed(config.seed)
    values: dict[str, Any] = {
        "model_config": model_config.to_dict(),
        "train_config": asdict(config),
        "command": command,
        "code": checkpoint.code_version(),
        "data": {
            "name": dataset.name,
            "sha256": dataset.sha256,
            "labels": list(dataset.labels),
            "note": dataset.note,
            "metric": dataset.metric,
        },
        "history": [],
        "results": {},
        "model": {},
        "calibration": torch.from_numpy(datasets.calibration(dataset)),
    }
    found = _resumable(out, values) if resume and out.exists() else {}
    scales = Scales.from_dict(found["quantisation"]) if "quantisation" in found else None
    model, integers = build(model_config, config, dataset, init, scales)
    if integers is not None:
        values["quantisation"] = integers.scales.to_dict()
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    net: nn.Module = model if integers is None else integers.to(device)
    optimizer = make_optimizer(model, config)
    if found:
        values |= found
        model.load_state_dict(found["training"]["model"])
        optimizer.load_state_dict(found["training"]["optimizer"])
        torch.set_rng_state(found["training"]["rng"])
    rows = rows_per_spike(model) if config.spike_penalty else {}
    wrapped = net
    if n_processes > 1:
        # A 1x1 convolution's weight has two equal layouts, of which it would like the other.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        wrapped = DistributedDataParallel(net)
    if teacher is not None:
        teacher.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        teacher.eval()
    history: list[dict[str, Any]] = values["history"]
    log = _logger(log_dir) if log_dir is not None and rank == 0 else None
    for epoch in range(len(history), config.epochs):
        started = time.monotonic()
        loss = train_epoch(wrapped, optimizer, dataset, config, epoch, device, rows, teacher)
        entry: dict[str, Any] = {"epoch": epoch + 1, "loss": loss, "validation": {}}
        if rank == 0:
            guesses = predictions(net, dataset.validation, "validation", device)
            entry["validation"] = accuracies(guesses, dataset.validation, dataset.metric)
            best = max((entry["validation"]["spike"] for entry in history), default=-1.0)
            state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            if entry["validation"]["spike"] > best:
                values["model"] = state
            values["training"] = {
                "model": state,
                "optimizer": optimizer.state_dict(),
                "rng": torch.get_rng_state(),
            }
        entry["seconds"] = time.monotonic() - started
        history.append(entry)
        if rank == 0:
            checkpoint.save(out, values)
            _report(entry, config, dataset.metric, log)
        if n_processes > 1:
            dist.barrier()
    if rank == 0 and not values["results"]:
        model.load_state_dict(values["model"])
        best_epoch = max(history, key=lambda entry: entry["validation"]["spike"])
        guesses = predictions(net, dataset.test, "test", device)
        values["results"] = {
            "best_epoch": best_epoch["epoch"],
            "validation": best_epoch["validation"],
            "test": accuracies(guesses, dataset.test, dataset.metric),
            "test_detail": detail(guesses["spike"], dataset.test.labels),
        }
        checkpoint.save(out, values)
    if n_processes > 1:
        dist.barrier()
    return values


def _resumable(out: Path, values: dict[str, Any]) -> dict[str, Any]:
    found = checkpoint.load(out)
    # What an earlier version did not write is as if it had the value that it has by default.
    found["model_config"] = ModelConfig.from_dict(found["model_config"]).to_dict()
    found["train_config"] = asdict(TrainConfig()) | found["train_config"]
    for key in ("model_config", "train_config", "data"):
        if found[key] != values[key]:
            raise TrainError(
                f"{out} is of another run: its {key} is {found[key]}, this run's is "
                f"{values[key]}. Use the same options, or another --out"
            )
    if "training" not in found:
        raise TrainError(f"{out} is a published checkpoint, which cannot be resumed: use --init")
    return found


def _report(
    entry: dict[str, Any], config: TrainConfig, metric: str, log: Callable[..., None] | None
) -> None:
    scores = ", ".join(f"{k} {v:.2f} %" for k, v in entry["validation"].items())
    print(
        f"epoch {entry['epoch']}/{config.epochs}: loss {entry['loss']:.4f}, validation {scores}, "
        f"{entry['seconds']:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    if log is not None:
        log("loss", entry["loss"], entry["epoch"])
        log("learning rate", learning_rate(config, entry["epoch"]), entry["epoch"])
        log("seconds", entry["seconds"], entry["epoch"])
        for head, value in entry["validation"].items():
            log(f"validation {metric}/{head}", value, entry["epoch"])


def _logger(folder: Path) -> Callable[..., None]:
    """Writes scalars (name, value, epoch) for TensorBoard, each at once.

    Raises
    ------
    TrainError
        TensorBoard is not installed.
    """
    try:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))
    except ImportError as error:
        raise TrainError("--log-dir needs TensorBoard: pip install 'spikefold[train]'") from error

    def log(name: str, value: float, epoch: int) -> None:
        writer.add_scalar(name, value, epoch)
        writer.flush()

    return log


def override(config: ModelConfig, settings: Sequence[str]) -> ModelConfig:
    """``config`` with settings such as ``stages.0.blocks.0.gate=XOR`` (the value is JSON, or else
    a string).

    Raises
    ------
    ModelError
        No such setting, or an unsupported value.
    """
    values = config.to_dict()
    for setting in settings:
        path, equals, text = setting.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parents, last = path.split(".")
        place: Any = values
        try:
            for key in parents:
                place = place[_key(place, key)]
            place[_key(place, last)]  # a setting that does not exist is an error, not a new one
            place[_key(place, last)] = value
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ModelError(f"--set {setting}: there is no such setting") from error
        if not equals:
            raise ModelError(f"--set {setting}: write it as name=value")
    return ModelConfig.from_dict(values)


def _key(place: Any, key: str) -> Any:
    return int(key) if isinstance(place, list) else key


def parser() -> argparse.ArgumentParser:
    """Command line; defaults are the recipe's."""
    p = argparse.ArgumentParser(
        prog="python -m sw.train",
        description="Train a full-spike residual network and write a checkpoint.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="recipes:\n"
        + "\n".join(f"  {name:<26} {recipe.why}" for name, recipe in RECIPES.items())
        + """

examples:
  python -m sw.train --data fashion-mnist --out ckpt.pt
  python -m sw.train --data fashion-mnist --out ckpt.pt --resume
  python -m sw.train --init ckpt.pt --bits 4 --epochs 3 --learning-rate 1e-3 --out ckpt4.pt
  python -m sw.train --recipe cifar10 --device cuda --compile --out cifar10.pt
  torchrun --nproc-per-node 4 -m sw.train --recipe cifar10 --device cuda --out cifar10.pt
  python -m sw.train --recipe fashion-mnist-teacher --out teacher.pt
  python -m sw.train --teacher teacher.pt --out taught.pt
  python -m sw.train --data my-images/ --out mine.pt --set timesteps=6
  python -m sw.train --out plif.pt --set neuron.leak=LEARNED --set neuron.leak_shift=2
  python -m sw.train --init plif.pt --round-leaks --epochs 2 --out lif.pt

exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 130 interrupted""",
    )
    p.add_argument("--data", help="data set, or the path of an own one (default: the recipe's)")
    p.add_argument(
        "--recipe", choices=sorted(RECIPES), help="network and training (default: the data set's)"
    )
    p.add_argument("--data-dir", help="folder of the data set (default: looked for, see sw.data)")
    p.add_argument("--out", type=Path, required=True, help="checkpoint, written after every epoch")
    p.add_argument(
        "--resume", action="store_true", help="continue the run in --out, if there is one"
    )
    p.add_argument("--init", type=Path, help="start from this checkpoint's weights and network")
    p.add_argument("--model-config", type=Path, help="JSON file with the model configuration")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one model setting"
    )
    p.add_argument(
        "--bits",
        dest="weight_bits",
        type=int,
        choices=WEIGHT_BITS,
        help="train the integers of a device with weights of this width (needs --init)",
    )
    p.add_argument(
        "--teacher", type=Path, metavar="CHECKPOINT", help="network to learn from beside the labels"
    )
    p.add_argument(
        "--round-leaks", action="store_true", help="round trained leaks of --init to shifts"
    )
    for name, kind, text in (
        ("epochs", int, "how often to see the data"),
        ("batch-size", int, "of all processes together"),
        ("learning-rate", float, "at its highest"),
        ("coefficient-rate", float, "learning rate of coefficients, relative to it"),
        ("weight-decay", float, "of convolutions and classifier"),
        ("spike-penalty", float, "weight of the spikes' cost: fewer spikes are fewer cycles"),
        ("teacher-weight", float, "share of the teacher in the loss"),
        ("temperature", float, "by which logits are divided to be compared with the teacher's"),
        ("seed", int, "of everything random"),
        ("max-images", int, "train on the first images only (0: all)"),
    ):
        p.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    p.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="convolutions in bfloat16 (default: the recipe's, where there is a GPU)",
    )
    p.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, ...")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    p.add_argument("--compile", action="store_true", help="fuse the neurons with torch.compile")
    p.add_argument("--log-dir", type=Path, help="write TensorBoard's logs to this folder")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    return p


def _given(
    args: argparse.Namespace, recipe: Recipe | None
) -> tuple[ModelConfig | None, dict[str, Tensor] | None]:
    """The network that the command line names, without its settings, and parameters to begin
    with."""
    if args.round_leaks and args.model_config:
        raise TrainError("--round-leaks and --model-config both say which network: use one")
    init = checkpoint.load(args.init) if args.init else None
    if init is None and (args.weight_bits or args.round_leaks):
        raise TrainError("--bits and --round-leaks tune a trained network: name it with --init")
    parameters = None if init is None else init["model"]
    if args.model_config:
        try:
            config = ModelConfig.from_dict(json.loads(args.model_config.read_text()))
        except (OSError, ValueError, AttributeError) as error:
            raise TrainError(f"--model-config {args.model_config}: {error}") from error
        return config, parameters
    if init is not None:
        rounded = round_leaks(checkpoint.build(init)) if args.round_leaks else None
        return rounded or ModelConfig.from_dict(init["model_config"]), parameters
    return None if recipe is None else recipe.model, None


def _choose(
    args: argparse.Namespace,
) -> tuple[Recipe, Dataset, ModelConfig, dict[str, Tensor] | None]:
    """Recipe, data, network, and its first parameters, that the command line asks for."""
    name = args.data or (RECIPES[args.recipe].data if args.recipe else "fashion-mnist")
    recipe = RECIPES.get(args.recipe or name)
    model_config, init = _given(args, recipe)
    times = [setting for setting in args.set if setting.startswith("timesteps=")]
    timesteps = override(model_config or ModelConfig(), times).timesteps
    dataset = datasets.load(args.data_dir, name=name, timesteps=timesteps)
    if recipe is None:
        shape = dataset.train.images.shape
        image_shape = (int(shape[-3]), int(shape[-2]), int(shape[-1]))
        recipe = for_own_data(
            dataset.name, image_shape, len(dataset.labels), shape[1] if len(shape) == 5 else None
        )
    model_config = override(model_config or recipe.model, args.set)
    checkpoint.require_fit(model_config, dataset)
    return recipe, dataset, model_config, init


def _configure(args: argparse.Namespace, recipe: Recipe, device: torch.device) -> TrainConfig:
    known = {field.name for field in fields(TrainConfig)} - {"teacher"}
    chosen = {k: v for k, v in vars(args).items() if k in known and v is not None}
    config = replace(recipe.train, **chosen)
    if args.teacher:
        config = replace(config, teacher=hashlib.sha256(args.teacher.read_bytes()).hexdigest())
    elif args.teacher_weight is not None or args.temperature is not None:
        raise TrainError("--teacher-weight and --temperature are for a --teacher")
    if args.amp and config.weight_bits:
        raise TrainError("--amp does not go with --bits, whose integers need float32")
    if config.weight_bits or (args.amp is None and device.type == "cpu"):
        config = replace(config, amp=False)  # slower there, so only if asked for
    for name, low, high in (
        ("epochs", 1, MANY),
        ("batch_size", 1, MANY),
        ("max_images", 0, MANY),
        ("seed", 0, MANY),
        ("learning_rate", 1e-12, 1e6),
        ("teacher_weight", 0, 1),
        ("temperature", 1e-3, 1e3),
    ):
        value = getattr(config, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise TrainError(f"--{option} {value}: use a number from {low:g} to {high:g}")
    return config


def _teacher(path: Path, student: ModelConfig) -> SpikingResNet:
    """The network in a checkpoint, which must take what the student takes, and know its classes."""
    found = checkpoint.build(checkpoint.load(path))
    for name in ("image_shape", "frames", "n_classes", *["timesteps"] * student.frames):
        theirs, ours = getattr(found.config, name), getattr(student, name)
        if theirs != ours:
            raise TrainError(f"--teacher {path}: its {name} is {theirs}, the student's is {ours}")
    return found


def _device(name: str) -> torch.device:
    """The device called ``name``; of several processes, each has the GPU of its number."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.ones(1, device=device).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise TrainError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainError("--device cuda: this torch sees no GPU; use --device cpu")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    return device


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    p = parser()
    args = p.parse_args(argv)
    if args.threads < 0:
        p.error("--threads takes a number of at least 0")
    words = sys.argv[1:] if argv is None else list(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.compile:
        compile_neurons()
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        if not args.out.parent.is_dir():
            raise TrainError(f"--out {args.out}: the folder {args.out.parent} does not exist")
        if args.out.is_dir():
            raise TrainError(f"--out {args.out} is a folder: name a file")
        device = _device(args.device)
        if distributed:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        recipe, dataset, model_config, init = _choose(args)
        config = _configure(args, recipe, device)
        if not model_config.exportable:
            print("sw.train: not full-spike: a reference, not to be exported", file=sys.stderr)
        values = train(
            model_config,
            config,
            dataset,
            args.out,
            resume=args.resume,
            init=init,
            teacher=_teacher(args.teacher, model_config) if args.teacher else None,
            command=f"python -m sw.train {shlex.join(_public(words))}",
            device=device,
            log_dir=args.log_dir,
        )
    except (TrainError, OSError, *ERRORS) as error:
        print(f"sw.train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"sw.train: interrupted; whole epochs are in {args.out}, continue with --resume",
            file=sys.stderr,
        )
        return 130
    finally:
        if distributed and dist.is_initialized():
            dist.destroy_process_group()
    if int(os.environ.get("RANK", "0")):
        return 0
    results = values["results"]
    if args.json:
        print(json.dumps({"checkpoint": str(args.out), **results}))
    else:
        print(f"{args.out}: best epoch {results['best_epoch']}")
        for part in ("validation", "test"):
            print(
                f"{part:>10}: "
                + ", ".join(f"{name} {value:.2f} %" for name, value in results[part].items())
            )
    return 0


def _public(words: Sequence[str]) -> list[str]:
    """The command line without the places where this machine keeps things."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith("--data-dir"):
            skip = word == "--data-dir"
            continue
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        kept.append(option + equals + (Path(value).name if Path(value).is_absolute() else value))
    return kept


if __name__ == "__main__":
    sys.exit(main())
