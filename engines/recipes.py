"""The environment of each engine on this machine: its packages or its source."""

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
_CPU = Path("/proc/cpuinfo")
_CPU_FLAGS = {"SSE42": "sse4_2", "AVX": "avx", "AVX2": "avx2", "BMI2": "bmi2", "FMA": "fma", "F16C": "f16c"}
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class UnknownEngine(Exception):
    """There is no recipe for an engine of that name."""


@dataclass(frozen=True)
class SystemLibrary:
    """A system library that an engine loads, and how to install it."""

    file: str
    advice: str


@dataclass(frozen=True)
class BuildAlternatives:
    """A package whose preferred build is not available everywhere; the fallback needs `fallback_disk` bytes more."""

    preferred: str
    fallback_lock: Path
    fallback_disk: int


@dataclass(frozen=True)
class BuildSource:
    """A program that is compiled on this machine, from a `folder` in the package that `lock` names.

    `settings` are files for CMake, its initial cache first; `definitions` are those that differ between machines.
    """

    lock: Path
    folder: str
    target: str
    settings: tuple[Path, ...]
    definitions: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        return f"bin/{self.target}"


@dataclass(frozen=True)
class EnvironmentRecipe:
    """An environment: a lock with hashes, and what else it needs. Sizes are in bytes.

    It is tested by importing `modules` or, if compiled from `source`, by running the program with `--version`.
    """

    engine: str
    lock: Path
    disk: int
    download: int
    modules: tuple[str, ...] = ()
    source: BuildSource | None = None
    libraries: tuple[SystemLibrary, ...] = ()
    alternatives: BuildAlternatives | None = None
    startup_modules: tuple[Path, ...] = ()

    @property
    def files(self) -> list[Path]:
        others = [self.alternatives.fallback_lock] if self.alternatives else []
        built = [self.source.lock, *self.source.settings] if self.source else []
        return [self.lock, *others, *built, *self.startup_modules]

    @property
    def program(self) -> str:
        """The program that starts the engine, relative to the environment's folder."""
        return self.source.program if self.source else "bin/python"


def find(engine: str) -> EnvironmentRecipe:
    """The recipe for this machine. Raises UnknownEngine."""
    try:
        return RECIPES[engine]()
    except KeyError:
        raise UnknownEngine(f"There is no engine {engine!r}. Known are: {', '.join(RECIPES)}.") from None


@cache
def environment_name(recipe: EnvironmentRecipe) -> str:
    """The environment's name: clones of the platform with the same content and Python share it."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {platform.machine()}".encode())
    for file in recipe.files:
        digest.update(file.read_bytes())
    if recipe.source:
        digest.update(" ".join(recipe.source.definitions).encode())
    return f"{recipe.engine}-{digest.hexdigest()[:16]}"


def _vllm() -> EnvironmentRecipe:
    return _vllm_on_cuda() if _NVIDIA_DRIVER.exists() else _vllm_on_cpu()


def _vllm_on_cuda() -> EnvironmentRecipe:
    return EnvironmentRecipe(
        engine="vllm",
        lock=_LOCKS / "engine-gpu.lock.txt",
        disk=14 * GIGABYTE,
        download=5 * GIGABYTE,
        modules=("torch", "vllm", "peft"),
    )


def _vllm_on_cpu() -> EnvironmentRecipe:
    return EnvironmentRecipe(
        engine="vllm",
        lock=_LOCKS / "engine-cpu.lock.txt",
        disk=5 * GIGABYTE,
        download=900 * 10**6,
        modules=("torch", "torchvision", "vllm", "peft"),
        libraries=(SystemLibrary("libnuma.so.1", "apt-get install libnuma1 (Fedora: dnf install numactl-libs)"),),
        alternatives=BuildAlternatives("torch==2.13.0+cpu", _LOCKS / "engine-cpu-torch.lock.txt", 4 * GIGABYTE),
        startup_modules=(_HERE / "site" / "serai_torchvision.py",),
    )


def _llamacpp() -> EnvironmentRecipe:
    return EnvironmentRecipe(
        engine="llama.cpp",
        lock=_LOCKS / "llamacpp-tools.lock.txt",
        disk=1 * GIGABYTE,
        download=115 * 10**6,
        source=BuildSource(
            lock=_LOCKS / "llamacpp.lock.txt",
            folder="vendor/llama.cpp",
            target="llama-server",
            settings=(_LOCKS / "llamacpp.cmake", *sorted(_LOCKS.glob("llamacpp-*.cmake"))),
            definitions=_cuda_definitions() if _NVIDIA_DRIVER.exists() else _cpu_definitions(),
        ),
    )


def _cuda_definitions() -> tuple[str, ...]:
    """With code for every GPU type that the toolkit knows; a part of the model may stay on the CPU."""
    return ("GGML_CUDA=ON", "CMAKE_CUDA_ARCHITECTURES=all-major", *_cpu_definitions())


def _cpu_definitions() -> tuple[str, ...]:
    """The features of this machine's CPU. They are part of the key, so that another CPU gets another build."""
    features = set(_CPU.read_text().split()) if _CPU.exists() else set()
    if platform.machine() == "x86_64":
        return tuple(f"GGML_{name}={'ON' if flag in features else 'OFF'}" for name, flag in _CPU_FLAGS.items())
    return ("GGML_CPU_ARM_ARCH=armv8.2-a+dotprod",) if "asimddp" in features else ()


RECIPES: dict[str, Callable[[], EnvironmentRecipe]] = {"vllm": _vllm, "llama.cpp": _llamacpp}
