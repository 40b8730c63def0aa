"""``python -m sw.nir``: convert a network file or checkpoint to a NIR graph."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sw.cli.commands import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CommandParser,
    command,
    output_path,
)
from sw.convert import fold
from sw.exchange.graph import ExchangeError
from sw.exchange.nir_common import DT_S, SUFFIX, Float, NirNetwork, library
from sw.exchange.nir_write import to_nir, unfolded, write
from sw.model import checkpoint
from sw.model.checkpoint import CheckpointError
from sw.model.config import ModelError
from sw.network import netfile


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m sw.nir",
        description="Write a network as a NIR graph, for other simulators. (For the other "
        f"direction: python -m sw.export net{SUFFIX}.)",
        epilog=f"""examples:
  python -m sw.nir net.spikefold               -> net{SUFFIX}, with the device's integers
  python -m sw.nir ckpt.pt -o folded{SUFFIX}         folded weights in floating point
  python -m sw.nir ckpt.pt --unfolded          coefficients as Scale nodes

exit codes: {EXIT_OK} written, {EXIT_BAD_INPUT} bad input, or a network that NIR cannot express,
{EXIT_INTERRUPTED} interrupted""",
    )
    parser.add_argument("network", type=Path, help="network file, or checkpoint of sw.train")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help=f"NIR file to write (default: NETWORK with suffix {SUFFIX})",
    )
    parser.add_argument(
        "--unfolded",
        action="store_true",
        help="write a checkpoint's coefficients as nodes of their own",
    )
    parser.add_argument(
        "--dt",
        type=float,
        default=DT_S,
        metavar="S",
        help=f"timestep of the simulator (default: {DT_S:g} s)",
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    return parser


@command(
    CheckpointError,
    ExchangeError,
    ModelError,
    netfile.NetworkFileError,
    interrupted="interrupted, nothing was written",
)
def main(argv: list[str] | None = None) -> int:
    """Run ``python -m sw.nir`` with the arguments ``argv`` and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not arguments.dt > 0:
        parser.error("--dt takes a positive number")
    path = output_path(arguments.out, arguments.network, SUFFIX)
    scales: dict[str, Float] = {}
    library()
    network: NirNetwork
    if arguments.network.suffix == netfile.SUFFIX:
        if arguments.unfolded:
            raise ExchangeError("a network file is already folded: give its checkpoint")
        network = netfile.load(arguments.network).network
    else:
        values = checkpoint.load(arguments.network)
        if arguments.unfolded:
            network, scales = unfolded(values)
        else:
            network = fold.fold(values)
    graph = to_nir(network, scales, arguments.dt)
    n_bytes = write(path, graph)
    if arguments.json:
        summary = {"file": str(path), "n_bytes": n_bytes, "n_nodes": len(graph.nodes)}
        print(json.dumps(summary | {"timesteps": network.timesteps}))
    else:
        print(f"wrote {path}: {n_bytes:,} bytes, {len(graph.nodes)} nodes; run it for")
        print(
            f"{network.timesteps} timesteps of {arguments.dt:g} s and sum its output for the logits"
        )
    return EXIT_OK
