"""Configuration of pytest for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The tests run on all cores already, so that more threads in each would only slow them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# There are no deadlines, because examples take long on a busy machine. A failing example prints the
# decorator that repeats it.
settings.register_profile(
    "spikefold", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("spikefold")


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes of ``-n auto``: one more than there are processors, because
    many tests wait for a serial line or for another program."""
    return len(os.sched_getaffinity(0)) + 1
