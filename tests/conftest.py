"""Fixtures for all tests."""

from tests.fakes.fake_nvml import nvml  # noqa: F401
from tests.support.metric_rows import store  # noqa: F401
from tests.support.user_fixtures import admin, api, key, member, operator, owner, stranger, tenant, viewer  # noqa: F401
