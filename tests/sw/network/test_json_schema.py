"""Tests of the JSON Schema: it accepts the documents of written network files, and refuses
others.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jschon
import pytest
import safetensors

from sw import shipped
from sw.network import json_schema, netfile
from tests.networks import random_network

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jschon's dependency

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def schema() -> jschon.JSONSchema:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return jschon.JSONSchema(json_schema.schema(), catalog=jschon.create_catalog("2020-12"))


def document_of(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, "np") as file:
        return json.loads(file.metadata()["spikefold"])


def accepts(schema: jschon.JSONSchema, document: dict[str, Any]) -> bool:
    return schema.evaluate(jschon.JSON(document)).valid


def test_the_shipped_schema_is_that_of_the_code() -> None:
    shipped_text = (DOCS / "network-file.schema.json").read_text()
    assert shipped_text == json_schema.text(), (
        "run python -m sw.network.json_schema > docs/network-file.schema.json"
    )


def test_documents_are_accepted(schema: jschon.JSONSchema, tmp_path: Path) -> None:
    assert schema.validate().valid, "it is a schema"
    assert accepts(schema, document_of(shipped.NETWORK))
    for seed in range(6):
        netfile.save(tmp_path / "net.spikefold", random_network(seed))
        assert accepts(schema, document_of(tmp_path / "net.spikefold"))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=99),
        lambda d: d.update(format="another"),
        lambda d: d.update(extra=1),
        lambda d: d["network"].pop("timesteps"),
        lambda d: d["network"].update(timesteps=2.5),
        lambda d: d["network"].update(extra=1),
        lambda d: d["network"].update(image_shape=[1, 2]),
        lambda d: d["network"].update(labels=[1, 2]),
        lambda d: d["network"]["layers"][0].update(gate="NAND"),
        lambda d: d["network"]["layers"][0].update(kernel=[3, 3, 3]),
        lambda d: d["network"]["layers"][0].update(output=0),
        lambda d: d["network"]["layers"][0].update(weight=[1, 2]),
        lambda d: d["network"]["layers"][0].update(bias={"tensor": "elsewhere"}),
        lambda d: d["network"]["layers"][0].update(identity=3),
        lambda d: d["network"]["layers"][0].pop("reset"),
    ],
)
def test_other_documents_are_refused(
    change: Callable[[dict[str, Any]], object], schema: jschon.JSONSchema
) -> None:
    document = copy.deepcopy(document_of(shipped.NETWORK))
    change(document)
    assert not accepts(schema, document)


def test_declared_ranges_are_limits() -> None:
    class Between:
        low, high = 1, 9

    def of(hint: Any) -> dict[str, Any]:
        return json_schema.schema_of(hint, lambda _: None)

    assert of(Annotated[int, Between]) == {"type": "integer", "minimum": 1, "maximum": 9}
    assert of(Annotated[tuple[int, ...], Between]) == {
        "type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 9
    }  # fmt: skip
