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

from sw.convert.quantize import WEIGHT_BITS, QuantizeError
from sw.data import catalogue
from sw.data.dataset import DataError, Dataset
from sw.model import checkpoint
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelConfig, ModelError
from sw.model.functional import compile_neurons
from sw.model.resnet import SpikingResNet, round_leaks
from sw.training.loop import TrainError, train
from sw.training.recipes import RECIPES, Recipe, TrainConfig, for_own_data

MANY = 10**9
"""More than anyone wants of anything."""
ERRORS = (CheckpointError, DataError, ModelError, QuantizeError)


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
  python -m sw.train --data my-images/ --out mine.pt --set timesteps=6
  python -m sw.train --out plif.pt --set neuron.leak=LEARNED --set neuron.leak_shift=2
  python -m sw.train --init plif.pt --round-leaks --epochs 2 --out lif.pt

exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 130 interrupted""",
    )
    p.add_argument("--data", help="data set, or the path of an own one (default: the recipe's)")
    p.add_argument(
        "--recipe", choices=sorted(RECIPES), help="network and training (default: the data set's)"
    )
    p.add_argument("--data-dir", help="folder of the data set (default: looked for, see below)")
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
    dataset = catalogue.load(args.data_dir, name=name, timesteps=timesteps)
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
