"""Faults on purpose: `manage.py verify` breaks a throw-away product of its own and says whether it came right again."""
