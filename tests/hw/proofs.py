"""Proofs of small components by induction, with the SAT solver in Yosys.

A component under proof is wrapped in one that has an output ``bad``, which must never be high, and
outputs called *covers*. Each cover must be high in some cycle for some inputs; otherwise the proof
might hold only because nothing happens. Inputs are free in every cycle.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

from amaranth.lib import wiring

from hw.tools.verilog import ToolError, run_yosys, to_rtlil

MAX_STEPS = 12
"""Largest number of steps of an induction, and number of cycles within which each cover (an output
that shows that something happens) must become high."""

_PREPARE = """
read_rtlil {rtlil}
hierarchy -top top
proc
flatten
memory_map
opt -full
techmap
opt -fast
"""
Class = TypeVar("Class", bound=type)


def holds(component: wiring.Component, *, n_steps: int = MAX_STEPS) -> bool:
    """Return whether induction proves that ``bad`` is never high after power-up, for any inputs.

    False is also returned if a proof would take more than ``n_steps`` steps.
    """
    return _runs(component, f"sat -verify -tempinduct -maxsteps {n_steps} -prove bad 0")


def reaches(component: wiring.Component, cover: str, *, n_steps: int = MAX_STEPS) -> bool:
    """Return whether some inputs make the output ``cover`` high within ``n_steps`` cycles."""
    return _runs(component, f"sat -falsify -seq {n_steps} -prove {cover} 0")


def _runs(component: wiring.Component, command: str) -> bool:
    """Return whether a Yosys command succeeds on a component whose reset is never active."""
    with tempfile.TemporaryDirectory(prefix="spikefold-") as folder:
        rtlil, script = Path(folder, "top.il"), Path(folder, "top.ys")
        text = to_rtlil(component)
        rtlil.write_text(text)
        reset = " -set rst 0" if "\\rst" in text else ""
        script.write_text(_PREPARE.format(rtlil=rtlil) + f"{command}{reset} top\n")
        try:
            run_yosys(script, "proof")
        except ToolError as error:
            if "proof did fail" in str(error) or "proof did succeed" in str(error):
                return False
            raise
    return True


def planted(cls: Class, old: str, new: str) -> Class:
    """Return a copy of a class with a bug: the text ``old`` in its source is replaced by ``new``.

    ``old`` must occur exactly once.
    """
    source = inspect.getsource(cls)
    assert source.count(old) == 1, f"{cls.__name__} has {old!r} {source.count(old)} times"
    namespace = dict(vars(sys.modules[cls.__module__]))
    exec(source.replace(old, new), namespace)
    return namespace[cls.__name__]
