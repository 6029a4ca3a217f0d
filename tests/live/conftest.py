"""Tests here go through the doors of a whole running product; their people are made there, too."""

from tests.live.product import acme, app_page, globex, key, member, operator, owner, product, stranger, viewer  # noqa: F401
