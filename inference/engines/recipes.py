"""What the environment of each engine is made of, on this machine."""

import hashlib
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GIGABYTE = 10**9
_HERE = Path(__file__).parent
_LOCKS = _HERE / "locks"
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class UnknownEngine(Exception):
    """There is no recipe for an engine of that name."""


@dataclass(frozen=True)
class Library:
    """A library of the system that an engine loads, and what brings it."""

    file: str
    advice: str


@dataclass(frozen=True)
class TwoBuilds:
    """A package whose better build is not to be had everywhere; the other needs `else_disk` bytes more."""

    wanted: str
    else_lock: Path
    else_disk: int


@dataclass(frozen=True)
class Recipe:
    """An environment: a lock with hashes, and what it needs beside that. Sizes are in bytes."""

    engine: str
    lock: Path
    disk: int
    download: int
    modules: tuple[str, ...]
    libraries: tuple[Library, ...] = ()
    two_builds: TwoBuilds | None = None
    startup_modules: tuple[Path, ...] = ()

    @property
    def files(self) -> list[Path]:
        others = [self.two_builds.else_lock] if self.two_builds else []
        return [self.lock, *others, *self.startup_modules]


def find(engine: str) -> Recipe:
    """The recipe for this machine. Raises UnknownEngine."""
    try:
        return RECIPES[engine]()
    except KeyError:
        raise UnknownEngine(f"There is no engine {engine!r}. Known are: {', '.join(RECIPES)}.") from None


@cache
def key(recipe: Recipe) -> str:
    """Same content, same Python, same environment: clones of the platform share it."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {platform.machine()}".encode())
    for file in recipe.files:
        digest.update(file.read_bytes())
    return f"{recipe.engine}-{digest.hexdigest()[:16]}"


def _vllm() -> Recipe:
    return _vllm_on_cuda() if _NVIDIA_DRIVER.exists() else _vllm_on_cpu()


def _vllm_on_cuda() -> Recipe:
    return Recipe(
        engine="vllm",
        lock=_LOCKS / "engine-gpu.lock.txt",
        disk=14 * GIGABYTE,
        download=5 * GIGABYTE,
        modules=("torch", "vllm", "peft"),
    )


def _vllm_on_cpu() -> Recipe:
    return Recipe(
        engine="vllm",
        lock=_LOCKS / "engine-cpu.lock.txt",
        disk=5 * GIGABYTE,
        download=900 * 10**6,
        modules=("torch", "torchvision", "vllm", "peft"),
        libraries=(Library("libnuma.so.1", "apt-get install libnuma1 (Fedora: dnf install numactl-libs)"),),
        two_builds=TwoBuilds("torch==2.13.0+cpu", _LOCKS / "engine-cpu-torch.lock.txt", 4 * GIGABYTE),
        startup_modules=(_HERE / "site" / "serai_torchvision.py",),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"vllm": _vllm}
