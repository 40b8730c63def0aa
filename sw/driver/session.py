"""Classification of many samples on a board, with all that is found out on the way."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sw.data import inputs
from sw.driver.board import Board
from sw.driver.check import check
from sw.driver.group import Boards
from sw.driver.inference import Inference
from sw.driver.results import INTERRUPTED, LayerTotal, Results
from sw.driver.transport import DeviceError
from sw.network import encoder
from sw.network.network import Network

CHECKS = ("counts", "spikes")
BATCH = 50
"""Images that are encoded, and checked, at once."""


def classify(
    board: Board | Boards,
    network: Network,
    images: NDArray[np.uint8],
    results: Results,
    *,
    checked: str | None = None,
    quiet: bool = False,
) -> None:
    """Run all images and fill ``results``. If the device goes away, what is done is kept and
    ``results.stopped`` says at which image and why; the same for Ctrl-C.

    Parameters
    ----------
    checked : None, or one of :data:`CHECKS`: what to compare with the reference.
    """
    tally = _Tally(board, results)
    with tqdm(total=len(images), unit=" images", disable=quiet or None, file=sys.stderr) as bar:
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            frames = encoder.inputs(network, batch, board.program.pixels)
            done = []
            with tally.outcomes(frames, maps=checked == "spikes") as outcomes:
                for inference in outcomes:
                    done.append(inference)
                    bar.update()
            if checked and done and results.stopped != INTERRUPTED:
                try:
                    results.mismatches += check(network, batch[: len(done)], done, first)
                    results.n_checked += len(done)
                except KeyboardInterrupt:
                    results.stopped = INTERRUPTED
            if results.stopped:
                return


def classify_live(
    board: Board | Boards,
    network: Network,
    source: BinaryIO,
    results: Results,
    on_result: Callable[[Inference], object],
    n: int | None = None,
) -> None:
    """Runs samples as they come in, see :func:`sw.data.inputs.stream`, until they end, or ``n``; fills
    ``results`` like :func:`classify`."""

    def frames() -> Iterator[NDArray[np.uint8] | None]:
        n_taken = 0
        for sample in inputs.stream(source, network):
            yield None if sample is None else frame_for(network, sample, board.program.pixels)
            n_taken += sample is not None
            if n_taken == n:
                return

    with _Tally(board, results).outcomes(frames()) as outcomes:
        for inference in outcomes:
            on_result(inference)
    results.n_requested = max(results.n_requested, results.n_done)


def frame_for(network: Network, sample: NDArray[np.uint8], pixels: bool) -> NDArray[np.uint8]:
    """What a device takes for one sample, see :func:`sw.network.encoder.inputs`."""
    return encoder.inputs(network, sample[None], pixels)[0]


class _Tally:
    """Fills :class:`Results` with outcomes."""

    def __init__(self, board: Board | Boards, results: Results):
        self.board, self.results = board, results
        self.counted = [f.name for f in fields(LayerTotal)]
        self.names = [plan.name for plan in board.program.layers]
        self.totals = np.zeros((len(self.names), len(self.counted)))
        self.links = [one.device.transport.counters for one in board.boards]
        self.before = self._n_bytes()

    def _n_bytes(self) -> tuple[int, int]:
        return sum(k.n_bytes_out for k in self.links), sum(k.n_bytes_in for k in self.links)

    @contextlib.contextmanager
    def outcomes(
        self, frames: Iterable[NDArray[np.uint8] | None], *, maps: bool = False
    ) -> Iterator[Iterator[Inference]]:
        """Runs samples. If the device goes away, or Ctrl-C comes, ``stopped`` says so."""
        results = self.results
        started = time.perf_counter()
        stream = self.board.stream(frames, maps=maps)
        try:
            yield map(self._added, stream)
        except DeviceError as error:
            results.stopped = f"at image {results.n_done}: {error}"
        except KeyboardInterrupt:
            results.stopped = INTERRUPTED
        finally:
            stream.close()  # ends what is under way
            self._finish(time.perf_counter() - started)

    def _finish(self, seconds: float) -> None:
        results = self.results
        results.wall_s += seconds
        results.n_repeated = sum(link.n_repeated for link in self.links)
        results.n_recoveries = sum(link.n_recoveries for link in self.links)
        n_out, n_in = self._n_bytes()
        results.n_bytes_out, results.n_bytes_in = n_out - self.before[0], n_in - self.before[1]
        if results.n_done:
            results.layers = {
                name: LayerTotal(
                    **dict(zip(self.counted, (row / results.n_done).tolist(), strict=True))
                )
                for name, row in zip(self.names, self.totals, strict=True)
            }

    def _added(self, inference: Inference) -> Inference:
        results = self.results
        results.predictions.append(inference.prediction)
        results.n_cycles.append(inference.n_cycles)
        results.logits.append(inference.logits.tolist())
        results.link_s.append(inference.link_s)
        results.compute_s.append(inference.compute_s)
        results.latency_s.append(inference.latency_s)
        self.totals += [[getattr(c, n) for n in self.counted] for c in inference.counters.values()]
        return inference
