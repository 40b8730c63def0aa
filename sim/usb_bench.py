"""Test bench of the serial port over USB: a model of a USB host at D+ and D-, without a core.

The program of ``usb_bench.cpp`` plays scenes such as enumeration, damaged packets, bus resets and
unplugging, with the host of ``usb_host.hpp``. The device sends back all bytes that it receives.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.usb.pins import UsbPins
from hw.usb.serial_port import UsbSerialPort
from sim.verilate import build_executable

MAIN = Path(__file__).with_suffix(".cpp")


class Loopback(wiring.Component):
    """Serial port over USB that sends back what it receives.

    Members
    -------
    pins : pins of the port.
    hold : while it is high, no bytes are taken from the host.
    sink : while it is high, bytes from the host are dropped instead of being sent back.
    source : while it is high, bytes that count up are sent to the host without end.
    n_breaks : number of breaks so far.
    """

    pins: Out(UsbPins())
    hold: In(1)
    sink: In(1)
    source: In(1)
    n_breaks: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.port = port = UsbSerialPort()
        wiring.connect(m, wiring.flipped(self.pins), port.pins)
        count = Signal(8)
        m.d.comb += [
            port.tx.payload.eq(port.rx.payload),
            port.tx.valid.eq(port.rx.valid & ~self.hold & ~self.sink),
            port.rx.ready.eq((port.tx.ready | self.sink) & ~self.hold),
        ]
        with m.If(self.source):
            m.d.comb += [port.tx.payload.eq(count), port.tx.valid.eq(1)]
            m.d.sync += count.eq(count + port.tx.ready)
        m.d.sync += self.n_breaks.eq(self.n_breaks + port.line_break)
        return m


def play(scenes: Sequence[str] = (), vcd: Path | None = None) -> dict[str, Any]:
    """Play scenes by name, by default all, and return what the program reports on each.

    ``vcd`` is the path of a trace of D+ and D- to write.

    Raises
    ------
    sim.verilate.ToolError
        Yosys, Verilator or the C++ compiler is missing or failed.
    subprocess.CalledProcessError
        The program failed.
    """
    program = build_executable(Loopback, MAIN, name="usb-bench", compile_args=("-O1",))
    trace = [] if vcd is None else [f"--vcd={vcd}"]
    done = subprocess.run([program, *trace, *scenes], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)
