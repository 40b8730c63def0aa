"""Small parts of the SDRAM controller: a timer for a few cycles, and a round-robin arbiter."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value

from hw.parts.pipeline import first_one


class Timer:
    """Count a few cycles in a shift register, of which each bit is a cycle that is left.

    Parameters
    ----------
    n_cycles : largest number of cycles that it counts.
    """

    def __init__(self, m: Module, n_cycles: int, name: str):
        self._m = m
        self._bits = Signal(max(n_cycles - 1, 1), name=name)
        m.d.sync += self._bits.eq(self._bits >> 1)

    @property
    def runs(self) -> Value:
        """High in the cycles between the one with :meth:`start` and ``n_cycles`` cycles later."""
        return self._bits[0]

    def start(self, n_cycles: int, condition: Value | None = None) -> None:
        """Make it run for ``n_cycles - 1`` cycles from the next one on, if ``condition``."""
        with self._m.If(Const(1) if condition is None else condition):
            self._m.d.sync += self._bits.eq((1 << n_cycles - 1) - 1)


def round_robin(m: Module, wants: Value, advances: Value) -> Value:
    """Return a one-hot code of who is next among ``wants``.

    If ``advances`` is high, those behind it come first in the next cycle.
    """
    behind = Signal(len(wants))  # those who come first
    grant = Signal(len(wants))
    favoured = wants & behind
    m.d.comb += grant.eq(Mux(favoured.any(), first_one(favoured), first_one(wants)))
    with m.If(advances):
        m.d.sync += behind.eq(Cat(grant[:user].any() for user in range(len(wants))))
    return grant
