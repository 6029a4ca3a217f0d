"""The Celery application: it carries hints and short jobs; the desired state is in Postgres."""

import os

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("serai")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect
def keep_django_logging(**_kwargs):
    """With a receiver of this signal Celery configures no logging, so Django's stays."""
