"""``python -m sw.speed``: compare training speed with SpikingJelly and snnTorch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

import torch

from sw.cli.commands import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, CommandParser, command
from sw.training.speed import INSTALL, PEERS, SpeedError, compared, measure, network


@command(SpeedError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m sw.speed`` with the arguments ``argv`` and return its exit code."""
    p = CommandParser(
        prog="python -m sw.speed",
        description="Measure training speed beside SpikingJelly and snnTorch.",
        epilog=f"""examples:
  python -m sw.speed --threads 1
  python -m sw.speed --device cuda --batch 256 --image-size 32 --channels 64
  python -m sw.speed --peers spikingjelly --no-compile --json

Peers are installed by {INSTALL}.

exit codes: {EXIT_OK} done, {EXIT_BAD_INPUT} bad input (the message says what to do),
{EXIT_INTERRUPTED} interrupted""",
    )
    p.add_argument("--timesteps", type=int, default=4, help="number of timesteps (4)")
    p.add_argument("--batch", type=int, default=64, help="images per pass (64)")
    p.add_argument("--image-size", type=int, default=28, help="height and width in pixels (28)")
    p.add_argument("--channels", type=int, default=16, help="channels of the first stage (16)")
    p.add_argument("--rounds", type=int, default=7, help="rounds in which all take turns (7)")
    p.add_argument(
        "--seconds", type=float, default=3.0, help="duration per contender and round (3)"
    )
    p.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(PEERS), help="frameworks to compare (all)"
    )
    p.add_argument("--no-compile", action="store_true", help="do not time torch.compile")
    p.add_argument("--device", default="cpu", help="torch device (cpu)")
    p.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    p.add_argument("--json", action="store_true", help="print all rounds as JSON")
    args = p.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    rates = measure(
        network(args.timesteps, args.image_size, args.channels),
        batch=args.batch,
        rounds=args.rounds,
        seconds=args.seconds,
        peers=args.peers,
        compiled=not args.no_compile,
        device=args.device,
    )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = compared(rates)
    if args.json:
        print(json.dumps({"median": medians, "ratio": ratios, "rounds": rates}))
        return EXIT_OK
    print(
        f"forward and backward, {args.image_size}x{args.image_size}, {args.channels} channels, "
        f"T={args.timesteps}, batch {args.batch}, {torch.get_num_threads()} threads, {args.device}"
    )
    for name, median in medians.items():
        ratio = f"   {ratios[name]:5.2f} x the fastest peer" if ratios else ""
        low, high = min(rates[name]), max(rates[name])
        print(f"  {name:<29} {median:8.1f} samples/s (rounds {low:.1f} to {high:.1f}){ratio}")
    return EXIT_OK
