"""Fixtures for all tests, and how random examples are made."""

import hypothesis
import pytest
from hypothesis import HealthCheck

from tests.fakes.fake_nvml import nvml  # noqa: F401
from tests.support.metric_rows import store  # noqa: F401
from tests.support.user_fixtures import admin, api, key, member, operator, owner, stranger, tenant, viewer  # noqa: F401

# Examples are judged by what they show, never by how long a busy machine took to make or to run them.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def fake_token_counter(settings):
    """Inside a test's own process, tokens are words, whether or not an engine is installed on this machine."""
    settings.TOKEN_COUNTER = "tests.support.agent_jobs.fake_counter"
