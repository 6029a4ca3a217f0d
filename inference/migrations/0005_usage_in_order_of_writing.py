"""Usage can be read in the order in which it was written: roll-ups follow it however late a record comes."""

from django.db import migrations

from core.partitions import WRITTEN_IN

ADD = f"""
ALTER TABLE inference_usagerecord ADD COLUMN {WRITTEN_IN};
CREATE INDEX ON inference_usagerecord (written_in);
CREATE INDEX ON inference_usagerecord (started_at);
"""


class Migration(migrations.Migration):
    dependencies = [("inference", "0004_device_readings")]

    operations = [migrations.RunSQL(ADD, "ALTER TABLE inference_usagerecord DROP COLUMN written_in")]
