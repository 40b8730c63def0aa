"""Hold the content of a report on a network, and write it as JSON values or plain text.

:mod:`sw.reporting.page` writes it as an HTML page.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hw.boards.configs import board_name
from hw.spec import Config
from sw.compile import costs
from sw.compile.fitting import BoardReport
from sw.compile.program import Program
from sw.network.network import Network
from sw.reporting import tables
from sw.reporting.evaluation import AccuracyStep
from sw.reporting.observe import Observation


@dataclass(frozen=True, eq=False, kw_only=True)
class Report:
    """Content of a report: everything that it shows about one network.

    Attributes
    ----------
    name : name of the network file.
    sha256 : checksum of the network file.
    program : the network compiled for the board of the report; None if it does not fit.
    boards : for each known board, whether the network fits; the board of the report comes first.
    steps : accuracies of the network's forms, from the trained one to the device.
    observation : measurements on images; None if there were no images.
    command : the command line that made the report.
    """

    name: str
    sha256: str
    network: Network
    program: Program | None
    boards: list[BoardReport]
    steps: list[AccuracyStep]
    observation: Observation | None
    command: str


def as_dict(report: Report, config: Config) -> dict[str, Any]:
    """Return the figures of the HTML page as JSON values. ``config`` is the configuration of the
    report's board.
    """
    seen = report.observation
    layers = seen.layers if seen else costs.layer_reports(report.network, report.program)
    values: dict[str, Any] = {
        "network": report.name,
        "sha256": report.sha256,
        "board": board_name(config),
        "fits": report.program is not None,
        "weight_bits": report.network.weight_bits,
        "timesteps": report.network.timesteps,
        "layers": [asdict(layer) for layer in layers],
        "boards": [asdict(board) for board in report.boards],
        "accuracy": [asdict(step) for step in report.steps],
        "measured_on": None,
        "rates": {},
        "confusion": None,
        "counted": None,
    }
    if seen is not None:
        matrix = seen.confusion(report.network.n_classes)
        values |= {
            "measured_on": seen.description,
            "n_traced": seen.n_traced,
            "rates": {name: rates.tolist() for name, rates in seen.rates.items()},
            "confusion": None if matrix is None else matrix.tolist(),
            "counted": None if seen.counted is None else asdict(seen.counted),
        }
    return values


def as_text(report: Report, config: Config) -> str:
    """Return the main figures of the HTML page as text for a terminal. ``config`` is the
    configuration of the report's board.
    """
    seen = report.observation
    layers = seen.layers if seen else costs.layer_reports(report.network, report.program)
    lines = [tables.as_text(layers, report.network.weight_bits, config), ""]
    for step in report.steps:
        lines.append(f"{step.percent:6.2f} %  {step.name} ({step.on})")
    if seen is None:
        lines.append("no spikes, cycles or accuracy: there were no images; give some with --input")
    elif seen.counted is not None:
        n_cycles = sum(seen.counted.n_cycles.values())
        lines.append(
            f"{n_cycles:,.0f} cycles counted on {seen.counted.board}, "
            f"{seen.counted.n_differences} of {seen.counted.n_images} images differ from the "
            "reference"
        )
    return "\n".join([*lines, "", *map(tables.board_text, report.boards)])
