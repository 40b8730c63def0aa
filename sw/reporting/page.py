"""The report as one HTML page that needs nothing else: no network, no script to be readable."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from hw.boards.configs import board_name
from hw.protocol import Space, row_bytes
from sw.compile import costs
from sw.compile.fitting import BoardReport
from sw.compile.program import PIXELS, Program, device_layers
from sw.data import metrics
from sw.network.network import Network
from sw.reporting import charts
from sw.reporting.diagram import conv_text, diagram, granularity, granularity_class, neuron_text
from sw.reporting.observe import Observation, Sample

N_COLOURS = 7
N_TELLING = 100
"""Images whose accuracy has an interval that can be drawn beside the others."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """An accuracy on the way from training to the device."""

    name: str
    percent: float
    on: str
    """Which images, and how many if that is known."""
    n_images: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Page:
    """What a page shows. Without a program the network fits no device that it was compiled for;
    without an observation there were no images."""

    name: str
    sha256: str
    network: Network
    program: Program | None
    boards: list[BoardReport]
    steps: list[Step]
    observation: Observation | None
    command: str


def render(page: Page) -> str:
    """The page."""
    sections = [
        ("network", "Network", _network(page)),
        ("memory", "Memory", _memory(page)),
        ("spikes", "Spikes", _spikes(page)),
        ("membranes", "Membranes", _membranes(page)),
        ("weights", "Weights", _weights(page)),
        ("cycles", "Cycles", _cycles(page)),
        ("accuracy", "Accuracy", _accuracy(page)),
        ("origin", "Origin", _origin(page)),
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
        f"<title>{escape(page.name)} · Spikefold</title><style>{_resource('style.css')}</style>"
        f"</head><body><header>{_header(page)}</header><nav>{links}</nav><main>{body}</main>"
        f"<footer>Spikefold · {escape(page.command)}</footer>"
        f"<script>{_resource('script.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return importlib.resources.files("sw.reporting").joinpath(name).read_text()


def _colour(number: int) -> str:
    """CSS class of a layer's colour."""
    return f"c{number % N_COLOURS}"


def _chip(number: int) -> str:
    return f'<span class="chip {_colour(number)}">{number}</span>'


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _tile(value: str, what: str, detail: str = "") -> str:
    return f'<div class="tile"><b>{value}</b><span>{what}</span><small>{detail}</small></div>'


def _short(value: float) -> str:
    for scale, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= scale:
            digits = 2 if value < 10 * scale else 1 if value < 100 * scale else 0
            return f"{value / scale:.{digits}f}&thinsp;{suffix}"
    return f"{value:,.0f}"


def _header(page: Page) -> str:
    network, seen, program = page.network, page.observation, page.program
    tiles = []
    if seen is not None and seen.labels is not None:
        right = int((seen.predictions == seen.labels).sum())
        n = len(seen.labels)
        low, high = metrics.wilson(right, n)
        tiles.append(
            _tile(
                f"{right / n:.1%}",
                "accuracy in integers",
                f"{right:,} of {n:,}; 95 %: {low:.1%} to {high:.1%}",
            )
        )
    if program is not None:
        used, rows = program.usage()["weight"]
        tiles.append(
            _tile(
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
            _tile(
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
            _tile(
                _short(ops),
                "synaptic operations per image",
                f"{ops / synapses:.1%} of {_short(synapses)} synapses",
            )
        )
    n_weights = sum(layer.weight.size for layer in network.layers)
    tiles.append(
        _tile(
            _short(n_weights),
            f"weights of {network.weight_bits} bit",
            f"{len(network.layers)} layers, {network.timesteps} timesteps",
        )
    )
    fits = next((b for b in page.boards if b.fits), None)
    if program is not None:
        verdict = (
            f'<p class="verdict good">✓ fits {escape(board_name(program.config))}; every '
            "membrane is proved wide enough for any input</p>"
        )
    else:
        verdict = f'<p class="verdict bad">✗ {escape(page.boards[0].problem or "does not fit")}'
        verdict += f"; it fits {escape(fits.board)}</p>" if fits else "</p>"
    return f'<h1>{escape(page.name)}</h1>{verdict}<div class="tiles">{"".join(tiles)}</div>'


def _network(page: Page) -> str:
    network, seen = page.network, page.observation
    pixels = page.program is not None and page.program.pixels
    shapes = network.map_shapes() | {PIXELS: network.image_shape}
    reports = seen.layers if seen else costs.layer_reports(network, page.program)
    rows = []
    # The stem has no number, whether it is the host's or the device's.
    for number, (layer, cost) in enumerate(
        zip(device_layers(network, pixels), reports, strict=True), 0 if pixels else 1
    ):
        stem = network.encoder if number == 0 else None
        density = "" if cost.input_density is None else f"{cost.input_density:.1%}"
        ops = "" if cost.n_synaptic_ops is None else f"{cost.n_synaptic_ops:,.0f}"
        rows.append(
            f'<tr><td>{_chip(number) if number else ""}</td><th scope="row">'
            f"{escape((stem or layer).name)}<small>{conv_text(layer, shapes[layer.source])}<br>"
            f"{neuron_text(layer)}, fan-in {cost.fan_in:,}</small></th>"
            f'<td><span class="tag {granularity_class(layer)}">{granularity(layer)}</span></td>'
            f"<td>{cost.n_neurons:,}</td><td>{cost.n_weights:,}</td>"
            f"<td>{cost.membrane_bits}</td><td>{density}</td><td>{ops}</td></tr>"
        )
    table = (
        '<div class="scroll"><table class="layers"><thead><tr><th></th><th>layer</th>'
        "<th>weights are</th><th>neurons</th><th>weights</th><th>membrane<br>bits</th>"
        "<th>input<br>density</th><th>synaptic<br>operations</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    legend = (
        '<p class="legend"><span class="tag shared">shared</span> one kernel for the whole map '
        '<span class="tag unshared">per position</span> each output position has weights of its '
        'own <span class="tag timed">per timestep</span> and each timestep, too '
        '<span class="identity-key"></span> identity, joined by a binary gate</p>'
    )
    drawing = f'<div class="scroll">{diagram(network, pixels)}</div>'
    return f'<div class="columns">{drawing}<div>{table}{legend}</div></div>'


def _layer_amounts(page: Page, program: Program) -> dict[Space, list[tuple[str, str, int]]]:
    """Rows of each memory by layer; of spike memory by map."""
    config = program.config
    numbers = {layer.name: n for n, layer in enumerate(page.network.layers, 1)}

    def part(name: str, amount: int) -> tuple[str, str, int]:
        number = numbers.get(name)
        label = f"in {name}" if number is None else f"{number} {name}"
        return label, "data" if number is None else _colour(number), amount

    n_descriptors = len(program.images[Space.WEIGHT]) // row_bytes(Space.WEIGHT, config)
    n_descriptors -= sum(p.weight_rows for p in program.layers)
    return {
        Space.WEIGHT: [
            *(part(p.name, p.weight_rows) for p in program.layers),
            ("descriptors", "data", n_descriptors),
        ],
        Space.PARAM: [part(p.name, p.param_rows) for p in program.layers],
        Space.SPIKE: [
            *(part(n, p.n_bits // 8) for n, p in program.placements.items()),
            *(("second input", "data", p.n_bits // 8) for p in program.inputs[1:]),
        ],
    }


def _memory(page: Page) -> str:
    boards = _boards(page.boards)
    if page.program is None:
        return boards
    program = page.program
    config, usage = program.config, program.usage()
    what = {
        Space.WEIGHT: f"rows of {config.lanes} weights of {config.weight_bits} bit",
        Space.PARAM: f"rows of {config.fire_lanes} biases and thresholds",
        Space.SPIKE: "bytes of spike maps, padding included",
    }
    rows = []
    for space, parts in _layer_amounts(page, program).items():
        used, total = usage[space.name.lower()]
        rows.append(
            f'<div class="memory"><div class="head"><b>{space.name.lower()}</b> {what[space]}'
            f"<span>{used:,} of {total:,} <b>{used / total:.0%}</b></span></div>"
            f"{charts.stacked(parts, total, what[space].split()[0])}</div>"
        )
    keys = "".join(
        f"<span>{_chip(n)} {escape(layer.name)}</span>"
        for n, layer in enumerate(page.network.layers, 1)
    )
    return (
        _note(
            f"Every memory of {escape(board_name(config))}, filled from the left in the "
            "order of addresses, as the core reads them. Hatched: free."
        )
        + "".join(rows)
        + f'<p class="keys">{keys}</p>{boards}'
    )


def _boards(boards: list[BoardReport]) -> str:
    rows = []
    for board in boards:
        usage = ", ".join(
            f"{memory} {used / rows:.0%}" if board.fits else f"{memory} {used:,} of {rows:,}"
            for memory, (used, rows) in board.usage.items()
        )
        remedies = "".join(f"<small>would fit with {escape(r)}</small>" for r in board.remedies)
        mark = '<td class="good">✓ fits</td>' if board.fits else '<td class="bad">✗ too small</td>'
        rows.append(
            f'<tr><th scope="row">{escape(board.board)}</th>{mark}'
            f"<td>{escape(usage or board.problem or '')}{remedies}</td></tr>"
        )
    return f'<div class="scroll"><table class="boards"><tbody>{"".join(rows)}</tbody></table></div>'


def _label(network: Network, number: int | None) -> str:
    return "" if number is None else escape(network.labels[number])


def _pick(samples: list[Sample], network: Network) -> str:
    """Buttons that choose a sample in every section that has them."""
    buttons = []
    for n, sample in enumerate(samples):
        right = sample.label is None or sample.label == sample.prediction
        answer = _label(network, sample.prediction)
        caption = answer if right else f"{_label(network, sample.label)}, taken for {answer}"
        buttons.append(
            f'<button type="button" data-show="{n}" aria-pressed="{"false" if n else "true"}">'
            f"{charts.picture(sample.image, f'image {sample.index}')}"
            f'<span class="{"" if right else "bad"}">{caption}</span></button>'
        )
    return f'<div class="pick">{"".join(buttons)}</div>'


def _for_each(parts: list[str]) -> str:
    """One part per sample, of which the first is seen until another is chosen."""
    return "".join(
        f'<div class="sample" data-sample="{n}"{" hidden" if n else ""}>{part}</div>'
        for n, part in enumerate(parts)
    )


def _map_heads(network: Network) -> dict[str, str]:
    shapes = network.map_shapes()
    numbers = {layer.name: n for n, layer in enumerate(network.layers, 1)}
    return {
        name: (_chip(numbers[name]) if name in numbers else '<span class="chip data">in</span>')
        + f"<div><b>{escape(name)}</b><small>{'×'.join(map(str, shape))}</small></div>"
        for name, shape in shapes.items()
    }


def _spikes(page: Page) -> str:
    seen, network = page.observation, page.network
    if seen is None:
        return _note(
            "There were no images that this network takes: give some with <code>--input</code> "
            "to see its spikes, membranes, cycles and accuracy."
        )
    heads = _map_heads(network)
    full = max(0.05, max(float(r.max()) for r in seen.rates.values()))
    rows = []
    for name, head in heads.items():
        rasters = _for_each(
            [
                charts.raster(sample.maps[name], f"spikes of {name}, image {sample.index}")
                for sample in seen.samples
            ]
        )
        rates = charts.rate_bars(seen.rates[name].tolist(), full)
        rows.append(
            f'<div class="spikerow"><div class="head">{head}</div>{rates}'
            f'<div class="rasters">{rasters}</div></div>'
        )
    return (
        _note(
            "Left: share of neurons that spike at each timestep in percent, mean over "
            f"{escape(seen.what)}. Right: every spike of one image; a row is a channel, the "
            f"{network.timesteps} panels are the timesteps, in each the positions of the map in "
            "reading order."
        )
        + _pick(seen.samples, network)
        + f'<div class="spikegrid">{"".join(rows)}</div>'
    )


def _membranes(page: Page) -> str:
    seen, network = page.observation, page.network
    if seen is None or not seen.membranes:
        return ""
    parts = []
    numbers = {layer.name: n for n, layer in enumerate(network.layers, 1)}
    layers = {layer.name: layer for layer in network.layers}
    for n in range(len(seen.samples)):
        rows = []
        for name, neurons in seen.membranes.items():
            plots = "".join(
                f"<figure>{charts.trace(m.values[n], m.spikes[n], m.threshold, layers[name].reset)}"
                f"<figcaption>channel {m.neuron[0]}, row {m.neuron[1]}, column {m.neuron[2]} · "
                f"threshold {m.threshold:,}</figcaption></figure>"
                for m in neurons
            )
            rows.append(
                f'<div class="tracerow"><div class="head">{_chip(numbers[name])}'
                f"<div><b>{escape(name)}</b><small>{neuron_text(layers[name])}</small></div></div>"
                f'<div class="traces">{plots}</div></div>'
            )
        parts.append("".join(rows))
    return (
        _note(
            "Membranes of some neurons over the timesteps, from the integer reference, for the "
            "image chosen above: the value that is compared with the "
            '<span class="threshold-key">threshold</span>, the '
            '<span class="spike-key">spike</span> if it is reached, and the reset. Choose others '
            "with <code>--neuron layer:channel,row,column</code>."
        )
        + _pick(seen.samples, network)
        + _for_each(parts)
    )


def _weights(page: Page) -> str:
    network = page.network
    figures = []
    for number, layer in enumerate(network.layers, 1):
        zero = float((layer.weight == 0).mean())
        figures.append(
            f"<figure><figcaption>{_chip(number)} <b>{escape(layer.name)}</b> "
            f"{layer.weight.size:,}, {zero:.1%} zero</figcaption>"
            f"{charts.histogram(layer.weight, network.weight_bits)}</figure>"
        )
    return (
        _note(
            f"Quantised weights, signed {network.weight_bits}-bit integers; heights are "
            "logarithmic, the bar of 0 is marked."
        )
        + f'<div class="small-multiples">{"".join(figures)}</div>'
    )


def _cycles(page: Page) -> str:
    seen, program = page.observation, page.program
    if seen is None or program is None:
        return ""
    counted = seen.counted
    predicted = {layer.name: layer.n_cycles or 0.0 for layer in seen.layers}
    full = max(*predicted.values(), *(counted.n_cycles.values() if counted else []), 1.0)
    rows = []
    first = 1 + len(page.network.layers) - len(seen.layers)
    for number, layer in enumerate(seen.layers, first):
        values = [("predicted", predicted[layer.name], f"{predicted[layer.name]:,.0f}")]
        # A board that takes no pixels does not compute the stem, which the one shown may do.
        n = counted.n_cycles.get(layer.name) if counted else None
        if n is not None:
            values.append(("counted", n, f"{n:,.0f} ({predicted[layer.name] - n:+,.0f})"))
        rows.append(
            f'<div class="cyclerow"><div class="head">{_chip(number)}'
            f"<div>{escape(layer.name)}</div></div>"
            f"<div>{charts.bars(values, full)}</div></div>"
        )
    total = sum(predicted.values())
    clk_hz = program.config.clk_hz
    if counted:
        n = sum(counted.n_cycles.values())
        same = counted.n_images - counted.n_differences
        note = (
            f'Means over {counted.n_images} images. <span class="key predicted"></span> predicted '
            f'from the spikes, <span class="key counted"></span> counted by '
            f"{escape(counted.board)} (in brackets: by how many cycles the prediction is off). "
            f"All layers: {total:,.0f} predicted, {n:,.0f} counted, {1e3 * n / clk_hz:.3f} ms at "
            f"{clk_hz / 1e6:g} MHz. On {same} of {counted.n_images} images every logit and spike "
            "count of the board was the reference's."
        )
    else:
        note = (
            f"Predicted from the spikes, means over {seen.n_traced} images: {total:,.0f} in all, "
            f"{1e3 * total / clk_hz:.3f} ms at {clk_hz / 1e6:g} MHz. Nothing was counted: with "
            "<code>--board sim</code> the virtual board does."
        )
    return _note(note) + "".join(rows)


def _accuracy(page: Page) -> str:
    seen, network = page.observation, page.network
    parts = []
    if page.steps:
        # A few images say too little to set the scale.
        telling = [s for s in page.steps if (s.n_images or N_TELLING) >= N_TELLING] or page.steps
        shown = [end for step in telling for end in _ends(step)]
        low, high = max(0.0, min(shown) - 1), min(100.0, max(shown) + 1)
        rows = []
        for step in page.steps:
            a, b = _ends(step)
            left, right, at = (
                min(max(100 * (v - low) / (high - low), 0.0), 100.0) for v in (a, b, step.percent)
            )
            whisker = (
                f'<i class="whisker" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
                if step.n_images
                else ""
            )
            rows.append(
                f'<tr><th scope="row">{escape(step.name)}<small>{escape(step.on)}</small></th>'
                f'<td class="number">{step.percent:.2f} %</td><td class="plot"><div>{whisker}'
                f'<i class="dot" style="left:{at:.2f}%"></i></div></td></tr>'
            )
        rows.append(
            f'<tr class="scale"><td></td><td></td><td><span>{low:.1f} %</span>'
            f"<span>{high:.1f} %</span></td></tr>"
        )
        note = "Lines are 95 % intervals. Only figures on the same images can be compared."
        parts.append(
            '<h3>From float to the device</h3><table class="steps"><tbody>'
            f"{''.join(rows)}</tbody></table>"
            + (_note(note) if any(step.n_images for step in page.steps) else "")
        )
    matrix = None if seen is None else seen.confusion(network.n_classes)
    if matrix is not None and seen is not None:
        right = int(np.trace(matrix))
        what = escape(seen.what[:1].upper() + seen.what[1:])
        note = f"{what}: {right:,} right. A row is a class, a column what it was taken for."
        table = f'<div class="scroll">{charts.confusion(matrix, network.labels)}</div>'
        parts.append(f"<h3>Confusion</h3>{_note(note)}{table}")
    return f'<div class="accuracy">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _ends(step: Step) -> tuple[float, float]:
    if not step.n_images:
        return step.percent, step.percent
    low, high = metrics.wilson(step.percent / 100 * step.n_images, step.n_images)
    return 100 * low, 100 * high


def _origin(page: Page) -> str:
    rows = [("file", page.name), ("SHA-256", page.sha256)]
    rows += _flattened(page.network.provenance)
    body = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
        for key, value in rows
    )
    return (
        "<details><summary>What the file says of how it was made</summary>"
        f'<div class="scroll"><table class="origin"><tbody>{body}</tbody></table></div></details>'
    )


def _flattened(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flattened(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, str(value)))
    return rows
