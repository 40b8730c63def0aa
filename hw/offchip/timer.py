"""Small parts of the SDRAM controller: a timer for a few cycles, and a round-robin arbiter."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value

from hw.parts.pipeline import first_one


class Timer:
    """Timer for a few cycles: a shift register with a one for each cycle that is left.

    Parameters
    ----------
    m : module to which the register is added.
    n_cycles : largest number of cycles for which the timer can be started.
    """

    def __init__(self, m: Module, n_cycles: int, name: str):
        self._m = m
        self._bits = Signal(max(n_cycles - 1, 1), name=name)
        m.d.sync += self._bits.eq(self._bits >> 1)

    @property
    def runs(self) -> Value:
        """High from the cycle after :meth:`start`; low again ``n_cycles`` cycles after it."""
        return self._bits[0]

    def start(self, n_cycles: int, condition: Value | None = None) -> None:
        """Start the timer in this cycle if ``condition`` holds; it ends ``n_cycles`` cycles later.

        So :attr:`runs` is high in the ``n_cycles - 1`` cycles between.
        """
        with self._m.If(Const(1) if condition is None else condition):
            self._m.d.sync += self._bits.eq((1 << n_cycles - 1) - 1)


def round_robin(m: Module, wants: Value, advances: Value) -> Value:
    """Return which of the requesters with a bit set in ``wants`` is served next, one-hot.

    ``advances`` says that it is served in this cycle. From then on, the requesters with higher bits
    than its own come first.
    """
    behind = Signal(len(wants))  # those with higher bits than the one that was served last
    grant = Signal(len(wants))
    favoured = wants & behind
    m.d.comb += grant.eq(Mux(favoured.any(), first_one(favoured), first_one(wants)))
    with m.If(advances):
        m.d.sync += behind.eq(Cat(grant[:user].any() for user in range(len(wants))))
    return grant
