"""Paths in request bodies: they only identify registered objects and open no other files (a rule of the contract)."""

from pathlib import PurePosixPath

from core.errors import InvalidRequest
from models_app import artefacts

SUFFIXES = (".json", ".jsonl")


def relative(path: str, field: str) -> PurePosixPath:
    """Below the tenant's folder. Raises InvalidRequest for a path outside it."""
    try:
        return artefacts.below_root(path)
    except artefacts.RefusedWeights as refused:
        raise InvalidRequest(refused.message, param=field) from None


def last_part(path: str, field: str) -> str:
    return relative(path, field).name


def without_suffix(name: str) -> str:
    """A dataset is named after its file, without the suffix of the format."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
