"""Choice of the serial line's rate: host and device change to the fastest one that works."""

from __future__ import annotations

from collections.abc import Iterator

from hw.protocol import DEFAULT_BAUD, Opcode, Rate, pack
from hw.spec import Config
from sw.driver.discovery import identify, timeouts
from sw.driver.errors import LinkTimeout
from sw.driver.transport import Request, Transport

BAUDS = (12_000_000, 6_000_000, 3_000_000, 2_000_000)
"""Rates in bits per second to try, fastest first, after the user's limit or, without one, the rate
that the board reports. All are above the default rate, which always works."""

MAX_BAUD_ERROR = 0.02
"""Largest accepted relative error of a rate. The device makes a rate by dividing its clock by an
integer, which is not exact. A UART with 8 data bits tolerates about twice this error."""

MIN_DIVISOR, MAX_DIVISOR = 4, 256
"""Smallest and largest number of clock cycles per bit that the device supports."""

N_TRIALS = 3
"""Number of unanswered requests at a new rate after which the rate counts as not working."""


def agree_on_rate(transport: Transport, config: Config, limit_baud: int | None) -> None:
    """Change host and device from the default rate to the fastest rate at which the device answers.

    The rates tried are ``limit_baud`` and the slower ones of :data:`BAUDS`. Host and device stay at
    :data:`hw.protocol.DEFAULT_BAUD` if none of them works, or if the port has a fixed rate.

    Parameters
    ----------
    config : configuration of the device. Its clock frequency determines the possible rates, because
        the device makes a rate by dividing its clock by an integer.
    limit_baud : fastest rate to try, in bits per second; None means ``config.baud``.

    Raises
    ------
    LinkTimeout
        The port accepts no data.
    LinkLost
        The port has vanished.
    """
    if transport.fixed_rate:
        return
    for baud, divisor in rates(config, config.baud if limit_baud is None else limit_baud):
        if try_rate(transport, baud, divisor):
            return
        transport.resync()


def rates(config: Config, fastest: int) -> Iterator[tuple[int, int]]:
    """Yield the rates to try, in bits per second, each with the number of the device's clock cycles
    per bit.

    They are ``fastest`` and the slower ones of :data:`BAUDS`, in this order. Rates that the device
    cannot make from its clock are left out.
    """
    for baud in (fastest, *(b for b in BAUDS if DEFAULT_BAUD < b < fastest)):
        divisor = round(config.clk_hz / baud)
        error = abs(config.clk_hz / max(divisor, 1) / baud - 1)
        if MIN_DIVISOR <= divisor <= MAX_DIVISOR and error <= MAX_BAUD_ERROR:
            yield baud, divisor


def try_rate(transport: Transport, baud: int, divisor: int) -> bool:
    """Change device and host to the rate ``baud``, and return whether the device answers at it.

    ``divisor`` is the number of the device's clock cycles per bit.
    """
    request = Request(Opcode.RATE, pack(Rate, {"divisor_less_1": divisor - 1}))
    try:
        # No repetition: it would reach a device that may have changed to the new rate already.
        with timeouts(transport, transport.timeout_s, 0):
            transport.exchange([request])
        transport.set_baud(baud)
        with timeouts(transport, transport.timeout_s / 2, N_TRIALS - 1):
            identify(transport)
    except (LinkTimeout, ValueError):
        return False
    return True
