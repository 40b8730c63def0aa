"""Make the report on a network as one HTML page.

The page contains its style sheet, its script and its pictures, so it loads no other file. It can
also be read with the script disabled.
"""

from __future__ import annotations

import importlib.resources
from html import escape

from hw.boards.configs import board_name
from sw.data import metrics
from sw.reporting import accuracy, activity, structure
from sw.reporting.markup import short, tile
from sw.reporting.report import Report


def render(report: Report) -> str:
    """Return the report as a complete HTML document; sections with nothing to show are left out."""
    sections = [
        ("network", "Network", structure.network(report)),
        ("memory", "Memory", structure.memory(report)),
        ("spikes", "Spikes", activity.spikes(report)),
        ("membranes", "Membranes", activity.membranes(report)),
        ("weights", "Weights", structure.weights(report)),
        ("cycles", "Cycles", activity.cycles(report)),
        ("accuracy", "Accuracy", accuracy.accuracy(report)),
        ("origin", "Origin", structure.origin(report)),
    ]
    sections = [s for s in sections if s[2]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{content}</section>'
        for key, title, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.name)} · Spikefold</title><style>{_resource('style.css')}</style>"
        f"</head><body><header>{_header(report)}</header><nav>{links}</nav><main>{body}</main>"
        f"<footer>Spikefold · {escape(report.command)}</footer>"
        f"<script>{_resource('script.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    """Return the text of a file in this module's folder, such as ``style.css``."""
    return importlib.resources.files("sw.reporting").joinpath(name).read_text()


def _header(report: Report) -> str:
    """Return the top of the page as HTML: the network's name, whether it fits the board, and the
    most important figures."""
    network, seen, program = report.network, report.observation, report.program
    tiles = []
    if seen is not None and seen.labels is not None:
        right = int((seen.predictions == seen.labels).sum())
        n = len(seen.labels)
        low, high = metrics.wilson(right, n)
        tiles.append(
            tile(
                f"{right / n:.1%}",
                "accuracy in integers",
                f"{right:,} of {n:,}; 95 %: {low:.1%} to {high:.1%}",
            )
        )
    if program is not None:
        used, rows = program.usage()["weight"]
        tiles.append(
            tile(
                f"{used / rows:.0%}",
                "of weight memory",
                f"{used:,} of {rows:,} rows, {board_name(program.config)}",
            )
        )
    if seen is not None and program is not None:
        counted = seen.counted
        cycles = (
            sum(counted.n_cycles.values())
            if counted
            else sum(layer.n_cycles or 0.0 for layer in seen.layers)
        )
        clk_hz = program.config.clk_hz
        tiles.append(
            tile(
                f"{1e3 * cycles / clk_hz:.2f}&thinsp;ms",
                "core, per image",
                f"{cycles:,.0f} cycles {'counted' if counted else 'predicted'}, "
                f"{clk_hz / 1e6:g} MHz",
            )
        )
    if seen is not None:
        ops = sum(layer.n_synaptic_ops or 0.0 for layer in seen.layers)
        synapses = sum(layer.n_synapses for layer in seen.layers)
        tiles.append(
            tile(
                short(ops),
                "synaptic operations per image",
                f"{ops / synapses:.1%} of {short(synapses)} synapses",
            )
        )
    tiles.append(
        tile(
            short(network.n_weights),
            f"weights of {network.weight_bits} bit",
            f"{len(network.layers)} layers, {network.timesteps} timesteps",
        )
    )
    fits = next((b for b in report.boards if b.fits), None)
    if program is not None:
        verdict = (
            f'<p class="verdict good">✓ fits {escape(board_name(program.config))}; every '
            "membrane is proved wide enough for any input</p>"
        )
    else:
        verdict = f'<p class="verdict bad">✗ {escape(report.boards[0].problem or "does not fit")}'
        verdict += f"; it fits {escape(fits.board)}</p>" if fits else "</p>"
    return f'<h1>{escape(report.name)}</h1>{verdict}<div class="tiles">{"".join(tiles)}</div>'
