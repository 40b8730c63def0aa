"""The host's reads of rows of all memories (:class:`hw.protocol.Space`), one at a time."""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus import OffchipPort, max_row_bytes
from hw.core.descriptor import word_request_layout
from hw.core.nest import WORD_BITS
from hw.core.params import row_bits
from hw.core.walk import granule_layout
from hw.parts.pipeline import unreset
from hw.protocol import Address, Space
from hw.spec import Config


class HostReads(wiring.Component):
    """Read rows for the host; a row is the unit in which the host addresses a memory.

    A row of weights comes from a bank in 32-bit words, a row of spikes from a bank as one granule
    (byte). Rows of parameter memory and of the memory outside the FPGA come as a whole.

    Members
    -------
    read, read_data : as in :class:`hw.bus.CoreBus`.
    granules : granules of spike memory to read.
    granule_under_way : a granule has been requested and has not arrived.
    words : words of weight memory to read. They are always taken at once, because the host reads
        weights only while the core is idle.
    banks_read : the word or granule that has been read from a bank.
    row, space : address of the row that is being read.
    offchip, offchip_bank : on devices with memory outside the FPGA, requests for rows of that
        memory and the rows that arrive, and the bank to which the row belongs (one-hot).
    params_free : no other unit reads parameter memory in this cycle, so that it reads ``row`` of
        ``space``.
    params : the row that was read, :attr:`hw.spec.Config.param_latency` cycles later.
    """

    def __init__(self, config: Config):
        self._config = config
        offchip: dict[str, wiring.Member] = {}
        if config.offchip_depth:
            offchip = {"offchip": Out(OffchipPort(config)), "offchip_bank": Out(config.banks)}
        super().__init__(
            offchip
            | {
                "read": In(stream.Signature(Address)),
                "read_data": Out(stream.Signature(8 * max_row_bytes(config), always_ready=True)),
                "granules": Out(stream.Signature(granule_layout(config))),
                "granule_under_way": Out(1),
                "words": Out(stream.Signature(word_request_layout(config), always_ready=True)),
                "banks_read": In(stream.Signature(WORD_BITS, always_ready=True)),
                "row": Out(24),
                "space": Out(8),
                "params_free": In(1),
                "params": In(row_bits(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        index_bits = (config.banks - 1).bit_length()
        bank = Signal(config.banks)
        m.d.comb += [bank[n].eq(self.row[:index_bits] == n) for n in range(config.banks)]

        granule_due = Signal()  # a register, since the nest waits for the answer
        m.d.comb += [
            self.granules.valid.eq(granule_due),
            self.granules.p.granule.eq(self.row[index_bits:]),
            self.granules.p.banks.eq(bank),
        ]
        with m.If(self.granules.ready):
            m.d.sync += granule_due.eq(0)

        # The words of a row arrive in order; all but the last are shifted into `words`.
        n_words = config.lanes * config.weight_bits // WORD_BITS
        words = unreset((n_words - 1) * WORD_BITS)
        n_asked, n_arrived = Signal(range(n_words + 1)), Signal(range(n_words + 1))
        row = Cat(words, self.banks_read.p)
        with m.If(self.banks_read.valid):
            m.d.sync += [words.eq(row[WORD_BITS:]), n_arrived.eq(n_arrived + 1)]
        m.d.comb += [
            self.words.p.place.row.eq(self.row[index_bits:]),
            self.words.p.place.word.eq(n_asked),
            self.words.p.bank.eq(bank),
        ]
        n_param = config.param_latency
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.read.ready.eq(1)
                m.d.sync += [n_asked.eq(0), n_arrived.eq(0)]
                with m.If(self.read.valid):
                    m.d.sync += [
                        self.row.eq(self.read.p.row),
                        self.space.eq(self.read.p.space),
                        granule_due.eq(self.read.p.space == Space.SPIKE),
                    ]
                    m.next = "REQUEST"
            with m.State("REQUEST"), m.Switch(self.space):
                with m.Case(Space.SPIKE):
                    m.next = "GRANULE"
                with m.Case(Space.WEIGHT):
                    m.d.comb += self.words.valid.eq(1)
                    m.d.sync += n_asked.eq(n_asked + 1)
                    with m.If(n_asked == n_words - 1):
                        m.next = "WORDS"
                if config.offchip_depth:
                    with m.Case(Space.OFFCHIP):
                        m.d.comb += self.offchip.requests.valid.eq(1)
                        with m.If(self.offchip.requests.ready):
                            m.next = "OFFCHIP"
                with m.Default(), m.If(self.params_free):
                    m.next = "PARAM0"
            with m.State("GRANULE"), m.If(~granule_due):  # until then, the words of a descriptor
                m.d.comb += self.granule_under_way.eq(1)
                with m.If(self.banks_read.valid):
                    m.d.comb += self.read_data.valid.eq(1)
                    m.next = "IDLE"
            with m.State("WORDS"), m.If(self.banks_read.valid & (n_arrived == n_words - 1)):
                m.d.comb += self.read_data.valid.eq(1)
                m.next = "IDLE"
            if config.offchip_depth:
                m.d.comb += [
                    self.offchip.requests.p.eq(self.row[index_bits:]),
                    self.offchip_bank.eq(bank),
                ]
                with m.State("OFFCHIP"), m.If(self.offchip.rows.valid):
                    m.d.comb += self.read_data.valid.eq(1)
                    m.next = "IDLE"
            for n in range(n_param - 1):
                with m.State(f"PARAM{n}"):
                    m.next = f"PARAM{n + 1}"
            with m.State(f"PARAM{n_param - 1}"):
                m.d.comb += self.read_data.valid.eq(1)
                m.next = "IDLE"
        with m.Switch(self.space):
            with m.Case(Space.SPIKE):
                m.d.comb += self.read_data.p.eq(self.banks_read.p)
            with m.Case(Space.WEIGHT):
                m.d.comb += self.read_data.p.eq(row)
            if config.offchip_depth:
                with m.Case(Space.OFFCHIP):
                    m.d.comb += self.read_data.p.eq(self.offchip.rows.p)
            with m.Default():
                m.d.comb += self.read_data.p.eq(self.params)
        return m
