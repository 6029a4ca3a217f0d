"""Paths in bodies: they only name things that are registered, and lead nowhere else (ruling of the contract)."""

from pathlib import PurePosixPath

from core.errors import InvalidRequest
from models_app import artefacts

SUFFIXES = (".json", ".jsonl")


def relative(path: str, field: str) -> PurePosixPath:
    """Below the tenant's folder. Raises InvalidRequest for what leads elsewhere."""
    try:
        return artefacts.below_root(path)
    except artefacts.Refused as refused:
        raise InvalidRequest(refused.message, param=field) from None


def last_part(path: str, field: str) -> str:
    return relative(path, field).name


def without_suffix(name: str) -> str:
    """A data set is called by its file's name without the ending of the format."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
