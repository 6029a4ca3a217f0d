"""Tests with real engines and the real trainer, through the public interfaces of their own running product."""

from tests.support.live_product import acme, app_page, globex, key, member, operator, owner, product, stranger, viewer  # noqa: F401
