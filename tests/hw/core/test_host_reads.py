"""Tests that the host reads the right rows of all memories; banks and parameter memory are models
in Python."""

import random
from collections import deque

import pytest

from hw.core.host_reads import HostReads
from hw.core.nest import WORD_BITS
from hw.protocol import Space, n_rows, spaces
from hw.spec import Config
from tests.streams import put, simulate, wait_until

BUILDS = [
    Config(lanes=8, weight_bits=4, fire_lanes=1, chunk_bits=32, sum_queue=0, param_depth=1024),
    Config(lanes=16, fire_lanes=16),
    Config(lanes=32, fire_lanes=4, banks=2, param_depth=1024),
    Config(lanes=64, weight_bits=4, fire_lanes=16, banks=8, chunk_bits=32),
]


def value_of(kind: str, *place: int) -> int:
    """Return the contents of a place in memory: a number that differs from place to place.

    ``place`` is the bank and the address in it, or the memory and the row.
    """
    return random.Random(f"{kind} {place}").getrandbits(512)


@pytest.mark.parametrize("config", BUILDS, ids=range(len(BUILDS)))
@pytest.mark.parametrize("stall", [0.0, 0.7])
def test_rows_of_all_spaces(config: Config, stall: float) -> None:
    """Check the rows that the host reads from every memory.

    Row ``r`` of weights or of spikes is row ``r // banks`` of bank ``r % banks``. All other rows
    are in parameter memory, which is read in cycles in which no other unit uses it.
    """
    rng = random.Random(config.banks)
    dut = HostReads(config)
    words = config.lanes * config.weight_bits // WORD_BITS
    row_bits = 32 * config.fire_lanes
    addresses = [
        (space, rng.choice((0, 1, n_rows(space, config) - 1, rng.randrange(n_rows(space, config)))))
        for space in rng.choices(spaces(config), k=60)
    ]

    def wanted(space: Space, row: int) -> int:
        bank, at = row % config.banks, row // config.banks
        if space == Space.SPIKE:
            return value_of("granule", bank, at) & 0xFF
        if space == Space.WEIGHT:
            mask = (1 << WORD_BITS) - 1
            return sum(
                (value_of("word", bank, at, n) & mask) << WORD_BITS * n for n in range(words)
            )
        return value_of("params", int(space), row) & (1 << row_bits) - 1

    async def banks(ctx):
        """Answer requests for words of weights and bytes of spikes, with a fixed latency for each
        kind."""
        due: deque[tuple[int, int]] = deque()
        cycle = 0
        trigger = ctx.tick().sample(
            dut.words.valid, dut.words.p, dut.granules.valid, dut.granules.ready, dut.granules.p
        )
        async for _, _, word_valid, word, granule_valid, granule_ready, granule in trigger:
            cycle += 1
            if word_valid:
                assert word.bank.bit_count() == 1
                place = word.bank.bit_length() - 1, word.place.row, word.place.word
                due.append((cycle + 4 + config.banks, value_of("word", *place) & 0xFFFFFFFF))
            if granule_valid and granule_ready:
                assert granule.banks.bit_count() == 1
                place = granule.banks.bit_length() - 1, granule.granule
                due.append((cycle + 7 + config.banks, value_of("granule", *place) & 0xFF))
            answers = bool(due) and due[0][0] <= cycle
            # As long as a granule has not been asked for, the words of a descriptor may arrive.
            waits = granule_valid and not granule_ready
            ctx.set(dut.banks_read.valid, answers or (waits and rng.random() < 0.5))
            ctx.set(dut.banks_read.p, due.popleft()[1] if answers else rng.getrandbits(32))
            ctx.set(dut.granules.ready, granule_valid and rng.random() >= stall)

    async def params(ctx):
        """Give parameter memory to the host in some cycles; in all others, other units read it."""
        under_way = [rng.getrandbits(row_bits) for _ in range(config.param_latency - 1)]
        trigger = ctx.tick().sample(dut.params_free, dut.space, dut.row)
        async for _, _, free, space, row in trigger:
            value = value_of("params", space, row) if free else rng.getrandbits(row_bits)
            under_way.append(value & (1 << row_bits) - 1)
            ctx.set(dut.params, under_way.pop(0))
            ctx.set(dut.params_free, rng.random() >= stall)

    async def read(ctx):
        items = ({"space": space, "row": row} for space, row in addresses)
        await put(ctx, dut.read, items, rng=rng, stall=stall)

    async def compare(ctx):
        for space, row in addresses:
            got = await wait_until(ctx, dut.read_data.valid, dut.read_data.p)
            n_bits = 8 if space == Space.SPIKE else len(dut.read_data.p)
            assert got & (1 << n_bits) - 1 == wanted(space, row), f"{space.name} {row}"
        for _ in range(20):
            await ctx.tick()
            assert not ctx.get(dut.read_data.valid), "more rows than were asked for"

    simulate(dut, read, compare, background=[banks, params])
