"""``python -m sw.train``: train a network and write a checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hw.spec import N_LEAK_SHIFTS
from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CommandParser,
    check_output,
    command,
)
from sw.cli.settings import override
from sw.convert.quantize import WEIGHT_BITS, QuantizeError
from sw.data import catalogue
from sw.data.dataset import DataError, Dataset
from sw.model import checkpoint, datasets
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelConfig, ModelError
from sw.model.functional import EAGER, compiled
from sw.model.presets import fashion_mnist
from sw.model.resnet import SpikingResNet, round_leaks
from sw.training import schedule
from sw.training.loop import TrainError, initial, processes, train
from sw.training.recipes import RECIPES, Recipe, TrainConfig, for_own_data
from sw.training.summary import batch_size, summary

NO_LIMIT = 10**9
"""Upper bound in the checks of options that have no limit."""
PATH_OPTIONS = frozenset(
    ("--data", "--data-dir", "--out", "--init", "--model-config", "--teacher", "--log-dir")
)
"""Options whose values are paths; the value of ``--data`` may also be the name of a data set."""
ERRORS = (CheckpointError, DataError, ModelError, QuantizeError)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line.

    The settings of options that are absent come from the recipe
    (:class:`sw.training.recipes.Recipe`).
    """
    p = CommandParser(
        prog="python -m sw.train",
        description="Train a full-spike residual network and write a checkpoint.",
        allow_abbrev=False,
        epilog="recipes:\n"
        + "\n".join(f"  {name:<26} {recipe.why}" for name, recipe in RECIPES.items())
        + f"\n\n{catalogue.describe()}"
        + """

examples:
  python -m sw.train --data fashion-mnist --out ckpt.pt
  python -m sw.train --data fashion-mnist --out ckpt.pt --resume
  python -m sw.train --init ckpt.pt --bits 4 --epochs 3 --learning-rate 1e-3 --out ckpt4.pt
  python -m sw.train --recipe cifar10 --device cuda --compile --out cifar10.pt
  torchrun --nproc-per-node 4 -m sw.train --recipe cifar10 --device cuda --out cifar10.pt
  python -m sw.train --recipe fashion-mnist-teacher --out teacher.pt
  python -m sw.train --teacher teacher.pt --out taught.pt
  python -m sw.train --timestep-schedule 1x60,2x15,4x20 --out fast.pt
  python -m sw.train --data my-images/ --out mine.pt --set timesteps=6
  python -m sw.train --out plif.pt --set neuron.leak=LEARNED --set neuron.leak_shift=2
  python -m sw.train --init plif.pt --round-leaks --epochs 2 --out lif.pt

"""
        f"exit codes: {EXIT_OK} done, {EXIT_BAD_INPUT} bad input (the message says what to do), "
        f"{EXIT_INTERRUPTED} interrupted",
    )
    p.add_argument("--data", help="name of a data set, or path of your own (default: the recipe's)")
    p.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        help="network and training (default: the data set's)",
    )
    p.add_argument("--data-dir", help="folder of the data set (default: searched, see below)")
    p.add_argument("--out", type=Path, required=True, help="checkpoint to write after every epoch")
    p.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out if the file exists",
    )
    p.add_argument("--init", type=Path, help="checkpoint whose network and weights to start from")
    p.add_argument(
        "--model-config",
        type=Path,
        help="JSON file with the network's configuration",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the network",
    )
    p.add_argument(
        "--bits",
        dest="weight_bits",
        type=int,
        choices=WEIGHT_BITS,
        help="train the integer network, with weights of this width (needs --init)",
    )
    p.add_argument(
        "--teacher",
        type=Path,
        metavar="CHECKPOINT",
        help="network to learn from, beside the labels",
    )
    p.add_argument(
        "--round-leaks",
        type=int,
        nargs="?",
        const=N_LEAK_SHIFTS,
        choices=range(1, N_LEAK_SHIFTS + 1),
        metavar="N",
        help="round trained leaks of --init to sums of up to N shifts (default: "
        f"{N_LEAK_SHIFTS}; the iCE40 boards have one)",
    )
    for name, kind, text in (
        ("epochs", int, "passes over the training data, all with the network's timesteps"),
        ("batch-size", int, "images per step, of all processes together"),
        ("learning-rate", float, "learning rate after warm-up"),
        ("coefficient-rate", float, "learning rate of coefficients, relative to --learning-rate"),
        ("weight-decay", float, "decay of convolutions' and classifier's weights"),
        ("spike-penalty", float, "weight of the spikes in the loss: fewer spikes, fewer cycles"),
        ("teacher-weight", float, "share of the teacher in the loss, 0 to 1"),
        ("teacher-from", int, "first epoch with the teacher, counted from 1"),
        ("erase", float, "probability that a random rectangle of a sample is erased"),
        ("temperature", float, "divisor of the logits in the comparison with the teacher"),
        ("seed", int, "seed of everything random"),
        ("max-images", int, "train on the first images only (0: all)"),
        ("max-per-class", int, "samples of a class in an epoch at most, drawn anew (0: all)"),
    ):
        p.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    p.add_argument(
        "--timestep-schedule",
        metavar="TxN,...",
        help="train N epochs with T timesteps, and so on, such as 1x60,2x15,4x20; instead of "
        "--epochs",
    )
    p.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="convolutions in bfloat16 (default: the recipe's, where there is a GPU)",
    )
    p.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, ...")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    p.add_argument(
        "--compile",
        action="store_true",
        help="fuse the neurons with torch.compile",
    )
    p.add_argument("--log-dir", type=Path, help="folder for TensorBoard's logs")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    return p


def _given(
    args: argparse.Namespace, recipe: Recipe | None, init: dict[str, Any] | None
) -> ModelConfig | None:
    """Return the network's configuration that ``--model-config``, ``--init`` or the recipe names.

    The changes of ``--set`` are not made here. The result is None if none of these names a network.

    Parameters
    ----------
    recipe : the recipe (data set, network and settings of a training run); None if there is no
        recipe for the data.
    init : the checkpoint of ``--init``; None without this option.
    """
    if args.round_leaks and args.model_config:
        raise TrainError("--round-leaks and --model-config both name the network: use one of them")
    if init is None and (args.weight_bits or args.round_leaks):
        raise TrainError("--bits and --round-leaks tune a trained network: name it with --init")
    if args.model_config:
        try:
            return ModelConfig.from_dict(json.loads(args.model_config.read_text()))
        except (OSError, ValueError, AttributeError) as error:
            raise TrainError(f"--model-config {args.model_config}: {error}") from error
    if init is not None:
        n_shifts = args.round_leaks
        rounded = round_leaks(checkpoint.build(init), n_shifts) if n_shifts else None
        return rounded or ModelConfig.from_dict(init["model_config"])
    return None if recipe is None else recipe.model


def _data_name(args: argparse.Namespace, init: dict[str, Any] | None) -> str:
    """Return the name or path of the data set to train on.

    It is the value of ``--data`` or, without this option, the data set of the recipe, of the
    checkpoint of ``--init``, or the default one.
    """
    if args.data:
        return args.data
    if args.recipe:
        return RECIPES[args.recipe].data
    return catalogue.DEFAULT if init is None else datasets.place_of(init["data"])


def _choose(
    args: argparse.Namespace,
) -> tuple[Recipe, Dataset, ModelConfig, dict[str, Tensor] | None]:
    """Return the recipe, data set, network and initial parameters that the command line asks for.

    The initial parameters are None without ``--init``. Everything that can be checked without the
    data set is checked before it is read.
    """
    init = checkpoint.load(args.init) if args.init else None
    name = _data_name(args, init)
    recipe = RECIPES.get(args.recipe or name)
    given = _given(args, recipe, init)
    early = override(given or fashion_mnist(), args.set)
    dataset = catalogue.load(args.data_dir, name=name, timesteps=early.timesteps)
    if recipe is None:
        shape = dataset.train.images.shape
        image_shape = (int(shape[-3]), int(shape[-2]), int(shape[-1]))
        recipe = for_own_data(
            dataset.name, image_shape, len(dataset.labels), shape[1] if len(shape) == 5 else None
        )
    model_config = override(given or recipe.model, args.set)
    datasets.require_fit(model_config, dataset)
    return recipe, dataset, model_config, None if init is None else init["model"]


def _configure(
    args: argparse.Namespace, recipe: Recipe, device: torch.device, n_images: int
) -> TrainConfig:
    """Return the recipe's training settings with the changes that the command line asks for.

    ``n_images`` is the number of training images. If they are few, batches are smaller.

    Raises
    ------
    TrainError
        An option is outside its range, or contradicts another one.
    """
    known = {field.name for field in fields(TrainConfig)} - {"teacher"}
    chosen = {k: v for k, v in vars(args).items() if k in known and v is not None}
    config = replace(recipe.train, **chosen)
    if args.epochs is not None and args.timestep_schedule is None:
        config = replace(config, timestep_schedule="")
    if args.epochs is None and args.timestep_schedule:
        config = replace(config, epochs=schedule.n_epochs(args.timestep_schedule))
    if args.batch_size is None:
        n_images = min(config.max_images, n_images) if config.max_images > 0 else n_images
        size = batch_size(config.batch_size, n_images, processes()[1])
        config = replace(config, batch_size=size)
    if args.teacher:
        config = replace(config, teacher=hashlib.sha256(args.teacher.read_bytes()).hexdigest())
    else:
        for name in ("teacher_weight", "teacher_from", "temperature"):
            if getattr(args, name) is not None:
                raise TrainError(f"--{name.replace('_', '-')} needs a --teacher")
    if args.amp and config.weight_bits:
        raise TrainError("--amp cannot be used with --bits, whose integers need float32")
    if config.weight_bits or (args.amp is None and device.type == "cpu"):
        config = replace(config, amp=False)  # slower than float32 on most CPUs
    for name, low, high in (
        ("epochs", 1, NO_LIMIT),
        ("batch_size", 1, NO_LIMIT),
        ("max_images", 0, NO_LIMIT),
        ("max_per_class", 0, NO_LIMIT),
        ("seed", 0, NO_LIMIT),
        ("learning_rate", 1e-12, 1e6),
        ("teacher_weight", 0, 1),
        ("teacher_from", 1, config.epochs),
        ("temperature", 1e-3, 1e3),
        ("erase", 0, 1),
    ):
        value = getattr(config, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise TrainError(f"--{option} {value}: use a number from {low:g} to {high:g}")
    return config


def _teacher(path: Path, student: ModelConfig) -> SpikingResNet:
    """Return the trained network in the checkpoint at ``path``, for the student to learn from.

    Raises
    ------
    TrainError
        The teacher's input or number of classes differs from the student's.
    """
    found = checkpoint.build(checkpoint.load(path))
    for name in ("image_shape", "frames", "n_classes", *["timesteps"] * student.frames):
        theirs, ours = getattr(found.config, name), getattr(student, name)
        if theirs != ours:
            raise TrainError(f"--teacher {path}: its {name} is {theirs}, the student's is {ours}")
    return found


def _device(name: str) -> torch.device:
    """Return torch's device called ``name``; ``auto`` means a GPU if there is one, else the CPU.

    ``cuda`` without a number means the first GPU. Under ``torchrun``, it means the GPU whose number
    is the local rank of this process. A GPU is also set up for training: it becomes torch's current
    one, and its matrix products may use a faster, less exact format such as TF32.

    Raises
    ------
    TrainError
        The device does not exist.
    """
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


@command(
    *(TrainError, OSError, *ERRORS),
    interrupted="interrupted: all whole epochs so far are in --out; add --resume to continue",
)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sw.train`` with the arguments ``argv`` and return its exit code."""
    p = parser()
    args = p.parse_args(argv)
    if args.threads < 0:
        p.error("--threads takes a number of at least 0")
    words = sys.argv[1:] if argv is None else list(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        values = _train(args, words, distributed)
    finally:
        if distributed and dist.is_initialized():
            dist.destroy_process_group()
    if int(os.environ.get("RANK", "0")) == 0:
        _print_results(args, values["results"])
    return EXIT_OK


def _train(args: argparse.Namespace, words: Sequence[str], distributed: bool) -> dict[str, Any]:
    """Train as the options say, and return the checkpoint's values.

    ``words`` are the command line's arguments, which the checkpoint records. ``distributed`` says
    that this is one of several processes that train together.
    """
    check_output(args.out)
    device = _device(args.device)
    if distributed:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    recipe, dataset, model_config, init = _choose(args)
    config = _configure(args, recipe, device, len(dataset.train))
    if processes()[0] == 0:
        for line in summary(dataset, model_config, config, device):
            print(line, file=sys.stderr, flush=True)
        if args.init and init is not None:
            print(_taken_over(args.init, init, model_config), file=sys.stderr, flush=True)
    return train(
        model_config,
        config,
        dataset,
        args.out,
        resume=args.resume,
        init=init,
        teacher=_teacher(args.teacher, model_config) if args.teacher else None,
        command=_recorded(words),
        device=device,
        backend=compiled() if args.compile else EAGER,
        log_dir=args.log_dir,
    )


def _taken_over(path: Path, init: dict[str, Tensor], model_config: ModelConfig) -> str:
    """Return a line that says how much of the checkpoint of ``--init`` fits the network."""
    with torch.device("meta"):
        model = SpikingResNet(model_config)
    _, missing = initial(init, model)
    line = f"init      {path}: {len(model.state_dict()) - len(missing)} tensors taken over"
    if not missing:
        return line
    names = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
    return f"{line}; {len(missing)} start anew, because the file has none that fit: {names}"


def _print_results(args: argparse.Namespace, results: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps({"checkpoint": str(args.out), **results}))
        return
    print(f"{args.out}: best epoch {results['best_epoch']}")
    for part in ("validation", "test"):
        scores = ", ".join(f"{name} {value:.2f} %" for name, value in results[part].items())
        print(f"{part:>10}: {scores}")


def _recorded(words: Sequence[str]) -> str:
    """Return the command line that repeats a training run; the run's checkpoint stores it.

    Paths are absolute, so that the command may be given in any folder. ``words`` are the arguments.
    """
    kept: list[str] = []
    option = ""
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            kept.append(f"{option}={_absolute(option, value)}" if equals else word)
        else:
            kept.append(_absolute(option, word))
            option = ""
    return f"python -m sw.train {shlex.join(kept)}"


def _absolute(option: str, value: str) -> str:
    """Return the value of an option, made absolute if it is a path."""
    if option not in PATH_OPTIONS or (option == "--data" and value in catalogue.NAMES):
        return value
    return str(Path(value).expanduser().absolute())
