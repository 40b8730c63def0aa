"""Tests of the rates of the serial line that a board's clock can make."""

import pytest

from hw.boards.configs import BOARDS, CONFIGS
from hw.protocol import DEFAULT_BAUD
from sw.driver.baud import rates


@pytest.mark.parametrize(
    ("board", "fastest", "expected"),
    [
        ("icebreaker", 3_000_000, [(3_000_000, 10), (2_000_000, 15)]),
        # 12 Mbaud would be 2.5 cycles of 30 MHz.
        ("icebreaker", 12_000_000, [(6_000_000, 5), (3_000_000, 10), (2_000_000, 15)]),
        ("ulx3s-85f-wide", 3_000_000, [(3_000_000, 20), (2_000_000, 30)]),
        ("colorlight-i5", 1_000_000, [(1_000_000, 75)]),
    ],
)
def test_rates_are_those_that_the_clock_makes(
    board: str, fastest: int, expected: list[tuple[int, int]]
) -> None:
    assert list(rates(CONFIGS[board], fastest)) == expected


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_makes_its_fastest_rate(board: str) -> None:
    config = CONFIGS[board]
    fastest, _ = next(rates(config, config.baud))
    assert fastest == config.baud >= DEFAULT_BAUD
