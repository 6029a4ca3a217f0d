"""The hyperparameters of a training, with ranges and defaults, checked before anything starts.

They are read from `hyperParams` and `loraConfig` of the engine API (if both name the same thing, `loraConfig` wins), or
from one object with the field names of the class below. Nothing here reads a database or a disk.
"""

import re
from dataclasses import dataclass, replace
from math import ceil

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as lazy

from core.client_names import printable_name
from core.errors import InvalidRequest
from models_app.options import Option

AUTO = "auto"
MAY_BE_AUTO = ("learning_rate", "epochs")
MODULE = re.compile(r"\w+(\.\w+)*", re.ASCII)
TARGET_STEPS = 120  # that `auto` aims at: fewer rows get more epochs

RANK_RANGE = 1, 512
ALPHA_RANGE = 1, 4096
DROPOUT_RANGE = 0, 0.9
STEPS_RANGE = 1, 1_000_000

HYPER_PARAMS = [
    Option("batchSize", int, lazy("Rows in one step."), 1, 1024),
    Option("learningRate", float, lazy("How far a step goes; auto chooses by the model's size."), 1e-8, 1),
    Option("epochs", int, lazy("How often each row is seen; auto chooses by the model's size and the rows."), 1, 1000),
    Option("maxSeqLength", int, lazy("Tokens of a row."), 16, 1_000_000),
    Option("loraRank", int, lazy("Rank of the adapter."), *RANK_RANGE),
    Option("loraAlpha", int, lazy("Weight of the adapter."), *ALPHA_RANGE),
    Option("loraDropout", float, lazy("Share of the adapter that a step leaves out at random."), *DROPOUT_RANGE),
    Option("saveSteps", int, lazy("Steps between checkpoints."), *STEPS_RANGE),
    Option("evalSteps", int, lazy("Steps between measurements on the held-out rows."), *STEPS_RANGE),
    Option("seed", int, lazy("Start of the random numbers, and choice of the held-out rows."), 0, 2**31 - 1),
]
LORA_CONFIG = [
    Option("r", int, lazy("Rank of the adapter."), *RANK_RANGE),
    Option("loraAlpha", int, lazy("Weight of the adapter."), *ALPHA_RANGE),
    Option("loraDropout", float, lazy("Share of the adapter that a step leaves out at random."), *DROPOUT_RANGE),
    Option("targetModules", list, lazy("Layers that are adapted; by default all linear ones.")),
    Option("bias", str, lazy("Which biases are trained."), choices=("none", "all", "lora_only")),
]
FIELDS = {
    "batchSize": "batch_size", "learningRate": "learning_rate", "epochs": "epochs", "maxSeqLength": "max_seq_length",
    "loraRank": "rank", "r": "rank", "loraAlpha": "alpha", "loraDropout": "dropout", "saveSteps": "save_steps",
    "evalSteps": "eval_steps", "seed": "seed", "targetModules": "target_modules", "bias": "bias",
}  # fmt: skip
TABLES = {
    "hyperParams": {option.name: option for option in HYPER_PARAMS},
    "loraConfig": {option.name: option for option in LORA_CONFIG},
    "recipe": {FIELDS[option.name]: option for option in (*HYPER_PARAMS, *LORA_CONFIG)},
}


@dataclass(frozen=True)
class Hyperparameters:
    """The defaults are those of the engine API. None for `learning_rate` or `epochs` means auto, until it is resolved.

    No `target_modules` means all linear layers.
    """

    batch_size: int = 4
    learning_rate: float | None = 2e-4
    epochs: int | None = 3
    max_seq_length: int = 2048
    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05
    save_steps: int = 100
    eval_steps: int = 100
    seed: int = 42
    target_modules: tuple[str, ...] = ()
    bias: str = "none"

    def resolve_defaults(self, *, parameters: int, rows: int, context: int | None = None) -> "Hyperparameters":
        """Replaces auto by numbers that suit the model's number of weights and the number of training rows.

        Limits `max_seq_length` to the model's context length.
        """
        size = _size(parameters)
        wanted_epochs = ceil(TARGET_STEPS / ceil(rows / self.batch_size))
        return replace(
            self,
            learning_rate=self.learning_rate or size.learning_rate,
            epochs=self.epochs or min(wanted_epochs, size.max_epochs),
            max_seq_length=min(self.max_seq_length, context or self.max_seq_length),
        )


@dataclass(frozen=True)
class SizeDefaults:
    """Automatic values for models with fewer weights than `below`."""

    below: float
    learning_rate: float
    max_epochs: int


# The first was measured on the demo model; the rates from 1e9 on are those of the QLoRA paper (Dettmers et al. 2023,
# table 9: 2e-4 up to 13 billion parameters, 1e-4 above); the second lies between them.
SIZE_DEFAULTS = [
    SizeDefaults(1e8, 5e-3, 50),
    SizeDefaults(1e9, 5e-4, 10),
    SizeDefaults(2e10, 2e-4, 5),
    SizeDefaults(float("inf"), 1e-4, 3),
]


def automatic_rate(parameters: int) -> float:
    """The learning rate that auto chooses for this number of weights."""
    return _size(parameters).learning_rate


def _size(parameters: int) -> SizeDefaults:
    return next(size for size in SIZE_DEFAULTS if parameters < size.below)


def read(hyper_params=None, lora_config=None) -> Hyperparameters:
    """Accepts any JSON. Raises InvalidRequest with a sentence for each field that is unknown or wrong."""
    given = {"hyperParams": hyper_params, "loraConfig": lora_config}
    sections = {name: {} if values is None else values for name, values in given.items()}
    _check(sections)
    merged = sections["hyperParams"] | sections["loraConfig"]
    if "r" in merged:
        merged.pop("loraRank", None)
    return Hyperparameters(**{FIELDS[name]: _parse_value(value) for name, value in merged.items()})


def read_fields(values: dict | None = None) -> Hyperparameters:
    """The same for one object with our field names (`learning_rate`, `rank`). Rate and epochs default to auto: at the
    default rate of the engine API, a small model learns almost nothing."""
    values = {} if values is None else values
    _check({"recipe": values})
    return Hyperparameters(**dict.fromkeys(MAY_BE_AUTO) | {name: _parse_value(value) for name, value in values.items()})


def _check(sections: dict) -> None:
    problems: dict[str, str] = {}
    for name, values in sections.items():
        problems |= _section_problems(name, values)
    if problems:
        raise InvalidRequest(details=problems)


def _parse_value(value):
    if value == AUTO:
        return None
    return tuple(value) if isinstance(value, list) else value


def _section_problems(section: str, values) -> dict[str, str]:
    if not isinstance(values, dict):
        return {section: _("Expected an object.")}
    found = {
        f"{section}.{printable_name(name)}": _field_problem(section, name, value) for name, value in values.items()
    }
    return {name: problem for name, problem in found.items() if problem}


def _field_problem(section: str, name: str, value) -> str:
    option = TABLES[section].get(name)
    if option is None:
        return _("There is no such hyperparameter. Expected one of: %(names)s.") % {"names": ", ".join(TABLES[section])}
    field = FIELDS.get(name, name)
    if field in MAY_BE_AUTO and value == AUTO:
        return ""
    return option.problem(value) or _special_problem(field, value)


def _special_problem(field: str, value) -> str:
    """Rules beyond type and range."""
    if field == "bias" and value != "none":
        return _("Only none: no engine here serves an adapter with biases.")
    if field == "target_modules" and not (value and all(MODULE.fullmatch(module) for module in value)):
        return _("Expected names of layers such as q_proj.")
    return ""
