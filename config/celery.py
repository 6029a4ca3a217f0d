"""The Celery application: it carries hints and short jobs; rows in Postgres say what should be."""

import os

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("serai")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect
def keep_our_logging(**_kwargs):
    """Celery configures no logging where this signal has a receiver: Django's stands."""
