"""The rungs of the ladder: a series of checks from the trained network down to the flashed
bitstream.

Each rung checks one form of the network or of the device. Most rungs compare what that form
computes with the integer reference: all results must be exactly equal, on the same networks and
samples. If all rungs have passed, the bitstream computes what the trained network computes after
quantisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from hw.spec import Config
from sim.ladder import devices, integers, pins
from sim.ladder.devices import ECP5, GOWIN, Build
from sim.ladder.vectors import Vector, vectors
from sim.vectors import run_network
from sim.virtual_board import executable
from sw.compile.compiler import compile_network
from sw.driver.loading import load_bytes
from sw.network import encoder


@dataclass(frozen=True, kw_only=True)
class Options:
    """Amount of work of each rung (check): numbers of networks and samples, and the driver's
    timeout."""

    n_random: int = 4
    """Number of random networks."""
    n_samples: int = 2
    """Number of samples of each network, at least 2."""
    seed: int = 0
    patience_s: float = 300.0
    """Time in seconds that the driver waits for a reply of a simulated device, which is slow."""


class Climb:
    """Input of all rungs (checks) for one board: its build, and the networks with samples to
    run."""

    def __init__(self, build: Build, options: Options):
        self.build = build
        self.options = options

    @cached_property
    def vectors(self) -> list[Vector]:
        """Networks, samples and expected results."""
        options = self.options
        return vectors(
            self.build.config,
            n_random=options.n_random,
            n_samples=options.n_samples,
            seed=options.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung of the ladder: a check of one form of the network or of the device."""

    name: str
    compares: str
    """Short text that says what this check compares."""
    catches: str
    """Short text that names the faults which no earlier check of the ladder can find."""
    run: Callable[[Climb], str]
    """Function that does the check and returns a text on what was compared. It raises
    :class:`sim.ladder.netlist.LadderError` if something differs."""
    lacking: tuple[str, ...] = ()
    """Families of devices for which a tool that this check needs does not exist."""


def _at_pins(climb: Climb, verilog: str | None) -> str:
    """Simulate the device, and compare all that it answers at its serial pins with the integer
    reference (:mod:`sim.ladder.pins`).

    ``verilog`` is the Verilog of the device; None means to generate it from the sources.
    """
    config: Config = climb.build.config
    program = executable(config, verilog=verilog)
    patience_s = climb.options.patience_s
    return str(pins.climb(program, config, climb.vectors, patience_s=patience_s))


def _bits(climb: Climb) -> str:
    """Check the bits of the shipped bitstream.

    The bits for an ECP5 are compared with the routed design. The bits for an iCE40 are turned into
    the netlist that they configure, which is simulated.
    """
    if climb.build.family == ECP5:
        return devices.compared_bits(climb.build)
    return _at_pins(climb, devices.of_bitstream(climb.build))


def _cocotb(climb: Climb) -> str:
    """Run the smallest network on the generated Verilog of the core, under cocotb.

    All spikes and logits are compared with the integer reference.
    """
    vector = min(climb.vectors, key=lambda one: load_bytes(one.program))
    program = compile_network(vector.network, climb.build.config)
    frames = encoder.encode(vector.network, vector.samples)
    expected = [
        (
            {name: spikes[i] for name, spikes in vector.trace.spikes.items()}
            | {"input": frames[i]},
            vector.trace.logits[i],
        )
        for i in range(len(vector.samples))
    ]
    samples = encoder.inputs(vector.network, vector.samples, program.pixels)
    name = f"ladder-{climb.build.source.board.replace('/', '-')}"
    run_network(vector.network, program, expected, samples=samples, name=name, stall=0.2, seed=1)
    n_spikes = sum(maps[name].size for maps, _ in expected for name in maps)
    return f"{vector.name}, {len(expected)} samples, {n_spikes:,} spikes, streams that wait"


RUNGS = (
    Rung(
        name="folded",
        compares="folded network in float64 = trained network in PyTorch",
        catches="folding of batch-norm and coefficients, granularities",
        run=lambda climb: integers.folded_equals_trained(climb.vectors),
    ),
    Rung(
        name="integers",
        compares="integer model written from the file format = integer reference in PyTorch",
        catches="semantics of neurons, gates and layers; the network file",
        run=lambda climb: integers.model_equals_reference(climb.vectors),
    ),
    Rung(
        name="cocotb",
        compares="generated Verilog of the core, at its bus, under cocotb",
        catches="the core, the compiler; streams that wait",
        run=_cocotb,
    ),
    Rung(
        name="verilog",
        compares="generated Verilog of the device, at its serial pins",
        catches="link, driver, loading, predicted cycles",
        run=lambda climb: _at_pins(climb, None),
    ),
    Rung(
        name="synthesis",
        compares="netlist after synthesis, with its PLL and pins",
        catches="synthesis, memories that start or collide differently, clock and reset",
        run=lambda climb: _at_pins(climb, devices.after_synthesis(climb.build)),
    ),
    Rung(
        name="routed",
        compares="netlist after place and route, which yields the shipped file byte for byte",
        catches="packing into cells, carry chains, promotion to global networks",
        run=lambda climb: _at_pins(climb, devices.after_routing(climb.build)),
        lacking=(GOWIN,),
    ),
    Rung(
        name="bitstream",
        compares="netlist that the bits of the shipped file configure; ECP5: all its bits",
        catches="routing, contents of tables and memories, pins, PLL settings",
        run=_bits,
        lacking=(GOWIN,),
    ),
)
"""All rungs (checks) of the ladder, in the order in which they are run."""
