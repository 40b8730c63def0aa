"""A fuzzer of network files: an edited file is refused, or its network compiles and computes what
plain loops compute.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hw.spec import Config
from sw.compile import fitting
from sw.compile.compiler import compile_network
from sw.compile.program import PIXELS, FitError
from sw.network import encoder, netfile
from sw.network.network import INPUT, Network
from sw.reporting import page
from sw.reporting.evaluation import accuracy_steps
from sw.reporting.report import Report, as_dict, as_text
from tests.fuzz import edited, rounds
from tests.golden import run_network
from tests.networks import random_input, random_network
from tests.sw.machine import Machine
from tests.sw.network.files import document_of, rewritten

CONFIGS = (
    Config(name="one", weight_depth=8192, param_depth=1 << 10),
    Config(name="four", banks=4, lanes=32, weight_depth=4096, param_depth=1 << 10, chunk_bits=32),
)
N_SEEDS = 12
MAX_SPIKES = 1 << 14
"""Largest number of spikes of all maps of a network that is run, because plain loops are slow."""


@functools.cache
def originals(seed: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the JSON document and the tensors of a valid network file."""
    network = random_network(seed, channels=(1, 3, 8), timesteps=2)
    rates = {
        name: {"channel_rates": [0.5] * shape[0]} for name, shape in network.map_shapes().items()
    }
    results = {"results": {"test": {"both": 91.0, "spike": 90.5}}, "data": {"metric": "balanced"}}
    measured = {
        "export": {"accuracy": {"folded": 0.9, "quantised": 0.8}, "measured_on": "5 images"}
    }
    network = dataclasses.replace(network, statistics=rates, provenance={**results, **measured})
    return document_of(netfile.to_bytes(network, CONFIGS[seed % 2]))


def edited_arrays(arrays: dict[str, NDArray[Any]], rng: random.Random) -> dict[str, NDArray[Any]]:
    """Return the tensors with one of them changed: its type, shape, name or values."""
    arrays = dict(arrays)
    name = rng.choice(sorted(arrays))
    array = arrays.pop(name)
    limits = np.iinfo(array.dtype)
    changed = [
        array.astype(rng.choice((np.int16, np.uint8, np.float32, np.int64, np.bool_))),
        array[..., :1],
        array[:0],
        array[0],
        array.T,
        array.ravel(),
        np.repeat(array, 2, axis=rng.randrange(array.ndim)),
        np.full_like(array, limits.min),
        np.full_like(array, limits.max),
        np.zeros_like(array),
        np.random.default_rng(rng.randrange(99)).integers(
            limits.min, limits.max, array.shape, array.dtype, endpoint=True
        ),
    ]
    if rng.random() < 0.9:
        arrays[name if rng.random() < 0.95 else "other"] = np.ascontiguousarray(rng.choice(changed))
    return arrays


def edited_file(rng: random.Random) -> bytes:
    """Return the bytes of an edited network file with a valid checksum."""
    document, arrays = originals(rng.randrange(N_SEEDS))
    if rng.random() < 0.3:
        arrays = edited_arrays(arrays, rng)
    if rng.random() < 0.8:
        # Layers have most of the values in them; the other fields get as many edits.
        part = rng.choice(("network", "network", "config", "layer"))
        document = {**document}
        if part == "layer":
            network = document["network"] = {**document["network"]}
            layers = network["layers"] = list(network["layers"])
            n = rng.randrange(len(layers))
            layers[n] = edited(layers[n], rng)
        else:
            document[part] = edited(document[part], rng)
    text = json.dumps(document)
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(("", "{", '"', "9" * 30, ",", '"a":1,')) + text[at + 1 :]
    return rewritten(text, arrays)


def check_answers(network: Network, rng: random.Random) -> bool:
    """Check that a model of the device computes the same spikes and logits as the golden model.

    The device model (:mod:`tests.sw.machine`) runs the compiled network. The golden model
    (:mod:`tests.golden`) computes the network in plain loops.

    Return False if the network was not run, because it does not fit the device or is too large.
    """
    try:
        program = compile_network(network, rng.choice(CONFIGS))
    except FitError:
        return False
    shapes = network.map_shapes()
    places = sum(int(np.prod(shape)) for shape in shapes.values())
    if network.timesteps * (places + int(np.prod(network.image_shape))) > MAX_SPIKES:
        return False
    images = random_input(network, np.random.default_rng(rng.randrange(99)), 1)
    maps, logits = run_network(network, encoder.encode(network, images)[0])
    sample = encoder.inputs(network, images, program.pixels)[0]
    found, found_logits = Machine(program).run(sample)
    np.testing.assert_array_equal(found_logits, logits)
    assert found.keys() - {PIXELS, INPUT} == maps.keys() - {INPUT}
    for name in maps.keys() & found.keys():
        np.testing.assert_array_equal(found[name], maps[name])
    return True


def report_on(network: Network, config: Config) -> None:
    """Make the report of ``sw.report`` on a network as text, JSON and HTML; none may fail."""
    board = fitting.BoardReport(board=config.name, fits=True, usage={})
    try:
        program = compile_network(network, config)
    except FitError:
        program = None
    steps = accuracy_steps(network, None, None)
    report = Report(
        name="edited",
        sha256="0" * 64,
        network=network,
        program=program,
        boards=[board],
        steps=steps,
        observation=None,
        command="",
    )
    page.render(report).encode()
    json.dumps(as_dict(report, config), allow_nan=False)
    as_text(report, config).encode()


def fuzz(n: int, seed: int | None) -> tuple[int, int, int]:
    """Read ``n`` edited files; return how many were refused, how many accepted, and how many
    run.
    """
    n_refused = n_accepted = n_run = 0
    for rng, noted in rounds(n, seed):
        with noted, warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                file = netfile.from_bytes(edited_file(rng))
            except netfile.NetworkFileError as error:
                str(error).encode()
                n_refused += 1
                continue
            n_accepted += 1
            netfile.describe(file).encode()
            again = netfile.from_bytes(netfile.to_bytes(file.network, file.config))
            assert again.network.map_shapes() == file.network.map_shapes()
            n_run += check_answers(file.network, rng)
            if rng.random() < 0.1:
                report_on(file.network, file.config or CONFIGS[0])
    return n_refused, n_accepted, n_run


def test_edited_files_are_refused_or_answer_as_their_network() -> None:
    n_refused, n_accepted, n_run = fuzz(250, seed=0)
    assert n_refused > 80 and n_accepted > 40 and n_run > 40


@pytest.mark.slow
def test_many_edited_files_are_refused_or_answer_as_their_network() -> None:
    assert min(fuzz(10_000, seed=None)) > 500
