"""Agents look at once when somebody asks something of a job; what they write themselves wakes nobody."""

from django.db import migrations

from core import notify


class Migration(migrations.Migration):

    dependencies = [
        ('training', '0002_training_jobs'),
        ('inference', '0002_usage_and_notifications'),
    ]

    operations = [
        notify.on_change('training_trainingjob', 'desired', 'generation', 'node_id'),
    ]
