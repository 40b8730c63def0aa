"""Timing rules of an SDRAM as gateware, for proofs about the controller.

The rules are those of :mod:`sim.sdram_model`, written independently: in clock cycles, and with
counters.
"""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.offchip.layout import RowLayout
from hw.offchip.pins import Command, SdramPins
from hw.offchip.timing import N_BANKS, REFRESH_BATCH, SdramCycles


class Since:
    """Counter of the cycles since ``event`` was last high; it stops at ``most``, and starts with
    that value."""

    def __init__(self, m: Module, event: Value, most: int):
        # In the cycle after the event the count is 1.
        self.count = Signal(range(most + 1), init=most)
        with m.If(event):
            m.d.sync += self.count.eq(1)
        with m.Elif(self.count != most):
            m.d.sync += self.count.eq(self.count + 1)

    def below(self, least: int) -> Value:
        return self.count < least


class TimingRules(wiring.Component):
    """Monitor of a controller's pins, which reports commands that violate a timing rule.

    Members
    -------
    pins : the controller's pins.
    bad : a bit for each of :attr:`RULES`, high in a cycle in which the rule is violated.
    late : more refreshes are overdue than the chip allows.
    seen : a bit for each of :attr:`EVENTS`, high in a cycle in which the event happens.
    """

    RULES = (
        *("power_up", "mode", "bank_state", "rcd", "rp", "ras", "rc", "rrd", "rfc", "mrd"),
        *("burst", "wr", "bus", "address"),
    )
    EVENTS = ("activate", "close_one", "close_all", "read", "write", "second_batch")

    def __init__(self, layout: RowLayout, cycles: SdramCycles):
        self._layout, self._cycles = layout, cycles
        super().__init__(
            {
                "pins": In(SdramPins(layout.chip)),
                "bad": Out(len(self.RULES)),
                "seen": Out(len(self.EVENTS)),
                "late": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        t, pins, burst = self._cycles, self.pins, self._layout.burst
        bad = {name: Signal(name=f"bad_{name}") for name in self.RULES}
        seen = {name: Signal(name=f"seen_{name}") for name in self.EVENTS}
        m.d.comb += [self.bad.eq(Cat(bad.values())), self.seen.eq(Cat(seen.values()))]
        issued = Signal()
        code = Cat(pins.ras_n, pins.cas_n, pins.we_n)
        m.d.comb += issued.eq(pins.clk_en & ~pins.cs_n & (code != Command.NOP.value))

        def when(command: Command) -> Value:
            return issued & (code == command.value)

        activate, close, read, write, refresh, mode = map(
            when,
            (
                Command.ACTIVATE,
                Command.PRECHARGE,
                Command.READ,
                Command.WRITE,
                Command.REFRESH,
                Command.MODE,
            ),
        )
        column = read | write

        powered = Signal(range(t.power_up + 1))
        with m.If(pins.clk_en & (powered != t.power_up)):
            m.d.sync += powered.eq(powered + 1)
        n_refreshes = Signal(range(REFRESH_BATCH + 1))
        with m.If(refresh & (n_refreshes != REFRESH_BATCH)):
            m.d.sync += n_refreshes.eq(n_refreshes + 1)
        has_mode = Signal()
        with m.If(mode):
            m.d.sync += has_mode.eq(1)
        since_refresh = Since(m, refresh, t.rfc)
        since_mode = Since(m, mode, t.mrd)
        since_activate = Since(m, activate, t.rrd)
        since_column = Since(m, column, burst)
        since_write = Since(m, write, burst)
        expected_mode = (burst - 1).bit_length() | t.cas_latency << 4
        m.d.comb += [
            bad["power_up"].eq(issued & (powered != t.power_up)),
            bad["mode"].eq(
                ((activate | column) & ~has_mode)
                | (mode & (n_refreshes != REFRESH_BATCH))
                | (mode & (Cat(pins.a, pins.ba) != expected_mode))
            ),
            bad["rfc"].eq(issued & since_refresh.below(t.rfc)),
            bad["mrd"].eq(issued & since_mode.below(t.mrd)),
            bad["rrd"].eq(activate & since_activate.below(t.rrd)),
            # No burst is cut short, neither by another one nor by closing its page.
            bad["burst"].eq(column & since_column.below(burst)),
            bad["address"].eq(
                column & (pins.a[10] | (pins.a >= self._layout.chip.columns))
                | activate & (pins.a >= self._layout.chip.rows)
            ),
        ]
        writing = write | since_write.below(burst)
        # The chip drives the bus from `cas_latency` cycles after a read on; one more is free.
        chip_drives = Signal()
        reads = Signal(t.cas_latency + burst + 1)
        m.d.sync += reads.eq(Cat(read, reads))
        m.d.comb += chip_drives.eq(reads[t.cas_latency - 1 :].any())
        m.d.comb += bad["bus"].eq(
            (pins.dq_oe != writing)
            | (pins.dq_oe & chip_drives)
            | ((pins.dq_oe | chip_drives) & pins.dqm.any())
        )
        one_bad = {name: [] for name in ("bank_state", "rcd", "rp", "ras", "rc", "wr", "cut")}
        for b in range(N_BANKS):
            this = pins.ba == b
            opened = Signal(name=f"open{b}")
            activates = activate & this
            closes = close & (this | pins.a[10]) & opened
            with m.If(activates):
                m.d.sync += opened.eq(1)
            with m.Elif(closes):
                m.d.sync += opened.eq(0)
            activated = Since(m, activates, max(t.rcd, t.ras, t.rc))
            closed = Since(m, closes, t.rp)
            read_here = Since(m, read & this, burst)
            written = Since(m, write & this, burst - 1 + t.wr)
            idle_needed = refresh | mode
            one_bad["bank_state"].append(
                (activates & opened) | (column & this & ~opened) | (idle_needed & opened)
            )
            one_bad["rcd"].append(column & this & activated.below(t.rcd))
            one_bad["rp"].append((activates | idle_needed) & closed.below(t.rp))
            one_bad["ras"].append(closes & activated.below(t.ras))
            one_bad["rc"].append((activates | refresh) & activated.below(t.rc))
            one_bad["wr"].append(closes & written.below(burst - 1 + t.wr))
            one_bad["cut"].append(closes & read_here.below(burst))
        for name, terms in one_bad.items():
            if name != "cut":
                m.d.comb += bad[name].eq(Cat(terms).any())
        with m.If(Cat(one_bad["cut"]).any()):
            m.d.comb += bad["burst"].eq(1)

        # Refreshes that are owed, counted from the first one on.
        owed, timer = Signal(range(REFRESH_BATCH + 3)), Signal(range(t.refresh_interval))
        tick = (timer == t.refresh_interval - 1) & has_mode
        with m.If(has_mode):
            m.d.sync += timer.eq(Mux(tick, 0, timer + 1))
        with m.If(tick & ~refresh & (owed != REFRESH_BATCH + 2)):
            m.d.sync += owed.eq(owed + 1)
        with m.If(refresh & ~tick & (owed != 0)):
            m.d.sync += owed.eq(owed - 1)
        m.d.comb += [
            self.late.eq(owed > REFRESH_BATCH + 1),
            seen["activate"].eq(activate),
            seen["close_one"].eq(close & ~pins.a[10]),
            seen["close_all"].eq(close & pins.a[10] & has_mode),
            seen["read"].eq(read),
            seen["write"].eq(write),
            seen["second_batch"].eq(refresh & has_mode),
        ]
        return m
