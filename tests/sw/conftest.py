"""What every test of :mod:`sw` begins with."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Networks that a test does not seed itself are the same in any order of the tests."""
    torch.manual_seed(0)
