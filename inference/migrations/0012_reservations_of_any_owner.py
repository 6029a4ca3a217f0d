"""A reservation names its owner by id, so that apps above this one can hold memory too."""

from django.db import migrations, models
from django.db.models import OuterRef, Subquery


def note_use(apps, schema_editor):
    """By the state of the instance that holds it."""
    instance, reservation = apps.get_model("inference", "Instance"), apps.get_model("inference", "Reservation")
    of_owner = instance.objects.filter(pk=OuterRef("owner"))
    state = reservation.objects.annotate(state=Subquery(of_owner.values("state")))
    state.filter(state="starting").update(use="filling")
    state.filter(state__in=["ready", "draining"]).update(use="held")


class Migration(migrations.Migration):

    dependencies = [
        ('inference', '0011_adapters'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='reservation',
            name='one_claim_per_device_and_instance',
        ),
        migrations.AlterField(
            model_name='reservation',
            name='instance',
            field=models.CharField(db_index=True, max_length=48),
        ),
        migrations.RenameField(
            model_name='reservation',
            old_name='instance',
            new_name='owner',
        ),
        migrations.AddField(
            model_name='reservation',
            name='use',
            field=models.CharField(choices=[('promised', 'Promised'), ('filling', 'Filling'), ('held', 'Held')], default='promised', max_length=10),
        ),
        migrations.RunPython(note_use, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name='reservation',
            constraint=models.UniqueConstraint(fields=('device', 'owner'), name='one_claim_per_device_and_owner'),
        ),
    ]
