"""Small pieces that every pipeline is made of."""

from amaranth import Cat, Module, ShapeLike, Signal, Value, ValueLike
from amaranth.lib import memory


def unreset(shape: ShapeLike, name: str | None = None) -> Signal:
    """A register that is written before it is read: it needs no reset, which would have to be
    routed to it, and on some devices costs logic."""
    return Signal(shape, name=name, reset_less=True, src_loc_at=1)


def delayed(
    m: Module, value: ValueLike, n_cycles: int, en: Value | None = None, *, reset: bool = False
) -> Value:
    """``value`` of ``n_cycles`` cycles before, as plain bits; only cycles with ``en`` count. With
    ``reset`` it is 0 at first, as what says that something takes place must be."""
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


def remembered(m: Module, value: ValueLike, n_cycles: int) -> Value:
    """``value`` of ``n_cycles`` cycles before, 2 to 16, from a memory that is written
    round and round: where much has to wait for long it is cheaper than registers."""
    value = Value.cast(value)
    depth = 16  # of a distributed RAM; and a smaller memory would become registers
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


def population(bits: Value) -> Value:
    """Number of ones, as a balanced tree of adders."""
    terms: list[Value] = [bits[i] for i in range(len(bits))]
    while len(terms) > 1:
        terms = [
            terms[i] + terms[i + 1] if i + 1 < len(terms) else terms[i]
            for i in range(0, len(terms), 2)
        ]
    return terms[0]


def several(bits: Value) -> Value:
    """Whether there are two ones or more: in each four, or in two of these."""
    if len(bits) <= 4:
        return Cat(bits[i] & bits[:i].any() for i in range(1, len(bits))).any()
    fours = [bits[i : i + 4] for i in range(0, len(bits), 4)]
    return Cat(map(several, fours)).any() | several(Cat(four.any() for four in fours))


def encode(one_hot: Value) -> Value:
    """Index of the only one, as plain OR trees."""
    n_bits = (len(one_hot) - 1).bit_length()
    masks = (sum(1 << i for i in range(len(one_hot)) if i >> bit & 1) for bit in range(n_bits))
    return Cat((one_hot & mask).any() for mask in masks)


def ones(count: Value, n_bits: int) -> Value:
    """The lowest ``count`` of ``n_bits`` bits, without the carry chains of so many comparisons."""
    bits: list[Value] = []
    for i in range(len(count)):
        bits = [count[i] | bit for bit in bits] + [count[i]] + [count[i] & bit for bit in bits]
    return Cat(bits)[:n_bits]


def select(one_hot: Value, choices: list[Value]) -> Value:
    """The choice whose bit of ``one_hot`` is set, 0 if none is."""
    result: Value | None = None
    for i, choice in enumerate(choices):
        term = Value.cast(choice) & one_hot[i].replicate(len(Value.cast(choice)))
        result = term if result is None else result | term
    assert result is not None
    return result
