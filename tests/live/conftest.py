"""Tests here use the public interfaces of a whole running product, in which the fixtures create the users."""

from tests.support.live_product import acme, app_page, globex, key, member, operator, owner, product, stranger, viewer  # noqa: F401
