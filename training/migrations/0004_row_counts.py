"""What was uploaded as a data set, and which rows of it a job cuts or leaves out."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('training', '0003_wake_agents'),
    ]

    operations = [
        migrations.AddField(
            model_name='dataset',
            name='origin',
            field=models.JSONField(default=dict, help_text='The uploaded file: its kind, the fields of its rows, those without a meaning, rows of weight 0.'),
        ),
        migrations.AddField(
            model_name='trainingjob',
            name='row_counts',
            field=models.JSONField(default=dict, help_text='Rows that are cut or left out: counted before the start, then by the trainer.'),
        ),
    ]
