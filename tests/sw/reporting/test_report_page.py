"""Tests of ``python -m sw.report``: the measurements are right, and the page shows them."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hw.boards.configs import CONFIGS, board_name, config_by_name
from hw.protocol import Space
from sw.cli import report as command
from sw.cli.report import main
from sw.compile import fitting
from sw.compile.compiler import compile_network
from sw.data import catalogue, metrics
from sw.data.dataset import Split
from sw.driver.board import Board
from sw.network import netfile, reference
from sw.network.network import Network
from sw.reporting import charts, observe, screenshot
from sw.reporting.diagram import diagram, places
from sw.reporting.evaluation import EvaluationError, accuracy_steps, read_evaluation
from sw.reporting.observe import ImageSet
from sw.shipped import NETWORK
from tests.networks import random_input, random_network
from tests.sw.fake_device import FakeDevice

N_IMAGES = 12
VOID = {"meta", "img", "br", "path", "rect"}


class Page(HTMLParser):
    """HTML parser that collects a page's text, and checks that elements are closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)
        assert self.open == [], "elements that nothing closes"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def written(
    folder: Path, network: Network, *options: str, name: str = "net.spikefold", n: int = N_IMAGES
) -> tuple[int, Path]:
    """Write the report on ``network`` with random labelled images; return exit code and path."""
    rng = np.random.default_rng(3)
    images = random_input(network, rng, n)
    np.savez(folder / "in.npz", images=images, labels=rng.integers(0, network.n_classes, n))
    netfile.save(folder / name, network)
    page = folder / "page.html"
    data = ["--input", str(folder / "in.npz")]
    return main([str(folder / name), *data, "-o", str(page), *options]), page


@pytest.mark.parametrize("seed", [2, 18, 27, 33])
def test_page_is_whole_and_needs_nothing_else(tmp_path: Path, seed: int) -> None:
    network = random_network(seed)
    code, path = written(tmp_path, network)
    assert code == command.EXIT_OK
    html = path.read_text()
    page = Page(html)
    for tag, attributes in page.elements:
        for key in ("src", "href", "srcset", "action"):
            target = attributes.get(key)
            assert target is None or target.startswith(("data:image/png;", "#")), (tag, target)
    assert "url(http" not in html and "@import" not in html
    targets = {a["id"] for _, a in page.elements if a.get("id")}
    links = {a["href"] for t, a in page.elements if t == "a"}
    assert links == {f"#{t}" for t in targets - {"arrow"}}
    assert ("#cycles" in links) == fitting.all_boards(network)[0].fits and len(links) >= 7
    for layer in network.layers:
        assert layer.name in page.words
    for tag, attributes in page.elements:
        if tag in ("img", "svg"):
            assert attributes.get("alt") or attributes.get("aria-label"), tag


def test_where_the_stem_is_computed(tmp_path: Path) -> None:
    """Check that the page says whether device or host computes the stem, the layer that reads
    pixels.

    If the device computes it, the table of layers has a row for it.
    """
    seen = {}
    for board in ("ulx3s-85f", "ulx3s-85f-wide/w8"):
        network = netfile.load(NETWORK).network
        stem = network.encoder
        assert stem is not None
        path = tmp_path / "page.html"
        arguments = [str(NETWORK), "--for", board, "-n", "2", "-o", str(path)]
        assert main(arguments) in (command.EXIT_OK, command.EXIT_BAD_INPUT)
        page = Page(path.read_text())
        seen[board] = [w for w in ("(device)", "(host)") if f"{stem.name} {w}" in page.words]
        rows = page.words.count("fan-in")
        assert rows == len(network.layers) + (board == "ulx3s-85f")
    assert seen == {"ulx3s-85f": ["(device)"], "ulx3s-85f-wide/w8": ["(host)"]}


@pytest.mark.parametrize("seed", range(3))
def test_a_layer_has_one_number_on_the_page(tmp_path: Path, seed: int) -> None:
    """Check that a layer has the same number, its position in the network, in all sections of the
    page.
    """
    network = random_network(seed)
    _, page = written(tmp_path, network)
    sections: dict[str, int] = dict.fromkeys((layer.name for layer in network.layers), 0)
    chip = (
        r'<span class="chip c\d">(\d+)</span>(?:</td>|<div>)?\s*(?:<th scope="row">|<b>)?([^<]+)<'
    )
    for number, name in re.findall(chip, page.read_text()):
        assert network.layers[int(number) - 1].name == name.strip()
        sections[name.strip()] += 1
    assert min(sections.values()) >= 3, "table, memories and cycles show every layer"


def test_names_are_escaped(tmp_path: Path) -> None:
    network = random_network(2)
    evil = tuple(f"<script>alert({n})</script>" for n in range(network.n_classes))
    network = replace(network, labels=evil, provenance={"<b>": "</details><i>"})
    code, path = written(tmp_path, network)
    assert code == command.EXIT_OK
    page = Page(path.read_text())
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(tag == "i" and not a for tag, a in page.elements)
    assert evil[0] in page.words


@pytest.mark.parametrize("seed", range(40))
def test_boxes_and_lines_of_the_diagram_do_not_meet(seed: int) -> None:
    network = random_network(seed)
    found = places(network)
    assert len({(p.row, p.column) for p in found.values()}) == len(found)
    for layer in network.layers:
        for name in filter(None, (*layer.sources, layer.identity)):
            assert found[name].row < found[layer.name].row
    svg = diagram(network)
    # A line runs down in a column: no box of that column may be in between.
    boxes = [
        tuple(map(float, match))
        for match in re.findall(
            r'<rect class="box [a-z]+" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="(\d+)"',
            svg,
        )
    ]
    assert len(boxes) == len(network.layers) + 1 + (network.encoder is not None)
    for path in re.findall(r'<path class="wire[ a-z]*" d="([^"]+)"', svg):
        points = [tuple(map(float, p.split())) for p in re.findall(r"[MLQ ]?([\d.]+ [\d.]+)", path)]
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            for x, y, width, height in boxes:
                middle = (x1 + x2) / 2, (y1 + y2) / 2
                inside = x < middle[0] < x + width and y < middle[1] < y + height
                assert not inside, f"a line crosses the box at {x}, {y}"


def pixels_of(url: str) -> np.ndarray:
    """Return the pixels of a PNG image with one bit per pixel, given as a ``data:`` URL."""
    raw = base64.b64decode(url.partition(",")[2])
    width, height, depth = struct.unpack(">IIB", raw[16:25])
    assert depth == 1
    start = raw.index(b"IDAT")
    (length,) = struct.unpack(">I", raw[start - 4 : start])
    rows = np.frombuffer(zlib.decompress(raw[start + 4 : start + 4 + length]), np.uint8)
    rows = rows.reshape(height, -1)
    assert (rows[:, 0] == 0).all()
    return np.unpackbits(rows[:, 1:], axis=1)[:, :width]


def test_rasters_show_every_spike() -> None:
    spikes = (np.random.default_rng(1).random((3, 5, 4, 7)) < 0.4).astype(np.uint8)
    images = re.findall(r'src="([^"]+)"', charts.raster(spikes, "map"))
    assert len(images) == 3
    for t, image in enumerate(images):
        np.testing.assert_array_equal(pixels_of(image), spikes[t].reshape(5, 28))


def test_memory_map_adds_up(tmp_path: Path) -> None:
    network = random_network(27)
    program = compile_network(network, config_by_name("sim").with_weight_bits(network.weight_bits))
    netfile.save(tmp_path / "net.spikefold", network, program.config)
    assert main([str(tmp_path / "net.spikefold"), "-o", str(tmp_path / "net.html")]) == 0
    html = (tmp_path / "net.html").read_text()
    bars = re.findall(r'<div class="stack">(.*?)</div>', html)
    assert len(bars) == 3
    for bar, space in zip(bars, (Space.WEIGHT, Space.PARAM, Space.SPIKE), strict=True):
        used, total = program.usage()[space.name.lower()]
        amounts = re.findall(r'<span class="(\w+)" style="flex-grow:(\d+)"', bar)
        assert sum(int(n) for _, n in amounts) == total
        assert sum(int(n) for kind, n in amounts if kind != "free") == used
        assert f"{used:,} of {total:,}" in html


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_histogram_counts_every_weight(bits: int) -> None:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    weights = np.random.default_rng(bits).integers(low, high, 500, endpoint=True)
    svg = charts.histogram(weights, bits)
    titles = re.findall(r"<title>(-?\d+)(?: to (-?\d+))?: (\d+)</title>", svg)
    assert sum(int(n) for _, _, n in titles) == 500
    for first, last, n in titles:
        inside = (weights >= int(first)) & (weights <= int(last or first))
        assert inside.sum() == int(n)


def test_intervals() -> None:
    """Check that Wilson's interval has the values worked out by hand, for 0, 8 and 10 of 10."""
    low, high = metrics.wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert metrics.wilson(0, 10)[0] == 0 and metrics.wilson(10, 10)[1] == 1


@pytest.mark.parametrize("seed", [4, 18, 27])
def test_observation_is_the_references(seed: int) -> None:
    network = random_network(seed)
    rng = np.random.default_rng(seed)
    images = random_input(network, rng, N_IMAGES)
    labels = rng.integers(0, network.n_classes, N_IMAGES)
    seen = observe.observe(
        network, None, ImageSet(images=images, labels=labels, description="random")
    )
    trace = reference.run(network, images)
    np.testing.assert_array_equal(seen.predictions, trace.predictions)
    for name, rates in seen.rates.items():
        np.testing.assert_allclose(rates, trace.spikes[name].mean(axis=(0, 2, 3, 4)))
    matrix = seen.confusion(network.n_classes)
    assert matrix is not None and matrix.sum() == N_IMAGES
    for label, prediction in zip(labels, trace.predictions, strict=True):
        matrix[label, prediction] -= 1
    assert not matrix.any()
    assert len({shown.index for shown in seen.shown}) == len(seen.shown)
    for shown in seen.shown:
        np.testing.assert_array_equal(shown.logits, trace.logits[shown.index])
        for name, spikes in shown.maps.items():
            np.testing.assert_array_equal(spikes, trace.spikes[name][shown.index])
    for layer in network.layers[:-1]:
        for shown in seen.membranes[layer.name]:
            np.testing.assert_array_equal(shown.values >= shown.threshold, shown.spikes)


def test_what_the_board_does_differently_is_counted() -> None:
    network = random_network(18)
    config = replace(CONFIGS["sim"], param_depth=1 << 12)
    program = compile_network(network, config)
    images = random_input(network, np.random.default_rng(0), 4)
    given = ImageSet(images=images, labels=None, description="random")

    def counted(device: FakeDevice) -> observe.Counted:
        board = Board(device)
        board.load(program)
        found = observe.observe(network, program, given, board).counted
        assert found is not None
        return found

    right = counted(FakeDevice(network, config))
    assert right.n_images == 4 and right.n_differences == 0
    assert right.predictions == reference.run(network, images).predictions.tolist()
    last = network.layers[-1]
    other = replace(last, bias=last.bias + np.arange(last.n_out, dtype=np.int32))
    device = FakeDevice(network, config)
    device.network = replace(network, layers=(*network.layers[:-1], other))
    assert counted(device).n_differences == 4


def test_counted_cycles_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(33)
    config = config_by_name("ulx3s-85f").with_weight_bits(network.weight_bits)
    devices = []

    def open_boards(port: str | None) -> Board:
        devices.append(port)
        return Board(FakeDevice(network, config))

    monkeypatch.setattr(command, "open_boards", open_boards)
    code, path = written(tmp_path, network, "--board", "sim")
    assert code == command.EXIT_OK and devices == [f"sim:{board_name(config)}"]
    words = Page(path.read_text()).words
    assert (
        "On 10 of 10 images every logit and spike count of the board was the reference's" in words
    )
    assert "cycles counted" in words and "on the device" in words
    code, path = written(tmp_path, network)
    words = Page(path.read_text()).words
    assert "Nothing was counted" in words and "cycles predicted" in words


def test_a_board_that_does_not_compute_the_stem_is_shown_beside_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(
        11, n_layers=4, timesteps=3, weight_bits=8, encoder=True, granularity="shared"
    )
    config = replace(config_by_name("ulx3s-85f"), pixels=0)
    monkeypatch.setattr(command, "open_boards", lambda _: Board(FakeDevice(network, config)))
    code, path = written(tmp_path, network, "--for", "ulx3s-85f", "--board", "sim")
    assert code == command.EXIT_OK
    html = path.read_text()
    assert html.count('class="cyclerow"') == 1 + len(network.layers)
    assert html.count('class="bar counted"') == len(network.layers)


def test_a_network_that_does_not_fit_is_told_why(tmp_path: Path) -> None:
    netfile.save(tmp_path / "net.spikefold", random_network(33, full_neurons=False))
    page = tmp_path / "net.html"
    run = [str(tmp_path / "net.spikefold"), "-o", str(page)]
    assert main([*run, "--for", "icebreaker"]) == command.EXIT_OK
    words = Page(page.read_text()).words
    assert "the network does not fit 'icebreaker': " in words and "it fits ulx3s-85f" in words
    assert "There were no images that this network takes" in words
    assert main(run) == command.EXIT_OK
    assert "✓ fits ulx3s-85f/w4; every membrane" in Page(page.read_text()).words


def test_json_and_text_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = random_network(18)
    evaluation = tmp_path / "eval.json"
    figures = {"n_images": 1000, "training_with_aap": None, "full_spike": 91.5, "folded": 91.25}
    evaluation.write_text(json.dumps({**figures, "quantised": {"4": 90.0, "8": 91.0}}))
    options = ["--evaluation", str(evaluation)]
    code, path = written(tmp_path, network, *options, "--json")
    values = json.loads(capsys.readouterr().out)
    assert code == command.EXIT_OK and path.exists()
    percents = [step["percent"] for step in values["accuracy"]]
    assert percents[:4] == [91.5, 91.25, 91.0, 90.0] and len(percents) == 5
    assert [layer["name"] for layer in values["layers"]] == [x.name for x in network.layers]
    assert np.sum(values["confusion"]) == N_IMAGES
    path.unlink()
    netfile.save(tmp_path / "net.spikefold", network)
    assert main([str(tmp_path / "net.spikefold"), "--text", *options]) == command.EXIT_OK
    text = capsys.readouterr().out
    assert (
        " 91.25 %  folded, float (1,000 test images)" in text and "give some with --input" in text
    )
    assert not path.exists()


@pytest.mark.parametrize(("metric", "said"), [("balanced", ", balanced"), ("accuracy", "")])
def test_balanced_accuracies_are_called_so(metric: str, said: str) -> None:
    """Check that accuracies that are means over classes are labelled ``balanced``.

    Their confidence intervals come from the evaluation, as the number of images does not determine
    them.
    """
    figures = {"n_images": 1000, "training_with_aap": None, "full_spike": 91.5, "folded": 91.25}
    evaluation = {**figures, "quantised": {"8": 91.0}, "metric": metric}
    n = None if said else 1000
    steps = accuracy_steps(random_network(18), evaluation, None)
    assert {(s.on, s.n_images) for s in steps} == {(f"1,000 test images{said}", n)}
    assert all((s.interval is None) == bool(said) for s in steps)
    known = {"folded": [80.25, 99.5], "8": [79.0, 98.0]}
    steps = accuracy_steps(random_network(18), {**evaluation, "intervals": known}, None)
    assert [s.interval for s in steps[1:]] == [(80.25, 99.5), (79.0, 98.0)]
    provenance = {
        "data": {"metric": metric},
        "results": {"test": {"both": 57.5, "spike": 56.92}},
        "export": {"accuracy": {"folded": 0.9, "quantised": 0.9}, "measured_on": "500 images"},
    }
    network = replace(random_network(18), provenance=provenance)
    assert {(s.on, s.n_images) for s in accuracy_steps(network, None, None)} == {
        (f"whole test set, when trained{said}", None),
        ("500 images, when exported", 500),
    }


def test_chosen_neurons_are_shown(tmp_path: Path) -> None:
    network = random_network(18)
    code, path = written(tmp_path, network, "--neuron", "layer1:0,2,3", "--neuron", "layer1:0,3,0")
    assert code == command.EXIT_OK
    words = Page(path.read_text()).words
    assert "channel 0, row 2, column 3" in words and "channel 0, row 3, column 0" in words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": "5"}, 'n_images is "5", expected a positive number'),
        ({"n_images": -1}, "n_images is -1, expected a positive number"),
        ({"quantised": None}, "quantised is null, expected accuracies by width"),
        ({"quantised": {"x": 1.0}}, "expected accuracies by width: 2, 4 or 8"),
        ({"quantised": {"8": None}}, "the accuracy 8 is null, expected a number"),
        ({"folded": "9"}, 'the accuracy folded is "9", expected a number'),
        ({"full_spike": 1e300}, "the accuracy full_spike is 1e+300, expected 0 to 100 percent"),
        ({"intervals": [1]}, "intervals is [1], expected two percentages for each accuracy"),
        ({"intervals": {"8": [91.0, 80.0]}}, "expected two percentages for each accuracy"),
        ({"folded": float("nan")}, "is no JSON file: the number NaN is not finite"),
    ],
)
def test_edited_evaluations_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "eval.json"
    good = {"n_images": 5, "training_with_aap": None, "full_spike": 9, "folded": 9.5}
    path.write_text(json.dumps({**good, "quantised": {"8": 90.0}}))
    read_evaluation(path)
    path.write_text(json.dumps({**good, "quantised": {"8": 90.0}, **changes}))
    with pytest.raises(EvaluationError, match=re.escape(message)):
        read_evaluation(path)


@pytest.mark.parametrize(
    "provenance",
    [
        {"export": {"measured_on": "", "accuracy": {"folded": 0.5, "quantised": 0.5}}},
        {"export": {"measured_on": "5 images", "accuracy": {"folded": 2.8, "quantised": -1}}},
        {"export": {"measured_on": 7, "accuracy": {"folded": "high", "quantised": 0.5}}},
        {"export": {"measured_on": "² images", "accuracy": None}, "results": {"test": "all"}},
        {"export": None, "results": {"test": {"spike": "high", "both": []}}},
    ],
)
def test_odd_provenance_shows_no_accuracy(provenance: dict[str, Any]) -> None:
    network = replace(random_network(18), provenance=provenance)
    assert len(accuracy_steps(network, None, None)) in (0, 2)


def test_errors_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = random_network(18)
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    other = tmp_path / "other.json"
    other.write_text("[]")
    for options, message in (
        (["--neuron", "layer1"], "write it as layer:channel,row,column, for example"),
        (["--neuron", "fc:0,0,0"], "no firing layer 'fc': use one of layer1, layer2"),
        (["--neuron", "layer1:0,99,0"], "no neuron (0, 99, 0): channel, row and column are below"),
        (["--evaluation", str(damaged)], "damaged.json is no JSON file"),
        (
            ["--evaluation", str(other)],
            "is no evaluation: it is no JSON object; python -m sw.evaluate --json > F",
        ),
        (["--evaluation", str(tmp_path / "none")], "none cannot be read: No such file"),
        (["--for", "de10"], "unknown board 'de10': did you mean 'de10-nano'?"),
        (["--data-dir", "nowhere"], "--data-dir nowhere: name the data set in it with --data"),
        (["-o", str(tmp_path / "no" / "page.html")], "page.html cannot be written"),
    ):
        code, _ = written(tmp_path, network, *options)
        assert code == command.EXIT_BAD_INPUT, message
        assert message in capsys.readouterr().err
    assert main(["."]) == command.EXIT_BAD_INPUT
    assert ". cannot be read: Is a directory" in capsys.readouterr().err
    assert main([str(tmp_path / "none.spikefold")]) == command.EXIT_BAD_INPUT
    assert "none.spikefold cannot be read: No such file" in capsys.readouterr().err
    np.save(tmp_path / "wrong.npy", np.zeros((2, 3), np.uint8))
    wrong = ["--input", str(tmp_path / "wrong.npy"), "-o", str(tmp_path / "wrong.html")]
    assert main([str(tmp_path / "net.spikefold"), *wrong]) == command.EXIT_BAD_INPUT
    assert "wrong.npy: the network takes" in capsys.readouterr().err
    assert not (tmp_path / "wrong.html").exists()
    for options, message in (
        (["-n", "0"], "-n takes a number of at least 1"),
        (["--json", "--screenshot", "x.png"], "--screenshot needs the page: give -o, or leave"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(options)
        assert exit_info.value.code == command.EXIT_BAD_INPUT
        assert message in capsys.readouterr().err


def test_samples_that_cannot_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network(18, sums=0)
    code, path = written(tmp_path, network, n=0)
    assert code == command.EXIT_BAD_INPUT and not path.exists()
    assert "there are no images of in.npz" in capsys.readouterr().err
    images = random_input(network, np.random.default_rng(0), 1)
    split = Split(images=images, labels=np.array([0]))
    own = SimpleNamespace(test=split, name="own", labels=("cat", "dog"))
    monkeypatch.setattr(catalogue, "load", lambda *_, **__: own)
    assert main([str(tmp_path / "net.spikefold"), "--data", "own"]) == command.EXIT_BAD_INPUT
    assert "error: own has the classes cat, dog, the network " in capsys.readouterr().err


def test_a_board_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, path = written(tmp_path, random_network(18), "--board", str(tmp_path / "ttyUSB9"))
    assert code == command.EXIT_DEVICE and not path.exists()
    assert f"error: cannot open {tmp_path / 'ttyUSB9'}: " in capsys.readouterr().err


def test_screenshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network(18)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    picture = tmp_path / "page.png"
    code, path = written(tmp_path, network, "--screenshot", str(picture))
    assert code == command.EXIT_BAD_INPUT and path.exists() and not picture.exists()
    assert "needs one of chromium, chromium-browser" in (said := capsys.readouterr().err)
    assert f"on the PATH (Debian package chromium); the page is in {path}" in said

    browser = folder / "chromium"
    for program, message in (
        ("#!/no/such/interpreter\n", "cannot be started: No such file or directory"),
        ("#!/bin/sh\necho no display >&2\n", "made no picture and said 'no display'"),
    ):
        browser.write_text(program)
        browser.chmod(0o755)
        code, _ = written(tmp_path, network, "--screenshot", str(picture))
        assert code == command.EXIT_BAD_INPUT
        assert f"{browser} {message}; the page is in {path}" in capsys.readouterr().err

    browser.write_text(
        '#!/bin/sh\nfor a; do case "$a" in --screenshot=*) echo PNG > "${a#--screenshot=}";; esac; '
        "done\n"
    )
    code, _ = written(tmp_path, network, "--screenshot", str(picture))
    assert code == command.EXIT_OK and picture.read_text() == "PNG\n"
    code, _ = written(tmp_path, network, "--screenshot", str(tmp_path / "no" / "page.png"))
    assert code == command.EXIT_BAD_INPUT
    assert "page.png cannot be written" in capsys.readouterr().err

    browser.write_text("#!/bin/sh\nexec sleep 9\n")
    sleep = Path("/bin/sleep")
    (folder / "sleep").symlink_to(sleep)
    monkeypatch.setattr(screenshot, "SCREENSHOT_TIMEOUT_S", 0.1)
    code, _ = written(tmp_path, network, "--screenshot", str(picture))
    assert code == command.EXIT_BAD_INPUT
    assert "made no picture within 0.1 s" in capsys.readouterr().err


def test_a_network_of_other_data_is_not_shown_on_the_shipped_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = dataclasses.replace(random_network(18), provenance={"data": {"name": "nmnist"}})
    netfile.save(tmp_path / "net.spikefold", network)
    words = [str(tmp_path / "net.spikefold"), "-o", str(tmp_path / "page.html")]
    assert main(words) == command.EXIT_OK
    message = capsys.readouterr().err
    assert "note: without spikes and accuracy, because the network is for 'nmnist'" in message
    assert "--data nmnist or --input FILE" in message


def test_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "observe", interrupt)
    code, path = written(tmp_path, random_network(18))
    assert code == command.EXIT_INTERRUPTED and not path.exists()
    assert "interrupted, nothing was written" in capsys.readouterr().err
