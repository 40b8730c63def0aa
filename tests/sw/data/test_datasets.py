from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sw.data import catalogue, cifar10, dataset, events, source
from sw.data.dataset import DataError, split
from tests import recordings


def recording(rng: np.random.Generator, n: int = 40, size: int = 34) -> np.ndarray:
    times = np.sort(rng.integers(0, 100_000, n))
    return events.make(times, *rng.integers(0, size, (2, n)), rng.integers(0, 2, n))


def write_bin(path: Path, found: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = bytearray()
    for event in found:
        t = int(event["t"])
        raw += bytes(
            [event["x"], event["y"], int(event["p"]) << 7 | t >> 16, t >> 8 & 255, t & 255]
        )
    path.write_bytes(bytes(raw))


def test_nmnist_in_both_forms_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    packed: dict[str, np.ndarray] = {}
    for part, n in (("train", 60), ("test", 20)):
        found = [recording(rng) for _ in range(n)]
        labels = np.arange(n) % 10
        for i, (sample, label) in enumerate(zip(found, labels, strict=True)):
            write_bin(tmp_path / "files" / part.title() / str(label) / f"{i:05}.bin", sample)
        order = np.argsort(labels, kind="stable")
        ordered = [found[i] for i in order]
        packed |= {
            f"{part}_{key}": np.concatenate([sample[key] for sample in ordered]) for key in "xyp"
        }
        gaps = [np.diff(sample["t"], prepend=0) for sample in ordered]
        packed[f"{part}_dt"] = np.concatenate(gaps).astype(np.uint32)
        packed[f"{part}_offsets"] = np.cumsum([0, *map(len, ordered)])
        packed[f"{part}_labels"] = labels[order]
    (tmp_path / "packed").mkdir()
    np.savez(tmp_path / "packed" / "nmnist_small.npz", **packed)
    small = catalogue.load(tmp_path / "packed", name="nmnist", timesteps=3)
    assert small.train.images.shape == (50, 3, 2, 34, 34) and len(small.validation) == 10
    assert "subset" in small.note and "60 training" in small.note
    monkeypatch.setattr(dataset, "split", lambda labels, n: split(labels, 10))
    files = catalogue.load(tmp_path / "files", name="nmnist", timesteps=3)
    assert files.sha256 == small.sha256 and not files.note
    np.testing.assert_array_equal(files.test.images, small.test.images)


def test_gesture(tmp_path: Path) -> None:
    header = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"
    for name in ("user01_led.aedat", "user02_led.aedat"):
        rows = b"".join(struct.pack("<II", (n * 9) << 17 | 4 << 2 | 1, n * 100) for n in range(12))
        (tmp_path / name).write_bytes(
            header + struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, 12, 12, 12) + rows
        )
        lines = ["class,startTime_usec,endTime_usec"]
        lines += [f"{c},{100 * (c - 1)},{100 * c}" for c in range(1, 12) for _ in range(2)]
        (tmp_path / name).with_name(name[:-6] + "_labels.csv").write_text("\n".join(lines))
    (tmp_path / "trials_to_train.txt").write_text("user01_led.aedat\n")
    (tmp_path / "trials_to_test.txt").write_text("user02_led.aedat\n\n")
    found = catalogue.load(tmp_path, name="dvs-gesture", timesteps=2)
    assert len(found.train) == len(found.validation) == 11 and len(found.test) == 22
    assert found.test.images.shape[1:] == (2, 2, 128, 128)
    assert len(found.labels) == 11
    for image, label in zip(found.test.images, found.test.labels, strict=True):
        assert np.argwhere(image).tolist() == [[0, 0, 4, label * 9]]
    (tmp_path / "user01_led_labels.csv").unlink()
    with pytest.raises(DataError, match="incomplete"):
        catalogue.load(tmp_path, name="dvs-gesture")


def test_cifar10_dvs_tests_with_the_last_tenth(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in cifar10.LABELS:
        (tmp_path / name).mkdir()
        for n in range(20):
            np.save(tmp_path / name / f"{n:03}.npy", recording(rng, 5, 128))
    found = catalogue.load(tmp_path, name="cifar10-dvs", timesteps=2)
    assert [len(s) for s in (found.train, found.validation, found.test)] == [170, 10, 20]
    far = recording(rng, 5, 128)
    far["x"][2] = 130
    np.save(tmp_path / "airplane" / "020.npy", far)
    with pytest.raises(DataError, match=r"airplane/020\.npy: events lie at rows .* is 128 x 128"):
        catalogue.load(tmp_path, name="cifar10-dvs", timesteps=2)
    (tmp_path / "airplane" / "020.npy").unlink()
    (tmp_path / "airplane" / "019.npy").rename(tmp_path / "airplane" / "019.NPY")
    again = catalogue.load(tmp_path, name="cifar10-dvs", timesteps=2)
    assert again.sha256 == found.sha256
    last = events.frames(events.read(tmp_path / "airplane" / "019.NPY"), 2, (128, 128))
    np.testing.assert_array_equal(found.test.images[1], last)


def cifar_files() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    found = {}
    for name in (*cifar10.TRAIN_FILES, "test_batch.bin"):
        records = rng.integers(0, 256, (20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        found[name] = records.tobytes()
    return found


def test_cifar10_is_read_and_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "split", lambda labels, n: split(labels, 10))
    files = cifar_files()
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    found = catalogue.load(tmp_path, name="cifar10")
    assert found.train.images.shape == (90, 3, 32, 32) and len(found.test) == 20
    first = np.frombuffer(files["test_batch.bin"], np.uint8)[1:3073].reshape(3, 32, 32)
    np.testing.assert_array_equal(found.test.images[0], first)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    monkeypatch.delenv(source.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar10, "fetch", lambda url, md5: packed.getvalue())
    assert catalogue.load(name="cifar10").sha256 == found.sha256

    def no_network(url: str, md5: str) -> bytes:
        raise OSError("no network")

    monkeypatch.setattr(cifar10, "fetch", no_network)
    assert catalogue.load(name="cifar10").sha256 == found.sha256, "the cache is used"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(
        DataError, match=r"failed: no network\. Name its folder with --data-dir or in"
    ):
        catalogue.load(name="cifar10")
    message = r"nmnist is not in .*/nmnist, .* no plain download: .* or in \$SPIKEFOLD_DATA"
    with pytest.raises(DataError, match=message):
        catalogue.load(name="nmnist")


def test_jpeg_copies_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(dataset, "split", lambda labels, n: split(labels, 10))
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        encoded = []
        for n in range(20):
            buffer = io.BytesIO()
            image.new("RGB", (32, 32), (10 * n, 0, 100)).save(buffer, "png")
            encoded.append(buffer.getvalue())
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, encoded)]).astype(np.uint32)
        arrays[f"{part}_labels"] = (np.arange(20) % 10).astype(np.uint8)
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    found = catalogue.load(tmp_path, name="cifar10")
    assert "JPEG" in found.note
    assert found.test.images[7, :, 0, 0].tolist() == [70, 0, 100]


def test_own_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 4
    for shape, expected in (((9, 8), (1, 9, 8)), ((3, 9, 8), (3, 9, 8)), ((5, 2, 9, 8),) * 2):
        images = rng.integers(0, 2, (40, *shape), np.uint8)
        path = tmp_path / "mine.npz"
        np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
        found = catalogue.load(name=str(path))
        assert found.test.images.shape[1:] == expected and found.name == "mine"
        assert (len(found.train), len(found.validation)) == (36, 4)
    np.savez(path, x_train=images, y_train=labels, x_test=images[..., 1:], y_test=labels)
    message = r"training samples are \(5, 2, 9, 8\), test samples \(5, 2, 9, 7\)"
    with pytest.raises(DataError, match=message):
        catalogue.load(name=str(path))
    np.savez(path, x_train=images + 1, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(DataError, match="expected 0 and 1"):
        catalogue.load(name=str(path))
    np.savez(path, x_test=images, y_test=labels)
    with pytest.raises(DataError, match=r"holds x_test, y_test; it needs x_train and y_train"):
        catalogue.load(name=str(path))
    with pytest.raises(DataError, match="no data set 'kitten': use one of fashion-mnist, nmnist"):
        catalogue.load(name="kitten")
    with pytest.raises(DataError, match=r"no data set 'mnsit': did you mean 'nmnist'\? use one of"):
        catalogue.load(name="mnsit")
    with pytest.raises(
        DataError, match=r"mime\.npz: no such file or folder; did you mean 'mine.npz'"
    ):
        catalogue.load(name=str(tmp_path / "mime.npz"))


def test_own_idx_files(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (30, 5, 6), np.uint8)
    labels = (np.arange(30) % 3).astype(np.uint8)
    for part in ("train", "t10k"):
        raw = struct.pack(">4B3I", 0, 0, 8, 3, 30, 5, 6) + images.tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
        raw = struct.pack(">4BI", 0, 0, 8, 1, 30) + labels.tobytes()
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(raw)
    found = catalogue.load(name=str(tmp_path))
    np.testing.assert_array_equal(found.test.images[:, 0], images)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels"):
        catalogue.load(name=str(tmp_path))


def test_own_folders_of_recordings_and_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            for n in range(3):
                write_bin(tmp_path / "events" / part / label / f"{n}.bin", recording(rng, 2000))
    found = catalogue.load(name=str(tmp_path / "events"), timesteps=3)
    assert found.labels == ("cat", "dog") and found.test.images.shape == (6, 3, 2, 34, 34)
    for place in (tmp_path / "events" / "test").glob("*/*.bin"):
        place.write_bytes(bytes([5, 6, 0, 0, 1]))  # a recording that does not reach the margins
    found = catalogue.load(name=str(tmp_path / "events"), timesteps=3)
    assert found.test.images.shape == (6, 3, 2, 34, 34)
    assert found.form.startswith("folders with 12 recordings, .bin of N-MNIST: sensor of a size")
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "test"):
        for value, label in enumerate(("cat", "dog")):
            for n in range(3):
                path = tmp_path / "images" / part / label / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.new("RGB", (7, 6), (value, n, 9)).save(path)
    found = catalogue.load(name=str(tmp_path / "images"))
    assert found.test.images.shape == (6, 3, 6, 7)
    assert found.test.images[4, :, 0, 0].tolist() == [1, 1, 9]
    (tmp_path / "images" / "test" / "cat" / "0.png").write_text("hello")
    with pytest.raises(DataError, match=r"test/cat/0\.png: no image"):
        catalogue.load(name=str(tmp_path / "images"))


def test_own_recordings_have_frames_as_large_as_their_sensor(tmp_path: Path) -> None:
    few = events.make([1, 2], [3, 4], [5, 6], [0, 1])
    davis, dvs = (recordings.aedat2(few, chip) for chip in list(recordings.CHIPS)[1::-1])
    two_classes(tmp_path, davis, ".AEDAT")
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            for n in range(1, 3):
                put(tmp_path / part / label / f"{n}.Aedat", davis)
    found = catalogue.load(name=str(tmp_path), timesteps=3)
    assert found.test.images.shape == (6, 3, 2, 180, 240)
    assert "AEDAT 2.0 of a DAVIS240: sensor 180 x 240" in found.form
    put(tmp_path / "test/dog/2.Aedat", dvs)
    with pytest.raises(DataError, match=r"recordings are of several sensors: .*DVS128: sensor"):
        catalogue.load(name=str(tmp_path), timesteps=3)


def put(path: Path, raw: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def two_classes(place: Path, raw: bytes, suffix: str) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        put(place / name / f"0{suffix}", raw)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("nmnist", lambda place: place.mkdir(),
         "place (the folder given) does not hold nmnist: it needs Train and Test with a folder"),
        ("nmnist", lambda place: put(place / "nmnist_small.npz"),
         "nmnist_small.npz is damaged or something else: No data left"),
        ("nmnist", lambda place: (place.mkdir(), np.savez(place / "nmnist_small.npz", a=[1])),
         "place is incomplete: it lacks 'train_x'"),
        ("nmnist", lambda place: (put(place / "Train/0/a.bin"), put(place / "Test/0/a.bin")),
         "place is incomplete or damaged: [Errno 2] No such file"),
        ("cifar10-dvs", lambda place: [(place / c).mkdir(parents=True)
                                       for c in cifar10.LABELS],
         "place holds no recordings (.aedat, .aedat4, .bin, .dat, .raw, .h5, .hdf5, .npy, .npz)"),
        ("cifar10-dvs", lambda place: [put(place / c / "0.bin", b"odd")
                                       for c in cifar10.LABELS],
         "airplane/0.bin cannot be read as a recording: 3 bytes are not whole events of 5"),
        ("cifar10", lambda place: put(place / "data_batch_1.bin"), "data_batch_2.bin"),
        ("cifar10", lambda place: [put(place / n, bytes(3000)) for n in cifar10.TRAIN_FILES],
         "place is incomplete or damaged: cannot reshape"),
        ("mitbih", lambda place: put(place / "100.atr"), "record 101 in "),
    ],
)  # fmt: skip
def test_a_known_data_set_that_is_not_whole_is_named(
    name: str, make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "place")
    with pytest.raises(DataError) as error:
        catalogue.load(tmp_path / "place", name=name)
    assert message in str(error.value)


def own_arrays(place: Path, dtype: str = "uint8", n_labels: int = 40) -> None:
    place.mkdir()
    images, labels = np.zeros((40, 5, 5), dtype), np.arange(n_labels) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(place / "mine.npz", **arrays)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("mine.npz", lambda place: put(place / "mine.npz", b"PK"), "mine.npz is damaged or some"),
        ("mine.npz", lambda place: own_arrays(place, "complex64"),
         "mine.npz: images are complex64: use uint8 pixels from 0 to 255"),
        ("mine.npz", lambda place: own_arrays(place, n_labels=39),
         "mine.npz: 40 training samples, 39 labels"),
        ("", lambda place: [(place / "train" / c).mkdir(parents=True) for c in ("cat", "dog")],
         "train holds no files in folders cat, dog"),
        ("", lambda place: put(place / "train-images-idx3-ubyte", b"odd"), "is no IDX file"),
        ("", lambda place: place.mkdir(), "neither train-images-idx3-ubyte nor a folder train"),
        ("", lambda place: two_classes(place, b"text", ".txt"),
         "cat/0.txt is neither an image file (.png, .jpg, .jpeg, .bmp, .pgm, .ppm) nor an event"),
        ("", lambda place: two_classes(place, b"odd", ".bin"),
         "0.bin cannot be read as a recording: 3 bytes are not whole events of 5"),
    ],
)  # fmt: skip
def test_own_data_that_cannot_be_used_is_named(
    name: str, make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "place")
    with pytest.raises(DataError) as error:
        catalogue.load(name=str(tmp_path / "place" / name))
    assert message in str(error.value)


def test_what_is_no_image_is_named_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    small, large = io.BytesIO(), io.BytesIO()
    image.new("RGB", (7, 6)).save(small, "png")
    image.new("RGB", (70, 60)).save(large, "png")
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 1000)
    whole = small.getvalue()
    data_at = whole.index(b"IDAT")
    for raw, message in (
        (b"hello", "no image, or a damaged one"),
        (whole[: data_at + 10], "no image: "),
        (whole[: data_at - 4] + b"\0\0\0\5" + whole[data_at:], "no image: broken PNG file"),
        (large.getvalue(), "no image: Image size (4200 pixels) exceeds limit"),
    ):
        two_classes(tmp_path, raw, ".png")
        with pytest.raises(DataError) as error:
            catalogue.load(name=str(tmp_path))
        assert f"train/cat/0.png: {message}" in str(error.value)
        assert "object at 0x" not in str(error.value)


def test_objects_such_as_tonics(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pairs = [(recording(rng)[["x", "y", "t", "p"]], n % 2) for n in range(12)]
    options = {"labels": ("a", "b"), "timesteps": 4, "n_validation": 4}
    found = dataset.from_objects("own", pairs, pairs, sensor=(34, 34), **options)
    assert found.train.images.shape == (8, 4, 2, 34, 34)
    expected = events.frames(pairs[3][0], 4, (34, 34))
    np.testing.assert_array_equal(found.test.images[3], expected)
    counted = [(np.full((4, 2, 5, 6), n, np.int16), n % 2) for n in range(12)]
    again = dataset.from_objects("own", counted, counted, **options)
    assert again.test.images.max() == 1 and not again.test.images[0].any()
    for bad, message in (
        ([(np.zeros((3, 2, 5, 6)), 0)], "expected a recording"),
        ([*counted, (np.zeros((4, 2, 5, 7)), 0)], "differ in shape"),
        ([*counted, (np.zeros((4, 2, 5, 6)), 2)], "expected 0 to 1"),
        ([], "no samples"),
        (
            [(np.full((4, 2, 5, 6), "a"), 0)],
            r"sample 0 is <U1 \(4, 2, 5, 6\), expected a rec",
        ),
        (
            [(np.zeros((4, 2, 5, 6)), "cat")],
            "class of sample 0 is 'cat': number the classes",
        ),
        ([*counted, (np.zeros((4, 2, 5, 6)), 0.5)], "the class of sample 12 is 0.5: number the"),
    ):
        with pytest.raises(DataError, match=message):
            dataset.from_objects("own", bad, counted, **options)
    with pytest.raises(DataError, match="sensor's size"):
        dataset.from_objects("own", pairs, pairs, **options)
    nameless = np.zeros(3, [("t", float), ("x", int), ("y", int)])
    for bad, message in (
        ([*pairs, (recording(rng, size=90), 1)], "own: sample 12: events lie at rows"),
        ([(nameless, 1)], "own: sample 0: a recording is an array .* lacks p"),
    ):
        with pytest.raises(DataError, match=message):
            dataset.from_objects("own", bad, pairs, sensor=(34, 34), **options)
