"""Training: dual-stream loss, model selection on validation data, one reading of the test set."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from sw import checkpoint
from sw import data as datasets
from sw.checkpoint import CheckpointError
from sw.data import DataError, Dataset, Split
from sw.model import PRESETS, ModelConfig, ModelError, SpikingResNet, compile_neurons

EVAL_BATCH = 100
N_CALIBRATION = 200
"""Training images that the checkpoint carries, for :func:`sw.quantize.quantize`."""
ERRORS = (CheckpointError, DataError, ModelError)


class TrainError(RuntimeError):
    """Training cannot start or go on; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained: AdamW, linear warm-up, cosine to zero, random shifts and flips."""

    preset: str = "fashion-mnist"
    epochs: int = 13
    batch_size: int = 100
    learning_rate: float = 5e-3
    weight_decay: float = 0.02
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.05
    shift_px: int = 2
    flip: bool = True
    seed: int = 1
    max_images: int = 0
    """Train on the first images only; 0: all."""


def augment(images: Tensor, shift_px: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random shift by up to ``shift_px`` in both directions, black moving in, and random mirroring;
    ``uint8 (N, C, H, W)`` in and out."""
    n_images, _, height, width = images.shape
    if shift_px:
        padded = F.pad(images, (shift_px,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        offsets = torch.randint(2 * shift_px + 1, (2, n_images), generator=generator)
        images = windows[torch.arange(n_images), :, offsets[0], offsets[1]]
    if flip:
        mirrored = torch.rand(n_images, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def to_input(images: Tensor) -> Tensor:
    """Pixels ``uint8`` to the network's input: divided by 255, nothing else."""
    return images.to(torch.get_default_dtype()).div_(255).to(memory_format=torch.channels_last)


def batches(split: Split, config: TrainConfig, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled and augmented batches of one epoch, which follow from seed and epoch alone, so that
    a resumed run continues identically. A last batch that is not full is dropped."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels).long()
    order = torch.randperm(len(labels), generator=generator)
    for chosen in order.split(config.batch_size):
        if len(chosen) == config.batch_size:
            picked = augment(images[chosen], config.shift_px, config.flip, generator)
            yield to_input(picked), labels[chosen]


def learning_rate(config: TrainConfig, epochs_done: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if epochs_done < config.warmup_epochs:
        return config.learning_rate * epochs_done / config.warmup_epochs
    rest = (epochs_done - config.warmup_epochs) / max(1e-9, config.epochs - config.warmup_epochs)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))


@torch.no_grad()
def accuracies(model: SpikingResNet, split: Split, description: str) -> dict[str, float]:
    """Share of images classified rightly, in percent: by the spike stream (``spike``, the
    full-spike network), by the auxiliary pathway (``aap``), and by the sum of their logits
    (``both``); the last two only while the pathway is attached."""
    model.eval()
    right: dict[str, int] = {}
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    for start in tqdm(range(0, len(labels), EVAL_BATCH), description, leave=False, disable=None):
        part = slice(start, start + EVAL_BATCH)
        logits = model(to_input(images[part]))
        heads = {"spike": logits.spike}
        if logits.aap is not None:
            heads |= {"aap": logits.aap, "both": logits.spike + logits.aap}
        for name, head in heads.items():
            n_right = int((head.argmax(1) == labels[part]).sum())
            right[name] = right.get(name, 0) + n_right
    return {name: 100 * n / len(labels) for name, n in right.items()}


def make_optimizer(model: SpikingResNet, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on convolution and classifier weights only."""
    decayed = [
        p for name, p in model.named_parameters() if p.ndim >= 2 and "coefficient" not in name
    ]
    known = {id(p) for p in decayed}
    free = [p for p in model.parameters() if id(p) not in known]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )


def train_epoch(
    model: SpikingResNet,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    config: TrainConfig,
    epoch: int,
) -> float:
    """One epoch; returns the mean loss. Cross-entropy of both heads, 1:1 (Chen et al.)."""
    model.train()
    split = dataset.train
    if config.max_images:
        split = Split(
            images=split.images[: config.max_images], labels=split.labels[: config.max_images]
        )
    n_batches = len(split) // config.batch_size
    total = torch.zeros(())
    progress = tqdm(
        batches(split, config, epoch), f"epoch {epoch + 1}", n_batches, leave=False, disable=None
    )
    for n, (images, labels) in enumerate(progress):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch + n / n_batches)
        logits = model(images)
        loss = F.cross_entropy(logits.spike, labels, label_smoothing=config.label_smoothing)
        if logits.aap is not None:
            loss = loss + F.cross_entropy(
                logits.aap, labels, label_smoothing=config.label_smoothing
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total) / n_batches


def train(
    model_config: ModelConfig,
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    *,
    resume: bool = False,
    init: dict[str, Tensor] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Train and write a checkpoint to ``out`` after every epoch; returns the last one.

    Parameters
    ----------
    resume : continue from ``out``, exactly as if there had been no interruption.
    init : start from these parameters where name and shape agree (fine-tuning).

    Raises
    ------
    TrainError
        ``out`` cannot be resumed: it is another run's.
    """
    torch.manual_seed(config.seed)
    model = SpikingResNet(model_config)
    if init is not None:
        own = model.state_dict()
        model.load_state_dict(
            own | {k: v for k, v in init.items() if k in own and v.shape == own[k].shape}
        )
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config)
    values: dict[str, Any] = {
        "model_config": model_config.to_dict(),
        "train_config": asdict(config),
        "command": command,
        "code": checkpoint.code_version(),
        "data": {"name": config.preset, "sha256": dataset.sha256},
        "history": [],
        "results": {},
        "model": {},
        "calibration": torch.from_numpy(dataset.train.images[:N_CALIBRATION]).clone(),
    }
    if resume:
        found = checkpoint.load(out)
        for key in ("model_config", "train_config", "data"):
            if found[key] != values[key]:
                raise TrainError(
                    f"{out} is of another run: its {key} is {found[key]}, this run's is "
                    f"{values[key]}. Use the same options, or another --out"
                )
        if "training" not in found:
            raise TrainError(
                f"{out} is a published checkpoint, which cannot be resumed: use --init"
            )
        values |= found
        model.load_state_dict(found["training"]["model"])
        optimizer.load_state_dict(found["training"]["optimizer"])
    history: list[dict[str, Any]] = values["history"]
    for epoch in range(len(history), config.epochs):
        started = time.monotonic()
        loss = train_epoch(model, optimizer, dataset, config, epoch)
        validation = accuracies(model, dataset.validation, "validation")
        best = max((entry["validation"]["spike"] for entry in history), default=-1.0)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        if validation["spike"] > best:
            values["model"] = state
        history.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "validation": validation,
                "seconds": time.monotonic() - started,
            }
        )
        values["training"] = {"model": state, "optimizer": optimizer.state_dict()}
        checkpoint.save(out, values)
        print(
            f"epoch {epoch + 1}/{config.epochs}: loss {loss:.4f}, validation "
            + ", ".join(f"{k} {v:.2f} %" for k, v in validation.items())
            + f", {history[-1]['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    if not values["results"]:
        model.load_state_dict(values["model"])
        best_epoch = max(history, key=lambda entry: entry["validation"]["spike"])
        values["results"] = {
            "best_epoch": best_epoch["epoch"],
            "validation": best_epoch["validation"],
            "test": accuracies(model, dataset.test, "test"),
        }
    checkpoint.save(out, values)
    return values


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
    """Command line; the defaults are those of :class:`TrainConfig`."""
    p = argparse.ArgumentParser(
        prog="python -m sw.train",
        description="Train a full-spike residual network and write a checkpoint.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python -m sw.train --data fashion-mnist --out ckpt.pt
  python -m sw.train --data fashion-mnist --out ckpt.pt --resume
  python -m sw.train --out lif.pt --set neuron.leak=SUBTRACT --set neuron.leak_shift=2
  python -m sw.train --out tuned.pt --init ckpt.pt --epochs 3 --learning-rate 5e-4

exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 130 interrupted""",
    )
    default = TrainConfig()
    p.add_argument(
        "--data", choices=sorted(PRESETS), default=default.preset, help="data set and its network"
    )
    p.add_argument("--data-dir", help="folder of the data set (default: looked for, see sw.data)")
    p.add_argument("--out", type=Path, required=True, help="checkpoint, written after every epoch")
    p.add_argument("--resume", action="store_true", help="continue the run in --out")
    p.add_argument("--init", type=Path, help="start from this checkpoint's weights")
    p.add_argument("--model-config", type=Path, help="JSON file with the model configuration")
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change one model setting"
    )
    p.add_argument("--epochs", type=int, default=default.epochs)
    p.add_argument("--batch-size", type=int, default=default.batch_size)
    p.add_argument("--learning-rate", type=float, default=default.learning_rate)
    p.add_argument("--weight-decay", type=float, default=default.weight_decay)
    p.add_argument("--seed", type=int, default=default.seed)
    p.add_argument(
        "--max-images", type=int, default=0, help="train on the first images only (0: all)"
    )
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    p.add_argument("--compile", action="store_true", help="fuse the neurons with torch.compile")
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    words = sys.argv[1:] if argv is None else list(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.compile:
        compile_neurons()
    try:
        if not args.out.parent.is_dir():
            raise TrainError(f"--out {args.out}: the folder {args.out.parent} does not exist")
        if args.out.is_dir():
            raise TrainError(f"--out {args.out} is a folder: name a file")
        if min(args.epochs, args.batch_size) < 1 or not args.learning_rate > 0:
            raise TrainError("--epochs, --batch-size and --learning-rate must be positive")
        model_config = PRESETS[args.data]()
        if args.model_config:
            try:
                model_config = ModelConfig.from_dict(json.loads(args.model_config.read_text()))
            except (OSError, ValueError, AttributeError) as error:
                raise TrainError(f"--model-config {args.model_config}: {error}") from error
        model_config = override(model_config, args.set)
        config = TrainConfig(
            preset=args.data,
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            seed=args.seed,
            max_images=args.max_images,
        )
        init = checkpoint.load(args.init)["model"] if args.init else None
        dataset = datasets.load(args.data_dir)
        values = train(
            model_config,
            config,
            dataset,
            args.out,
            resume=args.resume,
            init=init,
            command=" ".join(["python -m sw.train", *_public(words)]),
        )
    except (TrainError, *ERRORS) as error:
        print(f"sw.train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"sw.train: interrupted; whole epochs are in {args.out}, continue with --resume",
            file=sys.stderr,
        )
        return 130
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
        kept.append(Path(word).name if "/" in word and Path(word).is_absolute() else word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
