"""A network on a device: load a compiled program, infer, read back. NumPy only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hw.protocol import LayerCounters, Space, n_bytes, row_bytes, spec_hash, unpack
from hw.spec import GRANULE_BITS, Config
from sw.compiler import Program, compile_network
from sw.device import RunResult
from sw.network import Network


class Device(Protocol):
    """What a session needs of a device; :class:`sw.device.Board` is the real one."""

    @property
    def config(self) -> Config: ...

    def write(
        self,
        space: Space,
        row: int,
        data: bytes,
        on_progress: Callable[[int], object] | None = None,
    ) -> None: ...

    def read(self, space: Space, row: int, n_rows: int) -> bytes: ...

    def run(self, entry: int = 0) -> RunResult: ...


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What one layer did, see :class:`hw.protocol.LayerCounters`."""

    n_cycles: int
    n_weight_reads: int
    n_synaptic_ops: int
    n_spikes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Inference:
    """One image's outcome.

    Attributes
    ----------
    logits : int64 (n_classes,), or None if not read back.
    counters : by layer, in order; empty if not read back.
    maps : spikes uint8 (T, C, H, W) of every map; empty if not read back.
    link_s, compute_s : seconds spent moving data, and from starting a run to its end.
    """

    prediction: int
    n_cycles: int
    logits: NDArray[np.int64] | None
    counters: dict[str, Counters] = field(default_factory=dict)
    maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    link_s: float
    compute_s: float


def program_for(
    network: Network, program: Program | None, config: Config
) -> tuple[Program, str | None]:
    """A program that runs on a device built with ``config``, and what had to be done for it.

    Raises
    ------
    sw.compiler.FitError
        The network does not fit the device.
    """
    if program is not None and spec_hash(program.config) == spec_hash(config):
        return program, None
    why = "there was no program" if program is None else f"it was made for {program.config.name!r}"
    return compile_network(network, config), f"compiled again for {config.name!r}: {why}"


class Session:
    """A device with a program in it."""

    def __init__(self, device: Device):
        self.device = device
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The program in the device."""
        if self._program is None:
            raise RuntimeError("no program is loaded: call load first")
        return self._program

    def load(self, program: Program, on_progress: Callable[[int], object] | None = None) -> None:
        """Write a program and clear its maps.

        Parameters
        ----------
        on_progress : called with the number of bytes that have just been written, in all
            :func:`load_bytes`.

        Raises
        ------
        ValueError
            The program was compiled for another configuration.
        """
        if spec_hash(program.config) != spec_hash(self.device.config):
            raise ValueError(
                f"the program is for {program.config.name!r}, the device is "
                f"{self.device.config.name!r}; compile it again (program_for does)"
            )
        self._program = None
        for space, image in program.images.items():
            self.device.write(space, 0, image, on_progress)
        self.device.write(Space.SPIKE, 0, bytes(program.spike_bytes), on_progress)
        self._program = program

    def infer(
        self,
        spikes: NDArray[np.uint8],
        *,
        logits: bool = True,
        counters: bool = True,
        maps: bool = False,
    ) -> Inference:
        """Run one image.

        Parameters
        ----------
        spikes : input (T, C, H, W) of 0 and 1; or, if ``program.pixels``, an image (C, H, W).
        logits, counters, maps : what to read back, apart from the prediction.
        """
        program, device = self.program, self.device
        started = time.perf_counter()
        device.write(
            Space.SPIKE, program.inputs[0].start // GRANULE_BITS, program.pack_input(spikes)
        )
        written = time.perf_counter()
        result = device.run(program.entries[0])
        ran = time.perf_counter()
        logit_values = (
            program.logits(device.read(Space.RESULT, 0, program.n_result_rows)) if logits else None
        )
        return Inference(
            prediction=result.argmax,
            n_cycles=result.n_cycles,
            logits=logit_values,
            counters=self._counters() if counters else {},
            maps=self._maps() if maps else {},
            link_s=(written - started) + (time.perf_counter() - ran),
            compute_s=ran - written,
        )

    def _counters(self) -> dict[str, Counters]:
        layers = self.program.layers
        config = self.program.config
        raw = self.device.read(Space.COUNTER, 0, len(layers) * config.counter_rows)
        size = config.counter_rows * row_bytes(Space.COUNTER, config)
        counters = {}
        for n, layer in enumerate(layers):
            values = unpack(LayerCounters, raw[n * size : n * size + n_bytes(LayerCounters)])
            counters[layer.name] = Counters(
                **{f.name: int(getattr(values, f.name)) for f in fields(Counters)}
            )
        return counters

    def _maps(self) -> dict[str, NDArray[np.uint8]]:
        return {
            name: place.unpack(
                self.device.read(
                    Space.SPIKE, place.start // GRANULE_BITS, place.n_bits // GRANULE_BITS
                )
            )
            for name, place in self.program.placements.items()
        }


def load_bytes(program: Program) -> int:
    """Bytes that :meth:`Session.load` writes."""
    return sum(map(len, program.images.values())) + program.spike_bytes
