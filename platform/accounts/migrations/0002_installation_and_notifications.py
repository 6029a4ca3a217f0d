"""The installation's identity, and notifications of what gateways keep in memory."""

import uuid

from django.db import migrations

from core import notify


def identify(apps, schema_editor):
    apps.get_model("accounts", "Installation").objects.create(pk=1, cluster_id=uuid.uuid4())


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.RunPython(identify, migrations.RunPython.noop),
        notify.create_function(),
        notify.on_change("accounts_tenant"),
        notify.on_change("accounts_user", "is_active", "is_staff", "default_tenant_id"),
        notify.on_change("accounts_membership"),
        # last_used_at changes all the time and interests no gateway
        notify.on_change("accounts_apikey", "role", "scopes", "allowed_models", "expires_at", "revoked_at"),
        notify.on_change("accounts_loginsession", "revoked_at"),
        notify.on_change("accounts_configurationvalue"),
    ]
