from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sw.data import catalogue, mitbih
from sw.data.dataset import DataError
from tests.datasets import write_record


def test_records_are_cut_into_beats(tmp_path: Path) -> None:
    signal = np.full(4000, 1000)
    signal[600], signal[601], signal[3] = 1400, 1300, -5
    write_record(tmp_path, 100, signal, [(20, 1), (600, 5), (1900, 8), (2000, 12), (3990, 1)])
    found = mitbih.read_records(tmp_path, [100])
    # The first and the last beat are left out: they are too near the ends of the record.
    assert found.labels.tolist() == [2, 1, 4] and found.records.tolist() == [100] * 3
    assert found.intervals.tolist() == [[580, 1300], [1300, 100], [100, 1990]]
    assert found.samples.shape == (3, 128)
    assert found.samples[0, mitbih.R_INDEX] == 1350 and found.samples[0].min() == 1000
    known = mitbih.known(found)
    assert known.labels.tolist() == [2, 1]
    (tmp_path / "100.dat").write_bytes(b"1234")
    for record, message in ((100, "4 bytes are not whole pairs of samples of 3"), (101, "No such")):
        with pytest.raises(DataError, match=f"record {record} in {tmp_path}: .*{message}"):
            mitbih.read_records(tmp_path, [record])
    write_record(tmp_path, 102, signal, [])
    with pytest.raises(DataError, match=r"holds no beats of records \[102\]"):
        mitbih.read_records(tmp_path, [102])


def test_negative_samples() -> None:
    assert mitbih.read_212(bytes([0xFB, 0x0F, 0])).tolist() == [-5]


def test_images_have_signal_and_relative_intervals_per_record() -> None:
    rng = np.random.default_rng(1)
    samples = np.full((6, 128), 900, np.uint16)
    samples[:, 50] = 1100
    samples[3:, 50] = 1300  # another patient, twice as high
    samples[5, 90] = 1100  # differs from the other beats of its patient
    intervals = np.array([[300, 300]] * 5 + [[150, 0]], np.uint16)
    found = mitbih.as_images(
        mitbih.Beats(
            samples=samples,
            labels=rng.integers(0, 4, 6),
            records=np.array([1, 1, 1, 2, 2, 2]),
            intervals=intervals,
        )
    )
    assert found.shape == (6, 4, 1, 128) and found.dtype == np.uint8
    assert found[0, 0, 0, 50] == found[3, 0, 0, 50] == 210 and found[0, 0, 0, 0] == 100
    assert set(found[:5, 1:].reshape(-1)) == {128}
    assert found[5, 0, 0, 90] == 155 and found[5, 1, 0, 90] == 183
    assert set(np.delete(found[5, 1, 0], 90)) == {128}
    assert found[5, 2, 0, 0] == 64 and found[5, 3, 0, 0] == 128  # an early beat; none follows


def test_intervals_are_relative_to_those_around() -> None:
    """Check that an early beat stands out, relative to its neighbours, after the heart rate has
    doubled.
    """
    intervals = np.repeat(np.array([[400], [200]], np.uint16), 40, axis=0).repeat(2, axis=1)
    intervals[60, 0] = 150
    found = mitbih.as_images(
        mitbih.Beats(
            samples=np.full((80, 128), 900, np.uint16),
            labels=np.zeros(80, np.int64),
            records=np.ones(80, np.int64),
            intervals=intervals,
        )
    )
    before = found[:, 2, 0, 0].tolist()
    assert before[:30] == [128] * 30 and before[60] == 96
    assert before[50:60] == [128] * 10 == before[61:71]


def test_patients_are_disjoint() -> None:
    assert len(mitbih.DS1) == len(mitbih.DS2) == 22 and not set(mitbih.DS1) & set(mitbih.DS2)
    assert set(mitbih.VALIDATION) < set(mitbih.DS1)
    assert sorted(sum(mitbih.FOLDS, ())) == sorted(mitbih.DS1)


def test_heartbeats_keep_patients_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mitbih, "DS1", (106, 101))
    monkeypatch.setattr(mitbih, "DS2", (100,))
    rng = np.random.default_rng(1)
    for record, n in ((106, 8), (101, 4), (100, 6)):
        codes = [1, 8, 5, 6, 12, 1, 1, 1][:n]
        places = [(400 * (i + 1), code) for i, code in enumerate(codes)]
        write_record(tmp_path, record, rng.integers(900, 1100, 4000), places)
    found = catalogue.load(tmp_path, name="mitbih")
    assert [len(s) for s in (found.train, found.validation, found.test)] == [7, 4, 5]
    assert found.metric == "balanced" and found.labels == ("N", "S", "V", "F")
    assert found.train.labels.tolist() == [0, 1, 2, 3, 0, 0, 0]


def test_every_patient_is_held_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that cross-validation tests on each part once, validates on the next, and trains on the
    rest.
    """
    monkeypatch.setattr(mitbih, "DS1", (101, 106, 108))
    monkeypatch.setattr(mitbih, "FOLDS", ((101,), (106,), (108,)))
    rng = np.random.default_rng(1)
    n_beats = {101: 5, 106: 6, 108: 7}
    for record, n in n_beats.items():
        places = [(400 * (i + 1), 1 if i else 5) for i in range(n)]
        write_record(tmp_path, record, rng.integers(900, 1100, 4000), places)
    (tmp_path / "100.atr").touch()  # the records of DS2 are not read
    parts = catalogue.load_parts(tmp_path, "mitbih")
    sizes = [[len(s) for s in (d.train, d.validation, d.test)] for d in parts]
    assert sizes == [[7, 6, 5], [5, 7, 6], [6, 5, 7]]
    assert len({d.sha256 for d in parts}) == 3 and parts[0].metric == "balanced"
    with pytest.raises(DataError, match="nmnist defines no parts for cross-validation: use mitbih"):
        catalogue.load_parts(tmp_path, "nmnist")
    (tmp_path / "108.dat").write_bytes(b"1234")
    with pytest.raises(DataError, match="record 108 in"):
        catalogue.load_parts(tmp_path, "mitbih")
