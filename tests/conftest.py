"""Fixtures for all tests."""

import pytest

from tests.fakes.fake_nvml import nvml  # noqa: F401
from tests.support.metric_rows import store  # noqa: F401
from tests.support.user_fixtures import admin, api, key, member, operator, owner, stranger, tenant, viewer  # noqa: F401


@pytest.fixture(autouse=True)
def fake_token_counter(settings):
    """Inside a test's own process, tokens are words, whether or not an engine is installed on this machine."""
    settings.TOKEN_COUNTER = "tests.support.agent_jobs.fake_counter"
