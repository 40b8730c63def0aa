from __future__ import annotations

import gzip
import hashlib
import io
import struct
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sw import shipped
from sw.data import catalogue, fashion_mnist, files, source
from sw.data.dataset import DataError, Dataset, spread
from tests.damage import damaged_arrays

N_TRAIN, N_TEST = 80, 20


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (N_TRAIN, 28, 28), np.uint8),
        "y_train": rng.permutation(np.arange(N_TRAIN) % 10).astype(np.uint8),
        "x_test": rng.integers(0, 256, (N_TEST, 28, 28), np.uint8),
        "y_test": (np.arange(N_TEST) % 10).astype(np.uint8),
    }


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for key, (name, _) in fashion_mnist.IDX_FILES.items():
        raw = idx(arrays()[key])
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(raw) if packed else raw)


def write_npz(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / fashion_mnist.NPZ_NAME, **arrays())


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the data sets of this machine, and make every download fail."""
    monkeypatch.delenv(source.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    debian = ((tmp_path / "debian", "Debian package dataset-fashion-mnist"),)
    known = replace(fashion_mnist.SOURCE, places=debian)
    monkeypatch.setitem(catalogue.SOURCES, "fashion-mnist", known)

    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(files.urllib.request, "urlopen", refuse)


def assert_is_ours(dataset: Dataset) -> None:
    a = arrays()
    np.testing.assert_array_equal(dataset.test.images[:, 0], a["x_test"])
    np.testing.assert_array_equal(dataset.test.labels, a["y_test"])
    assert dataset.train.images.shape == (N_TRAIN - 20, 1, 28, 28)
    assert len(dataset.validation) == 20


def test_all_forms_are_the_same_data(tmp_path: Path) -> None:
    write_idx(tmp_path / "raw", packed=False)
    write_idx(tmp_path / "gz", packed=True)
    write_npz(tmp_path / "npz")
    found = [catalogue.load(tmp_path / form, n_validation=20) for form in ("raw", "gz", "npz")]
    for dataset in found:
        assert_is_ours(dataset)
    assert len({dataset.sha256 for dataset in found}) == 1
    wanted = hashlib.sha256(b"".join(arrays()[key].tobytes() for key in fashion_mnist.IDX_FILES))
    assert found[0].sha256 == wanted.hexdigest()


def found(data_dir: Path | None = None) -> Path:
    return source.find(catalogue.SOURCES["fashion-mnist"], data_dir)


def test_places_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {
        "cache": source.cache_dir("fashion-mnist"),
        "debian": tmp_path / "debian",
        "variable": tmp_path / "variable",
        "named": tmp_path / "named",
    }
    assert source.cache_dir("fashion-mnist") == tmp_path / "cache" / "spikefold" / "fashion-mnist"
    write_idx(places["cache"], packed=True)
    assert found() == places["cache"]
    write_idx(places["debian"], packed=True)
    assert found() == places["debian"]
    write_npz(places["variable"])
    monkeypatch.setenv(source.DATA_DIR_VARIABLE, str(places["variable"]))
    assert found() == places["variable"]
    write_npz(places["named"])
    assert found(places["named"]) == places["named"]
    within = tmp_path / "all" / "fashion-mnist"  # a folder that may hold other data sets, too
    write_npz(within)
    assert found(within.parent) == within


def test_a_named_folder_without_data_is_an_error_not_a_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder given.*train-images-idx3-ubyte"):
        catalogue.load(tmp_path)


def test_nothing_found_lists_the_places(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        catalogue.load()
    for part in ("debian", "dataset-fashion-mnist", "cache", "no network", "--data-dir"):
        assert part in str(caught.value)


def served(monkeypatch: pytest.MonkeyPatch, damage: bool = False) -> list[str]:
    """Answer downloads with test data instead of using the internet; return the list to which the
    requested addresses are added.

    With ``damage``, one of the files lacks its last byte.
    """
    asked: list[str] = []
    packed = {
        name: gzip.compress(idx(arrays()[key]))
        for key, (name, _) in fashion_mnist.IDX_FILES.items()
    }
    monkeypatch.setattr(
        fashion_mnist,
        "IDX_FILES",
        {
            key: (name, hashlib.md5(packed[name]).hexdigest())
            for key, (name, _) in fashion_mnist.IDX_FILES.items()
        },
    )

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        raw = packed[url.removeprefix(fashion_mnist.URL).removesuffix(".gz")]
        return io.BytesIO(raw[:-1] if damage and "t10k-labels" in url else raw)

    monkeypatch.setattr(files.urllib.request, "urlopen", urlopen)
    return asked


def test_download_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = served(monkeypatch)
    assert_is_ours(catalogue.load(n_validation=20))
    assert len(asked) == 4
    assert_is_ours(catalogue.load(n_validation=20))
    assert len(asked) == 4
    assert all(path.suffix == ".gz" for path in source.cache_dir("fashion-mnist").iterdir())


def test_a_damaged_download_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, damage=True)
    with pytest.raises(DataError, match="MD5"):
        catalogue.load(n_validation=20)
    left = {path.name for path in source.cache_dir("fashion-mnist").iterdir()}
    assert left == {f"{name}.gz" for name, _ in fashion_mnist.IDX_FILES.values()} - {
        "t10k-labels-idx1-ubyte.gz"
    }


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-5], "truncated"),
        (lambda raw: raw[:6], "no IDX file"),
        (lambda raw: b"\0\0\x09" + raw[3:], "no IDX file"),
        (lambda raw: b"", "no IDX file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage, message: str) -> None:
    write_idx(tmp_path, packed=False)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path.name}.*{message}"):
        catalogue.load(tmp_path, n_validation=20)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "gz", packed=True)
    path = tmp_path / "gz" / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for raw in (whole[:-9], whole[:10] + b"\xff" * 20 + whole[30:], b"hello"):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=rf"{path.name} cannot be read: \S"):
            catalogue.load(tmp_path / "gz", n_validation=20)
    write_npz(tmp_path / "npz")
    path = tmp_path / "npz" / fashion_mnist.NPZ_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged"):
        catalogue.load(tmp_path / "npz", n_validation=20)
    np.savez(path, x_train=np.zeros(3))
    with pytest.raises(DataError, match="npz is incomplete: it lacks 'y_train'"):
        catalogue.load(tmp_path / "npz", n_validation=20)
    for raw in damaged_arrays():
        path.write_bytes(raw)
        with pytest.raises(DataError, match=rf"{path.name} is damaged or something else: \S"):
            catalogue.load(tmp_path / "npz", n_validation=20)


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    whole = arrays()
    narrow = {**whole, "x_train": whole["x_train"][:, :27]}
    np.savez(tmp_path / fashion_mnist.NPZ_NAME, **narrow)
    with pytest.raises(DataError, match=r"expected uint8 \(N, 28, 28\)"):
        catalogue.load(tmp_path, n_validation=20)


def test_split_is_stratified_disjoint_and_the_same_every_time(tmp_path: Path) -> None:
    write_npz(tmp_path)
    first, second = (catalogue.load(tmp_path, n_validation=20) for _ in range(2))
    assert np.bincount(first.validation.labels).tolist() == [2] * 10
    np.testing.assert_array_equal(first.validation.images, second.validation.images)
    images = np.concatenate([first.train.images, first.validation.images])
    assert len({image.tobytes() for image in images}) == N_TRAIN
    for n in (0, 15, 80):
        with pytest.raises(DataError, match=f"{n} validation images"):
            catalogue.load(tmp_path, n_validation=n)


def test_spread() -> None:
    assert spread(3, 10).tolist() == [0, 1, 2]
    assert spread(100, 4).tolist() == [0, 33, 66, 99]


def test_samples_come_with_the_repository() -> None:
    samples = catalogue.load_samples()
    assert samples.images.shape == (200, 1, 28, 28)
    assert samples.images.dtype == samples.labels.dtype == np.uint8
    assert samples.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    licence = (shipped.SAMPLES.parent / "README.md").read_text()
    assert "MIT License" in licence and "Zalando" in licence
