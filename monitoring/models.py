"""Figures over time: series, their raw samples, roll-ups of four widths, and what is still to be rolled.

Samples and roll-ups are partitioned by time; their tables are made in SQL by the first migration.
"""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from core import ids


class SeriesQuerySet(models.QuerySet):
    def totals(self):
        """The one series per metric that sums up all others."""
        return self.filter(node_id="", model_id="")

    def single(self):
        return self.exclude(node_id="", model_id="")

    def of_models(self, model_ids, tenant=None):
        """Of these models, whoever asked; of any other model what `tenant` itself has asked."""
        own = Q(model_id__in=model_ids)
        return self.filter(own | Q(tenant_id=tenant.pk) if tenant else own)


class Series(models.Model):
    """What one line of figures is about; samples and roll-ups name it by its small id. Empty means: not of any.

    An engine is named by node, model and replica, which outlive its restarts. No foreign keys: history outlives rows.
    """

    id = models.AutoField(primary_key=True)  # four bytes in every row of every figure
    metric = models.CharField(max_length=40)
    node_id = models.CharField(max_length=ids.LENGTH, default="")
    device = models.CharField(max_length=20, default="")
    model_id = models.CharField(max_length=ids.LENGTH, default="")
    replica = models.PositiveSmallIntegerField(default=0)
    tenant_id = models.CharField(max_length=ids.LENGTH, default="")
    cause = models.CharField(max_length=40, default="")

    objects = SeriesQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["metric", "node_id", "device", "model_id", "replica", "tenant_id", "cause"],
                name="one_series_of_a_kind",
            )
        ]


class Sample(models.Model):
    """One measurement. A gauge has its value, a counter its increase since the sample before (count 1 both); a
    histogram has the sum of `count` new observations, and how many of them lie in each bucket.
    """

    pk = models.CompositePrimaryKey("series_id", "at")
    series = models.ForeignKey(Series, models.DO_NOTHING, db_constraint=False, related_name="+")
    at = models.DateTimeField()
    value = models.FloatField()
    count = models.IntegerField(default=1)
    buckets = ArrayField(models.BigIntegerField(), null=True)

    class Meta:
        managed = False
        db_table = "monitoring_sample"


class Rollup(models.Model):
    """What a series did in the time that begins at `bucket`. The mean is sum / count; `last` is the latest value.

    For histograms min and max are of means where only means are known.
    """

    pk = models.CompositePrimaryKey("series_id", "bucket")
    series = models.ForeignKey(Series, models.DO_NOTHING, db_constraint=False, related_name="+")
    bucket = models.DateTimeField()
    count = models.BigIntegerField()
    sum = models.FloatField()
    min = models.FloatField()
    max = models.FloatField()
    last = models.FloatField()
    buckets = ArrayField(models.BigIntegerField(), null=True)

    class Meta:
        abstract = True
        managed = False


class Rollup1m(Rollup):
    class Meta(Rollup.Meta):
        abstract = False
        db_table = "monitoring_rollup1m"


class Rollup5m(Rollup):
    class Meta(Rollup.Meta):
        abstract = False
        db_table = "monitoring_rollup5m"


class Rollup1h(Rollup):
    class Meta(Rollup.Meta):
        abstract = False
        db_table = "monitoring_rollup1h"


class Rollup1d(Rollup):
    class Meta(Rollup.Meta):
        abstract = False
        db_table = "monitoring_rollup1d"


class Watermark(models.Model):
    """How far a table of raw rows has been looked through: all that transactions before `seen` wrote."""

    source = models.CharField(max_length=40, primary_key=True)
    seen = models.BigIntegerField(default=0)


class Stale(models.Model):
    """A bucket of a level that must be rolled (again), since something below it is new."""

    pk = models.CompositePrimaryKey("level", "bucket")
    level = models.CharField(max_length=2)
    bucket = models.DateTimeField()
