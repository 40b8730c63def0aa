"""Conversion of a network to JSON values and arrays, and back, guided by its fields' type
annotations.

In the JSON document, an object has the fields of a dataclass, ``{"tensor": name}`` stands for an
array, and null for None; enums are written as their names, tuples as lists.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
import typing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.text import unprintable
from sw.network.schema import hints, short

MAX_DEPTH = 32
"""Largest number of lists and objects that may be nested in a document."""


class DocumentError(ValueError):
    """Error that a JSON document is malformed or does not describe a network; the message says
    where.
    """


def parse(text: str) -> Any:
    """Parse a JSON document and return its value; stricter than :func:`json.loads`.

    These are refused:

    - an object with the same key twice, because it would be unclear which of its values counts;
    - numbers that are not finite, or have more than 64 bits;
    - texts with characters that a terminal cannot print: control characters except tabs and line
      feeds, and lone surrogates;
    - more than :data:`MAX_DEPTH` nested lists and objects.

    Raises
    ------
    DocumentError
        The text is not valid JSON, or has one of the refused features.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DocumentError(f"the key {short(twice)} occurs twice in one object")
        return found

    def whole(text: str) -> int:
        if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
            raise DocumentError(f"the number {text[:30]} has more than 64 bits")
        return int(text)

    def real(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise DocumentError(f"the number {text[:30]} is not finite")
        return value

    try:
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_int=whole,
            parse_float=real,
            parse_constant=real,
        )
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"it is no JSON: {error}") from error
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
        level = inner
    if level:
        raise DocumentError(f"more than {MAX_DEPTH} lists and objects are nested")
    return value


def _check_text(text: str) -> None:
    """Raise :class:`DocumentError` if a text has a character that a terminal cannot print."""
    character = unprintable(text, allowed="\n\t")
    if character is not None:
        raise DocumentError(f"a text has the character {character!a}, which cannot be printed")


def encode(value: Any, name: str, arrays: dict[str, NDArray] | None) -> Any:
    """Convert a value to JSON, and add the arrays that it contains to ``arrays``.

    Parameters
    ----------
    value : dataclass, array, enum, number, text, None, or a container of these.
    name : dotted name of the value, such as ``network.layers``; names of arrays and messages begin
        with it.
    arrays : dictionary to which arrays are added by dotted name. If it is None, arrays and
        dataclasses are not accepted.

    Raises
    ------
    TypeError
        A value has an unsupported type; the message says where.
    ValueError
        A number is not finite; the message says where.
    """
    if arrays is not None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            known = hints(type(value))
            return {
                field: encode(
                    getattr(value, field),
                    f"{name}.{field}",
                    None if Any in typing.get_args(hint) else arrays,
                )
                for field, hint in known.items()
            }
        if isinstance(value, np.ndarray):
            arrays[name] = np.ascontiguousarray(value)
            return {"tensor": name}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(k): encode(v, f"{name}.{k}", arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which JSON does not have")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is of type {type(value).__name__}, which JSON does not have")


def decode(hint: Any, value: Any, name: str, arrays: dict[str, NDArray]) -> Any:
    """Convert the JSON value ``value`` back to a value of type ``hint``; the inverse of
    :func:`encode`.

    Types are checked here. Ranges (:mod:`sw.network.schema`) are checked by the dataclasses.

    Parameters
    ----------
    name : dotted name of the value, such as ``network.layers``.
    arrays : arrays of the file by dotted name. Those that the value contains are removed, so that
        any left over can be reported.

    Raises
    ------
    DocumentError
        ``value`` is not of type ``hint``; the message says where.
    """

    def fail(expected: str) -> DocumentError:
        return DocumentError(f"{name} is {short(value)}, expected {expected}")

    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        return decode(args[0], value, name, arrays)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return decode(inner, value, name, arrays)
    if origin is np.ndarray:
        if value != {"tensor": name} or name not in arrays:
            raise fail(f'the tensor of that name, {{"tensor": "{name}"}}')
        return arrays.pop(name)
    if origin is tuple:
        if not isinstance(value, list):
            raise fail("a list")
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) != len(value):
            raise fail(f"a list of {len(args)}")
        return tuple(
            decode(a, v, f"{name}.{i}", arrays)
            for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise fail("an object")
        return {key: decode(args[1], v, f"{name}.{key}", arrays) for key, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        if not isinstance(value, str) or value not in hint.__members__:
            raise fail("one of " + ", ".join(hint.__members__))
        return hint[value]
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise fail("an object")
        known = hints(typing.cast(type, hint))
        # A field that has been added since the first version may be missing from older files.
        added = {f.name for f in dataclasses.fields(hint) if "since" in f.metadata}
        known = {n: h for n, h in known.items() if n in value or n not in added}
        unknown, missing = sorted(set(value) - set(known)), sorted(set(known) - set(value))
        if unknown:
            raise DocumentError(f"{name} has unknown fields: {', '.join(unknown)}")
        if missing:
            raise DocumentError(f"{name} lacks fields: {', '.join(missing)}")
        fields = {n: decode(h, value[n], f"{name}.{n}", arrays) for n, h in known.items()}
        return typing.cast(type, hint)(**fields)
    if type(value) is not hint:
        raise fail(f"a value of type {hint.__name__}")
    return value
