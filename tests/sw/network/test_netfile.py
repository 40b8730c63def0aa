"""Tests of the network file: everything written is read back, and every damage is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hw.spec import Config
from sw.network import netfile
from sw.network.network import Layer, Network, NetworkError
from tests.networks import random_network
from tests.sw.network.files import document_of, rewritten

SEED = 7


CONFIG = Config(name="board", lanes=32)


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Compare two dataclasses with arrays field by field, dtypes included."""
    assert type(a) is type(b), where
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b), where
    elif isinstance(a, tuple):
        assert len(a) == len(b), where
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{n}]")
    else:
        assert a == b, where


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_random_networks_survive_the_round_trip(seed: int) -> None:
    network = random_network(seed)
    raw = netfile.to_bytes(network)
    assert_equal(netfile.from_bytes(raw).network, network)
    assert netfile.to_bytes(network) == raw, "the same network gives the same bytes"


def test_the_device_survives_the_round_trip() -> None:
    file = netfile.from_bytes(netfile.to_bytes(random_network(SEED), CONFIG))
    assert file.config == CONFIG and file.unknown is None
    assert "exported for board" in netfile.describe(file)
    file = netfile.from_bytes(netfile.to_bytes(random_network(SEED)))
    assert file.config is None and file.unknown is None


def test_other_libraries_read_the_tensors(tmp_path: Path) -> None:
    network = random_network(SEED)
    netfile.save(tmp_path / "net.spikefold", network)
    arrays = safetensors.numpy.load_file(tmp_path / "net.spikefold")
    np.testing.assert_array_equal(arrays["network.layers.0.weight"], network.layers[0].weight)


def test_rewritten_is_faithful() -> None:
    """Check that :func:`rewritten`, which the tests below use, restores a file byte for byte."""
    raw = netfile.to_bytes(random_network(SEED))
    assert rewritten(*document_of(raw)) == raw


def test_every_flipped_bit_is_noticed() -> None:
    raw = netfile.to_bytes(random_network(SEED), CONFIG)
    n_header = int.from_bytes(raw[:8], "little")
    rng = np.random.default_rng(SEED)
    places = {
        *range(16),
        *range(n_header, n_header + 16),
        *range(len(raw) - 40, len(raw)),
        *rng.integers(0, len(raw), 300).tolist(),
    }
    for place in sorted(places):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(netfile.NetworkFileError):
            netfile.from_bytes(bytes(damaged))


def test_a_flipped_weight_is_a_checksum_error() -> None:
    raw = bytearray(netfile.to_bytes(random_network(SEED)))
    raw[-5] ^= 0x10
    assert safetensors.numpy.load(bytes(raw)), "safetensors alone does not notice"
    with pytest.raises(netfile.ChecksumError, match="damaged or edited"):
        netfile.from_bytes(bytes(raw))


def test_a_changed_space_in_the_header_is_noticed() -> None:
    """Check that spaces added to the header are refused, although they do not change its
    meaning.
    """
    raw = netfile.to_bytes(random_network(SEED))
    n_header = int.from_bytes(raw[:8], "little")
    padded = (n_header + 8).to_bytes(8, "little") + raw[8 : 8 + n_header] + b" " * 8
    with pytest.raises(netfile.ChecksumError):
        netfile.from_bytes(padded + raw[8 + n_header :])


def test_truncation_anywhere_is_named() -> None:
    raw = netfile.to_bytes(random_network(SEED), CONFIG)
    n_header = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n_header])
    cuts = {0, 3, 8, 9, n_header // 2, 7 + n_header, 8 + n_header, len(raw) - 1}
    cuts |= {
        8 + n_header + (sum(tensor["data_offsets"]) // 2)
        for name, tensor in header.items()
        if name != "__metadata__"
    }
    for cut in sorted(cuts):
        message = f"ends inside its header, after {cut} of at least" if cut else "the file is empty"
        if cut >= 8 + n_header:
            message = f"the file has {cut} of {len(raw)} bytes"
        with pytest.raises(netfile.TruncatedError, match=f"{message}.*; copy or export it again"):
            netfile.from_bytes(raw[:cut])


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(netfile.ChecksumError):
        netfile.from_bytes(netfile.to_bytes(random_network(SEED)) + b"\0")


@pytest.mark.parametrize(
    "raw",
    [
        b"PK\x03\x04 a checkpoint, which is a zip file, in place of a network",
        b"hello, this is a text file\n",
        b"\x10\0\0\0\0\0\0\0{not JSON at all",
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x02\0\0\0\0\0\0\0[]",
        safetensors.numpy.save({"weight": np.zeros(4, np.float32)}),
        safetensors.numpy.save({"weight": np.zeros(4, np.float32)}, {"spikefold": "[]"}),
        safetensors.numpy.save({"weight": np.zeros(4, np.float32)}, {"spikefold": "[" * 5000}),
    ],
)
def test_other_files_are_told_apart(raw: bytes) -> None:
    with pytest.raises(netfile.NotANetworkFileError, match=r"sw\.export"):
        netfile.from_bytes(raw)


def test_a_later_version_names_what_is_readable() -> None:
    document, arrays = document_of(netfile.to_bytes(random_network(SEED)))
    document["version"] = 99
    with pytest.raises(
        netfile.VersionError, match="version 99; this program reads version 1, 2, 3, 4"
    ):
        netfile.from_bytes(rewritten(document, arrays))


def edit_layer(**changes: Any) -> bytes:
    document, arrays = document_of(netfile.to_bytes(random_network(SEED)))
    document["network"]["layers"][0].update(changes)
    return rewritten(document, arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dilation": 2}, r"network\.layers\.0 has unknown fields: dilation"),
        ({"gate": "ADD"}, r"gate is \"ADD\", expected one of NONE, AND, IAND, OR, XOR"),
        ({"kernel": [3]}, r"kernel is \[3\], expected a list of 2"),
        ({"kernel": "3x3"}, r"kernel is \"3x3\", expected a list"),
        ({"name": 7}, "name is 7, expected a value of type str"),
        ({"leak_shift": "2"}, r"leak_shift is \"2\", expected a value of type int"),
        ({"output": 1}, "output is 1, expected a value of type bool"),
        ({"gate": ["AND"]}, r"gate is \[\"AND\"\], expected one of NONE, AND"),
        ({"stride": [0, 1]}, r"not consistent: network\.layers\.0\.stride\.0 is 0, expected a wh"),
        ({"stride": [1, -1]}, r"stride\.1 is -1, expected a whole number from 1 to 1048576"),
        ({"stride": [1 << 62, 1]}, r"stride\.0 is 4611686018427387904, expected a whole number"),
        ({"name": "image"}, "the name is used twice, or stands for the input"),
        ({"name": "a\nb"}, r"name is \"a\\nb\", expected printable text"),
        ({"weight": {"tensor": "network.layers.9.weight"}}, "weight is .* the tensor of that name"),
        ({"source": "nowhere"}, "not consistent.*'nowhere', which no earlier layer writes"),
    ],
)
def test_bad_contents_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(netfile.ContentError, match=message):
        netfile.from_bytes(edit_layer(**changes))


def test_missing_field_unnamed_tensor_and_missing_checksum() -> None:
    document, arrays = document_of(netfile.to_bytes(random_network(SEED)))
    with pytest.raises(netfile.ContentError, match=r"does not name: extra"):
        netfile.from_bytes(rewritten(document, {**arrays, "extra": np.zeros(1, np.int8)}))
    del document["network"]["timesteps"]
    with pytest.raises(netfile.ContentError, match="network lacks fields: timesteps"):
        netfile.from_bytes(rewritten(document, arrays))
    document["network"] = []
    with pytest.raises(netfile.ContentError, match=r"network is \[\], expected an object"):
        netfile.from_bytes(rewritten(document, arrays))
    with pytest.raises(netfile.ContentError, match="the document has unknown fields: colour"):
        netfile.from_bytes(rewritten({**document, "colour": 1}, arrays))
    unchecked = safetensors.numpy.save(arrays, {"spikefold": json.dumps(document)})
    with pytest.raises(netfile.ContentError, match="no checksum"):
        netfile.from_bytes(unchecked)


def test_a_header_that_describes_no_tensors_is_refused() -> None:
    raw = netfile.to_bytes(random_network(SEED))
    n_header = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n_header]) | {"odd": {}}
    changed = json.dumps(header).encode()
    with pytest.raises(netfile.ContentError, match="its header does not describe tensors"):
        netfile.from_bytes(len(changed).to_bytes(8, "little") + changed + raw[8 + n_header :])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_dsp": 3}, "config has unknown fields: n_dsp"),
        ({"banks": None}, "config.banks is null, expected a value of type int"),
        ({"baud": 0}, "Config.baud = 0 is not supported"),
        ({"baud": 1 << 62}, "Config.baud = 4611686018427387904 is not supported"),
        ({"lanes": -1}, "Config.lanes = -1 is not supported"),
        ({"name": "a\nb"}, r"Config.name = 'a\\nb' is not supported"),
        ({"weight_depth": 3.5}, "config.weight_depth is 3.5, expected a value of type int"),
    ],
)
def test_a_device_of_another_version_leaves_the_network_readable(
    changes: dict[str, Any], message: str
) -> None:
    network = random_network(SEED)
    document, arrays = document_of(netfile.to_bytes(network, CONFIG))
    document["config"].update(changes)
    file = netfile.from_bytes(rewritten(document, arrays))
    assert_equal(file.network, network)
    assert file.config is None
    assert re.search("a device that this version does not know: " + message, file.unknown or "")
    assert (file.unknown or "?") in netfile.describe(file)


def version_1(network: Network, program: Any, **tensors: NDArray[Any]) -> bytes:
    """Return a file of version 1, which holds a compiled program."""
    document, arrays = document_of(netfile.to_bytes(network))
    del document["config"]
    document |= {"version": 1, "compiled": {"spec_hash": "0" * 16, "program": program}}
    return rewritten(document, {**arrays, **tensors})


def test_the_program_of_a_file_of_version_1_is_not_read() -> None:
    """Check that the compiled program in a file of version 1 is ignored, even if it is invalid."""
    network = random_network(SEED)
    images = {"program.images.WEIGHT": np.zeros(64, np.uint8)}
    for changes in (
        {"images": {"WEIGHT": {"tensor": "program.images.WEIGHT"}}, "n_classes": 3},
        {"spike_bytes": 1 << 36, "entries": [1 << 40], "layers": []},
        {"spike_bytes": -1, "entries": [], "inputs": [], "images": {}},
    ):
        program = {"config": dataclasses.asdict(CONFIG), **changes}
        file = netfile.from_bytes(version_1(network, program, **images))
        assert_equal(file.network, network)
        assert file.config == CONFIG
    for program in (None, [], {"config": 7}, {"config": dataclasses.asdict(CONFIG) | {"baud": 0}}):
        file = netfile.from_bytes(version_1(network, program))
        assert_equal(file.network, network)
        assert file.config is None
    with pytest.raises(netfile.ContentError, match=r"does not name: extra"):
        netfile.from_bytes(version_1(network, None, extra=np.zeros(1, np.int8)))
    with pytest.raises(netfile.ContentError, match="the document has unknown fields: compiled"):
        document, arrays = document_of(netfile.to_bytes(network))
        netfile.from_bytes(rewritten({**document, "compiled": None}, arrays))


def test_a_file_of_version_3_has_pixels_of_8_bits() -> None:
    network = random_network(SEED, encoder=True, pixel_bits=8)
    document, arrays = document_of(netfile.to_bytes(network))
    document["version"] = 3
    assert document["network"].pop("pixel_bits") == 8
    assert_equal(netfile.from_bytes(rewritten(document, arrays)).network, network)


def test_pixels_of_other_widths_are_kept() -> None:
    network = random_network(SEED, encoder=True, pixel_bits=3)
    assert netfile.from_bytes(netfile.to_bytes(network)).network.pixel_bits == 3
    with pytest.raises(NetworkError, match="pixel_bits is 9, expected a whole number from 1 to 8"):
        dataclasses.replace(network, pixel_bits=9)
    with pytest.raises(NetworkError, match="pixel_bits is 4, but no encoder reads pixels"):
        random_network(SEED, encoder=False, pixel_bits=4)


def test_a_file_of_version_2_has_no_sums() -> None:
    network = random_network(SEED, sums=0, pixel_bits=8)
    document, arrays = document_of(netfile.to_bytes(network))
    document["version"] = 2
    del document["network"]["pixel_bits"]
    for layer in filter(None, (document["network"]["encoder"], *document["network"]["layers"])):
        assert (layer.pop("addends"), layer.pop("stacked")) == ([], False)
    assert_equal(netfile.from_bytes(rewritten(document, arrays)).network, network)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"timesteps": ', '"timesteps": 1, "timesteps": ', 'the key "timesteps" occurs twice'),
        ('"version": 4', '"version": 4, "version": 4', 'the key "version" occurs twice'),
        ('"seed": 7', '"seed": NaN', "the number NaN is not finite"),
        ('"seed": 7', '"seed": -Infinity', "the number -Infinity is not finite"),
        ('"seed": 7', '"seed": 1e999', "the number 1e999 is not finite"),
        ('"seed": 7', f'"seed": {1 << 63}', "the number 9223372036854775808 has more than 64"),
        ('"seed": 7', '"seed": 1' + "0" * 5000, r"the number 10{29} has more than 64 bits"),
        ('"seed": 7', '"seed": ' + "[" * 40 + "]" * 40, "more than 32 lists and objects"),
        ('"seed": 7', '"seed": "\\u001b[2J"', r"a text has the character '\\x1b', which"),
        ('"seed": 7', '"seed": {"\\u009b": 1}', r"a text has the character '\\x9b', which"),
        (
            '"seed": 7',
            '"seed": "\\ud800"',
            r"a text has the character '.ud[8f][0f][0f]', which cannot",
        ),
        ('"class 0"', '"\\udfff"', r"a text has the character '.ud[8f][0f][0f]', which cannot"),
    ],
)
def test_json_is_read_strictly(old: str, new: str, message: str) -> None:
    document, arrays = document_of(netfile.to_bytes(random_network(SEED)))
    text = json.dumps(document)
    assert text.count(old) == 1
    raw = rewritten(text.replace(old, new), arrays)
    with pytest.raises(netfile.ContentError, match=f"document is damaged: .*{message}"):
        netfile.from_bytes(raw)


def test_a_tensor_that_the_header_names_twice_is_refused() -> None:
    raw = netfile.to_bytes(random_network(SEED))
    n_header = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + n_header].replace(b'"checksum":', b'"checksum":{},"checksum":')
    with pytest.raises(netfile.NotANetworkFileError, match='the key "checksum" occurs twice'):
        netfile.from_bytes(len(header).to_bytes(8, "little") + header + raw[8 + n_header :])


def test_provenance_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.spikefold"
    for value, what in ((np.zeros(3), "of type ndarray"), (float("nan"), "nan"), ({}.keys(), "of")):
        network = dataclasses.replace(random_network(SEED), provenance={"accuracy": [value]})
        message = rf"cannot be written to a file: network\.provenance\.accuracy\.0 is {what}"
        with pytest.raises(netfile.NetworkFileError, match=message):
            netfile.save(path, network)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.spikefold"
    netfile.save(path, random_network(SEED))
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(netfile.NetworkFileError, match="No space left on device"):
        netfile.save(path, random_network(SEED + 1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "no half-written file is left behind"


def test_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(netfile.NetworkFileError, match=r"missing\.spikefold cannot be read"):
        netfile.load(tmp_path / "missing.spikefold")
    with pytest.raises(netfile.NetworkFileError, match=r"nowhere/net\.spikefold cannot be written"):
        netfile.save(tmp_path / "nowhere" / "net.spikefold", random_network(SEED))
    (tmp_path / "empty").touch()
    with pytest.raises(netfile.TruncatedError, match=r"empty: the file is empty"):
        netfile.load(tmp_path / "empty")


def test_loading_never_imports_torch(tmp_path: Path) -> None:
    path = tmp_path / "net.spikefold"
    netfile.save(path, random_network(SEED))
    code = (
        "import sys; from sw.network import netfile; netfile.load(sys.argv[1]);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_describe_names_every_layer() -> None:
    network = random_network(SEED)
    text = netfile.describe(netfile.from_bytes(netfile.to_bytes(network)))
    for layer in network.layers:
        assert layer.name in text


def test_fields_of_the_format_are_pinned() -> None:
    """Check that the fields of Network and Layer, which define the format, have not changed.

    If a field is added, raise ``netfile.VERSION`` and change this list.
    """
    assert netfile.VERSION == 4
    assert " ".join(f.name for f in dataclasses.fields(Network)) == (
        "timesteps image_shape encoder pixel_bits layers weight_bits labels provenance statistics"
    )
    assert " ".join(f.name for f in dataclasses.fields(Layer)) == (
        "name source addends stacked kernel stride padding weight bias threshold leak leak_shift "
        "finer_shifts reset gate identity pool output"
    )
