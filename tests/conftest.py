"""Fixtures for all tests, and how random examples are made."""

from hypothesis import HealthCheck, settings

from tests.fakes.fake_nvml import nvml  # noqa: F401
from tests.support.metric_rows import store  # noqa: F401
from tests.support.user_fixtures import admin, api, key, member, operator, owner, stranger, tenant, viewer  # noqa: F401

# Examples are judged by what they show, never by how long a busy machine took to make or to run them.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
