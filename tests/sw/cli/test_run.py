"""Tests of ``python -m sw.run`` with a fake device, which computes networks by the golden model."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hw.boards.configs import CONFIGS, config_by_name
from hw.protocol import RunState
from sim.virtual_board import virtual_board
from sw import shipped
from sw.cli import options, run
from sw.cli.commands import EXIT_BAD_INPUT, EXIT_DEVICE, EXIT_INTERRUPTED, EXIT_NO, EXIT_OK
from sw.compile.compiler import compile_network
from sw.data import catalogue, events, metrics
from sw.data.dataset import Split
from sw.data.fashion_mnist import LABELS
from sw.driver import check, results, session
from sw.driver.board import Board
from sw.driver.device import Device
from sw.driver.errors import DeviceNotFound, LinkLost
from sw.driver.inference import Inference
from sw.network import encoder, netfile
from sw.network.network import Network
from tests import recordings
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice

N_IMAGES = 7
CONFIG = CONFIGS["sim"]
Use = Callable[..., FakeDevice]


def a_network(encoder: bool = True) -> Network:
    """Return a small random network with gates, with or without an encoder; most of its maps have
    spikes.
    """
    return random_network(
        11, n_layers=4, timesteps=3, weight_bits=4, encoder=encoder, granularity="shared"
    )


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Return a function that puts a fake device behind every port.

    Images are run in batches of three, so that a few images make several batches.
    """
    monkeypatch.setattr(session, "BATCH", 3)

    def install(network: Network, **options: Any) -> FakeDevice:
        device = FakeDevice(network, CONFIG, **options)
        monkeypatch.setattr(Board, "open", lambda *_: Board(device))
        return device

    return install


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Network]:
    """Write a network file, and a file of labelled images; return both paths and the network."""
    network = a_network()
    netfile.save(tmp_path / "net.spikefold", network, CONFIG)
    rng = np.random.default_rng(3)
    images = random_input(network, rng, N_IMAGES)
    labels = rng.integers(0, network.n_classes, N_IMAGES)
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    return tmp_path / "net.spikefold", tmp_path / "images.npz", network


def arguments(files: tuple[Path, Path, Network], *more: str) -> list[str]:
    return [str(files[0]), "--board", "sim", "--input", str(files[1]), *more]


@pytest.mark.parametrize("check", ["counts", "spikes"])
def test_equal_results_pass_the_check(
    use: Use, files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str], check: str
) -> None:
    use(files[2])
    assert run.main(arguments(files, "--check", check)) == EXIT_OK
    out = capsys.readouterr().out
    assert f"{N_IMAGES} images: predictions, logits" in out and "accuracy" in out
    assert ("every spike" in out) == (check == "spikes")
    for layer in files[2].layers:
        assert layer.name in out


def test_json_has_every_figure(
    use: Use, files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    use(files[2])
    assert run.main(arguments(files, "--json", "--check", "-n", "5")) == EXIT_OK
    results = json.loads(capsys.readouterr().out)
    assert results["n_done"] == results["n_checked"] == len(results["predictions"]) == 5
    assert results["mismatches"] == [] and results["stopped"] is None
    assert results["mean_cycles"] == 1234
    assert len(results["work"]) == 5 and results["system_images_per_s"] > 0
    assert set(results["layers"]) == {"input"} | {layer.name for layer in files[2].layers}
    for row in results["layers"].values():
        assert (row["n_cycles"], row["n_weight_reads"]) == (100, 50)
    assert [int(np.argmax(row)) for row in results["logits"]] == results["predictions"]


def always_firing(network: Network) -> Network:
    """Return the network with a first layer whose neurons all fire at every timestep."""
    layer = dataclasses.replace(network.layers[0], bias=network.layers[0].bias + 20_000)
    return dataclasses.replace(network, layers=(layer, *network.layers[1:]))


def test_a_device_that_computes_another_network_is_noticed(
    use: Use, files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    device = use(always_firing(files[2]))
    device.expected = compile_network(
        files[2], CONFIG
    )  # so that it accepts the program of the original network
    assert run.main(arguments(files, "--check")) == EXIT_NO
    out = capsys.readouterr().out
    assert "MISMATCH" in out and f"map {files[2].layers[0].name}" in out
    assert "\n  image 0, " in out


def reference_of(network: Network, images: np.ndarray) -> tuple[Inference, dict[str, Any], Any]:
    device = FakeDevice(network, CONFIG)
    board = Board(device)
    board.load(device.expected)
    spikes = encoder.inputs(network, images, device.expected.pixels)[0]
    inference = board.observe(spikes, maps=True)
    return inference, dict(inference.maps), inference.logits


def test_every_kind_of_difference_is_named() -> None:
    network = a_network()
    images = random_input(network, np.random.default_rng(3), 1)
    inference, maps, logits = reference_of(network, images)
    assert list(check.differences(4, network, inference, logits, maps)) == []
    name = network.layers[0].name
    counters = inference.counters[name]
    other_spikes = maps[name].copy()
    other_spikes[1, 0, 0, 0] ^= 1
    for changes, message in (
        ({"prediction": (inference.prediction + 1) % network.n_classes}, "the reference says"),
        ({"logits": logits + (np.arange(len(logits)) == 1)}, "logit 1 is"),
        (
            {"counters": {name: dataclasses.replace(counters, n_spikes=counters.n_spikes + 1)}},
            f"layer {name}: {counters.n_spikes + 1} spikes",
        ),
        (
            {"counters": {name: dataclasses.replace(counters, n_synaptic_ops=1 << 31)}},
            f"layer {name}: {1 << 31} synaptic operations",
        ),
        (
            {"maps": {name: other_spikes}},
            f"map {name}: 1 of {other_spikes.size} spikes differ, first at timestep 1, channel 0, "
            "row 0, column 0",
        ),
    ):
        found = list(
            check.differences(4, network, dataclasses.replace(inference, **changes), logits, maps)
        )
        assert len(found) == 1 and found[0].startswith("image 4") and message in found[0]


def test_a_lost_board_keeps_what_is_done(
    use: Use, files: tuple[Path, Path, Network], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(files[2], fails_at=4, error=LinkLost("fake: the board does not answer any more"))
    out_path = tmp_path / "results.json"
    code = run.main(arguments(files, "--check", "--out", str(out_path)))
    assert code == EXIT_DEVICE
    out = capsys.readouterr().out
    assert "STOPPED at image 4: fake: the board does not answer any more" in out
    assert f"results of 4 of {N_IMAGES} images" in out and "4 images: predictions" in out
    results = json.loads(out_path.read_text())
    assert results["n_done"] == len(results["predictions"]) == 4
    assert "at image 4" in results["stopped"]


def test_interruption_keeps_what_is_done(
    use: Use, files: tuple[Path, Path, Network], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(files[2], fails_at=2, error=KeyboardInterrupt())
    out_path = tmp_path / "results.json"
    assert run.main(arguments(files, "--out", str(out_path))) == EXIT_INTERRUPTED
    n_done = json.loads(out_path.read_text())["n_done"]
    assert n_done in (1, 2)  # the third run starts before the outcome of the second arrives
    assert f"results of {n_done} of {N_IMAGES} images" in capsys.readouterr().out


def test_interruption_of_the_check_keeps_what_is_done(
    use: Use,
    files: tuple[Path, Path, Network],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> list[str]:
        raise KeyboardInterrupt

    use(files[2])
    monkeypatch.setattr(check, "against_reference", interrupt)
    out_path = tmp_path / "results.json"
    code = run.main(arguments(files, "--check", "--out", str(out_path)))
    assert code == EXIT_INTERRUPTED
    results = json.loads(out_path.read_text())
    assert (results["n_done"], results["n_checked"]) == (3, 0)
    assert "STOPPED interrupted" in capsys.readouterr().out


def test_results_that_cannot_be_written(
    use: Use, files: tuple[Path, Path, Network], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(files[2])
    out_path = tmp_path / "nowhere" / "results.json"
    assert run.main(arguments(files, "--out", str(out_path))) == EXIT_BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and "results.json cannot be written: there is no folder" in printed.err
    assert run.main(arguments(files, "--out", str(tmp_path))) == EXIT_BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and "cannot be written: it is a folder" in printed.err


@pytest.mark.parametrize("options", [[], ["--input", "in.npz"]])
def test_a_folder_of_a_data_set_without_its_name(
    options: list[str], files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([str(files[0]), "--data-dir", "nowhere", *options]) == EXIT_BAD_INPUT
    assert "--data-dir nowhere: name the data set in it with --data" in capsys.readouterr().err


def test_a_sensor_without_recordings(
    files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([str(files[0]), "--sensor", "9", "9"]) == EXIT_BAD_INPUT
    assert "--sensor is the size of recordings: name" in capsys.readouterr().err


def test_recordings_are_described_beside_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = events.make([0, 2_000_000], [1, 33], [2, 30], [0, 1])
    (tmp_path / "a.AEDAT").write_bytes(recordings.aedat3(found, "DVS128"))
    given = argparse.Namespace(input=[tmp_path / "a.AEDAT"], sensor=None, data=None, data_dir=None)
    network = random_network(1, encoder=False, channels=(2,), timesteps=3)
    samples, labels = options.find_inputs(given, network)
    assert samples.shape == (1, 3, *network.image_shape) and labels is None
    printed = capsys.readouterr()
    assert not printed.out and printed.err == (
        "1 recording, AEDAT 3.1 of a DVS128: sensor 128 x 128 (height x width), 2 events in 2 s, "
        "times in microseconds\n"
    )


def test_invalid_number_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["-n", "0"])
    assert ended.value.code == EXIT_BAD_INPUT
    assert "-n takes a number of at least 1" in capsys.readouterr().err


def test_a_board_lost_before_the_first_image(
    use: Use, files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    use(files[2], fails_at=0, error=LinkLost("gone"))
    assert run.main(arguments(files, "--check")) == EXIT_DEVICE
    assert "no image was classified" in capsys.readouterr().out


def test_no_board(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DeviceNotFound("no board found; ports seen: none")

    monkeypatch.setattr(Board, "open", fail)
    network = a_network(encoder=False)
    monkeypatch.setattr(run.netfile, "load", lambda *_: netfile.NetworkFile(network=network))
    monkeypatch.setattr(options, "find_inputs", lambda *_: (np.zeros((1, 1), np.uint8), None))
    assert run.main(["--board"]) == EXIT_DEVICE
    assert "no board found; ports seen: none" in capsys.readouterr().err


def test_a_network_for_another_device_is_compiled_again(
    use: Use, files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(CONFIG, name="other", lanes=16)
    netfile.save(files[0], files[2], other)
    use(files[2])
    assert run.main(arguments(files, "--check")) == EXIT_OK
    assert "compiled for 'sim'; the file was exported for 'other'" in capsys.readouterr().out


def test_a_network_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
    use: Use,
    files: tuple[Path, Path, Network],
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = use(files[2])
    tiny = dataclasses.replace(CONFIG, name="tiny", weight_depth=2)
    device.identity = dataclasses.replace(device.identity, config=tiny)
    assert run.main(arguments(files)) == EXIT_BAD_INPUT
    assert "does not fit 'tiny': weight needs" in capsys.readouterr().err


def test_wrong_files(
    use: Use, files: tuple[Path, Path, Network], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(files[2])
    good, images_path, network = files
    shape = network.image_shape
    wrong_shape = np.zeros((2, shape[0], shape[1] + 1, shape[2]), np.uint8)
    np.save(tmp_path / "shape.npy", wrong_shape)
    np.save(tmp_path / "float.npy", np.full((2, *shape), -1, np.float32))
    np.savez(tmp_path / "names.npz", x=wrong_shape)
    np.savez(tmp_path / "labels.npz", images=np.zeros((2, *shape), np.uint8), labels=np.zeros(3))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "cut.spikefold").write_bytes(good.read_bytes()[:-9])
    for network_path, input_path, message in (
        (good, tmp_path / "shape.npy", f"(2, {shape[0]}, {shape[1] + 1}, {shape[2]})"),
        (good, tmp_path / "float.npy", "float32"),
        (good, tmp_path / "names.npz", "holds x; name the array 'images'"),
        (good, tmp_path / "labels.npz", "2 images but labels of shape (3,)"),
        (good, tmp_path / "objects.npy", "is no .npy or .npz file of plain arrays"),
        (good, tmp_path / "text.npy", "is no .npy or .npz file of plain arrays"),
        (good, tmp_path / "missing.npy", "missing.npy"),
        (tmp_path / "cut.spikefold", images_path, "cut.spikefold: the file has"),
        (images_path, images_path, "not a network file"),
    ):
        code = run.main([str(network_path), "--input", str(input_path)])
        assert code == EXIT_BAD_INPUT, message
        assert message in capsys.readouterr().err


def test_control_characters_of_a_file_are_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a\x1b[2J").write_bytes(b"no network")
    assert run.main([str(tmp_path / "a\x1b[2J")]) == EXIT_BAD_INPUT
    assert r"a\x1b[2J: this is not a network file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({}, "the network file does not say which data the network is for, and only samples of"),
        ({"data": {"name": "cifar10"}}, "for 'cifar10', and only samples of fashion-mnist are"),
        ({"data": {"name": "cifar10"}}, "name test samples with --data cifar10 or --input FILE"),
        ({"data": {"name": "fashion-mnist", "own": True}}, "for own data called 'fashion-mnist'"),
        ({"data": {"name": "fashion-mnist", "own": True}}, "--data PATH or --input FILE"),
        ({"export": {"data": {"name": "mnist", "own": True}}}, "for own data called 'mnist', and"),
        ({"data": {"name": "fashion-mnist"}}, "shipped samples of fashion-mnist; choose others wi"),
        ({"data": 3, "export": None}, "does not say which data the network is for"),
    ],
)
def test_the_shipped_samples_are_for_networks_of_their_data_only(
    provenance: dict[str, Any],
    message: str,
    use: Use,
    files: tuple[Path, Path, Network],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = dataclasses.replace(files[2], provenance=provenance)
    use(network)
    path = tmp_path / "made.spikefold"
    netfile.save(path, network, None)
    assert run.main([str(path)]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_the_shape_alone_does_not_make_the_shipped_samples_suit() -> None:
    network = netfile.load(shipped.NETWORK).network
    assert len(options.shipped_samples(network)) >= 100
    assert len(options.shipped_samples(dataclasses.replace(network, provenance={}))) >= 100
    unnamed = tuple(f"class {n}" for n in range(10))
    for provenance in ({"data": {"name": "mnist", "own": True}}, {"imported": {"from": "NIR"}}):
        other = dataclasses.replace(network, provenance=provenance, labels=unnamed)
        with pytest.raises(encoder.InputError, match="name test samples with --data"):
            options.shipped_samples(other)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "dog"), "own has the classes cat, dog, the network "),
        (tuple(f"class {n}" for n in range(99)), "own has the classes class 0, class 1, "),
    ],
)
def test_a_data_set_of_other_classes(
    names: tuple[str, ...],
    message: str,
    files: tuple[Path, Path, Network],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = np.load(files[1])["images"]
    split = Split(images=images, labels=np.zeros(len(images), np.int64))
    made = SimpleNamespace(test=split, name="own", labels=names)
    monkeypatch.setattr(catalogue, "load", lambda *_, **__: made)
    assert run.main([str(files[0]), "--data", "own"]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_the_virtual_board_is_of_the_kind_that_the_network_was_compiled_for() -> None:
    def port(name: str | None, board: str) -> str | None:
        return options.port_of(board, None if name is None else config_by_name(name))

    assert port("ulx3s-85f", "sim") == "sim", "the same memories under another name"
    assert port("ulx3s-85f/w4", "sim") == "sim:ulx3s-85f/w4"
    assert port("ulx3s-85f/w4", "sim:icebreaker") == "sim:icebreaker"
    assert (
        port("ulx3s-85f/w4", "sim?faults=1e-2, sim")
        == "sim:ulx3s-85f/w4?faults=1e-2,sim:ulx3s-85f/w4"
    )
    assert port("ulx3s-85f/w4", "sim,rfc2217://a:1?b") == "sim:ulx3s-85f/w4,rfc2217://a:1?b"
    assert port("ulx3s-85f/w4", "/dev/ttyUSB0") == "/dev/ttyUSB0"
    assert port("ulx3s-85f/w4", options.FIND) is None
    assert port(None, "sim") == "sim"
    odd = dataclasses.replace(CONFIG, name="odd", lanes=64)
    assert options.port_of("sim", odd) == "sim", "a device without a name cannot be started"


def test_frames_need_no_encoder(use: Use, tmp_path: Path) -> None:
    network = a_network(encoder=False)
    netfile.save(tmp_path / "net.spikefold", network)
    np.save(tmp_path / "frames.npy", random_input(network, np.random.default_rng(1), 3))
    use(network)
    code = run.main(
        [str(tmp_path / "net.spikefold"), "--input", str(tmp_path / "frames.npy"), "--check"]
    )
    assert code == EXIT_OK


def test_thumbnails_show_the_image_and_the_answer() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, :, 14:] = 255
    text = run.thumbnails(np.stack([image] * 5), np.array([0, 1, 2, 3, 4]), [0, 1, 2, 3, 9], LABELS)
    lines = text.splitlines()
    assert lines[0].startswith(" " * 14 + "@" * 14)
    assert "label:  Trouser" in text and "device: Ankle boot" in text
    assert len(lines) == 2 * (14 + 2) + 1, "two rows of images and a blank line"


def test_thumbnails_of_frames_and_signals() -> None:
    frames = np.zeros((3, 2, 4, 6), np.uint8)
    frames[0, 1, :, 3:] = 1
    signal = np.array([[[0, 255, 0]]], np.uint8)
    for samples, drawn in ((frames, ["   @@@"] * 2), (signal, [" @ "]), (0 * frames, [""] * 2)):
        lines = run.thumbnails(samples[None], None, [1], LABELS).split("\n")
        assert lines == [*(line.rstrip() for line in drawn), "", "device: Trouser"]


def test_interval_is_wilsons() -> None:
    """Check that Wilson's interval has the values worked out by hand, for 0, 8 and 10 of 10 and for
    0 of 0.
    """
    low, high = metrics.wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert metrics.wilson(0, 10)[0] == 0.0 and metrics.wilson(10, 10)[1] == 1.0
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_percentiles() -> None:
    assert results.percentiles_ms([]) is None
    assert results.percentiles_ms([0.001 * n for n in range(101)]) == {"p50": 50.0, "p99": 99.0}


def test_text_has_interval_latency_and_bottleneck(
    use: Use, files: tuple[Path, Path, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    use(files[2])
    assert run.main(arguments(files)) == EXIT_OK
    out = capsys.readouterr().out
    for words in ("95 % interval", "latency    in all: p50", "bottleneck ", "energy     "):
        assert words in out
    assert re.search(r"^whole system  [\d,]+ images/s at [\d,]+ baud and [\d.]+ MHz$", out, re.M)


class Pipe:
    """Stand-in for standard input that holds given bytes."""

    def __init__(self, raw: bytes):
        self.buffer = io.BytesIO(raw)


def test_live_samples_are_answered_line_by_line(
    use: Use,
    files: tuple[Path, Path, Network],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(files[2])
    images = np.load(files[1])["images"]
    assert run.main(arguments(files, "--json")) == EXIT_OK
    expected = json.loads(capsys.readouterr().out)
    live = [str(files[0]), "--board", "sim", "--live"]
    monkeypatch.setattr(run.sys, "stdin", Pipe(images.tobytes()))
    assert run.main([*live, "--json"]) == EXIT_OK
    *lines, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["prediction"] for line in lines] == expected["predictions"]
    assert [line["logits"] for line in lines] == expected["logits"]
    assert summary["n_done"] == summary["n_requested"] == N_IMAGES

    monkeypatch.setattr(run.sys, "stdin", Pipe(images.tobytes()))
    assert run.main([*live, "-n", "2"]) == EXIT_OK
    out = capsys.readouterr().out
    assert f"\n1: {files[2].labels[expected['predictions'][1]]} (class" in out
    assert "\n2: " not in out and "samples of" in out

    monkeypatch.setattr(run.sys, "stdin", Pipe(images.tobytes()[:-1]))
    assert run.main(live) == EXIT_BAD_INPUT
    assert f"ends within sample {N_IMAGES - 1}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.main([*live, "--data-dir", "nowhere"])
    assert "it cannot be used with --live" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.main([*live, "--check"])
    assert "they cannot be used with --live" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit):
        run.main([str(files[0]), "--board", "sim", "--check"])
    assert "PyTorch, which is not installed" in capsys.readouterr().err


def wait_for(text: str, stream: Any) -> None:
    """Read from a stream until a text has arrived."""
    seen = ""
    while text not in seen:
        character = stream.read(1)
        assert character, f"{text!r} did not come; there was {seen!r}"
        seen += character


@pytest.mark.parametrize("phase", ["load", "run"])
def test_ctrl_c_leaves_board_and_files_in_order(phase: str, tmp_path: Path) -> None:
    """Check that Ctrl-C while loading or running ends the command with its exit code and no
    traceback.

    The command runs in a process that gets a real SIGINT, on a virtual board of another process.
    """
    out = tmp_path / "results.json"
    network = shipped.NETWORK
    command = [sys.executable, "-m", "sw.run", str(network), "--live", "--out", str(out)]
    with virtual_board(config_by_name("sim")) as port:
        with subprocess.Popen(
            [*command, "--board", port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Background jobs may ignore SIGINT, and children inherit that: restore the default.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            if phase == "run":
                wait_for("samples of 1x28x28 bytes", process.stdout)
                process.stdin.buffer.write(bytes(3 * 784))
                process.stdin.flush()
                wait_for("0: ", process.stdout)
            else:
                while not port_is_in_use(port):
                    time.sleep(0.02)
                time.sleep(0.5)  # until the driver is loading the network
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == EXIT_INTERRUPTED
        assert "Traceback" not in stderr
        if phase == "run":
            done = json.loads(out.read_text())
            assert done["stopped"] == results.INTERRUPTED and done["n_done"] >= 1
            assert "STOPPED interrupted" in stdout
        else:
            assert results.INTERRUPTED in stderr and not out.exists()
        assert list(tmp_path.iterdir()) in ([], [out]), "no incomplete file"
        with Device.open(port) as device:
            assert device.status().state == RunState.IDLE


def port_is_in_use(port: str) -> bool:
    with Path(port).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize(
    ("board", "message"),
    [
        ("sim:icebraker", "--board sim:icebraker: unknown board 'icebraker': did you mean 'icebre"),
        ("sim:", "--board sim:: unknown board ''"),
        ("sim,sim:odd", "--board sim:odd: unknown board 'odd'"),
        ("icebreaker", "--board icebreaker: that is a board's name, not a serial port"),
    ],
)
def test_a_wrong_name_of_a_board_is_bad_input(
    board: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--board", board]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
