"""Tests of training: learning, resuming, several processes, teachers, and the command line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hw.boards.configs import config_by_name
from sw.cli import checkpoint as publish
from sw.cli import evaluate, train
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK
from sw.compile.compiler import compile_network
from sw.convert import fold, quantize
from sw.convert.folded import simulate
from sw.data import catalogue, metrics
from sw.data import dataset as dataset_module
from sw.data.dataset import DataError, Split
from sw.model import checkpoint
from sw.model.config import BlockConfig, ModelError, NeuronConfig, StageConfig, with_blocks
from sw.model.functional import EAGER, Backend
from sw.model.presets import fashion_mnist
from sw.model.resnet import SpikingResNet, to_input
from sw.network import reference
from sw.training import augment, finetune, loop, loss
from sw.training.recipes import RECIPES, TrainConfig
from tests.datasets import easy_data, easy_split
from tests.trained import images, small_config

CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=4e-3, flip=False, shift_px=1)


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_network_learns_and_the_checkpoint_says_how_well(tmp_path: Path) -> None:
    out = tmp_path / "easy.pt"
    config = TrainConfig(**{**vars(CONFIG), "epochs": 10, "learning_rate": 1e-2})
    values = loop.train(small_config(), config, easy_data(), out, command="the command")
    assert values["results"]["test"]["spike"] >= 90
    loaded = checkpoint.load(out)
    assert loaded["results"] == values["results"]
    assert loaded["command"] == "the command"
    assert loaded["train_config"]["seed"] == CONFIG.seed
    assert loaded["data"]["name"] == "fashion-mnist" and loaded["data"]["sha256"] == "0" * 64
    assert loaded["code"] == checkpoint.code_version()
    assert [entry["epoch"] for entry in loaded["history"]] == list(range(1, 11))
    assert loaded["history"][-1]["loss"] < loaded["history"][0]["loss"]
    # The published state is that of the epoch with the best validation accuracy.
    best = max(loaded["history"], key=lambda entry: entry["validation"]["spike"])
    assert loaded["results"]["best_epoch"] == best["epoch"]
    model = checkpoint.build(loaded)
    split = easy_data().validation
    found = loop.accuracies(loop.predictions(model, split, "validation"), split)
    assert found == best["validation"]
    assert list(tmp_path.iterdir()) == [out], "a temporary file is left"
    figures = evaluate.evaluate(out, easy_data().test, [8])
    assert figures.full_spike == figures.folded == values["results"]["test"]["spike"]
    assert figures.training_with_aap == values["results"]["test"]["both"]
    assert figures.n_argmax_differences == figures.n_spike_differences == 0
    assert figures.max_logit_difference < 1e-9
    assert figures.quantised["8"] >= 85
    text = evaluate.as_text(figures)
    assert "8-bit weights" in text and "layer2.0.conv2" in text


def test_the_run_says_its_time_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that a run prints once how long it will take, computed from the time of one batch.

    A training batch takes 2 s here, and the network's forward pass a third of that.
    """

    def epoch(*arguments: object) -> float:
        on_speed = arguments[-1]
        if callable(on_speed):
            on_speed(2.0)
        return 0.0

    monkeypatch.setattr(loop, "train_epoch", epoch)
    data, config = easy_data(), replace(CONFIG, epochs=2)
    loop.train(small_config(), config, data, tmp_path / "a.pt")
    epoch_s = 2 * (len(data.train) // config.batch_size)
    epoch_s += 2 / config.batch_size / 3 * len(data.validation)
    run_s = 2 * epoch_s + 2 / config.batch_size / 3 * len(data.test)
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("time"))
    assert line == (
        f"time      about {epoch_s:.0f} s to the end of epoch 1, {run_s:.0f} s to the end of "
        "epoch 2 and the test"
    )


def test_the_best_validation_epoch_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the checkpoint holds the parameters of the epoch with the best validation
    accuracy.

    Here it is neither the last epoch nor the best one of the auxiliary pathway.
    """
    scores = iter([(20, 4), (32, 8), (24, 36), (32, 38)])
    seen: list[torch.Tensor] = []

    def guesses(split: Split, n_right: int) -> np.ndarray:
        labels = split.labels.astype(np.int64)
        return np.where(np.arange(len(split)) < n_right, labels, labels + 1)

    def predictions(
        model: SpikingResNet, split: Split, description: str, device: object
    ) -> dict[str, np.ndarray]:
        if description == "test":
            assert torch.equal(model.fc.weight, seen[1])
            return {"spike": guesses(split, 1)}
        seen.append(model.fc.weight.detach().clone())
        spike, aap = next(scores)
        return {"spike": guesses(split, spike), "aap": guesses(split, aap)}

    monkeypatch.setattr(loop, "predictions", predictions)
    values = loop.train(small_config(), CONFIG, easy_data(), tmp_path / "a.pt")
    assert values["results"]["best_epoch"] == 2
    assert torch.equal(values["model"]["fc.weight"], seen[1])
    assert torch.equal(values["training"]["model"]["fc.weight"], seen[3])


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loop.train(small_config(), CONFIG, easy_data(), tmp_path / "whole.pt")
    save, n_saved = checkpoint.save, 0

    def save_and_stop(path: Path, values: dict) -> None:
        nonlocal n_saved
        save(path, values)
        n_saved += 1
        if n_saved == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    out = tmp_path / "parts.pt"
    with pytest.raises(KeyboardInterrupt):
        loop.train(small_config(), CONFIG, easy_data(), out)
    assert len(checkpoint.load(out)["history"]) == 2
    parts = loop.train(small_config(), CONFIG, easy_data(), out, resume=True)
    assert same_tensors(whole["model"], parts["model"])
    assert same_tensors(whole["training"]["model"], parts["training"]["model"])
    for a, b in zip(whole["history"], parts["history"], strict=True):
        assert (a["loss"], a["validation"]) == (b["loss"], b["validation"])
    assert whole["results"] == parts["results"]


def test_seeds_decide_everything(tmp_path: Path) -> None:
    quick = TrainConfig(epochs=1, batch_size=16, max_images=64, shift_px=1)
    a, b, c = (
        loop.train(
            small_config(),
            TrainConfig(**{**vars(quick), "seed": seed}),
            easy_data(),
            tmp_path / f"{n}.pt",
        )
        for n, seed in enumerate((1, 1, 2))
    )
    assert same_tensors(a["model"], b["model"])
    assert not same_tensors(a["model"], c["model"])


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run.pt"
    quick = TrainConfig(epochs=1, batch_size=16, max_images=32)
    loop.train(small_config(), quick, easy_data(), out)
    with pytest.raises(loop.TrainError, match=r"had epochs 1, here 4; learning_rate"):
        loop.train(small_config(), CONFIG, easy_data(), out, resume=True)
    with pytest.raises(loop.TrainError, match=r"which had timesteps 3, here 2\. Use the"):
        loop.train(small_config(timesteps=2), quick, easy_data(), out, resume=True)
    damaged = checkpoint.load(out)
    damaged["train_config"]["epochs"] = torch.zeros(2)
    checkpoint.save(tmp_path / "damaged.pt", damaged)
    with pytest.raises(loop.TrainError, match=r"had epochs tensor\("):
        loop.train(small_config(), quick, easy_data(), tmp_path / "damaged.pt", resume=True)
    earlier = checkpoint.load(out)  # as written by a version without these settings
    del earlier["model_config"]["spiking"], earlier["train_config"]["teacher"]
    checkpoint.save(out, earlier)
    loop.train(small_config(), quick, easy_data(), out, resume=True)
    published = tmp_path / "published.pt"
    assert publish.main([str(out), str(published)]) == 0
    assert published.stat().st_size < out.stat().st_size / 2
    assert same_tensors(checkpoint.load(published)["model"], checkpoint.load(out)["model"])
    message = r"published\.pt is a published checkpoint, which cannot be resumed: use --init"
    with pytest.raises(loop.TrainError, match=message):
        loop.train(small_config(), quick, easy_data(), published, resume=True)


def test_fine_tuning_starts_from_what_fits(tmp_path: Path) -> None:
    model = SpikingResNet(small_config())
    with torch.no_grad():
        model.fc.bias.fill_(3.25)
    config = TrainConfig(epochs=1, batch_size=16, max_images=16, learning_rate=1e-9)
    other = small_config(stem_coefficient="channel")
    values = loop.train(other, config, easy_data(), tmp_path / "tuned.pt", init=model.state_dict())
    assert values["model"]["fc.bias"].tolist() == pytest.approx([3.25] * 10)
    assert values["model"]["coefficient.value"].shape == (1, 6, 1, 1)


def test_augmentation_shifts_and_mirrors_only() -> None:
    pixels = torch.zeros(400, 1, 9, 8, dtype=torch.uint8)
    pixels[:, 0, 4, 2] = 200
    moved = augment.augment(pixels, 2, True, torch.Generator().manual_seed(1))
    assert moved.shape == pixels.shape
    places = {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()}
    expected = {(y, x) for y in range(2, 7) for x in range(5)}
    assert places == expected | {(y, 7 - x) for y, x in expected}
    assert moved.flatten(1).sum(1).tolist() == [200] * 400
    same = augment.augment(pixels, 0, False, torch.Generator())
    assert torch.equal(same, pixels)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainConfig(epochs=5, warmup_epochs=1, learning_rate=0.1)
    rates = [loop.learning_rate(config, epoch) for epoch in (0, 0.5, 1, 3, 5)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.05, 0])


def test_weight_decay_spares_coefficients_and_norms() -> None:
    model = SpikingResNet(small_config())
    config = TrainConfig(**{**vars(CONFIG), "coefficient_rate": 0.5})
    decayed, free, coefficients = loop.make_optimizer(model, config).param_groups
    assert decayed["weight_decay"] > 0 and free["weight_decay"] == 0
    assert coefficients["weight_decay"] == 0 and coefficients["rate"] == 0.5
    known = {id(p) for p in decayed["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in known}
    assert all(".weight" in name for name in names)
    assert not any("coefficient" in name or "bn" in name for name in names)
    groups = decayed["params"], free["params"], coefficients["params"]
    assert sum(map(len, groups)) == len(list(model.parameters()))


def test_settings_are_overridden_by_name() -> None:
    config = train.override(
        fashion_mnist(), ["timesteps=6", "stages.1.blocks.0.gate=XOR", "neuron.surrogate=arctan"]
    )
    assert config.timesteps == 6
    assert config.stages[1].blocks[0].gate == "XOR"
    assert config.neuron.surrogate == "arctan"
    every = train.override(config, ["stages.*.blocks.*.outer=element"])
    blocks = [block for stage in every.stages for block in stage.blocks]
    assert {block.outer for block in blocks} == {"element"}
    assert blocks[1].gate == "XOR"
    for setting, message in (
        ("stages.*.chanels=3", "did you mean 'channels'"),
        ("stages.7.channels=3", "no such setting: stages is a list, numbered from 0 to 2"),
        ("colour=3", "no such setting: the settings are timesteps, image_shape"),
        ("stem_chanels=3", "no such setting: did you mean 'stem_channels'[?] the settings are"),
        ("neuron.reste=SOFT", "did you mean 'reset'[?] the settings in neuron are threshold, leak"),
        ("timesteps.x=3", "no such setting: timesteps is the single value 4"),
        ("timesteps", "name=value"),
        ("stages.0.blocks.0.gate=NAND", "gate = 'NAND'"),
    ):
        with pytest.raises(ModelError, match=message):
            train.override(fashion_mnist(), [setting])


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "load", lambda folder, **options: easy_data())
    config_path = tmp_path / "model.json"
    config_path.write_text(json.dumps(small_config().to_dict()))
    out = tmp_path / "cli.pt"
    words = ["--out", str(out), "--model-config", str(config_path), "--epochs", "1"]
    words += ["--batch-size", "16", "--max-images", "32", "--data-dir", "/private/place", "--json"]
    assert train.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["best_epoch"] == 1 and set(printed["test"]) == {"spike", "aap", "both"}
    trained = checkpoint.load(out)
    assert f"--out {out}" in trained["command"] and "--data-dir /private" in trained["command"]
    command = checkpoint.slim(trained)["command"]
    assert "private" not in command and str(tmp_path) not in command
    assert "--out cli.pt" in command and "--epochs 1" in command
    named = "train --out=/home/me/x.pt --set a.gate=XOR --data-dir=/home --init '/me/a b.pt'"
    kept = checkpoint.public({"command": named})["command"]
    assert kept == "train --out=x.pt --set a.gate=XOR --init 'a b.pt'"

    def fails(extra: list[str], message: str) -> None:
        assert train.main([*words, *extra]) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err

    fails(["--out", str(tmp_path / "no" / "x.pt")], f"there is no folder {tmp_path / 'no'}")
    fails(["--out", str(tmp_path)], f"{tmp_path} cannot be written: it is a folder")
    for option, value, limits in (
        ("epochs", "0", "1 to 1e+09"),
        ("batch-size", "0", "1 to"),
        ("learning-rate", "0.0", "1e-12 to"),
        ("max-images", "-100", "0 to"),
        ("seed", "-1", "0 to"),
        ("seed", "99999999999999999999", "0 to"),
    ):
        fails([f"--{option}", value], f"--{option} {value}: use a number from {limits}")
    for option in ("temperature", "teacher-from", "teacher-weight"):
        fails([f"--{option}", "1"], f"--{option} needs a --teacher")
    fails(["--erase", "1.5"], "--erase 1.5: use a number from 0 to 1")
    fails(["--set", "timesteps=four"], "timesteps = 'four': use a value of type int")
    fails(["--set", "image_shape=[3,14,10]"], "(1, 14, 10), the network takes (3, 14, 10)")
    fails(["--round-leaks"], "--round-leaks and --model-config both name the network: use one")
    fails(["--device", "meta"], "--device meta: ")
    with pytest.raises(SystemExit):
        train.main([*words, "--threads", "-1"])
    fails(["--set", "stages.0.blocks.0.gate=NAND"], "gate = 'NAND'")
    none = tmp_path / "none.json"
    fails(["--model-config", str(none)], f"--model-config {none}: [Errno 2] No such file")
    none.write_text("{")
    fails(["--model-config", str(none)], f"--model-config {none}: Expecting property name")
    fails(["--resume", "--seed", "9"], "another --out")
    fails(["--bits", "4"], "name it with --init")
    fails(["--device", "abacus"], "--device abacus: Expected one of cpu, cuda")
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        fails(["--device", "cuda"], "this torch sees no GPU; use --device cpu")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        fails(["--log-dir", str(tmp_path)], "needs TensorBoard: pip install 'spikefold[train]'")
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr(train.checkpoint, "save", lambda *_: (_ for _ in ()).throw(full))
        fails([], "No space left on device")
    fails(["--batch-size", "999"], "do not fill a batch of 999: use a smaller --batch-size")
    fails(["--init", str(config_path)], "no checkpoint")

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupt)
    assert train.main(words) == EXIT_INTERRUPTED
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("compiles", [False, True])
def test_the_command_trains_with_a_compiled_backend_if_asked(
    compiles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = replace(EAGER)
    backends: list[Backend] = []

    def fake_train(*_: object, backend: Backend, **__: object) -> dict:
        backends.append(backend)
        return {"results": {"best_epoch": 1, "validation": {}, "test": {}}}

    monkeypatch.setattr(catalogue, "load", lambda *_, **__: easy_data())
    monkeypatch.setattr(train, "compiled", lambda: backend)
    monkeypatch.setattr(train, "train", fake_train)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(small_config().to_dict()))
    words = ["--out", str(tmp_path / "a.pt"), "--model-config", str(path)]
    assert train.main([*words, *["--compile"] * compiles]) == EXIT_OK
    assert len(backends) == 1 and backends[0] is (backend if compiles else EAGER)


def test_training_uses_its_backend_for_the_network_its_integers_and_the_teacher(
    tmp_path: Path,
) -> None:
    calls = 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return EAGER.neuron_forward(*args)

    def n_calls(weight_bits: int, teacher: SpikingResNet | None) -> int:
        nonlocal calls
        calls = 0
        config = replace(CONFIG, epochs=1, max_images=16, weight_bits=weight_bits)
        backend = replace(EAGER, neuron_forward=counted)
        out = tmp_path / "a.pt"
        loop.train(small_config(), config, easy_data(), out, teacher=teacher, backend=backend)
        return calls

    alone = n_calls(0, None)
    assert alone > 0 and n_calls(4, None) > 0
    teacher = SpikingResNet(small_config())
    per_batch = len(teacher.neurons()) - 1  # the stem's neurons use another function, with pooling
    assert n_calls(0, teacher) == alone + per_batch


def run_until(out: Path, moment: str) -> None:
    """Train, or resume a training, and kill this process by SIGKILL at the given moment."""
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    place, name, n_calls = {
        "": (loop, "loss_of", 1 << 30),
        "batch": (loop, "loss_of", 2 * 10 + 5),  # in the middle of the third epoch
        "write": (os, "fsync", 3),  # part of the checkpoint is written
        "rename": (Path, "replace", 3),  # the whole checkpoint is written, but not renamed yet
    }[moment]
    function = getattr(place, name)

    def kill(*args, **options):
        nonlocal n_calls
        n_calls -= 1
        if not n_calls:
            if moment == "write":
                os.ftruncate(args[0], 100)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    setattr(place, name, kill)
    loop.train(small_config(), CONFIG, easy_data(), out, resume=True)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def exit_code(out: Path, moment: str) -> int | None:
        process = torch.multiprocessing.get_context("fork").Process(
            target=run_until, args=(out, moment)
        )
        process.start()
        process.join()
        return process.exitcode

    assert exit_code(tmp_path / "whole.pt", "") == 0
    whole = checkpoint.load(tmp_path / "whole.pt")
    for moment in ("batch", "write", "rename"):
        out = tmp_path / f"{moment}.pt"
        assert exit_code(out, moment) == -signal.SIGKILL
        assert len(checkpoint.load(out)["history"]) == 2
        assert exit_code(out, "") == 0
        resumed = checkpoint.load(out)
        assert same_tensors(whole["training"]["model"], resumed["training"]["model"])
        assert same_tensors(whole["model"], resumed["model"])
        assert whole["results"] == resumed["results"]


def worker(rank: int, port: int, folder: str) -> None:
    """Run one of two training processes: write the gradients of one step, then train."""
    # A 1x1 convolution's weight has two equivalent layouts; DDP warns about this one.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        gradients(Path(folder) / "two.pt" if rank == 0 else None)
        values = loop.train(wide_config(), TWO, easy_data(), Path(folder) / "trained.pt")
        saved = checkpoint.load(Path(folder) / "trained.pt")
        assert values["results"]["best_epoch"] == 1, "every process returns the results"
        assert (values["results"], values["history"]) == (saved["results"], saved["history"])
    finally:
        dist.destroy_process_group()


TWO = TrainConfig(epochs=1, batch_size=16, max_images=64, shift_px=1, class_power=0.5)


def wide_config():
    """Return the configuration of a network of one block, with batch-norm statistics per timestep
    and an auxiliary pathway.
    """
    block = BlockConfig(gate="OR", inner="element", outer="channel/per-timestep")
    return small_config(
        stages=(StageConfig(channels=8, stride=2, blocks=(block,)),), batch_norm="per-timestep"
    )


def gradients(path: Path | None) -> dict[str, torch.Tensor]:
    """Return gradients and batch-norm statistics of one step on the first batch, in float64.

    They are also written to the file ``path``, unless it is None.
    """
    torch.manual_seed(3)
    model = SpikingResNet(wide_config()).double().train()
    config = TrainConfig(**{**vars(TWO), "spike_penalty": 0.5})
    rank, n_processes = loop.processes()
    net = model if n_processes == 1 else DistributedDataParallel(model)
    images, labels = next(augment.batches(easy_data().train, config, 0, "cpu", rank, n_processes))
    assert len(labels) == config.batch_size // n_processes
    weights = loss.class_weights(easy_data().train, TWO.class_power).double()
    rows = loss.rows_per_spike(model)
    loss.loss_of(net, images.double(), labels, config, rows, weights).backward()
    found = {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    found |= {n: b for n, b in model.named_buffers() if "running" in n}
    if path is not None:
        torch.save(found, path)
    return found


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Check that two processes, which share a batch, compute the gradients of a single process.

    Batch-norm statistics must agree as well.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(
        worker, (port, str(tmp_path)), nprocs=2, start_method="fork"
    )
    one, two = gradients(None), torch.load(tmp_path / "two.pt")
    assert one.keys() == two.keys() and len(one) > 20
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-7, atol=1e-9, msg=name)
    alone = loop.train(wide_config(), TWO, easy_data(), tmp_path / "alone.pt")
    together = checkpoint.load(tmp_path / "trained.pt")
    assert together["history"][0]["validation"].keys() == alone["history"][0]["validation"].keys()
    for name in ("conv1.weight", "bn1.running_var", "fc.weight"):
        torch.testing.assert_close(
            together["model"][name], alone["model"][name], rtol=0.02, atol=2e-3, msg=name
        )


def test_batches_that_do_not_divide_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "processes", lambda: (0, 3))
    with pytest.raises(loop.TrainError, match="does not divide among 3 processes"):
        loop.train(small_config(), CONFIG, easy_data(), tmp_path / "a.pt")


@pytest.mark.parametrize("bits", [2, 4])
def test_fine_tuned_integers_are_what_is_exported(tmp_path: Path, bits: int) -> None:
    """Check that the test accuracy after integer training equals that of the exported integer
    network.

    A resumed run must keep its quantisation scales.
    """
    config = TrainConfig(**{**vars(CONFIG), "epochs": 3})
    start = loop.train(small_config(), config, easy_data(), tmp_path / "float.pt")
    out = tmp_path / "tuned.pt"
    tuning = TrainConfig(**{**vars(CONFIG), "epochs": 2, "weight_bits": bits})
    values = loop.train(small_config(), tuning, easy_data(), out, init=start["model"])
    test = easy_data().test
    network = quantize.quantize(fold.fold(out), bits)
    predicted = reference.run(network, test.images).predictions
    assert values["results"]["test"] == {"spike": 100 * float((predicted == test.labels).mean())}
    assert values["model_config"]["aap"] is False
    again = loop.train(small_config(), tuning, easy_data(), out, init=start["model"], resume=True)
    assert again["results"] == values["results"]
    assert values["quantisation"]["weight_bits"] == bits


def test_spike_penalty_costs_what_spikes_cost_and_lessens_them(tmp_path: Path) -> None:
    model = SpikingResNet(small_config())
    rows = loss.rows_per_spike(model)
    # A 3x3 convolution alone reads the stem: the first block has no down-sampling.
    assert rows["input"] == 9 * 1
    assert rows["layer1.1.conv2"] == pytest.approx(9 / 4 + 1 / 4)
    assert rows["layer2.0.conv2"] == 1  # the classifier
    maps = {"input": torch.ones(3, 2, 6, 7, 5), "layer2.0.conv2": torch.zeros(3, 2, 8, 4, 3)}
    full, none = 3 * 6 * 7 * 5 * 9, 3 * 8 * 4 * 3 * 1
    assert float(loss.spike_cost(maps, rows)) == pytest.approx(full / (full + none))
    densities = []
    for penalty in (0.0, 40.0):
        config = TrainConfig(**{**vars(CONFIG), "spike_penalty": penalty})
        values = loop.train(small_config(), config, easy_data(), tmp_path / "a.pt")
        _, found = checkpoint.build(values).spike_maps(
            to_input(torch.from_numpy(easy_data().test.images))
        )
        densities.append(loss.spike_cost(found, rows).item())
    assert densities[1] < 0.85 * densities[0]


def test_rare_classes_weigh_more_and_figures_say_how_they_are_found() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    split = Split(images=np.zeros((100, 1, 2, 2), np.uint8), labels=labels)
    for power, ratio in ((0.5, 3), (1.0, 9)):
        weights = loss.class_weights(split, power)
        assert float(weights[1] / weights[0]) == pytest.approx(ratio)
        assert float(weights[labels].mean()) == pytest.approx(1)
    # At most 30 samples of a class: an epoch has 30 and 10.
    weights = loss.class_weights(split, 1.0, 30)
    assert float(weights[1] / weights[0]) == pytest.approx(3)
    config = TrainConfig(batch_size=8, max_per_class=30)
    seen = []
    for epoch in (0, 1):
        found = [label for _, part in augment.batches(split, config, epoch) for label in part]
        assert len(found) == 40 and sum(found) == 10
        assert 2 <= sum(found[:20]) <= 8, "the classes are mixed in the whole epoch"
        numbered = Split(images=np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), labels=labels)
        still = replace(config, shift_px=0)
        seen.append(
            {round(float(x) * 255) for x, _ in augment.batches(numbered, still, epoch) for x in x}
        )
    assert len(seen[0]) == 40 and seen[0] != seen[1], "others are drawn in the next epoch"
    predicted = np.array([0] * 85 + [1] * 5 + [1] * 4 + [0] * 6)
    found = metrics.detail(predicted, labels)
    assert found["accuracy"] == pytest.approx(89)
    assert found["balanced"] == pytest.approx(100 * (85 / 90 + 4 / 10) / 2)
    assert found["f1"][1] == pytest.approx(100 * 2 * 4 / (9 + 10))


def test_augmentation_of_signals_and_recordings() -> None:
    signal = torch.zeros(50, 2, 1, 20, dtype=torch.uint8)
    signal[:, :, 0, 10] = 9
    moved = augment.augment(signal, 3, False, torch.Generator().manual_seed(1))
    assert set(moved[:, 0, 0].nonzero()[:, 1].tolist()) == set(range(7, 14))
    assert torch.equal(moved[:, 0], moved[:, 1])
    frames = torch.zeros(30, 3, 2, 8, 8, dtype=torch.uint8)
    frames[:, :, :, 4, 4] = 1
    moved = augment.augment(frames, 2, True, torch.Generator().manual_seed(1))
    assert moved.shape == frames.shape and torch.equal(moved[:, 0, 0], moved[:, 2, 1])
    assert moved.flatten(3).sum(3).eq(1).all()


def test_mixed_precision_keeps_spikes_binary_and_learns(tmp_path: Path) -> None:
    config = TrainConfig(**{**vars(CONFIG), "amp": True, "epochs": 6, "learning_rate": 1e-2})
    values = loop.train(small_config(), config, easy_data(), tmp_path / "amp.pt")
    assert values["results"]["test"]["spike"] >= 80
    model = checkpoint.build(values)
    with torch.autocast("cpu", torch.bfloat16):
        _, maps = model.spike_maps(to_input(torch.from_numpy(images(4))))
    assert maps["layer1.0.conv1"].dtype == torch.bfloat16
    assert set(maps["layer1.0.conv1"].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["fashion-mnist-large", "nmnist"])
@pytest.mark.parametrize("weight_bits", [0, 4])
def test_nothing_leaves_the_device_that_trains(
    name: str, weight_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a training step, in floats or integers, uses no tensor of another device.

    It runs on torch's meta device, on which, as on a GPU, an operation with a CPU tensor fails.
    """
    recipe = RECIPES[name]
    shape = (recipe.model.timesteps,) * recipe.model.frames + recipe.model.image_shape
    data = np.random.default_rng(1).integers(0, 2, (4, *shape), np.uint8)
    config = TrainConfig(batch_size=4, weight_bits=weight_bits, spike_penalty=1.0)
    split = Split(images=data, labels=np.arange(4, dtype=np.uint8))
    dataset = replace(easy_data(), train=split)
    model, integers = loop.build(recipe.model, config, dataset, None)
    net = (model if integers is None else integers).to("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(finetune, "bool", lambda tensor: True, raising=False)  # no values
    optimizer = loop.make_optimizer(net, config)
    ((images, labels),) = augment.batches(split, config, 0, "meta")
    weights = loss.class_weights(split, 1.0).to("meta")
    found = loss.loss_of(net, images, labels, config, loss.rows_per_spike(model), weights)
    found.backward()
    optimizer.step()
    assert found.device.type == "meta"
    assert all(p.device.type == "meta" for p in net.parameters())


def test_learned_leaks_are_trained_rounded_and_exported(tmp_path: Path) -> None:
    config = small_config(neuron=NeuronConfig(leak="LEARNED", leak_shift=2))
    values = loop.train(config, CONFIG, easy_data(), tmp_path / "plif.pt")
    model = checkpoint.build(values)
    start = model.neuron.config.decay
    decays = [torch.sigmoid(n.decay_logit).item() for n in model.neurons().values()]
    assert max(abs(decay - start) for decay in decays) > 1e-3
    rounded = train.round_leaks(model)
    tuned = loop.train(rounded, CONFIG, easy_data(), tmp_path / "lif.pt", init=values["model"])
    assert tuned["history"][0]["loss"] < values["history"][0]["loss"], "it starts from the leaks"
    wanted = [rounded.neuron_of(layer.name) for layer in fold.fold(tuned).layers[:-1]]
    for layer, neuron in zip(fold.fold(tuned).layers, wanted, strict=False):
        assert (layer.leak.name, layer.leak_shifts) == (neuron.leak, neuron.leak_shifts)


def test_tensorboard_gets_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = TrainConfig(**{**vars(CONFIG), "epochs": 2})
    loop.train(small_config(), config, easy_data(), tmp_path / "a.pt", log_dir=tmp_path / "logs")
    log = loader.EventAccumulator(str(tmp_path / "logs")).Reload()
    assert {"loss", "validation accuracy/spike", "learning_rate"} <= {
        tag.replace("learning rate", "learning_rate") for tag in log.Tags()["scalars"]
    }
    assert [event.step for event in log.Scalars("loss")] == [1, 2]


def test_an_add_network_trains_and_folds(tmp_path: Path) -> None:
    config = with_blocks(small_config(), gate="ADD")
    values = loop.train(config, CONFIG, easy_data(), tmp_path / "add.pt")
    assert values["results"]["test"]["spike"] >= 60
    folded = fold.fold(tmp_path / "add.pt")
    test = easy_data().test
    accuracy = 100 * (simulate(folded, test.images).predictions == test.labels).mean()
    assert accuracy == pytest.approx(values["results"]["test"]["spike"], abs=2)


def test_recipes_are_networks_for_their_boards() -> None:
    """Check that the network of each recipe that names a board can be compiled for that board."""
    boards = {
        "fashion-mnist": ("ulx3s-85f", 8),
        "fashion-mnist-85f": ("ulx3s-85f", 8),
        "fashion-mnist-large": ("ulx3s-85f/w4", 4),
        "fashion-mnist-icebreaker": ("icebreaker", 4),
        "nmnist": ("ulx3s-25f", 8),
        "mitbih": ("icebreaker", 4),
        "cifar10-85f": ("ulx3s-85f", 8),
    }
    for name, recipe in RECIPES.items():
        with torch.device("meta" if name not in boards else "cpu"):
            model = SpikingResNet(recipe.model).eval()
        assert recipe.train.preset == name
        if name in boards:
            board, bits = boards[name]
            labels = tuple(str(n) for n in range(recipe.model.n_classes))
            network = quantize.quantize(fold.fold_model(model, labels, {}), bits)
            compile_network(network, config_by_name(board))


def relu_config():
    """Return the configuration of a ReLU network with the same input as :func:`small_config`."""
    block = BlockConfig(gate="ADD", inner="none", outer="none")
    return small_config(
        timesteps=1,
        spiking=False,
        aap=False,
        stages=(StageConfig(channels=8, stride=2, blocks=(block,)),),
    )


def test_data_sorted_by_class_are_calibrated_with_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = easy_data()
    order = np.argsort(data.train.labels, kind="stable")
    images, labels = data.train.images[order], data.train.labels[order]
    data = replace(data, train=Split(images=images, labels=labels))
    monkeypatch.setattr(dataset_module, "N_CALIBRATION", 16)
    config = replace(CONFIG, epochs=1, max_images=32)
    values = loop.train(small_config(), config, data, tmp_path / "a.pt")
    chosen = values["calibration"].numpy()
    assert (
        len(chosen) == 16 and sum((chosen == image).all((1, 2, 3)).any() for image in images) == 16
    )
    assert sum((chosen == image).all((1, 2, 3)).any() for image in images[labels == 0]) == 8


def test_own_recordings_say_how_many_timesteps(tmp_path: Path) -> None:
    """Check that the network for own recordings has as many timesteps as the recordings have
    frames.

    Another number, from ``--set`` or from the network of ``--init``, is refused.
    """
    frames, labels = np.zeros((40, 8, 2, 9, 9), np.uint8), np.arange(40) % 4
    path = tmp_path / "frames.npz"
    np.savez(path, x_train=frames, y_train=labels, x_test=frames, y_test=labels)
    words = ["--data", str(path), "--out", str(tmp_path / "a.pt")]
    _, dataset, config, _ = train._choose(train.parser().parse_args(words))
    assert config.frames and config.timesteps == 8 and dataset.train.images.shape[1] == 8
    with pytest.raises(
        DataError, match=r"of shape \(8, 2, 9, 9\), the network takes \(4, 2, 9, 9\)"
    ):
        train._choose(train.parser().parse_args([*words, "--set", "timesteps=4"]))
    values = {"model_config": replace(config, timesteps=3).to_dict(), "model": {}, "history": []}
    checkpoint.save(tmp_path / "three.pt", values | {"train_config": {}, "data": {}, "results": {}})
    with pytest.raises(DataError, match=r"the network takes \(3, 2, 9, 9\)"):
        train._choose(train.parser().parse_args([*words, "--init", str(tmp_path / "three.pt")]))


def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(net: torch.nn.Module, *_: object) -> torch.Tensor:
        return net.get_parameter("fc.weight").sum() * float("nan")

    monkeypatch.setattr(loop, "loss_of", nothing)
    with pytest.raises(loop.TrainError, match="the loss of epoch 1 is nan: use a smaller"):
        loop.train(small_config(), CONFIG, easy_data(), tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


LONGER = replace(CONFIG, epochs=12, learning_rate=1e-2)


def test_a_network_of_relus_learns_and_is_not_exported(tmp_path: Path) -> None:
    values = loop.train(relu_config(), LONGER, easy_data(), tmp_path / "relu.pt")
    assert values["results"]["test"]["spike"] >= 90
    with pytest.raises(ModelError, match=r"a network of ReLUs .* is a reference or a teacher only"):
        fold.fold(tmp_path / "relu.pt")


def test_a_teachers_share_of_the_loss() -> None:
    """Check that ``teacher_weight`` is the share of the loss that compares student and teacher.

    That part is the Kullback-Leibler divergence, which is computed here in NumPy, too. It is 0 for
    a student that equals its teacher.
    """
    torch.manual_seed(5)
    student = SpikingResNet(small_config()).double().eval()
    teacher = SpikingResNet(relu_config()).double().eval()
    batch = easy_split(12, 4)
    x, labels = (
        to_input(torch.from_numpy(batch.images), torch.float64),
        torch.from_numpy(batch.labels.astype(np.int64)),
    )

    def value(teacher: SpikingResNet | None, share: float, temperature: float = 3.0) -> float:
        config = replace(CONFIG, teacher_weight=share, temperature=temperature)
        return loss.loss_of(student, x, labels, config, {}, None, teacher).item()

    with torch.no_grad():
        heads, theirs = [h.numpy() for h in student(x) if h is not None], teacher(x).spike.numpy()
    p = np.exp(theirs / 3) / np.exp(theirs / 3).sum(1, keepdims=True)
    apart = 0.0
    for head in heads:
        q = np.exp(head / 3) / np.exp(head / 3).sum(1, keepdims=True)
        apart += 9 * (p * np.log(p / q)).sum(1).mean()
    assert len(heads) == 2 and apart > 0.01
    assert value(teacher, 1) == pytest.approx(apart)
    assert value(teacher, 0) == pytest.approx(value(None, 1))
    assert value(teacher, 0.25) == pytest.approx(0.75 * value(None, 1) + 0.25 * apart)
    student = student.detach_aap()
    assert value(student, 1) == pytest.approx(0, abs=1e-12)


def test_a_student_learns_what_only_its_teacher_knows(tmp_path: Path) -> None:
    """Check that a student learns the right classes from its teacher while its labels are
    random.
    """
    data = easy_data()
    knows = loop.train(relu_config(), LONGER, data, tmp_path / "teacher.pt")
    noise = np.random.default_rng(6).integers(0, 2, len(data.train)).astype(np.uint8)
    confused = replace(data, train=replace(data.train, labels=noise))
    teacher = checkpoint.build(knows).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    config = replace(LONGER, teacher="a" * 64, teacher_weight=1.0)
    out = tmp_path / "student.pt"
    taught = loop.train(small_config(), config, confused, out, teacher=teacher)
    assert taught["results"]["test"]["spike"] >= 90
    assert same_tensors(before, teacher.state_dict())
    with pytest.raises(loop.TrainError, match="is of another run, which had teacher 'aaaa"):
        other = replace(config, teacher="b" * 64)
        loop.train(small_config(), other, confused, out, teacher=teacher, resume=True)


def test_a_teacher_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "load", lambda *args, **options: easy_data())
    slow = replace(relu_config(), frames=True, timesteps=2)
    configs = {"good": relu_config(), "odd": replace(relu_config(), n_classes=7), "slow": slow}
    for name, config in configs.items():
        model = SpikingResNet(config)
        values = {"model_config": config.to_dict(), "model": model.state_dict(), "history": []}
        values |= {"train_config": {}, "data": {}, "results": {}}
        checkpoint.save(tmp_path / f"{name}.pt", values)
    student = tmp_path / "student.json"
    student.write_text(json.dumps(small_config().to_dict()))
    out = tmp_path / "out.pt"
    words = ["--model-config", str(student), "--epochs", "1", "--max-images", "100"]
    words += ["--out", str(out), "--temperature", "4", "--teacher"]
    assert train.main([*words, str(tmp_path / "odd.pt")]) == EXIT_BAD_INPUT
    assert "odd.pt: its n_classes is 7, the student's is 10" in capsys.readouterr().err
    with pytest.raises(loop.TrainError, match="its timesteps is 2, the student's is 3"):
        train._teacher(tmp_path / "slow.pt", small_config(frames=True))
    for option in (["--temperature", "0"], ["--teacher-weight", "7"]):
        assert train.main([*words, str(tmp_path / "good.pt"), *option]) == EXIT_BAD_INPUT
        assert f"{option[0]} {float(option[1])}: use a number from" in capsys.readouterr().err
    assert train.main([*words, str(tmp_path / "none.pt")]) == EXIT_BAD_INPUT
    assert "none.pt" in capsys.readouterr().err and not out.exists()
    assert train.main([*words, str(tmp_path / "good.pt")]) == 0
    config = checkpoint.load(out)["train_config"]
    assert config["teacher"] == hashlib.sha256((tmp_path / "good.pt").read_bytes()).hexdigest()
    assert (config["temperature"], config["teacher_weight"]) == (4.0, 0.9)
