"""Parameter memory: biases and thresholds, and the results and counters of two runs.

A *run* is one inference. A *row* has a pair of bias and threshold for each of ``fire_lanes``
neurons, the number that the fire unit updates per cycle (:class:`hw.spec.Config`). A row for
results has ``fire_lanes`` logits instead. A row for counters has numbers of cycles, weight reads,
operations and spikes of a layer (:class:`hw.protocol.LayerCounters`).
"""

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import delayed, unreset
from hw.protocol import Neuron
from hw.spec import Config


def row_bits(config: Config) -> int:
    """Return the width in bits of a row of parameter memory."""
    return 32 * config.fire_lanes


class ParamMemory(wiring.Component):
    """Memory of ``param_depth`` rows of :func:`row_bits` bits, with one write and one read port.

    Most rows hold biases and thresholds; the rows at its end hold results and counters. The rows
    for results and counters form two pages: one for the run in progress, one for the run that was
    reported last; see :attr:`hw.spec.Config.page_rows`. On a large device the memory may be far
    from the logic that uses it; in that case it has registers at its inputs and outputs.

    Members
    -------
    read_row, read_data : index of the row to read; its contents follow
        :attr:`hw.spec.Config.param_latency` cycles later.
    write : rows to write.
    other, other_en : on devices with memory outside the FPGA, a row of parameters from that memory.
        If ``other_en`` is high, it appears on ``read_data`` in the next cycle, in place of a row of
        this memory.
    """

    def __init__(self, config: Config):
        self._config = config
        row = range(config.param_depth)
        other = {"other": In(row_bits(config)), "other_en": In(1)} if config.offchip_depth else {}
        write = data.StructLayout({"row": row, "data": row_bits(config)})
        super().__init__(
            other
            | {
                "read_row": In(row),
                "read_data": Out(data.ArrayLayout(Neuron, config.fire_lanes)),
                "write": In(stream.Signature(write, always_ready=True)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.rows = rows = memory.Memory(
            shape=self.read_data.shape(), depth=config.param_depth, init=[]
        )
        read, write = rows.read_port(), rows.write_port()
        n_after = min(config.param_latency - 1, 1)
        n_before = config.param_latency - 1 - n_after
        found = Value.cast(read.data)
        if config.offchip_depth:
            found = Mux(self.other_en, self.other, found)
        m.d.comb += [
            read.addr.eq(delayed(m, self.read_row, n_before)),
            Value.cast(self.read_data).eq(delayed(m, found, n_after)),
        ]
        write_row, write_data = unreset(write.addr.shape()), unreset(row_bits(config))
        write_en = Signal()
        m.d.sync += [
            write_row.eq(self.write.p.row),
            write_data.eq(self.write.p.data),
            write_en.eq(self.write.valid),
        ]
        m.d.comb += [
            write.addr.eq(write_row),
            Value.cast(write.data).eq(write_data),
            write.en.eq(write_en),
        ]
        return m


def result_row(m: Module, config: Config, index: Value, page: Value) -> Value:
    """Return the index in parameter memory of a row of results or counters.

    Results are stored in two pages (:class:`ParamMemory`). ``page`` is 0 or 1; ``index`` counts
    rows from the page's first row, which has results.
    """
    page_bits = (config.page_rows - 1).bit_length()
    above_pages = config.n_param_rows >> (page_bits + 1)
    offset = Signal(page_bits)
    m.d.comb += offset.eq(index)
    return Cat(offset, page, Const(above_pages, range(config.param_depth)))
