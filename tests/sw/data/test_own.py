"""Tests of the forms of a user's own data: which are recognised, and how others are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sw.cli import train
from sw.data import catalogue, labels, own
from sw.data.dataset import DataError, Dataset, Parts, Split, assemble
from sw.data.files import IMAGE_SUFFIXES

N = 40
CLASSES = np.arange(N) % 4


def load(tmp_path: Path, **arrays: Any) -> Dataset:
    np.savez(tmp_path / "mine.npz", **arrays)
    return catalogue.load(name=str(tmp_path / "mine.npz"))


def both(images: Any, classes: Any) -> dict[str, Any]:
    """Return the arrays of a data set that uses the same samples for training and testing."""
    return {"x_train": images, "y_train": classes, "x_test": images, "y_test": classes}


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (N, *shape), np.uint8)


COLOURS = pixels(3, 9, 8)
FRAMES = pixels(5, 2, 9, 8) % 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (COLOURS, COLOURS),
        (COLOURS.transpose(0, 2, 3, 1), COLOURS),
        (COLOURS[:, 0], COLOURS[:, :1]),
        (COLOURS[:, :1].transpose(0, 2, 3, 1), COLOURS[:, :1]),
        (np.insert(COLOURS, 3, 255, axis=1).transpose(0, 2, 3, 1), COLOURS),
        (COLOURS / np.float32(255), COLOURS),
        (COLOURS.astype(np.int64), COLOURS),
        (COLOURS.astype(np.float64), COLOURS),
        (COLOURS > 99, 255 * (COLOURS > 99)),
        (pixels(2, 1, 64), pixels(2, 1, 64)),
        (FRAMES.transpose(0, 1, 3, 4, 2).astype(np.float32), FRAMES),
    ],
)  # fmt: skip
def test_images_of_any_form_are_the_same(
    given: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    found = load(tmp_path, **both(given, CLASSES))
    assert found.test.images.dtype == np.uint8
    np.testing.assert_array_equal(found.test.images, expected)


def test_what_was_converted_is_said(tmp_path: Path) -> None:
    given = COLOURS.transpose(0, 2, 3, 1) / np.float32(255)
    found = load(tmp_path, x_train=given, y_train=CLASSES)
    assert found.form == (
        ".npz file, channels last, floats from 0 to 1, a fifth of each class for testing"
    )
    assert found.record()["path"] == str(tmp_path / "mine.npz") and found.record()["own"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (COLOURS.reshape(N, -1), "samples are flat, (40, 216): reshape them to images (N, H, W)"),
        (COLOURS / 127.5 - 1, "values from -1 to 1; use pixels from 0 to 255, or from 0 to 1"),
        (COLOURS / 0.7, "scale them to uint8 pixels from 0 to 255"),
        (COLOURS.astype(np.uint16) * 16, "(x / 4095 * 255).astype('uint8')"),
        (COLOURS.astype(np.uint16) * 257, "(x / 65535 * 255).astype('uint8')"),
        (COLOURS / 127.5 - 1, "for example np.clip((x - (-1)) / 2, 0, 1)"),
        (np.where(COLOURS > 9, COLOURS / 255.0, np.nan), "not finite (nan or inf): leave these"),
        (np.where(COLOURS > 9, COLOURS / 255.0, -np.inf), "not finite (nan or inf): leave these"),
        (pixels(9, 8, 4), "the last is not 255 everywhere: if it is transparency, flatten"),
        (pixels(5, 2, 9, 8), "frames hold values up to 255, expected 0 and 1 only (for example x"),
        (np.array(["a"] * N).reshape(N, 1, 1), "images are <U1: use uint8 pixels from 0 to 255"),
        (COLOURS[:, None, None], "samples of shape (40, 1, 1, 3, 9, 8), expected (N, H, W)"),
        (np.array([[[{}]]] * N, object), "holds an array of Python objects"),
    ],
)
def test_images_that_mean_nothing_certain_are_refused(
    images: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, **both(images, CLASSES))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (CLASSES, ("class 0", "class 1", "class 2", "class 3")),
        (CLASSES + 1, ("class 1", "class 2", "class 3", "class 4")),
        (CLASSES[:, None], ("class 0", "class 1", "class 2", "class 3")),
        (CLASSES.astype(float), ("class 0", "class 1", "class 2", "class 3")),
        (np.eye(4)[CLASSES], ("class 0", "class 1", "class 2", "class 3")),
        (np.array(["a", "b", "c", "d"])[CLASSES], ("a", "b", "c", "d")),
        (np.array([b"a", b"b", b"c", b"d"])[CLASSES], ("a", "b", "c", "d")),
        (2 * CLASSES - 3, ("class -3", "class -1", "class 1", "class 3")),
    ],
)
def test_labels_of_any_form_are_classes(
    given: np.ndarray, names: tuple[str, ...], tmp_path: Path
) -> None:
    found = load(tmp_path, **both(COLOURS, given))
    assert found.labels == names
    np.testing.assert_array_equal(found.test.labels, CLASSES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (CLASSES * 0 + 5, "all labels are 5; a network needs at least two classes to tell apart"),
        (CLASSES / 3, "labels are whole numbers, names (text), or rows with a single 1 (one-hot)"),
        (np.full((N, 4), 0.25), "the rows of shape (40, 4) are something else"),
        (np.zeros((N, 2, 2)), "one for each sample, not an array of shape (40, 2, 2)"),
        (np.where(CLASSES < 3, CLASSES, np.nan), "labels are whole numbers"),
        (np.arange(N), "'class 0' has 1 training samples; every class needs at least 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    given: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, **both(COLOURS, given))
    assert message in str(error.value)


def test_a_class_that_is_only_tested_is_named(tmp_path: Path) -> None:
    arrays = both(COLOURS, CLASSES) | {"y_test": CLASSES + 1}
    with pytest.raises(DataError, match="test data has samples of 'class 4', training data has no"):
        load(tmp_path, **arrays)


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
    ],
)
def test_arrays_are_found_by_their_usual_names(names: tuple[str, ...], tmp_path: Path) -> None:
    parts = [array for n in (40, 8, 12) for array in (COLOURS[:n], CLASSES[:n])]
    found = load(tmp_path, **dict(zip(names, parts, strict=True)))
    assert [len(s) for s in (found.train, found.validation, found.test)] == [40, 8, 12]


def test_parts_without_samples(tmp_path: Path) -> None:
    found = load(tmp_path, data=COLOURS, target=CLASSES)
    assert len(found.train) == 28
    for n, message in ((0, "there are no test samples"), (3, "3 test samples, 0 labels")):
        with pytest.raises(DataError, match=message):
            load(tmp_path, x=COLOURS, y=CLASSES, x_test=COLOURS[:n], y_test=CLASSES[:0])


def test_data_without_a_test_part_are_divided_always_alike(tmp_path: Path) -> None:
    found = load(tmp_path, images=COLOURS, labels=CLASSES)
    again = load(tmp_path, x=COLOURS, y=CLASSES)
    assert found.sha256 == again.sha256
    assert np.bincount(found.test.labels).tolist() == [2] * 4
    assert [len(s) for s in (found.train, found.validation)] == [28, 4]
    everything = np.concatenate([s.images for s in (found.train, found.validation, found.test)])
    assert len(np.unique(everything, axis=0)) == N
    with pytest.raises(DataError, match="several arrays that could be 'y'"):
        load(tmp_path, x=COLOURS, labels=CLASSES, y=CLASSES)
    with pytest.raises(DataError, match="'class 3' has 2 training samples; every class needs at "):
        load(tmp_path, x=COLOURS[:36], y=np.minimum(np.arange(36) // 10, 2) + (np.arange(36) > 33))


@pytest.fixture
def image() -> Any:
    return pytest.importorskip("PIL.Image", reason="pip install 'spikefold[train]'")


def draw(image: Any, folder: Path, *parts: str, n: int = 5) -> None:
    for part in parts:
        for value, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                image.new("RGB", (7, 6), (value, i, 9)).save(folder / part / name / f"{i}.png")


def test_a_flat_folder_of_classes_is_divided(image: Any, tmp_path: Path) -> None:
    draw(image, tmp_path, "")
    (tmp_path / ".git").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_text("a stray first file")
    (tmp_path / "dog" / "Thumbs.db").write_text("another")
    found = catalogue.load(name=str(tmp_path))
    assert found.labels == ("cat", "dog") and found.form.startswith("folders of images, a fifth")
    assert [len(s) for s in (found.train, found.validation, found.test)] == [6, 2, 2]
    assert found.sha256 == catalogue.load(name=str(tmp_path)).sha256


def test_folders_of_parts_have_usual_names(image: Any, tmp_path: Path) -> None:
    draw(image, tmp_path, "Train", "val", "test")
    found = catalogue.load(name=str(tmp_path))
    assert [len(s) for s in (found.train, found.validation, found.test)] == [10, 10, 10]


def test_files_that_do_not_belong_are_named(image: Any, tmp_path: Path) -> None:
    draw(image, tmp_path, "train", "test")
    stray = tmp_path / "train" / "cat" / "0.txt"
    stray.write_text("notes")
    with pytest.raises(DataError, match=r"cat/0\.txt is neither an image .* move it out of"):
        catalogue.load(name=str(tmp_path))
    stray.rename(stray.with_suffix(".npy"))
    with pytest.raises(DataError, match=r"0\.npy a recording: a data set has files of one kind"):
        catalogue.load(name=str(tmp_path))
    stray.with_suffix(".npy").unlink()
    image.new("RGB", (9, 6)).save(tmp_path / "test" / "dog" / "4.png")
    with pytest.raises(DataError, match=r"dog/4\.png has 9 x 6 pixels, .*cat/0\.png has 7 x 6: im"):
        catalogue.load(name=str(tmp_path))
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(DataError, match=r"file\.txt is no \.npz file and no folder"):
        catalogue.load(name=str(tmp_path / "file.txt"))


def test_16_bits_are_scaled_and_transparency_is_refused(image: Any, tmp_path: Path) -> None:
    draw(image, tmp_path, "")
    for name in ("cat", "dog"):
        for i in range(5):
            grey = np.full((6, 7), 1000 * (i + 1) + 20_000 * (name == "dog"), np.uint16)
            image.fromarray(grey).save(tmp_path / name / f"{i}.png")
    found = catalogue.load(name=str(tmp_path))
    everything = np.concatenate([s.images for s in (found.train, found.validation, found.test)])
    assert sorted({int(i.max()) for i in everything}) == [
        round((1000 * (i + 1) + more) / 257) for more in (0, 20_000) for i in range(5)
    ]
    image.new("RGBA", (7, 6), (1, 2, 3, 255)).save(tmp_path / "cat" / "0.png")
    catalogue.load(name=str(tmp_path))
    image.new("RGBA", (7, 6), (1, 2, 3, 99)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(DataError, match=r"cat/0\.png: it is transparent in places: flatten it"):
        catalogue.load(name=str(tmp_path))


def test_every_part_of_a_data_set_is_checked() -> None:
    good = Split(images=COLOURS, labels=CLASSES)
    for part in (
        Split(images=COLOURS, labels=CLASSES + 1),
        Split(images=COLOURS[:, :1], labels=CLASSES),
        Split(images=COLOURS[:3], labels=CLASSES),
        Split(images=COLOURS[:0], labels=CLASSES[:0]),
    ):
        with pytest.raises(DataError, match=r"name: .*validation"):
            assemble(Parts(train=good, test=good, validation=part), "name", "abcd", "place")
    with pytest.raises(DataError, match="no training samples of 'e': every class needs some"):
        assemble(Parts(train=good, test=good, n_validation=5), "name", "abcde", "place")


def test_classes_are_matched_by_their_names() -> None:
    assert labels.as_named(np.array([0, 1]), ("b", "c"), ("a", "b", "c")) is not None
    found = labels.as_named(np.array([0, 1]), ("b", "c"), ("a", "b", "c"))
    assert found is not None and found.tolist() == [1, 2]
    found = labels.as_named(np.array([0, 1]), ("class 0", "class 1"), ("cat", "dog"))
    assert found is not None and found.tolist() == [0, 1]
    assert labels.as_named(np.array([0, 1]), ("dog", "cow"), ("cat", "dog")) is None
    assert labels.as_named(np.array([0, 1]), ("class 0", "class 1"), ("a", "b", "c")) is None


def test_the_document_lists_what_is_read() -> None:
    document = (Path(__file__).parents[3] / "docs" / "learning.md").read_text()
    arrays = set(re.findall(r"\b[xy]_\w+|\btrain_\w+", own.FILES))
    assert {"x_train", "y_test", "train_labels"} <= arrays
    for name in (*arrays, *IMAGE_SUFFIXES, "val/CLASS/", "test/CLASS/", "(N, H, W, C)"):
        assert name in document
    assert " ".join(own.FILES.split()) in " ".join(train.parser().format_help().split())
