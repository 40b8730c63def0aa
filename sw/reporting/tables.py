"""Write the costs of layers, and the usage of a board's memories, as text for a terminal."""

from __future__ import annotations

from hw.spec import Config
from sw.compile.costs import LayerReport
from sw.compile.fitting import BoardReport


def as_text(layers: list[LayerReport], weight_bits: int, config: Config) -> str:
    """Return a text table with a line for each layer, and one for the totals.

    Its columns are fields of :class:`sw.compile.costs.LayerReport`. The last three, the density of
    spikes in the input, synaptic operations and clock cycles per image, are empty where they are
    unknown. ``config`` is the configuration of the board.
    """

    def optional(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    def total(name: str) -> float | None:
        values = [getattr(layer, name) for layer in layers]
        return None if None in values else sum(values)

    rows = [
        (
            "layer",
            "neurons",
            "fan-in",
            "synapses",
            "weights",
            "granularity",
            "membrane",
            "density",
            "syn. ops",
            "cycles",
        )
    ]
    for layer in layers:
        granularity = ("unshared" if layer.unshared else "shared") + (
            ", per timestep" if layer.per_timestep else ", static"
        )
        granularity += ", off chip" if layer.offchip else ""
        rows.append(
            (
                layer.name,
                f"{layer.n_neurons:,}",
                f"{layer.fan_in:,}",
                f"{layer.n_synapses:,}",
                f"{layer.n_weights:,} x {weight_bits} bit",
                granularity,
                f"{layer.membrane_bits} of {config.membrane_bits} bit",
                optional(layer.input_density, ".1%"),
                optional(layer.n_synaptic_ops, ",.0f"),
                optional(layer.n_cycles, ",.0f"),
            )
        )
    rows.append(
        (
            "total",
            f"{total('n_neurons'):,}",
            "",
            f"{total('n_synapses'):,}",
            f"{total('n_weights'):,}",
            "",
            "",
            "",
            optional(total("n_synaptic_ops"), ",.0f"),
            optional(total("n_cycles"), ",.0f"),
        )
    )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {0, 5}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def board_text(report: BoardReport) -> str:
    """Return a text on one board: how full its memories are or, if the network does not fit, which
    memories are too small, and changes that would make it fit.
    """
    usage = ", ".join(
        f"{memory} {used:,} of {rows:,}" + (f" ({used / rows:.0%})" if report.fits else "")
        for memory, (used, rows) in report.usage.items()
    )
    if report.fits:
        return f"{report.board}: fits; {usage}"
    lines = [f"{report.board}: does not fit; {usage or report.problem}"]
    lines += [f"  would fit with {remedy}" for remedy in report.remedies]
    return "\n".join(lines)
