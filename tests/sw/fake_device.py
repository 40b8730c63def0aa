"""A device that computes with the golden model in place of gateware, for tests of the driver."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hw.protocol import LayerCounters, Space, n_rows, pack, row_bytes
from hw.spec import GRANULE_BITS, N_PLANES, Config
from sw.compiler import PIXELS, compile_network, device_layers
from sw.device import RunResult
from sw.encoder import encode
from sw.network import Network
from sw.report import n_synaptic_ops
from tests.golden import run_network


class FakeDevice:
    """Runs ``network``, whatever it is loaded with; what was written must be its program.

    Parameters
    ----------
    fails_at : raise ``error`` at this run, counted from 0.
    """

    port = "fake"

    def __init__(
        self,
        network: Network,
        config: Config,
        fails_at: int | None = None,
        error: BaseException | None = None,
    ):
        self.network = network
        self.config = config
        self.program = compile_network(network, config)
        self.memories = {s: bytearray(n_rows(s, config) * row_bytes(s, config)) for s in Space}
        self.memories[Space.SPIKE][:] = b"\xff" * config.spike_bytes
        self.fails_at, self.error = fails_at, error
        self.n_runs = 0

    def __enter__(self) -> FakeDevice:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(
        self,
        space: Space,
        row: int,
        data: bytes,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        size = row_bytes(space, self.config)
        assert len(data) % size == 0 and row + len(data) // size <= n_rows(space, self.config)
        self.memories[space][row * size : row * size + len(data)] = data
        if on_progress:
            on_progress(len(data))

    def read(self, space: Space, row: int, n_rows: int) -> bytes:
        size = row_bytes(space, self.config)
        return bytes(self.memories[space][row * size : (row + n_rows) * size])

    def run(self, entry: int = 0) -> RunResult:
        if self.n_runs == self.fails_at and self.error is not None:
            raise self.error
        self.n_runs += 1
        for space, image in self.program.images.items():
            assert self.memories[space][: len(image)] == image, f"{space.name} is not the program's"
        spikes = self.memories[Space.SPIKE]
        for place in self.program.placements.values():
            start, size = place.start // GRANULE_BITS, place.n_bits // GRANULE_BITS
            raw = bytes(spikes[start : start + size])
            assert place.pack(place.unpack(raw)) == raw, "padding must be clear"
        place = self.program.inputs[self.program.entries.index(entry)]
        raw = bytes(spikes[place.start // 8 : (place.start + place.n_bits) // 8])
        given = place.unpack(raw)
        layers = device_layers(self.network, self.program.pixels)
        if self.program.pixels:  # the device's own encoder, from the bit-planes
            worth = 1 << np.arange(N_PLANES - 1, -1, -1)[:, None, None, None]
            image = (given * worth).sum(axis=0).astype(np.uint8)
            maps, logits = run_network(self.network, encode(self.network, image[None])[0])
            maps |= {PIXELS: given}
        else:
            maps, logits = run_network(self.network, given)
        counters = b""
        for layer in layers:
            if not layer.output:
                place = self.program.placements[layer.name]
                self.write(Space.SPIKE, place.start // 8, place.pack(maps[layer.name]))
            counters += pack(
                LayerCounters,
                {
                    "n_cycles": 100,
                    "n_weight_reads": 50,
                    "n_synaptic_ops": n_synaptic_ops(layer, maps[layer.source]),
                    "n_spikes": 0 if layer.output else int(maps[layer.name].sum()),
                },
            ).ljust(self.config.counter_rows * row_bytes(Space.COUNTER, self.config), b"\0")
        self.write(Space.COUNTER, 0, counters)
        padded = np.zeros(self.program.n_result_rows * self.config.fire_lanes, "<i4")
        padded[: len(logits)] = logits
        self.write(Space.RESULT, 0, padded.tobytes())
        return RunResult(argmax=int(np.argmax(logits)), n_cycles=1234)
