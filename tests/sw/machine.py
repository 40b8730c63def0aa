"""Model of the device: executes the memory images of a program as the gateware does, bank by bank.

It shares no code with the compiler: loops and the addresses of spikes and weights are read from the
descriptors (:mod:`tests.sw.walk`), spikes and weights from the bytes that the host writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.spec import (
    GRANULE_BITS,
    N_PLANES,
    Leak,
    Reset,
    after_spike,
    carried_over,
    joined,
    signed_range,
)
from sw.compile.program import Program
from tests.sw.walk import Walk, descriptors, params_of, walk, weights_of

Ints = NDArray[np.int64]


class Machine:
    """Model of a device into which a program has been loaded.

    Members
    -------
    spikes : bits of spike memory (banks, bits).
    active : for each layer, numbers of spikes that its jobs read in the last run, (banks, n_jobs).
    """

    def __init__(self, program: Program):
        self.program = program
        config = self.config = program.config
        self.spikes = np.zeros((config.banks, GRANULE_BITS * config.spike_bytes), np.uint8)
        size = -len(weights_of(program)) % config.banks
        rows = np.pad(weights_of(program), ((0, size), (0, 0)))
        self.weights = rows.reshape(-1, config.banks, config.lanes).swapaxes(0, 1)
        self.params = params_of(program)
        self.results = np.zeros((config.result_rows, config.fire_lanes), np.int64)
        self.active: list[Ints] = []
        self.write(0, bytes(program.spike_bytes))

    def write(self, row: int, raw: bytes) -> None:
        """Write consecutive rows of :attr:`hw.protocol.Space.SPIKE`, from number ``row`` on."""
        for n, byte in enumerate(raw, start=row):
            granule, bank = divmod(n, self.config.banks)
            bits = [byte >> i & 1 for i in range(GRANULE_BITS)]
            self.spikes[bank, GRANULE_BITS * granule : GRANULE_BITS * (granule + 1)] = bits

    def read(self, row: int, n_rows: int) -> bytes:
        """Return ``n_rows`` rows of :attr:`hw.protocol.Space.SPIKE`, from number ``row`` on."""
        packed = np.packbits(self.spikes, axis=1, bitorder="little")
        granule, bank = np.divmod(np.arange(row, row + n_rows), self.config.banks)
        return packed[bank, granule].tobytes()

    def run(self, sample: NDArray[np.uint8], buffer: int = 0) -> tuple[dict[str, Any], Ints]:
        """Run the network on a sample, which is written to the input buffer number ``buffer``.

        Return the spikes of every map (T, C, H, W) by name, and the logits.
        """
        program = self.program
        self.write(program.inputs[buffer].first_row, program.pack_input(sample, buffer))
        self.active = []
        for descriptor in descriptors(program, buffer):
            self._run_layer(walk(descriptor, self.config))
        maps = {
            name: place.unpack(self.read(place.first_row, place.n_rows))
            for name, place in program.places(buffer).items()
        }
        return maps, self.results.reshape(-1)[: program.n_classes]

    def _sums(self, done: Walk) -> Ints:
        """Return the weighted sums (banks, n_jobs, lanes) that each bank accumulates for every
        job.
        """
        config = self.config
        assert not self.spikes[:, done.dead].any(), "an input without a weight is active"
        sums = np.zeros((config.banks, len(done), config.lanes), np.int64)
        job, address, row = done.reads.T
        counts = np.zeros((config.banks, len(done)), np.int64)
        for bank in range(config.banks):
            active = np.flatnonzero(self.spikes[bank, address % self.spikes.shape[1]])
            np.add.at(sums[bank], job[active], self.weights[bank, row[active]])
            counts[bank] = np.bincount(job[active], minlength=len(done))
        self.active.append(counts)
        low, high = signed_range(config.sum_bits)
        assert low <= sums.min() and sums.max() <= high, "an accumulator overflows"
        return sums

    def _run_layer(self, done: Walk) -> None:
        config, header, at = self.config, done.header, done.fields
        sums = self._sums(done)
        n_lanes = config.fire_lanes * (header.last_beat + 1)
        membranes = np.zeros((config.membrane_slots, n_lanes), np.int64)
        totals, fired = membranes.copy(), membranes.astype(bool)
        window = np.zeros(n_lanes, np.int64)
        n_plane_steps = N_PLANES // config.banks if header.pixels else 0
        weight_of_bank = 1 << np.arange(config.banks)[::-1, None]
        for job in range(len(done)):
            rows = at["param"][job] + np.arange(header.last_beat + 1)
            of_banks = sums[:, job, :n_lanes]
            slot, time = at["slot"][job], at["time"][job]
            if time < n_plane_steps:
                last = 0 if at["fresh"][job] else totals[slot]
                totals[slot] = (last << config.banks) + (of_banks * weight_of_bank).sum(axis=0)
                continue
            drive = totals[slot] if header.pixels else of_banks.sum(axis=0)
            params = self.params[rows].reshape(-1, 2)
            if header.output:
                logits = (drive + params[:, 0]).reshape(-1, config.fire_lanes)
                self.results[at["target"][job] + np.arange(header.last_beat + 1)] = logits
                continue
            first = at["fresh"][job] or (header.pixels and time == n_plane_steps)
            membrane = 0 * drive if first else membranes[slot]
            shifts = (header.leak_shift, header.leak_shift2, header.leak_shift3)
            membrane = (
                drive
                + params[:, 0]
                + carried_over(
                    membrane,
                    0 if first else fired[slot],
                    params[:, 1],
                    Reset(header.reset),
                    Leak(header.leak),
                    *(shift for shift in shifts if shift),
                )
            )
            low, high = signed_range(config.membrane_bits)
            assert low <= membrane.min() and membrane.max() <= high, "a membrane overflows"
            fires = fired[slot] = membrane >= params[:, 1]
            after = after_spike(membrane, params[:, 1], Reset(header.reset))
            membranes[slot] = np.where(fires, after, membrane)
            identity = self._lanes(at["identity"][job], n_lanes)
            spikes = joined(header.gate, fires.astype(np.int64), identity) & 1
            window = spikes if at["pool_first"][job] else window | spikes
            if at["pool_last"][job]:
                n_real = header.tail_lanes if at["tail"][job] else config.lanes
                self._store(at["target"][job], window[:n_real])

    def _lanes(self, granule: int, n_lanes: int) -> Ints:
        """Return the spikes of ``n_lanes`` channels, which are dealt to the banks in turn.

        In each bank, they begin at number ``granule`` of the granules (8 bits) of spike memory.
        """
        bit, bank = np.divmod(np.arange(n_lanes), self.config.banks)
        address = (GRANULE_BITS * granule + bit) % self.spikes.shape[1]
        return self.spikes[bank, address].astype(np.int64)

    def _store(self, granule: int, spikes: Ints) -> None:
        """Write the spikes of a job's channels, which are dealt to the banks in turn.

        In each bank, they are written in whole granules (8 bits) of spike memory, from number
        ``granule`` on.
        """
        banks = self.config.banks
        n_granules = -(-len(spikes) // (banks * GRANULE_BITS))
        padded = np.zeros(n_granules * GRANULE_BITS * banks, np.uint8)
        padded[: len(spikes)] = spikes
        first = GRANULE_BITS * granule
        self.spikes[:, first : first + n_granules * GRANULE_BITS] = padded.reshape(-1, banks).T
