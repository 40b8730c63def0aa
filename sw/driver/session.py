"""Classification of many samples on a board. All measurements are collected in
:class:`sw.driver.results.Results`."""

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
from sw.driver import check
from sw.driver.any_board import AnyBoard
from sw.driver.errors import DeviceError
from sw.driver.inference import Inference, StreamItem
from sw.driver.results import INTERRUPTED, LayerMeans, Results
from sw.network import encoder
from sw.network.network import Network

CHECKS = ("counts", "spikes")
"""Extents of the comparison with the integer reference: ``counts`` compares predictions, logits and
the numbers of spikes and synaptic operations; ``spikes`` compares these and every single spike."""
BATCH = 50
"""Number of images that are prepared for the board, and compared with the integer reference, at a
time."""


def classify(
    board: AnyBoard,
    network: Network,
    images: NDArray[np.uint8],
    results: Results,
    *,
    checked: str | None = None,
    counters: bool = True,
    quiet: bool = False,
) -> None:
    """Classify images on a board, and record the results in ``results``.

    If the board fails or Ctrl-C is pressed, there is no exception: the results so far are kept, and
    ``results.stopped`` says why classification ended.

    Parameters
    ----------
    board : board into which ``network`` has been loaded.
    images : uint8 images (N, C, H, W), or spikes (N, T, C, H, W) of 0 and 1 if the network has no
        encoder.
    checked : what to compare with the integer reference (:mod:`sw.network.reference`): one of
        :data:`CHECKS`, or None for nothing.
    counters : ask for the counters of every layer with each result; see
        :meth:`sw.driver.any_board.AnyBoard.stream`.
    quiet : show no progress bar. Without a terminal, none is shown in any case.
    """
    recorder = _Recorder(board, results)
    with tqdm(total=len(images), unit=" images", disable=quiet or None, file=sys.stderr) as bar:
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            frames = encoder.inputs(network, batch, board.program.pixels)
            done = []
            with recorder.outcomes(frames, maps=checked == "spikes", counters=counters) as outcomes:
                for inference in outcomes:
                    done.append(inference)
                    bar.update()
            if checked and done and results.stopped != INTERRUPTED:
                try:
                    results.mismatches += check.against_reference(
                        network, batch[: len(done)], done, first
                    )
                    results.n_checked += len(done)
                except KeyboardInterrupt:
                    results.stopped = INTERRUPTED
            if results.stopped:
                return


def classify_live(
    board: AnyBoard,
    network: Network,
    source: BinaryIO,
    results: Results,
    on_result: Callable[[Inference], object],
    n: int | None = None,
    *,
    counters: bool = True,
) -> None:
    """Classify samples from a stream as they arrive, and record the results in ``results``.
    Failures and Ctrl-C are handled as by :func:`classify`.

    Parameters
    ----------
    source : stream of bytes, in which raw samples follow one another; see
        :func:`sw.data.inputs.stream`.
    on_result : called with each result as soon as it is known.
    n : number of samples to classify; None means all.
    counters : see :func:`classify`.
    """

    def frames() -> Iterator[StreamItem]:
        n_taken = 0
        for sample in inputs.stream(source, network):
            yield None if sample is None else frame_for(network, sample, board.program.pixels)
            n_taken += sample is not None
            if n_taken == n:
                return

    with _Recorder(board, results).outcomes(frames(), counters=counters) as outcomes:
        for inference in outcomes:
            on_result(inference)
    results.n_requested = max(results.n_requested, results.n_done)


def frame_for(network: Network, sample: NDArray[np.uint8], pixels: bool) -> NDArray[np.uint8]:
    """Return a sample in the form that the board receives: an image or spikes.

    Parameters
    ----------
    sample : uint8 image (C, H, W), or spikes (T, C, H, W) of 0 and 1 if the network has no encoder.
    pixels : whether the board computes the encoder (the layer that turns pixels into spikes).

    Returns
    -------
    The sample itself if ``pixels`` or if the network has no encoder, else the encoder's spikes
    (T, C, H, W).
    """
    return encoder.inputs(network, sample[None], pixels)[0]


class _Recorder:
    """Recorder that adds a board's results for each sample to a :class:`Results` object."""

    def __init__(self, board: AnyBoard, results: Results):
        self.board, self.results = board, results
        self.counted = [field.name for field in fields(LayerMeans)]
        self.layers = [plan.name for plan in board.program.layers]
        self.totals = np.zeros((len(self.layers), len(self.counted)))
        """Array (layers, counters): sum of each counter of each layer over all results."""
        self.has_counters = True
        """Whether results come with the counters of every layer."""
        self.before = board.counters
        results.n_buffers = len(board.program.inputs)

    @contextlib.contextmanager
    def outcomes(
        self, frames: Iterable[StreamItem], *, maps: bool = False, counters: bool = True
    ) -> Iterator[Iterator[Inference]]:
        """Run samples on the board, and provide an iterator over their results for a ``with``
        block.

        If the board fails or Ctrl-C is pressed, the block ends without an exception, and
        ``results.stopped`` says why. At the end of the block, means and totals are updated.
        """
        results = self.results
        started = time.perf_counter()
        stream = self.board.stream(frames, maps=maps, counters=counters)
        self.has_counters = counters
        try:
            yield map(self._recorded, stream)
        except DeviceError as error:
            results.stopped = f"at image {results.n_done}: {error}"
        except KeyboardInterrupt:
            results.stopped = INTERRUPTED
        finally:
            stream.close()  # aborts what is under way
            self._summarise(time.perf_counter() - started)

    def _recorded(self, inference: Inference) -> Inference:
        results = self.results
        results.predictions.append(inference.prediction)
        results.n_cycles.append(inference.n_cycles)
        if inference.work is not None:
            results.work.append(inference.work)
        results.logits.append(inference.logits.tolist())
        results.link_s.append(inference.link_s)
        results.compute_s.append(inference.compute_s)
        results.latency_s.append(inference.latency_s)
        if inference.counters:
            counted = inference.counters.values()
            self.totals += [[getattr(c, n) for n in self.counted] for c in counted]
        return inference

    def _summarise(self, seconds: float) -> None:
        results, link = self.results, self.board.counters
        results.wall_s += seconds
        results.n_repeated = link.n_repeated - self.before.n_repeated
        results.n_recoveries = link.n_recoveries - self.before.n_recoveries
        results.n_bytes_out = link.n_bytes_out - self.before.n_bytes_out
        results.n_bytes_in = link.n_bytes_in - self.before.n_bytes_in
        if results.n_done and self.has_counters:
            means = (self.totals / results.n_done).tolist()
            results.layers = {
                name: LayerMeans(**dict(zip(self.counted, row, strict=True)))
                for name, row in zip(self.layers, means, strict=True)
            }
            config = self.board.config
            for plan in self.board.program.layers:
                counted = results.layers[plan.name]
                n_rows = plan.bus_rows(counted.n_weight_reads, plan.n_jobs, config)
                if n_rows:
                    n_cycles = n_rows * config.offchip_row_cycles
                    results.bus_use[plan.name] = n_cycles / counted.n_cycles
