"""Fixtures that all tests of :mod:`sw` use."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch before every test, so that unseeded networks do not depend on the order of
    tests.
    """
    torch.manual_seed(0)
