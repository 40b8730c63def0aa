"""Make the sections of the HTML report on a network's activity: spikes, membranes and clock
cycles.

A map is the spikes of one layer, or of the network's input: binary (T, C, H, W).
"""

from __future__ import annotations

from html import escape

from sw.network.network import Network
from sw.reporting import charts
from sw.reporting.diagram import layer_numbers, neuron_text
from sw.reporting.markup import chip, note
from sw.reporting.observe import ShownImage
from sw.reporting.report import Report


def _label(network: Network, number: int | None) -> str:
    """Return the name of class ``number``, escaped for HTML; an empty string for None."""
    return "" if number is None else escape(network.labels[number])


def _pick(images: list[ShownImage], network: Network) -> str:
    """Return HTML buttons, one per image, that choose the image whose spikes and membranes the page
    shows."""
    buttons = []
    for n, image in enumerate(images):
        right = image.label is None or image.label == image.prediction
        answer = _label(network, image.prediction)
        caption = answer if right else f"{_label(network, image.label)}, taken for {answer}"
        buttons.append(
            f'<button type="button" data-show="{n}" aria-pressed="{"false" if n else "true"}">'
            f"{charts.picture(image.image, f'image {image.index}')}"
            f'<span class="{"" if right else "bad"}">{caption}</span></button>'
        )
    return f'<div class="pick">{"".join(buttons)}</div>'


def _for_each(parts: list[str]) -> str:
    """Return a piece of HTML with one part for each image, of which the page shows one at a time.

    ``parts`` are these parts as HTML. The first is visible until the user chooses another image.
    """
    return "".join(
        f'<div class="sample" data-sample="{n}"{" hidden" if n else ""}>{part}</div>'
        for n, part in enumerate(parts)
    )


def _map_heads(network: Network) -> dict[str, str]:
    """Return a heading in HTML for every map, by the map's name.

    A heading shows the number of the map's layer, the map's name and its shape (C, H, W).
    """
    shapes = network.map_shapes()
    numbers = layer_numbers(network)
    return {
        name: (chip(numbers[name]) if name in numbers else '<span class="chip data">in</span>')
        + f"<div><b>{escape(name)}</b><small>{'×'.join(map(str, shape))}</small></div>"
        for name, shape in shapes.items()
    }


def spikes(report: Report) -> str:
    """Return the section on spikes as HTML: the firing rate of every map at each timestep, as a
    mean over all images, and every spike of a few images."""
    seen, network = report.observation, report.network
    if seen is None:
        return note(
            "There were no images that this network takes: give some with <code>--input</code> "
            "to see its spikes, membranes, cycles and accuracy."
        )
    heads = _map_heads(network)
    full = max(0.05, max(float(r.max()) for r in seen.rates.values()))
    rows = []
    for name, head in heads.items():
        rasters = _for_each(
            [
                charts.raster(image.maps[name], f"spikes of {name}, image {image.index}")
                for image in seen.shown
            ]
        )
        rates = charts.rate_bars(seen.rates[name].tolist(), full)
        rows.append(
            f'<div class="spikerow"><div class="head">{head}</div>{rates}'
            f'<div class="rasters">{rasters}</div></div>'
        )
    return (
        note(
            "Left: share of neurons that spike at each timestep in percent, mean over "
            f"{escape(seen.description)}. Right: every spike of one image; a row is a channel, the "
            f"{network.timesteps} panels are the timesteps, in each the positions of the map in "
            "reading order."
        )
        + _pick(seen.shown, network)
        + f'<div class="spikegrid">{"".join(rows)}</div>'
    )


def membranes(report: Report) -> str:
    """Return the section on membranes as HTML: plots over time of a few neurons of each layer. It
    is an empty string if there were no images."""
    seen, network = report.observation, report.network
    if seen is None or not seen.membranes:
        return ""
    parts = []
    numbers = layer_numbers(network)
    layers = {layer.name: layer for layer in network.layers}
    for n in range(len(seen.shown)):
        rows = []
        for name, neurons in seen.membranes.items():
            layer = layers[name]
            plots = "".join(
                f"<figure>{charts.trace(m.values[n], m.spikes[n], m.threshold, layer.reset)}"
                f"<figcaption>channel {m.neuron[0]}, row {m.neuron[1]}, column {m.neuron[2]} · "
                f"threshold {m.threshold:,}</figcaption></figure>"
                for m in neurons
            )
            rows.append(
                f'<div class="tracerow"><div class="head">{chip(numbers[name])}'
                f"<div><b>{escape(name)}</b><small>{neuron_text(layer)}</small></div></div>"
                f'<div class="traces">{plots}</div></div>'
            )
        parts.append("".join(rows))
    return (
        note(
            "Membranes of some neurons over the timesteps, from the integer reference, for the "
            "image chosen above: the value that is compared with the "
            '<span class="threshold-key">threshold</span>, the '
            '<span class="spike-key">spike</span> if it is reached, and the reset. Choose others '
            "with <code>--neuron layer:channel,row,column</code>."
        )
        + _pick(seen.shown, network)
        + _for_each(parts)
    )


def cycles(report: Report) -> str:
    """Return the section on clock cycles as HTML: the predicted number for each layer, and the
    counted number if the images ran on a board. It is an empty string if there were no images, or
    if the network does not fit the board.
    """
    seen, program = report.observation, report.program
    if seen is None or program is None:
        return ""
    counted = seen.counted
    predicted = {layer.name: layer.n_cycles or 0.0 for layer in seen.layers}
    full = max(*predicted.values(), *(counted.n_cycles.values() if counted else []), 1.0)
    rows = []
    first = 1 + len(report.network.layers) - len(seen.layers)
    for number, layer in enumerate(seen.layers, first):
        values = [("predicted", predicted[layer.name], f"{predicted[layer.name]:,.0f}")]
        # The first layer (stem) may run on the host of the board that counted, though the
        # report predicts its cycles on the device: then it has no count.
        n = counted.n_cycles.get(layer.name) if counted else None
        if n is not None:
            values.append(("counted", n, f"{n:,.0f} ({predicted[layer.name] - n:+,.0f})"))
        rows.append(
            f'<div class="cyclerow"><div class="head">{chip(number)}'
            f"<div>{escape(layer.name)}</div></div>"
            f"<div>{charts.bars(values, full)}</div></div>"
        )
    total = sum(predicted.values())
    clk_hz = program.config.clk_hz
    if counted:
        n = sum(counted.n_cycles.values())
        same = counted.n_images - counted.n_differences
        words = (
            f'Means over {counted.n_images} images. <span class="key predicted"></span> predicted '
            f'from the spikes, <span class="key counted"></span> counted by '
            f"{escape(counted.board)} (in brackets: by how many cycles the prediction is off). "
            f"All layers: {total:,.0f} predicted, {n:,.0f} counted, {1e3 * n / clk_hz:.3f} ms at "
            f"{clk_hz / 1e6:g} MHz. On {same} of {counted.n_images} images every logit and spike "
            "count of the board was the reference's."
        )
    else:
        words = (
            f"Predicted from the spikes, means over {seen.n_traced} images: {total:,.0f} in all, "
            f"{1e3 * total / clk_hz:.3f} ms at {clk_hz / 1e6:g} MHz. Nothing was counted: with "
            "<code>--board sim</code> the virtual board does."
        )
    return note(words) + "".join(rows)
