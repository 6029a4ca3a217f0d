"""Fixtures for all tests."""

from tests.people import admin, api, key, member, operator, owner, stranger, tenant, viewer  # noqa: F401
