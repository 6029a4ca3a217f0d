"""Device configurations of a model, tried in order: where it may run, and what differs there."""

import copy
from dataclasses import dataclass, field

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as lazy

from core.errors import InvalidRequest
from models_app import options
from models_app.models import Model
from models_app.options import Option

MOST = 16
LONGEST_NAME = 100
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
FIXED = {option.name for option in (*options.FILES, *options.SAMPLING)}


@dataclass(frozen=True)
class Profile:
    """One entry of `Model.profiles`. Memory in MiB; None where the model's own figures hold."""

    name: str
    device: str
    gpu_count: int | None = None
    gpu_memory: int | None = None
    memory: int | None = None
    node: str = ""
    config: dict = field(default_factory=dict)


def of(model: Model) -> list[Profile]:
    return [Profile(**entry) for entry in model.profiles]


def applied(model: Model, name: str) -> Model:
    """The model as it runs in the profile of this name; as it is, if it has none of it (any more)."""
    changes = next((profile.config for profile in of(model) if profile.name == name), None)
    if not changes:
        return model
    changed = copy.copy(model)
    changed.config = model.config | changes
    return changed


def check(framework: str, profiles) -> None:
    """Raises InvalidRequest with a sentence for each wrong field, by its place: `profiles.0.gpu_count`."""
    if not isinstance(profiles, list) or len(profiles) > MOST:
        raise InvalidRequest(details={"profiles": _("Expected a list of at most %(most)d objects.") % {"most": MOST}})
    wrong = {}
    for place, entry in enumerate(profiles):
        wrong |= _problems(framework, f"profiles.{place}", entry)
    if not wrong:
        wrong = _equal_names(profiles)
    if wrong:
        raise InvalidRequest(details=wrong)


def schema() -> dict:
    """For the API's description."""
    entry = options.schema(TABLE)
    entry["properties"]["config"] = options.schema(*options.ENGINES.values())
    return {"type": "array", "maxItems": MOST, "items": entry | {"required": ["name", "device"]}}


def _problems(framework: str, where: str, entry) -> dict[str, str]:
    if not isinstance(entry, dict):
        return {where: _("Expected an object.")}
    plain = {name: value for name, value in entry.items() if name != "config"}
    wrong = options.problems(where, TABLE, plain)
    wrong |= {f"{where}.{name}": _("This field is required.") for name in ("name", "device") if name not in entry}
    if isinstance(entry.get("name"), str) and len(entry["name"]) > LONGEST_NAME:
        wrong[f"{where}.name"] = _("At most %(most)d characters are expected.") % {"most": LONGEST_NAME}
    if entry.get("device") == "cpu":
        wrong |= {f"{where}.{name}": _("Only GPUs have this.") for name in ("gpu_count", "gpu_memory") if name in entry}
    allowed = {name: option for name, option in options.ENGINES[framework].items() if name not in FIXED}
    return wrong | options.problems(f"{where}.config", allowed, entry.get("config", {}))


def _equal_names(profiles: list[dict]) -> dict[str, str]:
    names = [entry["name"] for entry in profiles]
    return {
        f"profiles.{place}.name": _("A name occurs twice.") for place, name in enumerate(names) if name in names[:place]
    }
