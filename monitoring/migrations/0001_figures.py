
import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Rollup1d',
            fields=[
                ('pk', models.CompositePrimaryKey('series_id', 'bucket', blank=True, editable=False, primary_key=True, serialize=False)),
                ('bucket', models.DateTimeField()),
                ('count', models.BigIntegerField()),
                ('sum', models.FloatField()),
                ('min', models.FloatField()),
                ('max', models.FloatField()),
                ('last', models.FloatField()),
                ('buckets', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), null=True, size=None)),
            ],
            options={
                'db_table': 'monitoring_rollup1d',
                'abstract': False,
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Rollup1h',
            fields=[
                ('pk', models.CompositePrimaryKey('series_id', 'bucket', blank=True, editable=False, primary_key=True, serialize=False)),
                ('bucket', models.DateTimeField()),
                ('count', models.BigIntegerField()),
                ('sum', models.FloatField()),
                ('min', models.FloatField()),
                ('max', models.FloatField()),
                ('last', models.FloatField()),
                ('buckets', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), null=True, size=None)),
            ],
            options={
                'db_table': 'monitoring_rollup1h',
                'abstract': False,
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Rollup1m',
            fields=[
                ('pk', models.CompositePrimaryKey('series_id', 'bucket', blank=True, editable=False, primary_key=True, serialize=False)),
                ('bucket', models.DateTimeField()),
                ('count', models.BigIntegerField()),
                ('sum', models.FloatField()),
                ('min', models.FloatField()),
                ('max', models.FloatField()),
                ('last', models.FloatField()),
                ('buckets', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), null=True, size=None)),
            ],
            options={
                'db_table': 'monitoring_rollup1m',
                'abstract': False,
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Rollup5m',
            fields=[
                ('pk', models.CompositePrimaryKey('series_id', 'bucket', blank=True, editable=False, primary_key=True, serialize=False)),
                ('bucket', models.DateTimeField()),
                ('count', models.BigIntegerField()),
                ('sum', models.FloatField()),
                ('min', models.FloatField()),
                ('max', models.FloatField()),
                ('last', models.FloatField()),
                ('buckets', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), null=True, size=None)),
            ],
            options={
                'db_table': 'monitoring_rollup5m',
                'abstract': False,
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Sample',
            fields=[
                ('pk', models.CompositePrimaryKey('series_id', 'at', blank=True, editable=False, primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('value', models.FloatField()),
                ('count', models.IntegerField(default=1)),
                ('buckets', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), null=True, size=None)),
            ],
            options={
                'db_table': 'monitoring_sample',
                'managed': False,
            },
        ),
        migrations.CreateModel(
            name='Stale',
            fields=[
                ('pk', models.CompositePrimaryKey('level', 'bucket', blank=True, editable=False, primary_key=True, serialize=False)),
                ('level', models.CharField(max_length=2)),
                ('bucket', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='Watermark',
            fields=[
                ('source', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('seen', models.BigIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name='Series',
            fields=[
                ('id', models.AutoField(primary_key=True, serialize=False)),
                ('metric', models.CharField(max_length=40)),
                ('node_id', models.CharField(default='', max_length=48)),
                ('device', models.CharField(default='', max_length=20)),
                ('model_id', models.CharField(default='', max_length=48)),
                ('replica', models.PositiveSmallIntegerField(default=0)),
                ('tenant_id', models.CharField(default='', max_length=48)),
                ('cause', models.CharField(default='', max_length=40)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('metric', 'node_id', 'device', 'model_id', 'replica', 'tenant_id', 'cause'), name='one_series_of_a_kind')],
            },
        ),
    ]
