"""The sequencer, which runs layer after layer from descriptors in weight memory.

A *descriptor* tells the core how to run a layer. A *run* is one inference. A layer consists of
*jobs* (:class:`hw.core.core.Core`).
"""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.parts.pipeline import unreset
from hw.protocol import LayerCounters, Result, Run
from hw.spec import Config


class Sequencer(wiring.Component):
    """Execute the layers of a run (one inference) in order.

    For each layer: load its descriptor, start the loop nest, wait until the fire unit has finished,
    and store the counters. After the final layer: start the argmax and report the result. The host
    may not read spikes while a descriptor is loaded, because the spikes would arrive between the
    words of the descriptor.

    Members
    -------
    run, done, busy : as in :class:`hw.bus.CoreBus`.
    go_to, load : to the loader of descriptors. ``go_to``: the next descriptor begins at the row
        ``entry`` of the run; ``load``: load the next descriptor.
    loaded : from the loader: the descriptor has been loaded.
    granule_under_way : the host is reading spikes, so that loading a descriptor has to wait.
    loading : a descriptor is being loaded or is about to be, so that the host may not begin to read
        spikes.
    clear, start : to the loop nest, see :class:`hw.core.nest.LoopNest`.
    final : from the descriptor: the layer is the last one of the run.
    finished : the fire unit has written the layer's last spikes or logits.
    counting, clear_counters, counters : connections to :class:`hw.core.counters.Counters`.
    page : number, 0 or 1, of the page of parameter memory to which the results and counters of the
        run in progress are written. The other page has those of the run that was reported last.
    counter_data, counter_index, counter_en : a row of counters for parameter memory, its index (0
        is the first row of the first layer), and whether to write it in this cycle.
    argmax_start, argmax_done, argmax_index : connections to :class:`hw.core.argmax.Argmax`.
    """

    def __init__(self, config: Config):
        self._config = config
        super().__init__(
            {
                "run": In(stream.Signature(Run)),
                "done": Out(stream.Signature(Result)),
                "busy": Out(1),
                "go_to": Out(1),
                "load": Out(1),
                "loaded": In(1),
                "granule_under_way": In(1),
                "loading": Out(1),
                "clear": Out(1),
                "start": Out(1),
                "final": In(1),
                "finished": In(1),
                "counting": Out(1),
                "clear_counters": Out(1),
                "counters": In(LayerCounters),
                "page": Out(1),
                "counter_data": Out(32 * config.fire_lanes),
                "counter_index": Out(range(config.max_layers * config.counter_rows)),
                "counter_en": Out(1),
                "argmax_start": Out(1),
                "argmax_done": In(1),
                "argmax_index": In(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        result = unreset(Result)
        m.d.comb += self.done.p.eq(result)
        with m.If(self.busy):
            m.d.sync += result.n_cycles.eq(result.n_cycles + 1)

        # The counters are stored in rows of parameter memory, in the order of LayerCounters.
        n_stored = Signal(range(max(config.counter_rows, 2)))
        row_bits = len(self.counter_data)
        m.d.comb += self.counter_data.eq(self.counters.as_value().word_select(n_stored, row_bits))

        settling = Signal(range(5))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.run.ready.eq(1), self.go_to.eq(self.run.valid)]
                with m.If(self.run.valid):
                    m.d.sync += [
                        self.busy.eq(1),
                        self.counter_index.eq(0),
                        result.tag.eq(self.run.p.tag),
                        result.n_cycles.eq(0),
                    ]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += self.loading.eq(1)
                with m.If(~self.granule_under_way):
                    m.d.comb += [self.clear.eq(1), self.load.eq(1), self.clear_counters.eq(1)]
                    m.d.sync += [settling.eq(0), self.counting.eq(1)]
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.loading.eq(1)
                with m.If(self.loaded):
                    m.next = "SETTLE"
            with m.State("SETTLE"):  # wait for registers derived from levels and header
                m.d.sync += settling.eq(settling + 1)
                with m.If(settling == 1):
                    m.d.comb += self.start.eq(1)
                    m.next = "RUN"
            with m.State("RUN"), m.If(self.finished):
                m.d.sync += settling.eq(0)
                m.next = "COUNT"
            with m.State("COUNT"):  # wait until the last spikes have been counted
                m.d.sync += [settling.eq(settling + 1), n_stored.eq(0)]
                with m.If(settling == 1):
                    m.d.sync += self.counting.eq(0)
                    m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += self.counter_en.eq(1)
                m.d.sync += [
                    self.counter_index.eq(self.counter_index + 1),
                    n_stored.eq(n_stored + 1),
                ]
                with m.If(n_stored == config.counter_rows - 1):
                    with m.If(self.final):
                        m.d.comb += self.argmax_start.eq(1)
                        m.next = "ARGMAX"
                    with m.Else():
                        m.next = "BEGIN"
            with m.State("ARGMAX"), m.If(self.argmax_done):
                m.d.sync += [result.argmax.eq(self.argmax_index), self.busy.eq(0)]
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.d.sync += self.page.eq(~self.page)
                    m.next = "IDLE"
        return m
