"""The Celery application: it carries hints and short jobs; rows in Postgres say what should be."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("serai")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
