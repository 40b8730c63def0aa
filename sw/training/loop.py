"""Training loop: epochs, model selection on validation data, checkpoints, resuming.

The loop trains a network in floats, or in a device's integers (:mod:`sw.training.finetune`), in one
process or, under ``torchrun``, in several. A run that is killed at any moment can be resumed, and
ends with the same weights as an uninterrupted one: everything random follows from seed and epoch,
and checkpoints are written atomically. The test set is read once, after the last epoch.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sw.convert.folded import Scales
from sw.data.dataset import Dataset, Split, calibration_samples
from sw.data.metrics import detail
from sw.model import checkpoint
from sw.model.config import ModelConfig
from sw.model.functional import EAGER, Backend
from sw.model.resnet import SpikingResNet, to_input
from sw.training import finetune, schedule
from sw.training.augment import batches
from sw.training.loss import class_counts, class_weights, loss_of, rows_per_spike
from sw.training.progress import duration, progress
from sw.training.recipes import TrainConfig
from sw.training.resume import TrainError, resumable

EVAL_BATCH = 100
"""Number of samples per batch in validation and test."""
FORWARD_SHARE = 1 / 3
"""Estimated share of the time of a training step that the forward pass takes."""


def learning_rate(config: TrainConfig, epochs_done: float) -> float:
    """Return the learning rate after ``epochs_done`` epochs, which may be a fraction.

    It rises linearly during warm-up, then falls to 0 along half a cosine.
    """
    if epochs_done < config.warmup_epochs:
        return config.learning_rate * epochs_done / config.warmup_epochs
    rest = (epochs_done - config.warmup_epochs) / max(1e-9, config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))


@torch.no_grad()
def predictions(
    model: nn.Module, split: Split, description: str, device: torch.device | str = "cpu"
) -> dict[str, NDArray[np.int64]]:
    """Return the predicted classes (N,) of the samples of ``split``, for each kind of class score.

    The result's keys are the kinds:

    - ``spike``: scores from the spikes, as a device computes them;
    - ``aap``: scores from the auxiliary pathway (:mod:`sw.model.resnet`);
    - ``both``: the sum of these two.

    Without an auxiliary pathway, the only key is ``spike``. ``description`` labels the progress
    bar.
    """
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


def accuracies(
    found: dict[str, NDArray[np.int64]], split: Split, metric: str = "accuracy"
) -> dict[str, float]:
    """Return the accuracy in percent of each entry of ``found``, the result of :func:`predictions`.

    ``metric`` is ``accuracy``, the share of correct predictions, or ``balanced``, the mean over
    classes of the share of each class's samples that are predicted correctly.
    """
    return {name: detail(classes, split.labels)[metric] for name, classes in found.items()}


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return an AdamW optimiser with up to three groups of parameters.

    - Weights of convolutions and classifiers. Only these have weight decay.
    - Real-Spike coefficients. Their learning rate is ``config.coefficient_rate`` times the learning
      rate of all other parameters.
    - All others, such as biases.

    A group's entry ``rate`` is the factor by which :func:`train_epoch` multiplies the learning rate
    for the group.
    """
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


def processes() -> tuple[int, int]:
    """Return the rank of this process and the number of processes that train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def train_epoch(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    config: TrainConfig,
    epoch: int,
    device: torch.device | str = "cpu",
    rows: dict[str, float] | None = None,
    teacher: SpikingResNet | None = None,
    on_speed: Callable[[float], object] | None = None,
) -> float:
    """Train the network ``net`` for one epoch, and return the mean loss.

    ``epoch`` is counted from 0. ``rows``, the result of :func:`sw.training.loss.rows_per_spike`, is
    needed if ``config.spike_penalty`` is not 0. If there is a ``teacher``, the network also learns
    from the teacher's predictions (:func:`sw.training.loss.loss_of`). ``on_speed`` is called once
    with the seconds that a batch takes.

    Raises
    ------
    TrainError
        There are fewer training images than a batch needs, or the loss is not finite.
    """
    net.train()
    split = dataset.train
    if config.max_images:
        split = Split(
            images=split.images[: config.max_images], labels=split.labels[: config.max_images]
        )
    n_samples = int(class_counts(split, config.max_per_class).sum())
    n_batches = n_samples // config.batch_size
    if not n_batches:
        raise TrainError(
            f"{n_samples} training images do not fill a batch of {config.batch_size}: use a "
            f"smaller --batch-size"
        )
    power, most = config.class_power, config.max_per_class
    weights = class_weights(split, power, most).to(device) if power else None
    rank, n_processes = processes()
    total = torch.zeros((), device=device)
    shown = progress(
        batches(split, config, epoch, device, rank, n_processes),
        f"epoch {epoch + 1}/{config.epochs}",
        n_batches,
        quiet=rank > 0,
        on_speed=on_speed,
    )
    for n, (images, labels) in enumerate(shown):
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


def extended(
    model: SpikingResNet, optimizer: torch.optim.Optimizer, timesteps: int, config: TrainConfig
) -> tuple[SpikingResNet, torch.optim.AdamW]:
    """Return a copy of a network with another number of timesteps, and an optimiser for the copy.

    The copy gets the parameters and the optimiser state of the original. New timesteps get the
    values of the last old one (:mod:`sw.training.schedule`).
    """
    with torch.random.fork_rng(devices=[]):  # the initial parameters are replaced at once
        longer = SpikingResNet(schedule.at_timesteps(model.config, timesteps))
    longer.load_state_dict(schedule.fitted_state(model.state_dict(), longer))
    longer.set_backend(model.backend)
    longer.to(device=model.fc.weight.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    continued = make_optimizer(longer, config)
    continued.load_state_dict(schedule.fitted_optimizer(optimizer.state_dict(), continued))
    return longer, continued


def _say_time(
    dataset: Dataset, config: TrainConfig, epoch: int, timesteps: list[int], batch_s: float
) -> None:
    """Print how long a run's first epoch and all of its epochs will take.

    Parameters
    ----------
    epoch : number of the first epoch, counted from 0; it is above 0 if the run is resumed.
    timesteps : number of timesteps of that epoch and of each one after it.
    batch_s : seconds that a training batch takes.
    """
    n_train = min(config.max_images or len(dataset.train), len(dataset.train))
    sample_s = batch_s / config.batch_size * FORWARD_SHARE
    epoch_s = n_train // config.batch_size * batch_s + len(dataset.validation) * sample_s
    run_s = sum(timesteps) / timesteps[0] * epoch_s
    run_s += len(dataset.test) * sample_s * timesteps[-1] / timesteps[0]
    tqdm.write(
        f"time      about {duration(epoch_s)} to the end of epoch {epoch + 1}, "
        f"{duration(run_s)} to the end of epoch {config.epochs} and the test",
        file=sys.stderr,
    )


def initial(
    state: dict[str, Tensor], model: SpikingResNet
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of another network's state dict that ``model`` can use, and the names of
    the parameters and buffers of ``model`` for which it has none.

    A tensor can be used if ``model`` has one of the same name and shape. A coefficient or a
    batch-norm statistic is first repeated along the axes along which only ``model`` has separate
    values, such as timesteps (:func:`sw.training.schedule.fitted`).
    """
    own, fitted = model.state_dict(), schedule.fitted_state(state, model)
    usable = {k: v for k, v in fitted.items() if k in own and v.shape == own[k].shape}
    return usable, tuple(k for k in own if k not in usable)


def build(
    model_config: ModelConfig,
    config: TrainConfig,
    dataset: Dataset,
    init: dict[str, Tensor] | None,
    scales: Scales | None = None,
) -> tuple[SpikingResNet, finetune.IntegerNet | None]:
    """Return the network to train and, if ``config.weight_bits`` is not 0, its integer network.

    Parameters
    ----------
    init : initial parameters, used as far as they fit (:func:`initial`).
    scales : scales of the integer network (:class:`sw.convert.folded.Scales`) if a run is resumed;
        None for a new run, whose scales are determined by calibration on training samples.
    """
    model = SpikingResNet(model_config)
    if init is not None:
        usable, _ = initial(init, model)
        model.load_state_dict(model.state_dict() | usable)
    if not config.weight_bits:
        return model, None
    if scales is not None:
        return model, finetune.IntegerNet(model, scales)
    net = finetune.prepare(model, config.weight_bits, calibration_samples(dataset))
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
    backend: Backend = EAGER,
    log_dir: Path | None = None,
) -> dict[str, Any]:
    """Train a network, write a checkpoint to ``out`` after every epoch, and return the last
    checkpoint's dictionary.

    Parameters
    ----------
    resume : continue the run whose checkpoint is ``out``, as if it had not been interrupted; start
        a new one if the file does not exist.
    init : parameters to start from, used as far as they fit (:func:`initial`).
    teacher : network to learn from besides the labels; ``config.teacher`` is the SHA-256 of its
        checkpoint.
    command : command line to store in the checkpoint.
    device : device to train on; under ``torchrun`` every process has its own.
    backend : functions for neurons and gates, eager or compiled.
    log_dir : folder for TensorBoard's logs.

    Raises
    ------
    TrainError
        ``out`` cannot be resumed, because it belongs to another run or is a published checkpoint.
        The network cannot be trained by ``config.timestep_schedule`` (:mod:`sw.training.schedule`).
        The batch size is no multiple of the number of processes. TensorBoard is not installed.
        There are fewer training images than a batch needs. Or the loss is not finite.
    """
    rank, n_processes = processes()
    if config.batch_size % n_processes:
        raise TrainError(
            f"a batch of {config.batch_size} does not divide among {n_processes} processes: use a "
            f"multiple of it as --batch-size"
        )
    if config.weight_bits:
        model_config = replace(model_config, aap=False)
    steps, last = config.timestep_schedule, model_config.timesteps
    schedule.check(steps, config.epochs, config.weight_bits, model_config)
    torch.manual_seed(config.seed)
    values = _new_checkpoint(model_config, config, dataset, command)
    found = resumable(out, values) if resume and out.exists() else {}
    scales = Scales.from_dict(found["quantisation"]) if "quantisation" in found else None
    epochs_done = len(found.get("history", []))
    first = schedule.timesteps_in(steps, max(0, epochs_done - 1), last)
    model, integers = build(
        schedule.at_timesteps(model_config, first), config, dataset, init, scales
    )
    model.set_backend(backend)
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
    wrapped = _shared(net)
    if teacher is not None:
        teacher.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        teacher.set_backend(backend).eval()
    with torch.device("meta"):
        whole = SpikingResNet(model_config)  # the network of the file, with all timesteps
    history: list[dict[str, Any]] = values["history"]
    log = _logger(log_dir) if log_dir is not None and rank == 0 else None
    n_before = len(history)
    for epoch in range(n_before, config.epochs):
        started = time.monotonic()
        timesteps = schedule.timesteps_in(steps, epoch, last)
        if timesteps != model.config.timesteps:
            model, optimizer = extended(model, optimizer, timesteps, config)
            net, wrapped = model, _shared(model)
        taught_by = teacher if epoch + 1 >= config.teacher_from else None
        on_speed = None
        if epoch == n_before:
            lengths = [schedule.timesteps_in(steps, n, last) for n in range(epoch, config.epochs)]
            on_speed = partial(_say_time, dataset, config, epoch, lengths)
        loss = train_epoch(
            wrapped, optimizer, dataset, config, epoch, device, rows, taught_by, on_speed
        )
        entry: dict[str, Any] = {"epoch": epoch + 1, "loss": loss, "validation": {}}
        if rank == 0:
            guesses = predictions(net, dataset.validation, "validation", device)
            entry["validation"] = accuracies(guesses, dataset.validation, dataset.metric)
            rivals = schedule.of_phase(history, steps, timesteps, last)
            best = max((entry["validation"]["spike"] for entry in rivals), default=-1.0)
            state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            if entry["validation"]["spike"] > best:
                values["model"] = schedule.fitted_state(state, whole)
            values["training"] = {
                "model": state,
                "optimizer": optimizer.state_dict(),
                "rng": torch.get_rng_state(),
            }
        entry["seconds"] = time.monotonic() - started
        history.append(entry)
        if rank == 0:
            checkpoint.save(out, values)
            _report(entry, config, timesteps, dataset.metric, log)
        if n_processes > 1:
            dist.barrier()
    if rank == 0 and not values["results"]:
        model.load_state_dict(values["model"])
        rivals = schedule.of_phase(history, steps, last, last)
        values["results"] = _results(net, rivals, dataset, device)
        checkpoint.save(out, values)
    if n_processes > 1:  # the others wait for rank 0, and return the same
        shared: list[Any] = [values["results"], values["history"], values["model"]]
        dist.broadcast_object_list(shared, src=0)
        values["results"], values["history"], values["model"] = shared
    return values


def _shared(net: nn.Module) -> nn.Module:
    """Return the network to train: ``net`` itself in a single process; else a wrapper of ``net``
    that averages the gradients of all processes."""
    if processes()[1] == 1:
        return net
    # A 1x1 convolution's weight has two equivalent layouts; DDP warns about this one.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return DistributedDataParallel(net)


def _new_checkpoint(
    model_config: ModelConfig, config: TrainConfig, dataset: Dataset, command: str
) -> dict[str, Any]:
    """Return the checkpoint's dictionary (:mod:`sw.model.checkpoint`) before the first epoch."""
    return {
        "model_config": model_config.to_dict(),
        "train_config": asdict(config),
        "command": command,
        "code": checkpoint.code_version(),
        "data": dataset.record(),
        "history": [],
        "results": {},
        "model": {},
        "calibration": torch.from_numpy(calibration_samples(dataset)),
    }


def _results(
    net: nn.Module, history: list[dict[str, Any]], dataset: Dataset, device: torch.device | str
) -> dict[str, Any]:
    """Evaluate ``net`` on the test set, and return the ``results`` for its checkpoint.

    ``history`` must hold only entries of epochs with the full number of timesteps, and ``net`` must
    have the parameters of the best of these epochs.
    """
    best = max(history, key=lambda entry: entry["validation"]["spike"])
    found = predictions(net, dataset.test, "test", device)
    return {
        "best_epoch": best["epoch"],
        "validation": best["validation"],
        "test": accuracies(found, dataset.test, dataset.metric),
        "test_detail": detail(found["spike"], dataset.test.labels),
    }


def _report(
    entry: dict[str, Any],
    config: TrainConfig,
    timesteps: int,
    metric: str,
    log: Callable[..., None] | None,
) -> None:
    """Print loss, accuracies and duration of an epoch, and pass them to ``log`` unless it is None.

    Parameters
    ----------
    entry : the epoch's entry in the checkpoint's ``history``.
    timesteps : number of timesteps in this epoch.
    metric : data set's metric, ``accuracy`` or ``balanced``.
    log : function that logs a scalar (:func:`_logger`), or None.
    """
    unit = "timestep" if timesteps == 1 else "timesteps"
    what = f" ({timesteps} {unit})" if config.timestep_schedule else ""
    scores = ", ".join(f"{k} {v:.2f} %" for k, v in entry["validation"].items())
    print(
        f"epoch {entry['epoch']}/{config.epochs}{what}: loss {entry['loss']:.4f}, "
        f"validation {scores}, {entry['seconds']:.0f} s",
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
    """Return a function that writes a scalar (name, value, epoch) to TensorBoard's log.

    It flushes the file each time, so that figures appear at once.

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
