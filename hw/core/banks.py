"""The chain of banks. All banks compute the same jobs, each over its own input channels.

A *job* is the computation of one output position of one group of ``lanes`` output channels at one
timestep (:class:`hw.core.core.Core`). Its *sums* are one number for each of the ``lanes`` channels.
A *beat* is ``fire_lanes`` of these sums, which the fire unit takes in one cycle. A *slot* is one
cycle's read of spike memory (:class:`hw.core.walk.Walk`).
"""

from amaranth import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus import OffchipPort
from hw.core.bank import Bank
from hw.core.fetch import window_layout
from hw.core.nest import WORD_BITS
from hw.core.sums import beat_layout, merged_beats
from hw.core.walk import slot_layout
from hw.core.weights import row_write_layout, word_layout
from hw.parts.pipeline import delayed, unreset
from hw.spec import GRANULE_BITS, Config


def spikes_layout(config: Config) -> data.StructLayout:
    """Return the layout of a write of spikes to several banks.

    Each bank whose bit in ``banks`` is set stores ``count`` granules (bytes of spikes), the first
    at address ``granule``. ``bits`` has one spike per lane; the spike of lane ``l`` goes to bank
    ``l % config.banks``.
    """
    return data.StructLayout(
        {
            "banks": config.banks,
            "granule": (config.spike_bytes - 1).bit_length(),
            "count": range(config.bank_lanes // GRANULE_BITS + 1),
            "bits": config.lanes,
        }
    )


def of_one_bank(bits: Value, config: Config, bank: int) -> Value:
    """Return the bits that bank number ``bank`` stores, out of ``bits`` with one bit per lane.

    Bank ``bank`` stores the bits of the lanes ``bank``, ``bank + banks``, ``bank + 2 * banks`` and
    so on.
    """
    return Cat(bits[bank :: config.banks])


class Join(wiring.Component):
    """Report when a job (output position, channel group and timestep) is complete in both of two
    banks.

    Both banks complete the same jobs in the same order, but either may be several jobs ahead. The
    inputs may also come from groups of banks that have been joined before.

    Members
    -------
    first, second : high for one cycle when the first or second bank has completed its next job.
    both : high for one cycle per job, when both have completed it.
    """

    def __init__(self, config: Config):
        self._n_ahead = config.sum_queue + 1
        super().__init__({"first": In(1), "second": In(1), "both": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ahead = Signal(range(-self._n_ahead, self._n_ahead + 1))  # of the first place
        m.d.sync += [
            ahead.eq(ahead + self.first - self.second),
            self.both.eq(
                (self.first & self.second)
                | (self.first & (ahead < 0))
                | (self.second & (ahead > 0))
            ),
        ]
        return m


class Banks(wiring.Component):
    """Connect the banks as a chain, and add up their sums.

    Bank 0 gets the slots (one cycle's read of spike memory each, :class:`hw.core.walk.Walk`),
    writes and requests to read; each bank hands them on to the next, one cycle later. So signals
    only run between neighbours, never across the whole device. A beat (``fire_lanes`` sums of a
    job) passes along the chain, and each bank adds its own sums. The signal ``room`` passes along
    the chain in the opposite direction; it says whether all banks have room for another chunk (the
    inputs that a bank reads in one cycle). ::

        slot, writes, requests -> bank 0 ------> bank 1 ------> bank 2 ...
                                    |  beat n      |  beat n      |
                                  sums ----------> + -----------> + --> sums of beat n
        room <------------------- and <--------- and <--------- room

    Members
    -------
    slot, layer, room : as in :class:`hw.core.bank.Bank`, for all banks.
    spikes : spikes to write; always taken.
    weights, weight_bank : row of weights to write, and the bank to write it to (one-hot).
    word, word_bank : 32-bit word of weight memory to read, and the bank that has it (one-hot).
    read : words of weight memory and granules of spike memory that were read, in the order in which
        they were asked for.
    sums : for each job, in order, its sums over all banks.
    n_real, n_tail : numbers of rows of weights that all banks together read in a cycle. ``n_tail``
        is the number for the last group of output channels, which may have fewer than ``lanes``
        channels; ``n_real`` is the number for all other groups.
    offchip : the banks' parts of the memory outside the FPGA, on devices that have it.
    aborted : while high, everything that is under way is dropped.
    """

    def __init__(self, config: Config):
        self._config = config
        count = range(config.banks + 1)
        offchip: dict[str, wiring.Member] = {}
        if config.offchip_depth:
            offchip = {"offchip": Out(OffchipPort(config)).array(config.banks)}
        super().__init__(
            offchip
            | {
                "slot": In(slot_layout(config)),
                "layer": In(window_layout(config)),
                "room": Out(1),
                "spikes": In(stream.Signature(spikes_layout(config), always_ready=True)),
                "weights": In(stream.Signature(row_write_layout(config), always_ready=True)),
                "weight_bank": In(config.banks),
                "word": In(stream.Signature(word_layout(config), always_ready=True)),
                "word_bank": In(config.banks),
                "read": Out(stream.Signature(WORD_BITS, always_ready=True)),
                "sums": Out(merged_beats(config)),
                "n_real": Out(count),
                "n_tail": Out(count),
                "aborted": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        banks = [Bank(config, number) for number in range(config.banks)]
        for number, bank in enumerate(banks):
            m.submodules[f"bank{number}"] = bank
            if config.offchip_depth:
                connect(m, bank.offchip, flipped(self.offchip[number]))
        self._hand_on(m, banks)
        self._collect(m, banks)
        if config.banks == 1:
            self._connect_sums(m, banks[0])
        else:
            self._merge_sums(m, banks)
        return m

    def _hand_on(self, m: Module, banks: list[Bank]) -> None:
        """Connect reads of spike memory (slots), writes and requests to bank 0, and from each bank
        to the next.

        ``room``, which says whether the banks can take more input spikes, goes from the last bank
        to bank 0.
        """
        config = self._config
        slot, layer, aborted = self.slot, self.layer, self.aborted
        spikes, weights, word = self.spikes, self.weights, self.word
        spikes_valid = Mux(spikes.valid, spikes.p.banks, 0)
        weights_valid = Mux(weights.valid, self.weight_bank, 0)
        word_valid = Mux(word.valid, self.word_bank, 0)
        write, row, words = spikes.p, weights.p, word.p
        room = None
        for number, bank in enumerate(banks):
            if number:
                chunk_host, aborted, spikes_valid, weights_valid, word_valid = (
                    delayed(m, value, 1, reset=True)
                    for value in (
                        Cat(slot.chunk, slot.host),
                        aborted,
                        spikes_valid,
                        weights_valid,
                        word_valid,
                    )
                )
                slot_before, slot = slot, Signal(slot.shape(), name=f"slot{number}")
                m.d.comb += slot.eq(data.View(slot.shape(), delayed(m, slot_before, 1)))
                m.d.comb += Cat(slot.chunk, slot.host).eq(chunk_host)
                layer, write, row, words = (
                    data.View(value.shape(), delayed(m, value, 1))
                    for value in (layer, write, row, words)
                )
            m.d.comb += [
                bank.slot.eq(slot),
                bank.slot.host.eq(slot.host[number]),
                bank.layer.eq(layer),
                bank.aborted.eq(aborted),
                bank.spikes.valid.eq(spikes_valid[number]),
                bank.spikes.p.granule.eq(write.granule),
                bank.spikes.p.count.eq(write.count),
                bank.spikes.p.bits.eq(of_one_bank(write.bits, config, number)),
                bank.weights.valid.eq(weights_valid[number]),
                bank.weights.p.eq(row),
                bank.word.valid.eq(word_valid[number]),
                bank.word.p.eq(words),
            ]
        for bank in reversed(banks):
            room_here = bank.room if room is None else bank.room & room
            room = room_here if bank is banks[0] else delayed(m, room_here, 1, reset=True)
        m.d.comb += self.room.eq(room)

    def _collect(self, m: Module, banks: list[Bank]) -> None:
        """Pass what was read for the host or the descriptor loader from bank to bank.

        Along the same chain, the numbers of rows of weights that the banks read are added up. The
        output of the last bank is the output of the chain.
        """
        read, valid = banks[0].read.p, banks[0].read.valid
        n_real, n_tail = banks[0].reads.real, banks[0].reads.tail
        for number, bank in enumerate(banks[1:], 1):
            read = delayed(m, read, 1) & delayed(m, valid, 1, reset=True).replicate(WORD_BITS)
            read = read | Mux(bank.read.valid, bank.read.p, 0)
            valid = delayed(m, valid, 1, reset=True) | bank.read.valid
            n_bits = number.bit_length() + 1
            n_real, n_tail = (
                (delayed(m, n, 1, reset=True) + here)[:n_bits]
                for n, here in ((n_real, bank.reads.real), (n_tail, bank.reads.tail))
            )
        n_last = int(len(banks) > 1)  # a register at the end of a chain
        m.d.comb += [
            self.read.p.eq(delayed(m, read, n_last)),
            self.read.valid.eq(delayed(m, valid, n_last, reset=True)),
            self.n_real.eq(delayed(m, n_real, n_last, reset=True)),
            self.n_tail.eq(delayed(m, n_tail, n_last, reset=True)),
        ]

    def _connect_sums(self, m: Module, bank: Bank) -> None:
        """Connect the sums of the only bank directly to the output."""
        config, sums = self._config, self.sums
        p = Signal(sums.p.shape())
        m.d.comb += [
            sums.available.eq(bank.sums.available),
            bank.sums.begin.eq(sums.begin),
            bank.sums.last.eq(sums.last),
            bank.sums.beat.eq(sums.beat),
            *(p.sums[i].eq(bank.sums.p.sums[i]) for i in range(config.fire_lanes)),
            p.identity.eq(bank.sums.p.identity),
            Value.cast(sums.p).eq(delayed(m, p, config.param_latency - 1)),
        ]

    def _merge_sums(self, m: Module, banks: list[Bank]) -> None:
        """Read each beat (``fire_lanes`` sums) from one bank after another, and add them up.

        If each bank has a bit-plane of the pixels, the next bank's plane weighs half as much as the
        plane before it. So the total so far is doubled before the next bank's sums are added
        (:class:`hw.core.sums.BeatSignature`).
        """
        config, sums = self._config, self.sums
        beat = Cat(sums.last, sums.beat)
        plane = sums.plane
        complete: Value = banks[0].complete
        layout = beat_layout(config, config.membrane_bits, config.fire_lanes)
        total: data.View | None = None
        for number, bank in enumerate(banks):
            beat, plane = delayed(m, beat, 1, reset=True), delayed(m, plane, 1)
            m.d.comb += Cat(bank.sums.last, bank.sums.beat).eq(beat)
            here = bank.sums.p
            after = unreset(layout, f"sums{number}")
            plane_here = delayed(m, plane, 1)
            for i in range(config.fire_lanes):
                if total is None:
                    m.d.sync += after.sums[i].eq(here.sums[i])
                else:
                    so_far = total.sums[i]
                    doubled = Mux(plane_here, so_far << 1, so_far)
                    m.d.sync += after.sums[i].eq(doubled + here.sums[i])
                if i % config.banks == number:
                    m.d.sync += after.identity[i].eq(here.identity[i // config.banks])
                elif total is not None:
                    m.d.sync += after.identity[i].eq(total.identity[i])
            total = after
            if number:
                join = Join(config)
                m.submodules[f"join{number}"] = ResetInserter(self.aborted)(join)
                m.d.comb += [join.first.eq(complete), join.second.eq(bank.complete)]
                complete = join.both
        assert total is not None
        m.d.comb += Value.cast(sums.p).eq(delayed(m, total, 1))

        # Jobs that are complete in all banks.
        n_complete = Signal(range(config.sum_queue + 2))
        m.d.comb += sums.available.eq(n_complete != 0)
        m.d.sync += n_complete.eq(n_complete + complete - sums.begin)
        with m.If(self.aborted):
            m.d.sync += n_complete.eq(0)
