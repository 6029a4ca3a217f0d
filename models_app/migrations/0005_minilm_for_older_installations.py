from django.db import migrations

DEMO, NAME = "serai-demo", "minilm"  # as `manage.py first_run` made the one and now makes the other


def add_minilm(apps, _schema_editor):
    """For tenants with the first run's demo model: once, and not where somebody deleted it or took its name."""
    model, alias, adapter = (apps.get_model("models_app", name) for name in ("Model", "ModelAlias", "Adapter"))
    deleted = apps.get_model("accounts", "AuditRecord").objects.filter(action="model.delete", details__name=NAME)
    for demo in model.objects.filter(name=DEMO, config__model_path=DEMO, tags__contains=["demo"]):
        taken = [names.objects.filter(tenant_id=demo.tenant_id, name=NAME) for names in (model, alias, adapter)]
        if any(found.exists() for found in (*taken, deleted.filter(tenant_id=demo.tenant_id))):
            continue
        model.objects.create(
            tenant_id=demo.tenant_id,
            name=NAME,
            display_name="all-MiniLM-L6-v2",
            framework="vllm",
            mode="Embedding",
            description="Vectors of sentences and ranking; its files (84 MB) are fetched at the first request.",
            config={"model_path": "all-MiniLM-L6-v2"},
            tags=["demo"],
            created_by_id=demo.created_by_id,
        )


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_end_sessions_with_password'),
        ('models_app', '0004_adapters'),
    ]

    operations = [
        migrations.RunPython(add_minilm, migrations.RunPython.noop),
    ]
