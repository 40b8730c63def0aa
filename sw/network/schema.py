"""Types and ranges of the fields of a dataclass, declared as annotations beside the fields.

A field's annotation gives its type; :data:`typing.Annotated` adds a :class:`Range`, a
:class:`Length` or a :class:`Text` to it. :func:`faults` checks an object against them, so that code
that makes an object from a file needs no checks of its own. This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from hw.text import unprintable


@dataclass(frozen=True)
class Range:
    """Accepted range of an integer, both ends included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def accepts(self, value: Any) -> bool:
        """Return whether ``value`` is in the range; its type is checked elsewhere."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Text:
    """Accepted text: at most ``most`` characters that a terminal can print on one line.

    Control characters, line separators and lone surrogates are not accepted.
    """

    most: int = 1000

    def __str__(self) -> str:
        return f"printable text of 1 to {self.most} characters"

    def accepts(self, value: Any) -> bool:
        """Return whether the text ``value`` is accepted; its type is checked elsewhere."""
        return 1 <= len(value) <= self.most and unprintable(value) is None


@dataclass(frozen=True)
class Length:
    """Accepted number of entries, both ends included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low} to {self.high} entries"

    def accepts(self, value: Any) -> bool:
        """Return whether the length of ``value`` is in the range; its type is checked elsewhere."""
        return self.low <= len(value) <= self.high


Label = Annotated[str, Text()]
"""Name of a layer, a map or a class."""


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """Return the annotations of the fields of the dataclass ``cls`` by name.

    The annotations still contain objects such as :class:`Range`.
    """
    found = typing.get_type_hints(cls, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def short(value: Any) -> str:
    """Return a value as text for a message, cut to at most 60 characters."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def faults(hint: Any, value: Any, name: str) -> Iterator[str]:
    """Yield a message for each part of ``value`` that violates the annotation ``hint``.

    ``name`` is the dotted name of the value, with which the messages begin, such as
    ``network.layers.0.stride``. Arrays are only checked to be arrays, because their shapes depend
    on other fields. Values of type Any are not checked.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        inner, *rules = args
        found = next(faults(inner, value, name), None)
        broken = [rule for rule in rules if found is None and not rule.accepts(value)]
        if found is not None:
            yield found
        elif broken:
            what = f"has {len(value)}" if isinstance(value, tuple) else f"is {short(value)}"
            yield f"{name} {what}, expected {broken[0]}"
    elif origin in (typing.Union, types.UnionType):
        if value is not None or type(None) not in args:
            (inner,) = (arg for arg in args if arg is not type(None))
            yield from faults(inner, value, name)
    elif origin is tuple:
        of_any_length = len(args) == 2 and args[1] is Ellipsis
        if of_any_length and isinstance(value, tuple):
            args = (args[0],) * len(value)
        if not isinstance(value, tuple) or len(value) != len(args):
            expected = "a tuple" if of_any_length else f"a tuple of {len(args)}"
            yield f"{name} is {short(value)}, expected {expected}"
            return
        for n, (arg, item) in enumerate(zip(args, value, strict=True)):
            yield from faults(arg, item, f"{name}.{n}")
    elif dataclasses.is_dataclass(hint) and isinstance(value, typing.cast(type, hint)):
        for field, annotation in hints(type(value)).items():
            yield from faults(annotation, getattr(value, field), f"{name}.{field}")
    elif not _is_of_type(hint, origin or hint, value):
        yield f"{name} is {short(value)}, expected {_type_name(origin or hint)}"


def _is_of_type(hint: Any, plain: Any, value: Any) -> bool:
    """Return whether ``value`` has the type ``hint``.

    ``plain`` is this type without its parameters, such as ``dict`` for ``dict[str, Any]``.
    """
    if hint is Any:
        return True
    if plain is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool | enum.Enum)
    return isinstance(value, plain)


def _type_name(plain: Any) -> str:
    if issubclass(plain, enum.Enum):
        return "one of " + ", ".join(plain.__members__)
    return {int: "a whole number", str: "a text", bool: "true or false"}.get(
        plain, f"a value of type {plain.__name__}"
    )
