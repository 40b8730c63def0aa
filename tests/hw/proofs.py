"""Proofs of small components by induction, with the SAT solver in Yosys.

A component under proof is wrapped in one that has an output ``bad``, which must never be high, and
outputs that are *covers*: each must be high in some cycle of some run, or else the proof says
nothing. Inputs are free in every cycle.
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
"""Largest length of an induction, and number of cycles in which a cover must be reached."""

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
    """Return whether ``bad`` is low in every cycle after power-up, for any inputs: unbounded.

    The induction is at most ``n_steps`` long; False may also mean that a longer one is needed.
    """
    return _runs(component, f"sat -verify -tempinduct -maxsteps {n_steps} -prove bad 0")


def reaches(component: wiring.Component, cover: str, *, n_steps: int = MAX_STEPS) -> bool:
    """Return whether an output is high in one of the first cycles for some inputs."""
    return _runs(component, f"sat -falsify -seq {n_steps} -prove {cover} 0")


def _runs(component: wiring.Component, command: str) -> bool:
    """Return whether a command of Yosys succeeds for a component that is never reset."""
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
    """Return a copy of a class with a bug: a text in its source is replaced, which it has once."""
    source = inspect.getsource(cls)
    assert source.count(old) == 1, f"{cls.__name__} has {old!r} {source.count(old)} times"
    namespace = dict(vars(sys.modules[cls.__module__]))
    exec(source.replace(old, new), namespace)
    return namespace[cls.__name__]
