"""Fixtures for all tests."""

from tests.fakes.nvml import nvml  # noqa: F401
from tests.support.metric_samples import store  # noqa: F401
from tests.support.people import admin, api, key, member, operator, owner, stranger, tenant, viewer  # noqa: F401
