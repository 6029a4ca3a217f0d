
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('inference', '0006_replicas_and_draining'),
    ]

    operations = [
        migrations.AddField(
            model_name='device',
            name='live',
            field=models.JSONField(default=dict, help_text='The latest sample of a GPU, with its processes.'),
        ),
        migrations.AddField(
            model_name='node',
            name='live',
            field=models.JSONField(default=dict, help_text='The latest sample of the host; percentages, and MiB.'),
        ),
    ]
