"""Functions that take network files apart, and put them together again with a valid checksum."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import safetensors.numpy


def document_of(raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON document of a network file, and its tensors except the checksum."""
    n_header = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n_header])
    arrays = safetensors.numpy.load(raw)
    del arrays["checksum"]
    return json.loads(header["__metadata__"]["spikefold"]), arrays


def rewritten(document: dict[str, Any] | str, arrays: dict[str, Any]) -> bytes:
    """Return the bytes of a network file with a document (or its text) and tensors; the checksum is
    valid.
    """
    arrays = {**arrays, "checksum": np.zeros(32, np.uint8)}
    text = document if isinstance(document, str) else json.dumps(document)
    raw = bytearray(safetensors.numpy.save(arrays, {"spikefold": text}))
    n_header = int.from_bytes(raw[:8], "little")
    start, end = json.loads(raw[8 : 8 + n_header])["checksum"]["data_offsets"]
    raw[8 + n_header + start : 8 + n_header + end] = hashlib.sha256(raw).digest()
    return bytes(raw)
