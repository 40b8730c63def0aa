"""Change single settings of a network's configuration by name, as the option ``--set`` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hw.text import did_you_mean
from sw.model.config import ModelConfig, ModelError


def override(config: ModelConfig, settings: Sequence[str]) -> ModelConfig:
    """Return a copy of ``config`` with changed settings. The changes ``settings`` are texts such as
    ``stages.0.blocks.0.gate=XOR``.

    The value after ``=`` is read as JSON, or as a string if it is not JSON. A ``*`` instead of a
    number stands for every entry of a list, as in ``stages.*.blocks.*.gate=XOR``.

    Raises
    ------
    ModelError
        A setting does not exist, or its value is not supported.
    """
    values = config.to_dict()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ModelError(f"--set {setting}: write it as name=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        try:
            _assign(values, path.split("."), value)
        except _NoSettingError as error:
            raise ModelError(f"--set {setting}: {error}") from error
    return ModelConfig.from_dict(values)


class _NoSettingError(Exception):
    """Raised if a configuration has no setting of the given name."""


def _assign(place: Any, keys: Sequence[str], value: Any, where: str = "") -> None:
    """Set a setting in ``place``, a part of a configuration as JSON values, to ``value``.

    ``keys`` is the path from ``place`` to the setting; ``*`` in it stands for every entry of a
    list. ``where`` is the name of ``place``, for the error message.

    Raises
    ------
    _NoSettingError
        The path does not exist; the message says which settings do.
    """
    key, *rest = keys
    if key == "*" and isinstance(place, list):
        for n in range(len(place)):
            _assign(place, [str(n), *rest], value, where)
        return
    if not _has(place, key):
        raise _NoSettingError(_no_setting(place, key, where))
    if rest:
        _assign(place[_key(place, key)], rest, value, f"{where}.{key}" if where else key)
    else:
        place[_key(place, key)] = value


def _has(place: Any, key: str) -> bool:
    """Return whether a part of a configuration, as JSON values, has a setting called ``key``."""
    if isinstance(place, list):
        return key.isdecimal() and int(key) < len(place)
    return isinstance(place, dict) and key in place


def _no_setting(place: Any, key: str, where: str) -> str:
    """Return the message that ``place`` has no setting ``key``, with those that it has.

    ``place`` is a part of a configuration, as JSON values, and ``where`` its name.
    """
    there = f" in {where}" if where else ""
    if isinstance(place, list):
        numbers = f"numbered from 0 to {len(place) - 1}; * stands for all"
        return f"there is no such setting: {where} is a list, {numbers}"
    if not isinstance(place, dict):
        return f"there is no such setting: {where} is the single value {place!r}"
    hint = did_you_mean(key, place)
    return f"there is no such setting: {hint}the settings{there} are {', '.join(place)}"


def _key(place: Any, key: str) -> Any:
    return int(key) if isinstance(place, list) else key
