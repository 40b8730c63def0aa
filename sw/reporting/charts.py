"""Draw charts as HTML and SVG elements. Their colours are defined in ``style.css``."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from hw.spec import Reset, after_spike

SPIKE_RGB = (0x3D, 0x86, 0xC6)
"""Colour of spikes; it can be seen on white and on black."""


def png(pixels: NDArray[np.uint8], palette: Sequence[tuple[int, int, int, int]]) -> str:
    """Encode an image as PNG, and return it as a ``data:`` URL.

    Parameters
    ----------
    pixels : (H, W), each an index into ``palette``.
    palette : up to 256 colours (red, green, blue, alpha), each from 0 to 255.
    """
    height, width = pixels.shape
    depth = 1 if len(palette) <= 2 else 8
    rows = np.packbits(pixels.astype(bool), axis=1) if depth == 1 else pixels
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    body = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0))
        + chunk(b"PLTE", b"".join(bytes(c[:3]) for c in palette))
        + chunk(b"tRNS", bytes(c[3] for c in palette))
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(body).decode()


def picture(image: NDArray[np.uint8], alt: str) -> str:
    """Return an HTML image, in grey, of a network's input.

    An image (C, H, W) is averaged over its channels. Binary frames (T, C, H, W) are averaged over
    timesteps and channels. ``alt`` is the text for readers who cannot see the picture.
    """
    grey = image.astype(np.float64)
    if image.ndim == 4:
        grey = 255 * grey / max(grey.max(), 1)
    while grey.ndim > 2:
        grey = grey.mean(axis=0)
    palette = [(n, n, n, 255) for n in range(256)]
    url = png(grey.round().astype(np.uint8), palette)
    return f'<img class="pixels" src="{url}" alt="{escape(alt)}">'


def raster(spikes: NDArray[np.uint8], alt: str) -> str:
    """Return a raster plot of spikes (T, C, H, W) as HTML images, one per timestep, side by side.

    In each image, a row is a channel, and a column is a position of the layer's H x W grid, in
    reading order. ``alt`` is the text for readers who cannot see the images.
    """
    timesteps, channels = spikes.shape[:2]
    flat = spikes.reshape(timesteps, channels, -1)
    rows = min(channels, 128)
    images = "".join(
        f'<img class="pixels" src="{png(step, [(0, 0, 0, 0), (*SPIKE_RGB, 255)])}" '
        f'alt="{escape(alt)}, timestep {t}">'
        for t, step in enumerate(flat)
    )
    return f'<div class="raster" style="--t:{timesteps};--rows:{rows}">{images}</div>'


def rate_bars(rates: Sequence[float], full: float) -> str:
    """Return an HTML bar chart of firing rates: one upright bar per timestep.

    Rates are shares of the neurons, from 0 to 1; a rate of ``full`` has the whole height.
    """
    bars = "".join(
        f'<i style="--v:{min(1.0, rate / full):.4f}" title="timestep {t}: {rate:.2%}">'
        f"<b>{100 * rate:.0f}</b></i>"
        for t, rate in enumerate(rates)
    )
    text = ", ".join(f"{rate:.1%}" for rate in rates)
    return f'<div class="rates" role="img" aria-label="firing rates: {text}">{bars}</div>'


def stacked(parts: Sequence[tuple[str, str, int]], total: int, unit: str) -> str:
    """Return one HTML bar that is divided into segments, such as the layers that fill a memory.

    Each of ``parts`` is (label, CSS class, amount). The full length of the bar stands for
    ``total``; the remainder is shown as free. ``unit`` is the unit of the amounts, such as rows.
    """
    segments = "".join(
        f'<span class="{kind}" style="flex-grow:{amount}" '
        f'title="{escape(name)}: {amount:,} {unit} ({amount / total:.1%})">'
        f"{escape(_chip(name)) if amount / total > 0.035 else ''}</span>"
        for name, kind, amount in parts
        if amount
    )
    free = total - sum(amount for _, _, amount in parts)
    if free > 0:
        segments += (
            f'<span class="free" style="flex-grow:{free}" title="free: {free:,} {unit}"></span>'
        )
    return f'<div class="stack">{segments}</div>'


def _chip(name: str) -> str:
    return name.partition(" ")[0]


def bars(values: Sequence[tuple[str, float, str]], full: float) -> str:
    """Return horizontal HTML bars, one below the other.

    Each of ``values`` is (CSS class, value, text beside the bar); a value of ``full`` has the whole
    width.
    """
    return "".join(
        f'<div class="bar {kind}"><i style="width:{100 * value / full:.2f}%"></i>'
        f"<span>{escape(text)}</span></div>"
        for kind, value, text in values
    )


def histogram(values: NDArray[np.integer], bits: int) -> str:
    """Return an SVG histogram of signed weights of ``bits`` bits.

    It spans all values that ``bits`` bits can hold, in at most 64 bins. The height of a bar is
    proportional to the logarithm of 1 plus the number of weights in the bin.
    """
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    per_bin = max(1, (high - low + 1) // 64)
    counts = np.bincount(
        (values.reshape(-1).astype(np.int64) - low) // per_bin,
        minlength=(high - low + 1) // per_bin,
    )
    n, most = len(counts), int(counts.max())
    scale = 74 / math.log10(1 + most)
    width = 256 / n
    columns = []
    for i, count in enumerate(counts.tolist()):
        if not count:
            continue
        height = scale * math.log10(1 + count)
        first = low + i * per_bin
        span = f"{first}" if per_bin == 1 else f"{first} to {first + per_bin - 1}"
        zero = " zero" if first <= 0 < first + per_bin else ""
        columns.append(
            f'<rect class="column{zero}" x="{i * width + 0.4:.1f}" y="{80 - height:.1f}" '
            f'width="{max(width - 0.8, 0.8):.1f}" height="{height:.1f}">'
            f"<title>{span}: {count:,}</title></rect>"
        )
    return (
        '<svg class="histogram" viewBox="0 0 256 98" role="img" '
        f'aria-label="Histogram of weights from {low} to {high}">{"".join(columns)}'
        '<path class="axis" d="M0 80.5H256"/>'
        f'<text x="0" y="94">{low}</text><text x="128" y="94" text-anchor="middle">0</text>'
        f'<text x="256" y="94" text-anchor="end">{high}</text></svg>'
    )


def trace(
    values: NDArray[np.int64], spikes: NDArray[np.bool_], threshold: int, reset: Reset
) -> str:
    """Return an SVG plot of one neuron's membrane over time, with its threshold and its spikes.

    Parameters
    ----------
    values : membrane (T,) at each timestep, before the comparison with the threshold.
    spikes : (T,), whether the neuron fires.
    threshold : the membrane at which the neuron fires, drawn as a horizontal line.
    reset : kind of reset. The membrane that it leaves after a spike is drawn at the end of that
        timestep.
    """
    timesteps = len(values)
    low = min(0, int(values.min()))
    high = max(threshold, int(values.max()))
    span = max(high - low, 1)

    def y(value: float) -> float:
        return 84 - 66 * (value - low) / span

    step = 200 / timesteps
    left = 0.0
    path = f"M0 {y(0):.1f}"
    marks = []
    for t in range(timesteps):
        value = int(values[t])
        x = t * step
        path += f"L{x:.1f} {y(left):.1f}L{x + step * 0.12:.1f} {y(value):.1f}H{x + step * 0.8:.1f}"
        left = value
        if spikes[t]:
            marks.append(
                f'<path class="spike" d="M{x + step * 0.46:.1f} 3v10"><title>timestep {t}: '
                f"spike at {value:,}</title></path>"
            )
            left = after_spike(value, threshold, reset)
            path += f"L{x + step * 0.92:.1f} {y(left):.1f}"
    path += "H200"
    numbers = ", ".join(f"{v:,}" for v in values.tolist())
    return (
        '<svg class="trace" viewBox="-2 0 204 90" preserveAspectRatio="none" role="img" '
        f'aria-label="Membrane: {numbers}; threshold {threshold:,}; {int(spikes.sum())} spikes">'
        f"<title>membrane {numbers}; "
        f"threshold {threshold:,}</title>"
        + "".join(f'<path class="grid" d="M{t * step:.1f} 16V86"/>' for t in range(timesteps + 1))
        + f'<path class="zero" d="M0 {y(0):.1f}H200"/>'
        f'<path class="threshold" d="M0 {y(threshold):.1f}H200"/>'
        f'<path class="membrane" d="{path}"/>{"".join(marks)}</svg>'
    )


def confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Return a confusion matrix as an HTML table, with the recall of each class in the last column.

    ``matrix[i, j]`` is the number of images of class i that are classified as j.
    """
    rows = []
    totals = matrix.sum(axis=1)
    for n, name in enumerate(labels):
        cells = []
        for m, count in enumerate(matrix[n].tolist()):
            share = count / totals[n] if totals[n] else 0.0
            kind = "right" if n == m else "wrong"
            shown = f"{count:,}" if count else ""
            cells.append(
                f'<td class="{kind}{" strong" if share > 0.55 else ""}" '
                f'style="--v:{math.sqrt(share):.3f}" '
                f'title="{escape(name)} taken for {escape(labels[m])}: {count:,}">{shown}</td>'
            )
        recall = f"{matrix[n, n] / totals[n]:.0%}" if totals[n] else "–"
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}<td class="recall">{recall}'
            "</td></tr>"
        )
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in labels)
    return (
        f'<table class="confusion"><thead><tr><td></td>{head}<th scope="col"><span>found</span>'
        f"</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
