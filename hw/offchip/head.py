"""The first waiting request of a port of the SDRAM controller, and whether it can be served at
once."""

from __future__ import annotations

from collections.abc import Callable

from amaranth import Array, Module, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.offchip.layout import RowLayout
from hw.offchip.timing import N_BANKS
from hw.parts.pipeline import unreset


class RequestHead(wiring.Component):
    """Store the first waiting request of a port, and report whether its page of the SDRAM is open.

    A page is a row of one bank of the SDRAM, which must be opened before it can be read or written.
    A second request is stored behind the first one, so that ``requests.ready`` does not depend on
    ``take`` in the same cycle. A request can be taken from ``requests`` every second cycle.

    Parameters
    ----------
    shape : shape of a request.
    fields : function from a request to its ``bank``, ``page`` and ``slot``.

    Members
    -------
    requests : requests in the order in which they are to be served.
    pages : for each bank of the SDRAM, the page that is open or being opened.
    active : for each bank, whether a page is open or being opened.
    usable : for each bank, whether its page in ``pages`` can already be read and written.
    may : requests of this port may be served now.
    request : the first request.
    bank, page, slot : position of the row that the first request names; ``slot`` is the index of
        the row in its page.
    hits : the request can be served, because its page was usable in the cycle before.
    misses : in the cycle before, the request's page was neither open nor being opened.
    take : the request is served in this cycle and leaves this component; allowed only if ``hits``.
    drop : drop all requests.
    busy : at least one request is stored.
    """

    def __init__(
        self,
        layout: RowLayout,
        shape: ShapeLike,
        fields: Callable[[Value], dict[str, Value]],
    ):
        self._fields = fields
        page_bits = (layout.chip.rows - 1).bit_length()
        super().__init__(
            {
                "requests": In(stream.Signature(shape)),
                "pages": In(page_bits).array(N_BANKS),
                "active": In(N_BANKS),
                "usable": In(N_BANKS),
                "may": In(1),
                "request": Out(shape),
                "bank": Out(range(N_BANKS)),
                "page": Out(page_bits),
                "slot": Out(range(layout.slots)),
                "hits": Out(1),
                "misses": Out(1),
                "take": In(1),
                "drop": In(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waits, first = Signal(), Signal()
        waiting, request = unreset(self.request.shape()), unreset(self.request.shape())
        moves = Signal()
        m.d.comb += [
            self.requests.ready.eq(~waits),
            moves.eq(~first | self.take),
            self.request.eq(request),
            self.busy.eq(waits | first),
            *(getattr(self, name).eq(v) for name, v in self._fields(self.request).items()),
        ]
        with m.If(moves):
            m.d.sync += [first.eq(waits), request.eq(waiting)]
        with m.If(self.requests.ready):
            m.d.sync += [waits.eq(self.requests.valid), waiting.eq(self.requests.p)]
        with m.Elif(moves):
            m.d.sync += waits.eq(0)
        with m.If(self.drop):
            m.d.sync += [waits.eq(0), first.eq(0)]
        same, stays = Signal(), Signal()
        m.d.comb += [
            same.eq(Array(self.pages)[self.bank] == self.page),
            stays.eq(first & self.may & ~self.take & ~self.drop),
        ]
        m.d.sync += [
            self.hits.eq(stays & same & Array(self.usable)[self.bank]),
            self.misses.eq(stays & ~(same & Array(self.active)[self.bank])),
        ]
        return m
