"""Describe the JSON document of a network file as a JSON Schema (draft 2020-12).

The schema follows from the annotations of :class:`sw.network.network.Network` and its layers.
``python -m sw.network.json_schema`` prints it; docs/network-file.schema.json is a copy. Relations
between fields, such as shapes, are not in it; :func:`sw.network.network.validate` checks them.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import sys
import types
import typing
from typing import Annotated, Any

import numpy as np

from sw.network.netfile import FORMAT, VERSION
from sw.network.network import Network

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LIMITS = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "integer": ("minimum", "maximum"),
}
"""JSON Schema keywords for the smallest and the largest length or value, by JSON type."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the JSON document in a network file."""
    return {
        "$schema": _DIALECT,
        "title": f"The document in a Spikefold network file of version {VERSION}",
        "type": "object",
        "properties": {
            "format": {"const": FORMAT},
            "version": {"const": VERSION},
            "network": {"$ref": "#/$defs/Network"},
            "config": {"type": ["object", "null"]},
        },
        "required": ["format", "version", "network", "config"],
        "additionalProperties": False,
        "$defs": _definitions(Network),
    }


def _definitions(cls: type) -> dict[str, Any]:
    """Return the schemas of a dataclass and of all dataclasses in its fields, by name."""
    found: dict[str, Any] = {}

    def add(cls: type) -> None:
        if cls.__name__ in found:
            return
        found[cls.__name__] = {}
        hints = typing.get_type_hints(cls, include_extras=True)
        names = [field.name for field in dataclasses.fields(cls)]
        found[cls.__name__] = {
            "type": "object",
            "properties": {name: schema_of(hints[name], add) for name in names},
            "required": names,
            "additionalProperties": False,
        }

    add(cls)
    return found


def schema_of(hint: Any, add: Any) -> dict[str, Any]:
    """Return the JSON Schema of the type annotation ``hint``.

    The result only refers to the schemas of dataclasses. ``add`` is called with every dataclass in
    ``hint``, so that the caller can define its schema.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _limited(schema_of(args[0], add), args[1:])
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(arg, add) for arg in args]}
    if origin is tuple and args[1:] == (Ellipsis,):
        return {"type": "array", "items": schema_of(args[0], add)}
    if origin is tuple:
        items = [schema_of(arg, add) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    if origin is np.ndarray:
        name = {"type": "string", "pattern": r"^network\."}
        return {
            "type": "object",
            "properties": {"tensor": name},
            "required": ["tensor"],
            "additionalProperties": False,
        }
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type, hint)
        add(cls)
        return {"$ref": f"#/$defs/{cls.__name__}"}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": list(hint.__members__)}
    if hint is Any:
        return {}
    plain = {int: "integer", str: "string", bool: "boolean", dict: "object", type(None): "null"}
    return {"type": plain[origin or hint]}


def _limited(schema: dict[str, Any], rules: tuple[Any, ...]) -> dict[str, Any]:
    """Return a schema with the limits that an annotation's ``rules`` set.

    ``rules`` are objects of :mod:`sw.network.schema`: ``Range``, ``Length`` or ``Text``.
    """
    least, greatest = _LIMITS[schema["type"]]
    for rule in rules:
        schema = schema | {
            least: getattr(rule, "low", 1),
            greatest: getattr(rule, "high", None) or rule.most,
        }
    return schema


def text() -> str:
    """Return the schema as the text of docs/network-file.schema.json."""
    return json.dumps(schema(), indent=2) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.network.json_schema`` with the arguments ``argv``; return 0."""
    argparse.ArgumentParser(
        prog="python -m sw.network.json_schema",
        description="Print the JSON Schema of the document in a network file.",
        epilog="example:\n"
        "  python -m sw.network.json_schema > docs/network-file.schema.json\n\n"
        "exit codes: 0 printed; 2 bad input",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    print(text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
