"""Small parts of the SDRAM controller: a timer for a few cycles, and a round-robin arbiter."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value

from hw.parts.pipeline import first_one


class Timer:
    """Timer for a few cycles, built as a shift register with a one for each remaining cycle.

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
        """Signal that is high while the timer runs.

        It rises in the cycle after :meth:`start`, and falls ``n_cycles`` cycles after
        :meth:`start`.
        """
        return self._bits[0]

    def start(self, n_cycles: int, condition: Value | None = None) -> None:
        """Start the timer in this cycle, if ``condition`` holds (always, if it is None).

        :attr:`runs` is then high in the next ``n_cycles - 1`` cycles.
        """
        with self._m.If(Const(1) if condition is None else condition):
            self._m.d.sync += self._bits.eq((1 << n_cycles - 1) - 1)


def round_robin(m: Module, wants: Value, advances: Value) -> Value:
    """Return a one-hot signal with the requester to serve next; the bits set in ``wants`` are the
    requesters that wait.

    ``advances`` is high in a cycle in which that requester is served. From then on, requesters with
    higher bits have priority over the others.
    """
    behind = Signal(len(wants))  # those with higher bits than the one that was served last
    grant = Signal(len(wants))
    favoured = wants & behind
    m.d.comb += grant.eq(Mux(favoured.any(), first_one(favoured), first_one(wants)))
    with m.If(advances):
        m.d.sync += behind.eq(Cat(grant[:user].any() for user in range(len(wants))))
    return grant
