"""Device configurations of a model, tried in order: on which devices it may run, and which options differ there."""

import copy
from dataclasses import dataclass, field

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as lazy

from core.errors import InvalidRequest
from models_app import options
from models_app.models import Model
from models_app.options import Option

MAX_PROFILES = 16
MAX_NAME_LENGTH = 100
FIELDS = [
    Option("name", str, lazy("Shown as config_source of what runs in it.")),
    Option("device", str, lazy("Kind of device."), choices=("cuda", "cpu")),
    Option("gpu_count", int, lazy("GPUs of one machine that share the model."), 1, 64),
    Option("gpu_memory", int, lazy("MiB on each GPU, in place of the estimate."), 1, 10_000_000),
    Option("memory", int, lazy("MiB of main memory, in place of the estimate."), 1, 100_000_000),
    Option("node", str, lazy("Name of the only machine for it; operators name it.")),
]
TABLE = {option.name: option for option in FIELDS}
# A profile says how an engine runs, not which weights it serves or how answers are sampled.
FIXED_OPTIONS = {option.name for option in (*options.FILES, *options.SAMPLING)}


@dataclass(frozen=True)
class Profile:
    """One entry of `Model.profiles`. Memory in MiB; None means the model's own value."""

    name: str
    device: str
    gpu_count: int | None = None
    gpu_memory: int | None = None
    memory: int | None = None
    node: str = ""
    config: dict = field(default_factory=dict)


def profiles_of(model: Model) -> list[Profile]:
    return [Profile(**entry) for entry in model.profiles]


def with_profile(model: Model, name: str) -> Model:
    """The model with the config of the profile of this name; unchanged if that profile does not exist (any more)."""
    changes = next((profile.config for profile in profiles_of(model) if profile.name == name), None)
    if not changes:
        return model
    changed = copy.copy(model)
    changed.config = model.config | changes
    return changed


def check(framework: str, profiles) -> None:
    """Raises InvalidRequest with a message for each wrong field by its path: `profiles.0.gpu_count`."""
    if not isinstance(profiles, list) or len(profiles) > MAX_PROFILES:
        raise InvalidRequest(
            details={"profiles": _("Expected a list of at most %(most)d objects.") % {"most": MAX_PROFILES}}
        )
    wrong: dict[str, str] = {}
    for index, entry in enumerate(profiles):
        wrong |= _find_problems(framework, f"profiles.{index}", entry)
    if not wrong:
        wrong = _find_duplicate_names(profiles)
    if wrong:
        raise InvalidRequest(details=wrong)


def schema() -> dict:
    """For the API's description."""
    entry = options.schema(TABLE)
    entry["properties"]["config"] = options.schema(*options.ENGINES.values())
    return {"type": "array", "maxItems": MAX_PROFILES, "items": entry | {"required": ["name", "device"]}}


def _find_problems(framework: str, prefix: str, entry) -> dict[str, str]:
    if not isinstance(entry, dict):
        return {prefix: _("Expected an object.")}
    plain = {name: value for name, value in entry.items() if name != "config"}
    wrong = options.problems(prefix, TABLE, plain)
    wrong |= {f"{prefix}.{name}": _("This field is required.") for name in ("name", "device") if name not in entry}
    if isinstance(entry.get("name"), str) and len(entry["name"]) > MAX_NAME_LENGTH:
        wrong[f"{prefix}.name"] = _("At most %(most)d characters are expected.") % {"most": MAX_NAME_LENGTH}
    if entry.get("device") == "cpu":
        wrong |= {
            f"{prefix}.{name}": _("Only GPUs have this.") for name in ("gpu_count", "gpu_memory") if name in entry
        }
    allowed = {name: option for name, option in options.ENGINES[framework].items() if name not in FIXED_OPTIONS}
    return wrong | options.problems(f"{prefix}.config", allowed, entry.get("config", {}))


def _find_duplicate_names(profiles: list[dict]) -> dict[str, str]:
    names = [entry["name"] for entry in profiles]
    return {
        f"profiles.{index}.name": _("A name occurs twice.") for index, name in enumerate(names) if name in names[:index]
    }
