"""Metrics over time: series, their raw samples, roll-ups of four widths, and the buckets that must be rolled up.

Samples and roll-ups are partitioned by time; the first migration creates their tables in SQL.
"""

from typing import ClassVar, Self

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
        """Series of these models for all tenants; of other models only the requests of `tenant` itself."""
        own = Q(model_id__in=model_ids)
        return self.filter(own | Q(tenant_id=tenant.pk) if tenant else own)


class Series(models.Model):
    """What a sequence of values describes. Samples and roll-ups refer to its small id. An empty label does not apply.

    An engine is named by node, model and replica, which stay the same when it restarts. No foreign keys: history
    stays when rows are deleted.
    """

    id = models.AutoField(primary_key=True)  # four bytes in every sample and roll-up row
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
    """One measurement. A gauge stores its value, a counter its increase since the previous sample (count is 1 for
    both); a histogram stores the sum of `count` new observations, and how many of them lie in each bucket.
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
    """All values of a series in the time that begins at `bucket`. The mean is sum / count; `last` is the latest value.

    For histograms, min and max are those of the sample means where only means are known.
    """

    objects: ClassVar[models.Manager[Self]]

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
    """How far a table of raw rows has been read: everything that transactions with ids below `seen` wrote."""

    source = models.CharField(max_length=40, primary_key=True)
    seen = models.BigIntegerField(default=0)


class Stale(models.Model):
    """A bucket of a level that must be rolled up (again), because there is new data below it."""

    pk = models.CompositePrimaryKey("level", "bucket")
    level = models.CharField(max_length=2)
    bucket = models.DateTimeField()
