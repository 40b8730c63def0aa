"""Model of an SDRAM in Python, which checks every timing rule of the chip's data sheet.

It compares times in nanoseconds, so that it shares no arithmetic with the controller, whose timing
is in cycles (:func:`hw.offchip.timing.timing_cycles`). Words that were never written have random
contents (*junk*).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from amaranth.lib import wiring

from hw.offchip.pins import ALL_BANKS, Command
from hw.offchip.timing import N_BANKS, SdramChip

MAX_POSTPONED = 8
"""Largest number of refreshes that may be postponed (JEDEC 79 and successors)."""
N_INIT_REFRESHES = 8
"""Number of refreshes before the chip may be used; some chips need only two."""
NEVER = -1e12
"""Time in ns that stands for an event that has not happened: long ago."""


class SdramError(AssertionError):
    """Raised if a command violates a rule of the chip; the message names time, command and rule."""


@dataclass
class _Bank:
    """State of one bank of the SDRAM, with the times of past commands in ns.

    ``page`` is the row that is open, or None if the bank is closed. ``activated`` is the time at
    which it was last opened.
    """

    page: int | None = None
    activated: float = NEVER
    precharged: float = NEVER
    """Time in ns at which the bank was last closed."""
    burst_end: int = -1
    """First cycle in which a command no longer interrupts the last read or write of this bank."""
    write_end: int = -100
    """Cycle in which the chip takes the last word of a write to this bank."""


@dataclass
class SdramModel:
    """Model of an SDRAM; :meth:`tick` simulates one cycle of its clock.

    Parameters
    ----------
    chip, clk_hz : the chip and the frequency of its clock.
    seed : seed of the random contents of words that were never written.
    """

    chip: SdramChip
    clk_hz: float
    seed: int = 0
    words: dict[int, int] = field(default_factory=dict)
    """Words stored in the chip, by their index (:meth:`hw.offchip.layout.RowLayout.word_address`).
    Words that have not been used yet are missing."""
    cycle: int = 0
    n_words: int = 0
    """Number of words read and written so far."""
    n_refreshes: int = 0

    def __post_init__(self) -> None:
        self._banks = [_Bank() for _ in range(N_BANKS)]
        self._mode: int | None = None
        self._mode_cycle = -100
        self._refreshed = NEVER
        self._first_refresh: float | None = None
        self._activated = NEVER  # of any bank
        self._outputs: dict[int, int] = {}  # word by the cycle in which it is on the bus
        self._inputs: dict[int, int] = {}  # address of the word that is written, by cycle
        self._junk = random.Random(self.seed)
        self._powered: float | None = None

    def peek(self, address: int) -> int:
        """Return the word at an address; if it was never written, a random word that stays the
        same."""
        if address not in self.words:
            self.words[address] = self._junk.getrandbits(self.chip.data_bits)
        return self.words[address]

    @property
    def now(self) -> float:
        """Time of this clock edge in ns."""
        return self.cycle * 1e9 / self.clk_hz

    def _require(self, condition: bool, rule: str) -> None:
        if not condition:
            raise SdramError(f"{self._command.name} in cycle {self.cycle}: {rule}")

    def _after(self, event: float, least: float, rule: str) -> None:
        passed = self.now - event
        self._require(passed >= least - 1e-6, f"{passed:.2f} ns, {rule} is {least} ns")

    def tick(
        self,
        *,
        clk_en: int,
        cs_n: int,
        command: Command,
        ba: int,
        a: int,
        dq_o: int,
        dq_oe: int,
        dqm: int,
    ) -> int:
        """Simulate a rising clock edge, with these levels at the pins.

        Return the word on the data bus in the next cycle; it is random if the chip does not drive
        the bus.

        Raises
        ------
        SdramError
            A rule was violated.
        """
        self._command = Command.NOP if cs_n or not clk_en else command
        if clk_en and self._powered is None:
            self._powered = self.now
        if self._command != Command.NOP:
            self._check_common()
            getattr(self, f"_do_{self._command.name.lower()}")(ba, a)
        if self.cycle in self._inputs:
            self._require(bool(dq_oe), "the bus is not driven while a word is written")
            self._require(dqm == 0, "a written word is masked")
            self.words[self._inputs.pop(self.cycle)] = dq_o
            self.n_words += 1
        elif dq_oe:
            self._require(False, "the bus is driven although no word is written")
        if dq_oe:
            free = not any(self.cycle - back in self._outputs for back in (0, 1))
            self._require(free, "the bus is driven by both sides, or without a cycle between them")
        if self.cycle in self._outputs:
            self._require(dqm == 0, "a word that is read is masked")
            self.n_words += 1
        self._check_refreshes()
        self._outputs.pop(self.cycle - 1, None)
        self.cycle += 1
        return self.bus()

    def bus(self, ahead: int = 0) -> int:
        """Return the word on the data bus in the next cycle, or ``ahead`` cycles after that.

        It is random if the chip does not drive the bus then.
        """
        junk = self._junk.getrandbits(self.chip.data_bits)
        return self._outputs.get(self.cycle + ahead, junk)

    def _check_common(self) -> None:
        self._require(self._powered is not None, "the clock was not enabled")
        assert self._powered is not None
        self._after(self._powered, self.chip.power_up, "power-up time")
        self._after(self._refreshed, self.chip.t_rfc, "tRFC")
        waited = self.cycle - self._mode_cycle
        self._require(waited >= self.chip.t_mrd_cycles, f"{waited} cycles after the mode was set")

    def _check_refreshes(self) -> None:
        if self._first_refresh is not None and self._mode is not None:
            interval = self.chip.refresh_period / self.chip.n_refreshes
            due = (self.now - self._first_refresh) / interval
            self._require(
                due - self.n_refreshes <= MAX_POSTPONED + 1,
                f"{self.n_refreshes} refreshes in {due:.1f} intervals",
            )

    def _do_activate(self, ba: int, a: int) -> None:
        bank = self._banks[ba]
        self._require(self._mode is not None, "the mode was not set")
        self._require(bank.page is None, f"bank {ba} is open")
        self._require(a < self.chip.rows, f"page {a} does not exist")
        self._after(bank.precharged, self.chip.t_rp, "tRP")
        self._after(bank.activated, self.chip.t_rc, "tRC")
        self._after(self._activated, self.chip.t_rrd, "tRRD")
        bank.page = a
        bank.activated = self._activated = self.now

    def _do_precharge(self, ba: int, a: int) -> None:
        for number in range(N_BANKS) if a & ALL_BANKS else (ba,):
            bank = self._banks[number]
            if bank.page is None:
                continue
            self._after(bank.activated, self.chip.t_ras, "tRAS")
            self._after(bank.write_end * 1e9 / self.clk_hz, self.chip.t_wr, "tWR")
            self._require(self.cycle >= bank.write_end + 2, "two cycles after the last word")
            self._require(self.cycle >= bank.burst_end, "a burst would end early")
            bank.page, bank.precharged = None, self.now

    def _transfer(self, ba: int, a: int) -> tuple[_Bank, list[int]]:
        bank = self._banks[ba]
        self._require(bank.page is not None, f"bank {ba} is closed")
        assert bank.page is not None and self._mode is not None
        self._require(not a & ALL_BANKS, "bit 10 would close the bank")
        self._require(a < self.chip.columns, f"column {a} does not exist")
        self._after(bank.activated, self.chip.t_rcd, "tRCD")
        burst = 1 << (self._mode & 7)
        latest = max(other.burst_end for other in self._banks)
        self._require(self.cycle >= latest, "the burst before would end early")
        bank.burst_end = self.cycle + burst
        page = (bank.page * N_BANKS + ba) * self.chip.columns
        return bank, [page + (a & -burst | a + n & burst - 1) for n in range(burst)]

    def _do_read(self, ba: int, a: int) -> None:
        _, addresses = self._transfer(ba, a)
        assert self._mode is not None
        start = self.cycle + (self._mode >> 4 & 7)
        self._outputs |= {start + n: self.peek(address) for n, address in enumerate(addresses)}

    def _do_write(self, ba: int, a: int) -> None:
        bank, addresses = self._transfer(ba, a)
        self._inputs |= {self.cycle + n: address for n, address in enumerate(addresses)}
        bank.write_end = self.cycle + len(addresses) - 1

    def _do_refresh(self, ba: int, a: int) -> None:
        for bank in self._banks:
            self._require(bank.page is None, "a bank is open")
            self._after(bank.precharged, self.chip.t_rp, "tRP")
            self._after(bank.activated, self.chip.t_rc, "tRC")
        if self._first_refresh is None:
            self._first_refresh = self.now
        self._refreshed = self.now
        self.n_refreshes += 1

    def _do_mode(self, ba: int, a: int) -> None:
        for bank in self._banks:
            self._require(bank.page is None, "a bank is open")
            self._after(bank.precharged, self.chip.t_rp, "tRP")
        self._require(self.n_refreshes >= N_INIT_REFRESHES, f"only {self.n_refreshes} refreshes")
        latency = a >> 4 & 7
        self._require(latency in self.chip.t_ck, f"a CAS latency of {latency} is not supported")
        period = 1e9 / self.clk_hz
        self._require(period >= self.chip.t_ck[latency] - 1e-6, f"{period:.2f} ns is too fast")
        self._require(a & ~0x77 == 0 and a & 7 <= 3, f"the mode {a:#x} is not supported")
        self._mode, self._mode_cycle = a, self.cycle


def sdram_bench(
    model: SdramModel, pins: wiring.PureInterface, read_latency: int = 0
) -> Callable[..., Coroutine]:
    """Return an Amaranth test bench that connects a model to the pins of a controller.

    Parameters
    ----------
    pins : :class:`hw.offchip.pins.SdramPins` of the controller.
    read_latency : additional cycles from the chip to the controller; -1 if the chip's clock is so
        much earlier than the controller's that a word comes in the cycle before.
    """
    under_way = deque([0] * max(read_latency, 0))

    async def bench(ctx) -> None:
        outputs = (pins.clk_en, pins.cs_n, pins.ras_n, pins.cas_n, pins.we_n, pins.ba, pins.a)
        trigger = ctx.tick().sample(*outputs, pins.dq_o, pins.dq_oe, pins.dqm)
        while True:
            _, _, clk_en, cs_n, ras_n, cas_n, we_n, ba, a, dq_o, dq_oe, dqm = await trigger
            command = Command(ras_n | cas_n << 1 | we_n << 2)
            word = model.tick(
                clk_en=clk_en,
                cs_n=cs_n,
                command=command,
                ba=ba,
                a=a,
                dq_o=dq_o,
                dq_oe=dq_oe,
                dqm=dqm,
            )
            under_way.append(model.bus(1) if read_latency < 0 else word)
            ctx.set(pins.dq_i, under_way.popleft())

    return bench


def defines(chip: SdramChip, clk_hz: int) -> dict[str, int]:
    """Return the macros with which ``sdram.hpp`` is a model of ``chip`` at ``clk_hz``, by name."""

    def ps(time_ns: float) -> int:
        return round(1000 * time_ns)

    times = ("t_rcd", "t_rp", "t_ras", "t_rc", "t_rrd", "t_rfc", "t_wr", "power_up")
    return {
        "SDRAM_ROWS": chip.rows,
        "SDRAM_COLUMNS": chip.columns,
        "SDRAM_DATA_BITS": chip.data_bits,
        "SDRAM_PERIOD": math.ceil(1e12 / clk_hz),
        "SDRAM_T_CK_2": ps(chip.t_ck.get(2, NEVER / -1e6)),
        "SDRAM_T_CK_3": ps(chip.t_ck.get(3, NEVER / -1e6)),
        "SDRAM_T_MRD_CYCLES": chip.t_mrd_cycles,
        "SDRAM_REFRESH_PERIOD": ps(chip.refresh_period),
        "SDRAM_N_REFRESHES": chip.n_refreshes,
        **{f"SDRAM_{name.upper()}": ps(getattr(chip, name)) for name in times},
    }
