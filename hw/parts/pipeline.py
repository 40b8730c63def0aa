"""Helpers for pipelines: registers, delays, and logic on one-hot and thermometer codes."""

from amaranth import Cat, Module, ShapeLike, Signal, Value, ValueLike
from amaranth.lib import memory


def unreset(shape: ShapeLike, name: str | None = None) -> Signal:
    """Return a signal for a register without reset; it must be written before it is read.

    A reset would have to be routed to the register, and takes logic on some devices.

    Parameters
    ----------
    name : name of the signal; by default the name of the variable to which the result is assigned.
    """
    return Signal(shape, name=name, reset_less=True, src_loc_at=1)


def delayed(
    m: Module, value: ValueLike, n_cycles: int, en: Value | None = None, *, reset: bool = False
) -> Value:
    """Return ``value`` delayed by ``n_cycles`` registers, as plain bits.

    Parameters
    ----------
    en : the registers load only in cycles in which it is high.
    reset : the registers start at 0; use this for valid bits.
    """
    value = Value.cast(value)
    for _ in range(n_cycles):
        register = Signal(len(value), reset_less=not reset)
        if en is None:
            m.d.sync += register.eq(value)
        else:
            with m.If(en):
                m.d.sync += register.eq(value)
        value = register
    return value


def delayed_in_memory(m: Module, value: ValueLike, n_cycles: int) -> Value:
    """Return ``value`` delayed by ``n_cycles`` (2 to 16), through a memory used as a ring buffer.

    For wide values and long delays this takes less logic than the registers of :func:`delayed`.
    """
    value = Value.cast(value)
    depth = 16  # depth of a distributed RAM; a smaller memory would become registers
    m.submodules += (rows := memory.Memory(shape=len(value), depth=depth, init=[]))
    write, read = rows.write_port(), rows.read_port()
    now = Signal(range(depth))
    m.d.sync += now.eq(now + 1)
    m.d.comb += [
        write.addr.eq(now),
        write.data.eq(value),
        write.en.eq(1),
        read.addr.eq(now + (1 - n_cycles)),
        read.en.eq(1),
    ]
    return read.data


def popcount(bits: Value) -> Value:
    """Return the number of ones in ``bits``, from a balanced tree of adders."""
    terms: list[Value] = [bits[i] for i in range(len(bits))]
    while len(terms) > 1:
        terms = [
            terms[i] + terms[i + 1] if i + 1 < len(terms) else terms[i]
            for i in range(0, len(terms), 2)
        ]
    return terms[0]


def more_than_one(bits: Value) -> Value:
    """Return whether ``bits`` has at least two ones.

    The logic divides ``bits`` into groups of four: one group has at least two ones, or two groups
    have one each.
    """
    if len(bits) <= 4:
        return Cat(bits[i] & bits[:i].any() for i in range(1, len(bits))).any()
    fours = [bits[i : i + 4] for i in range(0, len(bits), 4)]
    return Cat(map(more_than_one, fours)).any() | more_than_one(Cat(four.any() for four in fours))


def first_one(bits: Value) -> Value:
    """Return ``bits`` with only the lowest bit that is one kept, and all others cleared.

    The logic has no carry chain, which ``bits & -bits`` would have.
    """
    return Cat(bits[i] & ~bits[:i].any() for i in range(len(bits)))


def encode_one_hot(one_hot: Value) -> Value:
    """Return the index of the bit that is set in ``one_hot``, from OR trees; 0 if none is set."""
    n_bits = (len(one_hot) - 1).bit_length()
    masks = (sum(1 << i for i in range(len(one_hot)) if i >> bit & 1) for bit in range(n_bits))
    return Cat((one_hot & mask).any() for mask in masks)


def thermometer(count: Value, n_bits: int) -> Value:
    """Return ``n_bits`` bits of which the lowest ``count`` are set (a thermometer code).

    The logic has no carry chains, which ``n_bits`` comparisons would have.
    """
    bits: list[Value] = []
    for i in range(len(count)):
        bits = [count[i] | bit for bit in bits] + [count[i]] + [count[i] & bit for bit in bits]
    return Cat(bits)[:n_bits]


def select_one_hot(one_hot: Value, choices: list[Value]) -> Value:
    """Return the choice whose bit in ``one_hot`` is set, or 0 if none is, from AND and OR gates."""
    result: Value | None = None
    for i, choice in enumerate(choices):
        term = Value.cast(choice) & one_hot[i].replicate(len(Value.cast(choice)))
        result = term if result is None else result | term
    assert result is not None
    return result
