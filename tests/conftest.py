"""Settings shared by all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# One profile for every machine: the times of a busy one say nothing, and a failing example prints
# the decorator that repeats it.
settings.register_profile(
    "spikefold", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("spikefold")
