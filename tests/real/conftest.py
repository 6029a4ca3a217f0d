"""Tests with real engines and the real trainer, through the doors of a running product of their own."""

from tests.live.product import acme, app_page, globex, key, member, operator, owner, product, stranger, viewer  # noqa: F401
