"""How long an example of Hypothesis takes, and how long it takes to think of it, says something of the machine only:
neither fails a test."""

from hypothesis import HealthCheck, settings

settings.register_profile("seam", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seam")
