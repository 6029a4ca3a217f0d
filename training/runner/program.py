"""The trainer's command and spec for one job; it runs with the engine environment's Python."""

from pathlib import Path

from django.conf import settings
from django.utils.module_loading import import_string

from core.errors import NotFound
from engines import install
from engines.base import LaunchCommand
from engines.launch_environment import OFFLINE, cuda_variables
from engines.memory import cpu_threads
from inference.models import DeviceKind
from models_app import artefacts
from training import base_models, trainer
from training.datasets import split, storage
from training.models import TrainingJob
from training.trainer.spec import TrainerRecipe, TrainingSpec

DTYPES = {DeviceKind.CPU: "float32", DeviceKind.CUDA: "bfloat16"}
SAMPLES = 4


def trainer_argv(_job: TrainingJob) -> list[str]:
    return [str(install.environment_python(base_models.ENGINE)), str(Path(trainer.__file__).parent)]


def spec_for(job: TrainingJob) -> TrainingSpec:
    """Raises PlatformError if the base model or the dataset can no longer be used."""
    if job.base_model is None or job.dataset is None:
        raise NotFound
    base_models.check(job.base_model)
    storage.open_dataset(job.dataset).close()
    kind, recipe = job.placement["device_kind"], dict(job.recipe)
    modules = tuple(recipe.pop("target_modules") or ())
    return TrainingSpec(
        job=job.pk,
        base=str(artefacts.check_startable(job.base_model).path),
        dtype=DTYPES[kind],
        device=kind,
        threads=cpu_threads(),
        data=str(storage.path_of(job.dataset)),
        format=job.dataset.format,
        held_out=split.held_out(job.dataset.rows, recipe["seed"]),
        recipe=TrainerRecipe(**recipe, target_modules=modules),
        samples=SAMPLES,
    )


def command_for(job: TrainingJob, folder: Path) -> LaunchCommand:
    argv = [*import_string(settings.TRAINER)(job), str(folder / "spec.json")]
    environment = {
        "PATH": f"{Path(argv[0]).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        **OFFLINE,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return LaunchCommand(argv, environment | _devices(job))


def _devices(job: TrainingJob) -> dict[str, str]:
    if job.placement["device_kind"] == DeviceKind.CPU:
        return {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(cpu_threads())}
    return cuda_variables(job.placement["device_indexes"])
