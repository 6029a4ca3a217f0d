"""Notifications of what gateways keep in memory."""

from django.db import migrations

from core import notify


class Migration(migrations.Migration):
    dependencies = [("models_app", "0001_initial"), ("accounts", "0002_installation_and_notifications")]

    operations = [notify.on_change("models_app_model"), notify.on_change("models_app_modelalias")]
