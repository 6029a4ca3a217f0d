"""Measurements of the product beside its limits; `manage.py bench` runs them."""
