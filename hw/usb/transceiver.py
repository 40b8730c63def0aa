"""Transceiver of a full-speed USB device, made of FPGA logic only, from parts of LUNA's
transceiver.

LUNA's own ``GatewarePHY`` passes received bytes and the end of a packet through queues between its
two clocks. With these queues, the device's answer begins up to 14 bit times after the end of the
host's packet. That may be too late: a host may give up after 16 bit times (USB 2.0, section
7.1.19.1), and every hub on the way adds almost two. Here registers take the place of the queues, so
that the answer begins after 11 bit times at most.
"""

from __future__ import annotations

from amaranth import Cat, Elaboratable, Module, ResetInserter, Signal
from amaranth.lib.cdc import FFSynchronizer
from luna.gateware.interface.gateware_phy.receiver import (
    RxBitstuffRemover,
    RxClockDataRecovery,
    RxNRZIDecoder,
    RxPacketDetect,
    RxShifter,
)
from luna.gateware.interface.gateware_phy.transmitter import TxPipeline


class Transceiver(Elaboratable):
    """Connect D+ and D- to LUNA's USB device, with the signals of the UTMI standard.

    The clock domain ``usb_io`` has 48 MHz, four cycles per bit; ``usb`` has 12 MHz.

    Attributes
    ----------
    dp_i, dn_i : levels of D+ and D-, asynchronous.
    dp_o, dn_o, oe : levels to drive, and whether to drive them.
    pullup : connect the pull-up resistor; follows ``term_select``.
    tx_data, tx_valid, tx_ready : bytes of a packet to send; the packet ends when ``tx_valid``
        falls.
    rx_data, rx_valid, rx_active : bytes of a received packet; the packet ends when ``rx_active``
        falls.
    line_state : level of D- in bit 0 and of D+ in bit 1, synchronous to ``usb``.

    The other signals exist because LUNA connects them. Only ``term_select`` has an effect: it asks
    for the pull-up resistor.
    """

    def __init__(self):
        for name in ("dp_i", "dn_i", "dp_o", "dn_o", "oe", "pullup"):
            setattr(self, name, Signal(name=name))
        self.tx_data = Signal(8)
        self.tx_valid = Signal()
        self.tx_ready = Signal()
        self.rx_data = Signal(8)
        self.rx_valid = Signal()
        self.rx_active = Signal()
        self.line_state = Signal(2)
        self.term_select = Signal()
        self.session_end = Signal()
        self.xcvr_select = Signal(2)
        self.op_mode = Signal(2)
        self.dp_pulldown = Signal()
        self.dm_pulldown = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.line_state = FFSynchronizer(
            Cat(self.dn_i, self.dp_i), self.line_state, o_domain="usb"
        )
        m.d.comb += self.pullup.eq(self.term_select)
        self._transmit(m)
        self._receive(m)
        return m

    def _transmit(self, m: Module) -> None:
        m.submodules.transmitter = transmitter = TxPipeline()
        quarter = Signal(2)
        m.d.usb_io += quarter.eq(quarter + 1)
        m.d.comb += [
            transmitter.i_bit_strobe.eq(quarter == 0),
            transmitter.i_data_payload.eq(self.tx_data),
            transmitter.i_oe.eq(self.tx_valid),
            self.tx_ready.eq(transmitter.o_data_strobe),
            self.dp_o.eq(transmitter.o_usbp),
            self.dn_o.eq(transmitter.o_usbn),
            self.oe.eq(transmitter.o_oe),
        ]

    def _receive(self, m: Module) -> None:
        dp, dn = Signal(), Signal()
        # The device does not listen to its own packets.
        m.d.comb += [dp.eq(self.dp_i & ~self.oe), dn.eq(self.dn_i & ~self.oe)]
        m.submodules.recovery = recovery = RxClockDataRecovery(dp, dn)
        m.submodules.nrzi = nrzi = RxNRZIDecoder()
        m.submodules.detect = detect = RxPacketDetect()
        m.submodules.bitstuff = bitstuff = ResetInserter({"usb_io": ~detect.o_pkt_active})(
            RxBitstuffRemover()
        )
        m.submodules.shifter = shifter = RxShifter(width=8)
        was_active = Signal()
        m.d.usb_io += was_active.eq(detect.o_pkt_active)
        m.d.comb += [
            nrzi.i_valid.eq(recovery.line_state_valid),
            nrzi.i_dj.eq(recovery.line_state_dj),
            nrzi.i_dk.eq(recovery.line_state_dk),
            nrzi.i_se0.eq(recovery.line_state_se0),
            detect.i_valid.eq(nrzi.o_valid),
            detect.i_se0.eq(nrzi.o_se0),
            detect.i_data.eq(nrzi.o_data),
            bitstuff.i_valid.eq(nrzi.o_valid),
            bitstuff.i_data.eq(nrzi.o_data),
            shifter.reset.eq(detect.o_pkt_end),
            shifter.i_data.eq(bitstuff.o_data),
            shifter.i_valid.eq(~bitstuff.o_stall & was_active),
        ]
        # A byte stays in its register for at least seven bits, long after its mark has crossed.
        byte, mark, active = Signal(8), Signal(), Signal()
        with m.If(shifter.o_put):
            m.d.usb_io += [byte.eq(shifter.o_data[::-1]), mark.eq(~mark)]
        with m.If(detect.o_pkt_start):
            m.d.usb_io += active.eq(1)
        with m.Elif(detect.o_pkt_end):
            m.d.usb_io += active.eq(0)
        mark_here, last_mark, active_here = Signal(), Signal(), Signal()
        m.d.usb += [
            # The clocks come from one PLL with edges in common, so that no synchroniser is needed.
            mark_here.eq(mark),
            active_here.eq(active),
            last_mark.eq(mark_here),
            # One cycle later than a byte's mark, so that the last byte belongs to its packet.
            self.rx_active.eq(active_here),
        ]
        m.d.comb += [
            self.rx_data.eq(byte),
            self.rx_valid.eq((mark_here ^ last_mark) & self.rx_active),
        ]
