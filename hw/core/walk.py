"""The walk, which turns the steps of a layer's loop nest into reads for the banks and jobs for the
fire unit.

A *slot* is one cycle's read of spike memory, at the same address in all banks. What is read is a
*window* of ``chunk_bits`` bits, in *pieces* of :data:`hw.spec.PIECE_BITS` bits. A *job* is the
computation of one output position of one group of output channels at one timestep
(:class:`hw.core.core.Core`). A *chunk* is the part of a job's inputs that each bank reads in one
slot. A *granule* is 8 bits of spike memory.
"""

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.core.nest import Phase, address_widths, step_layout
from hw.parts.queue import Queue
from hw.spec import GRANULE_BITS, JOB_DEPTH, JOB_ROOM, Config

_JOB_FIELDS = ("param", "slot", "target", "fresh", "end", "pool_first", "tail", "phase")


def slot_layout(config: Config) -> data.StructLayout:
    """Return the layout of a slot: one read of spike memory, the same in all banks.

    - ``chunk``: the slot reads some of the input spikes of a job (output position, channel group
      and timestep)
    - ``host``: one bit per bank, bank 0 lowest; each bank whose bit is set reads a granule (byte)
      for the host
    - ``bit``: address of the first bit to read
    - ``gather``: the pieces of the window are read at the offsets that the layer gives them
      (:class:`hw.core.spikes.SpikeMemory`); otherwise the window is contiguous
    - ``silent``: all bits of the chunk count as 0, whatever is read, as in the timesteps of a layer
      that takes pixels
    - ``weight``, ``cut``, ``last``, ``tail``: as in :func:`hw.core.nest.step_layout`

    If neither ``chunk`` nor ``host`` is set, the bits that are read are not used. There is one
    exception: in a layer with a gate, the slot after the last chunk of a job reads the job's
    identity spikes (those of the residual block's shortcut).
    """
    widths = address_widths(config)
    return data.StructLayout(
        {
            "chunk": 1,
            "host": config.banks,
            "bit": widths["source"],
            "gather": 1,
            "silent": 1,
            "weight": widths["weight"],
            "cut": 1,
            "last": 1,
            "tail": 1,
        }
    )


def job_layout(config: Config) -> data.StructLayout:
    """Return the layout of a job as it is queued for the fire unit.

    A job is one output position, group of output channels, and timestep. The fields are described
    at :func:`hw.core.nest.step_layout`.
    """
    fields = dict(step_layout(config))
    return data.StructLayout({name: fields[name].shape for name in (*_JOB_FIELDS, "pool_last")})


def granule_layout(config: Config) -> data.StructLayout:
    """Return the layout of the host's request to read spikes.

    Each bank whose bit in ``banks`` is set reads the granule (byte of spikes) at address
    ``granule``.
    """
    return data.StructLayout({"granule": address_widths(config)["target"], "banks": config.banks})


class Walk(wiring.Component):
    """Turn the steps of the loop nest into reads of spike memory (slots) and jobs for the fire
    unit.

    A job is one output position, group of output channels and timestep. Each cycle has one slot, in
    which the banks read the chunk of inputs of a step, the identity spikes of a job, a granule
    (byte) for the host, or nothing. Banks never refuse a slot. Instead, a chunk is read only while
    the banks and the queue of jobs have room for it and for all chunks that are still under way.

    Identity spikes are those of a residual block's shortcut, which the gate at the end of the block
    needs. In a layer with a gate, each job takes one more slot to read them: the one after its last
    chunk.

    With :attr:`hw.spec.Config.direct_timesteps`, the timesteps of a layer that reads pixels are
    queued for the fire unit without a read, one per cycle. Such a layer has no gate.

    Members
    -------
    steps : iterations of the loop nest, see :func:`hw.core.nest.step_layout`.
    gated : the layer that runs has a gate, and so identity spikes.
    room : all banks have room for another chunk.
    granules : granules that the host wants to read.
    slot : what the banks read in this cycle.
    jobs : all jobs, for the fire unit.
    params_ahead : on devices with memory outside the FPGA: index of the first row of parameters,
        for each job whose parameters are in that memory. The index appears when the job is queued,
        so that the parameters can be fetched in advance.
    """

    def __init__(self, config: Config):
        self._config = config
        param = stream.Signature(address_widths(config)["param"], always_ready=True)
        super().__init__(
            ({"params_ahead": Out(param)} if config.offchip_depth else {})
            | {
                "steps": In(stream.Signature(step_layout(config))),
                "gated": In(1),
                "room": In(1),
                "granules": In(stream.Signature(granule_layout(config))),
                "slot": Out(slot_layout(config)),
                "jobs": Out(stream.Signature(job_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step, slot = self.steps.p, self.slot
        m.submodules.jobs = jobs = Queue(job_layout(self._config), JOB_DEPTH, always_ready=True)
        wiring.connect(m, jobs.o, wiring.flipped(self.jobs))
        job_room = Signal()
        m.d.sync += job_room.eq(jobs.level <= JOB_ROOM)

        # Identity spikes come first, then the host.
        first_bit = Const(0, (GRANULE_BITS - 1).bit_length())
        identity_slot, identity_due = Signal(), Signal()
        m.d.sync += identity_due.eq(slot.chunk & step.last & self.gated)
        with m.If(identity_due):
            m.d.comb += [identity_slot.eq(1), slot.bit.eq(Cat(first_bit, step.identity))]
        with m.Elif(self.granules.valid):
            m.d.comb += [
                self.granules.ready.eq(1),
                slot.host.eq(self.granules.p.banks),
                slot.bit.eq(Cat(first_bit, self.granules.p.granule)),
            ]
        # In a layer of pixels, only bit-planes have inputs; the timesteps after them have none.
        after_planes = (step.phase == Phase.FIRST) | (step.phase == Phase.LATER)
        reads = self.steps.valid
        if self._config.direct_timesteps:
            direct = reads & after_planes & job_room
            reads = reads & ~after_planes
        with m.Elif(self.room & job_room):
            m.d.comb += [slot.chunk.eq(reads), slot.gather.eq(1)]
            m.d.comb += slot.bit.eq(step.source)
        taken = identity_slot | (slot.chunk & ~(step.last & self.gated))
        queued = slot.chunk & step.last
        if self._config.direct_timesteps:
            taken, queued = taken | direct, queued | direct
        m.d.comb += [
            self.steps.ready.eq(taken),
            slot.silent.eq(after_planes),
            *(slot[name].eq(step[name]) for name in ("weight", "cut", "last", "tail")),
        ]

        job = jobs.i.p
        m.d.comb += [
            jobs.i.valid.eq(queued),
            *(job[name].eq(step[name]) for name in _JOB_FIELDS),
            # A bit-plane writes no spikes.
            job.pool_last.eq(step.pool_last & (step.phase != Phase.PLANE)),
        ]
        if self._config.offchip_depth:
            m.d.comb += [
                self.params_ahead.valid.eq(jobs.i.valid & job.param[-1]),
                self.params_ahead.p.eq(job.param),
            ]
        return m
