"""Tests of samples from files and pipes: images, recordings, labels and streams."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sw.data import events, inputs
from sw.data.labels import default_names
from sw.data.samples import as_classes, as_input
from sw.network.encoder import InputError
from tests import recordings
from tests.damage import damaged_arrays


@pytest.fixture
def image() -> Any:
    return pytest.importorskip("PIL.Image", reason="pip install 'spikefold[train]'")


def of_images(n_channels: int = 1) -> Any:
    """Return a stand-in for a network for images, with the properties that reading samples uses."""
    shape = (n_channels, 6, 8)
    names = default_names(10)
    return SimpleNamespace(encoder="a layer", image_shape=shape, timesteps=3, labels=names)


def of_events(shape: tuple[int, int, int] = (2, 6, 8)) -> Any:
    return SimpleNamespace(encoder=None, image_shape=shape, timesteps=3)


def recording() -> Any:
    rng = np.random.default_rng(1)
    t = np.sort(rng.integers(0, 30_000, 200))
    return events.make(t, rng.integers(0, 8, 200), rng.integers(0, 6, 200), t % 2)


def test_images_are_scaled_and_have_the_networks_channels(image: Any, tmp_path: Path) -> None:
    image.fromarray(np.full((30, 40), 77, np.uint8)).save(tmp_path / "grey.png")
    colours = np.zeros((6, 8, 3), np.uint8)
    colours[..., 2] = 200
    image.fromarray(colours).save(tmp_path / "blue.png")
    paths = [tmp_path / "grey.png", tmp_path / "blue.png"]
    found, labels = inputs.read(paths, of_images(3))
    assert found.shape == (2, 3, 6, 8) and labels is None
    assert (found[0] == 77).all() and (found[1, 2] == 200).all() and not found[1, :2].any()
    assert inputs.read(paths, of_images(1))[0].shape == (2, 1, 6, 8)


def test_recordings_become_frames(tmp_path: Path) -> None:
    events_ = recording()
    np.save(tmp_path / "fields.npy", events_)
    np.savez(tmp_path / "arrays.npz", **{name: events_[name] for name in "txyp"})
    expected = events.frames(events_, 3, (6, 8))
    found, _ = inputs.read([tmp_path / "fields.npy", tmp_path / "arrays.npz"], of_events())
    np.testing.assert_array_equal(found, np.stack([expected, expected]))
    smaller = of_events((2, 3, 4))
    found, _ = inputs.read([tmp_path / "fields.npy"], smaller, (6, 8))
    np.testing.assert_array_equal(found[0], events.frames(events_, 3, (3, 4), (6, 8)))


def test_recordings_are_known_by_their_first_bytes_and_described(tmp_path: Path) -> None:
    few = events.make([0, 1_500_000], [2, 7], [5, 0], [1, 0])
    chip = "eu.seebetter.ini.chips.davis.DAVIS240C"
    (tmp_path / "a.rec").write_bytes(recordings.aedat2(few, chip))
    told: list[str] = []
    found, _ = inputs.read([tmp_path / "a.rec"], of_events(), tell=told.append)
    # The file says how large the sensor is, so that positions are scaled to the network's input.
    np.testing.assert_array_equal(found[0], events.frames(few, 3, (6, 8), (180, 240)))
    assert told == [
        "1 recording, AEDAT 2.0 of a DAVIS240: sensor 180 x 240 (height x width), 2 events in "
        "1.5 s, times in microseconds"
    ]
    given, _ = inputs.read([tmp_path / "a.rec"], of_events(), (6, 8))
    np.testing.assert_array_equal(given[0], events.frames(few, 3, (6, 8)))


def test_labels_of_some_files_are_none(tmp_path: Path) -> None:
    images = np.zeros((2, 1, 6, 8), np.uint8)
    np.savez(tmp_path / "with.npz", images=images, labels=[1, 2])
    np.save(tmp_path / "without.npy", images)
    network = of_images()
    _, labels = inputs.read([tmp_path / "with.npz", tmp_path / "with.npz"], network)
    assert labels is not None and labels.tolist() == [1, 2, 1, 2]
    assert inputs.read([tmp_path / "with.npz", tmp_path / "without.npy"], network)[1] is None


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [(["a", "b"], "a"), ([9, 10], "10"), ([0, -1], "-1"), ([1.5, 2], "1.5"), ([0, np.nan], "nan")],
)
def test_labels_that_are_no_classes(labels: list[Any], wrong: str, tmp_path: Path) -> None:
    images = np.zeros((2, 1, 6, 8), np.uint8)
    np.savez(tmp_path / "in.npz", images=images, labels=labels)
    with pytest.raises(InputError) as caught:
        inputs.read([tmp_path / "in.npz"], of_images())
    assert "in.npz: labels are whole numbers from 0 to 9, the net" in str(caught.value)
    assert str(caught.value).endswith(f"not {wrong}")


PIXELS = np.random.default_rng(1).integers(0, 256, (2, 3, 6, 8), np.uint8)
GREY = PIXELS[:, :1]
FRAMES = np.random.default_rng(1).integers(0, 2, (2, 3, 2, 6, 8), np.uint8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS[0], PIXELS[:1]),
        (PIXELS.transpose(0, 2, 3, 1), PIXELS),
        (PIXELS[0].transpose(1, 2, 0), PIXELS[:1]),
        (PIXELS.reshape(2, -1), PIXELS),
        (PIXELS[0].reshape(-1), PIXELS[:1]),
        (PIXELS / np.float32(255), PIXELS),
        (GREY, GREY),
        (GREY[:, 0], GREY),
        (GREY[0, 0], GREY[:1]),
        (GREY[..., None], GREY),
        (GREY.reshape(2, 48), GREY),
        (FRAMES, FRAMES),
        (FRAMES[0], FRAMES[:1]),
        (FRAMES.reshape(2, -1).astype(bool), FRAMES),
        (FRAMES.transpose(0, 1, 3, 4, 2).astype(float), FRAMES),
    ],
)
def test_samples_of_any_shape_that_means_one_thing(given: Any, expected: Any) -> None:
    frames = expected.ndim == 5
    found = as_input(given, expected.shape[1:], "x", frames=frames)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 6, 8), (2, 143), (144, 2), (1, 2, 3, 6, 8)])
def test_samples_of_shapes_that_mean_something_else(shape: tuple[int, ...]) -> None:
    given = np.zeros(shape, np.uint8)
    assert as_input(given, (3, 6, 8), "x", frames=False) is given


def test_samples_may_be_flat_and_labels_may_be_names(tmp_path: Path) -> None:
    network = of_images()
    network.labels = ("cat", "class 7")
    np.savez(tmp_path / "in.npz", images=GREY.reshape(2, 48), labels=["class 7", "cat"])
    found, labels = inputs.read([tmp_path / "in.npz"], network)
    np.testing.assert_array_equal(found, GREY)
    assert labels is not None and labels.tolist() == [1, 0]
    assert as_classes(np.array([7, 7]), network.labels).tolist() == [1, 1]
    assert as_classes(np.array([0, 1]), network.labels).tolist() == [0, 1]
    assert as_classes(np.array([1, 0]), default_names(2)).tolist() == [1, 0]
    for values, message in ((GREY / 100, "scale them to uint8 pixels"), (-1.0 * GREY, "from -2")):
        np.save(tmp_path / "in.npy", values)
        with pytest.raises(InputError, match=message):
            inputs.read([tmp_path / "in.npy"], network)


def test_unsuitable_files_are_named(image: Any, tmp_path: Path) -> None:
    image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "one.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes()[:40])
    (tmp_path / "odd.bin").write_bytes(b"1234567")
    np.save(tmp_path / "far.npy", events.make([1, 2], [3, 90], [1, 1], [0, 1]))
    np.save(tmp_path / "events.npy", recording())
    for name, network, message in (
        ("one.png", of_events(), "is an image; the network takes spikes"),
        ("one.png", of_images(2), "is an image; the network takes 2 channels"),
        ("torn.png", of_images(), "torn.png: no image"),
        ("gone.png", of_images(), "gone.png cannot be read: No such file or directory"),
        ("one.txt", of_images(), "inputs end in .npy, .npz, .png"),
        ("events.npy", of_images(), "is an event recording, for networks that take frames"),
        ("odd.bin", of_events(), "7 bytes are not whole events of 5"),
        ("far.npy", of_events(), "the sensor is 6 x 8. Name its height and width with --sensor"),
    ):
        with pytest.raises(InputError) as caught:
            inputs.read([tmp_path / name], network)
        assert message in str(caught.value)
    for raw in damaged_arrays():
        (tmp_path / "damaged.npz").write_bytes(raw)
        with pytest.raises(InputError, match=r"damaged\.npz is no \.npy or \.npz file of plain"):
            inputs.read([tmp_path / "damaged.npz"], of_images())
    with pytest.raises(InputError, match="no file was named"):
        inputs.read([], of_images())


def test_stream_gives_samples_as_they_come() -> None:
    network = of_images()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", 0) as sink:
        samples = inputs.stream(source, network)
        assert next(samples) is None, "there is none yet"
        sink.write(bytes(range(48)))
        first = next(sample for sample in samples if sample is not None)
        assert first.shape == (1, 6, 8) and first.ravel().tolist() == list(range(48))
        sink.write(b"x" * 20)
        sink.close()
        with pytest.raises(
            InputError, match=r"ends within sample 1: 20 of 48 bytes \(uint8 \(1, 6"
        ):
            list(samples)


def test_stream_of_spikes_takes_nothing_else() -> None:
    network = of_events()
    assert inputs.sample_shape(network) == (3, 2, 6, 8)
    samples = inputs.stream(io.BytesIO(b"\1" * 288 + b"\2" * 288), network)
    assert next(sample for sample in samples if sample is not None).all()
    with pytest.raises(InputError, match="the values must be 0 or 1, the largest is 2"):
        next(sample for sample in samples if sample is not None)


def test_a_source_that_cannot_be_read_ends_the_stream(tmp_path: Path) -> None:
    source = SimpleNamespace(read=lambda _: os.read(folder, 1))
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InputError, match=r"the input cannot be read: .*Is a directory"):
        for _, sample in zip(range(500), inputs.stream(source, of_images()), strict=False):  # type: ignore[arg-type]
            assert sample is None
    os.close(folder)


def test_images_without_pillow_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    path = tmp_path / "shirt.png"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="need Pillow: pip install pillow"):
        inputs.read([path], of_images())
