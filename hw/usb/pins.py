"""Pins of a full-speed USB device that is made of FPGA logic only."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class UsbPins(wiring.Signature):
    """Signals of the pins D+ and D- and of the pull-up resistor, seen from the device.

    Members
    -------
    d_p_i, d_n_i : levels of D+ and D-, asynchronous.
    d_p_o, d_n_o : levels that the device drives while ``oe`` is high.
    oe : drive both pins.
    pullup : connect the resistor of 1.5 kOhm between D+ and 3.3 V, by which a host recognises a
        full-speed device.
    """

    def __init__(self):
        super().__init__(
            {
                "d_p_i": In(1),
                "d_n_i": In(1),
                "d_p_o": Out(1),
                "d_n_o": Out(1),
                "oe": Out(1),
                "pullup": Out(1),
            }
        )
