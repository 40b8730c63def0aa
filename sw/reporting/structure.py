"""Make the sections of the HTML report that need no images: network, memory, weights, origin.

A memory row is one word of weight or parameter memory, which the core reads in one clock cycle. A
map is the spikes of one layer, or of the network's input.
"""

from __future__ import annotations

from html import escape
from typing import Any

from hw.boards.configs import board_name
from hw.protocol import Space, row_bytes
from sw.compile import costs
from sw.compile.fitting import BoardReport
from sw.compile.program import PIXELS, Program, device_layers
from sw.reporting import charts
from sw.reporting.diagram import (
    conv_text,
    diagram,
    granularity,
    granularity_class,
    layer_numbers,
    neuron_text,
)
from sw.reporting.markup import chip, colour, note
from sw.reporting.report import Report


def network(report: Report) -> str:
    """Return the section on the network as HTML: a drawing beside a table of its layers."""
    network, seen = report.network, report.observation
    pixels = report.program is not None and report.program.pixels
    shapes = network.map_shapes() | {PIXELS: network.image_shape}
    reports = seen.layers if seen else costs.layer_reports(network, report.program)
    rows = []
    # The encoder has no number, whether the host computes it or the device.
    for number, (layer, cost) in enumerate(
        zip(device_layers(network, pixels), reports, strict=True), 0 if pixels else 1
    ):
        stem = network.encoder if number == 0 else None
        density = "" if cost.input_density is None else f"{cost.input_density:.1%}"
        ops = "" if cost.n_synaptic_ops is None else f"{cost.n_synaptic_ops:,.0f}"
        rows.append(
            f'<tr><td>{chip(number) if number else ""}</td><th scope="row">'
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


def _layer_amounts(report: Report, program: Program) -> dict[Space, list[tuple[str, str, int]]]:
    """Return, for each memory, its contents in the order of addresses, as (label, CSS class,
    amount).

    Weight and parameter memory are divided by layer, and the amounts are rows. Spike memory is
    divided by map, and the amounts are bytes.
    """
    config = program.config
    numbers = layer_numbers(report.network)

    def part(name: str, amount: int) -> tuple[str, str, int]:
        number = numbers.get(name)
        label = f"in {name}" if number is None else f"{number} {name}"
        return label, "data" if number is None else colour(number), amount

    layers = program.layers
    n_descriptors = len(program.images[Space.WEIGHT]) // row_bytes(Space.WEIGHT, config)
    n_descriptors -= sum(p.weight_rows for p in layers if not p.weights_offchip)
    amounts = {
        Space.WEIGHT: [
            *(part(p.name, p.weight_rows) for p in layers if not p.weights_offchip),
            ("descriptors", "data", n_descriptors),
        ],
        Space.PARAM: [part(p.name, p.param_rows) for p in layers if not p.params_offchip],
        Space.SPIKE: [
            *(part(n, p.n_rows) for n, p in program.placements.items()),
            *(
                (f"input {n}", "data", sum(program.placements[m].n_rows for m in program.moved))
                for n in range(2, len(program.inputs) + 1)
            ),
        ],
    }
    if config.offchip_depth:
        amounts[Space.OFFCHIP] = [
            *(part(p.name, p.param_rows * config.param_chunks) for p in layers if p.params_offchip),
            *(part(p.name, p.weight_rows) for p in layers if p.weights_offchip),
        ]
    return amounts


def memory(report: Report) -> str:
    """Return the section on memory as HTML: the contents of each memory of the report's board, and
    a table that says for every board whether the network fits.
    """
    boards = _boards(report.boards)
    if report.program is None:
        return boards
    program = report.program
    config, usage = program.config, program.usage()
    what = {
        Space.WEIGHT: f"rows of {config.lanes} weights of {config.weight_bits} bit",
        Space.PARAM: f"rows of {config.fire_lanes} biases and thresholds",
        Space.SPIKE: "bytes of spike maps, padding included",
        Space.OFFCHIP: f"rows of {config.lanes} weights in the board's SDRAM; parameters first",
    }
    rows = []
    for space, parts in _layer_amounts(report, program).items():
        used, total = usage[space.name.lower()]
        rows.append(
            f'<div class="memory"><div class="head"><b>{space.name.lower()}</b> {what[space]}'
            f"<span>{used:,} of {total:,} <b>{used / total:.0%}</b></span></div>"
            f"{charts.stacked(parts, total, what[space].split()[0])}</div>"
        )
    keys = "".join(
        f"<span>{chip(n)} {escape(name)}</span>"
        for name, n in layer_numbers(report.network).items()
    )
    return (
        note(
            f"Every memory of {escape(board_name(config))}, filled from the left in the "
            "order of addresses, as the core reads them. Hatched: free."
        )
        + "".join(rows)
        + f'<p class="keys">{keys}</p>{boards}'
    )


def _boards(boards: list[BoardReport]) -> str:
    """Return an HTML table of boards: whether the network fits, and otherwise changes to make it
    fit.
    """
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


def weights(report: Report) -> str:
    """Return the section on weights as HTML: a histogram of each layer's quantised weights."""
    network = report.network
    figures = []
    for number, layer in enumerate(network.layers, 1):
        zero = float((layer.weight == 0).mean())
        figures.append(
            f"<figure><figcaption>{chip(number)} <b>{escape(layer.name)}</b> "
            f"{layer.weight.size:,}, {zero:.1%} zero</figcaption>"
            f"{charts.histogram(layer.weight, network.weight_bits)}</figure>"
        )
    return (
        note(
            f"Quantised weights, signed {network.weight_bits}-bit integers; heights are "
            "logarithmic, the bar of 0 is marked."
        )
        + f'<div class="small-multiples">{"".join(figures)}</div>'
    )


def origin(report: Report) -> str:
    """Return the section on origin as HTML: the network file's name and checksum, and its record of
    training and export.
    """
    rows = [("file", report.name), ("SHA-256", report.sha256)]
    rows += _flattened(report.network.provenance)
    body = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
        for key, value in rows
    )
    return (
        "<details><summary>What the file says of how it was made</summary>"
        f'<div class="scroll"><table class="origin"><tbody>{body}</tbody></table></div></details>'
    )


def _flattened(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the entries of nested dictionaries as pairs of key and text.

    The keys of an entry are joined with dots, such as ``export.date``, behind ``prefix``.
    """
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flattened(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, str(value)))
    return rows
