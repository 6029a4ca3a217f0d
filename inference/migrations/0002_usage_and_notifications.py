"""The partitioned usage table, and notifications for gateways and agents."""

from django.db import migrations

from core import notify

# The DEFAULT partition catches what a dead scheduler made no partition for.
CREATE_USAGE = """
CREATE TABLE inference_usagerecord (
    started_on date NOT NULL,
    request_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    tenant_id varchar(48) NOT NULL,
    key_id varchar(48),
    user_id varchar(48),
    model_id varchar(48) NOT NULL,
    model_name varchar(200) NOT NULL,
    instance_id varchar(48),
    generation integer NOT NULL DEFAULT 0,
    route varchar(80) NOT NULL,
    stream boolean NOT NULL,
    status varchar(20) NOT NULL,
    http_status smallint NOT NULL,
    prompt_tokens integer NOT NULL DEFAULT 0,
    completion_tokens integer NOT NULL DEFAULT 0,
    cached_tokens integer NOT NULL DEFAULT 0,
    queue_ms integer NOT NULL DEFAULT 0,
    ttft_ms integer,
    duration_ms integer NOT NULL DEFAULT 0,
    PRIMARY KEY (started_on, request_id)
) PARTITION BY RANGE (started_on);
CREATE INDEX ON inference_usagerecord (tenant_id, started_at);
CREATE TABLE inference_usagerecord_default PARTITION OF inference_usagerecord DEFAULT;
"""


class Migration(migrations.Migration):
    dependencies = [("inference", "0001_initial"), ("models_app", "0002_notifications")]

    operations = [
        migrations.RunSQL(CREATE_USAGE, "DROP TABLE inference_usagerecord"),
        notify.on_change(
            "inference_instance", "state", "desired", "generation", "running_generation", "endpoint", "healthy", "retry_at"
        ),
    ]
