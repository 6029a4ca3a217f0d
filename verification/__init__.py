"""Fault injection: `manage.py verify` breaks a temporary product and reports whether it recovered."""
