"""Settings shared by all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The tests run on all cores already; more threads in each of them would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# One profile for every machine: the times of a busy one say nothing, and a failing example prints
# the decorator that repeats it.
settings.register_profile(
    "spikefold", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("spikefold")
