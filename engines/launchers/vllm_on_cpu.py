"""vLLM's API server on CPUs with one import of vLLM instead of two or three: its engine process is forked from it.

    python vllm_on_cpu.py <arguments of vLLM's API server>

Runs in the engine's environment. vLLM forks its engine process by default, but on CPUs it spawns it, because a
process that has used OpenMP cannot be forked. Here it is forked if OpenMP was not used yet, which the number of threads
shows; otherwise vLLM's default is used. The parent is the server of this one model: no process outlives it, and none
holds data of another model or tenant. docs/startup.md has the measurements.
"""

import gc
import os
import platform

gc.disable()  # the import creates tens of thousands of objects and no garbage: this saves a third of its time
if platform.machine() == "x86_64":  # torch computes with MKL there, and NumPy's pool of threads would forbid the fork
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

import ctypes  # noqa: E402
import multiprocessing  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from contextlib import suppress  # noqa: E402

import adapters_on_cpu  # noqa: E402
import vllm.v1.engine.core  # noqa: E402 - this and the next are for the forked engine process
import vllm.v1.worker.cpu_worker  # noqa: E402, F401
from vllm.entrypoints.launchers.api_server import entry  # noqa: E402
from vllm.model_executor.models import registry  # noqa: E402
from vllm.v1.engine import utils as engine_processes  # noqa: E402

PR_SET_PDEATHSIG = 1
THREADS = "/proc/self/task"
HARMLESS = "ZMQbg/"  # ZeroMQ's; on other devices vLLM forks with them too, and its child creates its own
NAMING_SECONDS = 1.0  # a thread gets that name a moment after its creation

ordinary_context = engine_processes.get_mp_context
adapters_on_cpu.apply()  # here, so that it also applies to an engine process that is not forked


def context_for_engine():
    return multiprocessing.get_context("fork") if is_alone() else ordinary_context()


def is_alone() -> bool:
    """Whether no other thread, such as one of an OpenMP pool, could hold a lock that the child would wait for."""
    deadline = time.monotonic() + NAMING_SECONDS
    while threading.active_count() > 1 or sum(not name.startswith(HARMLESS) for name in thread_names()) > 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def thread_names() -> list[str]:
    names = []
    for thread in os.listdir(THREADS):
        with suppress(OSError), open(f"{THREADS}/{thread}/comm", encoding="utf-8", errors="replace") as file:
            names.append(file.read())  # a thread that has ended meanwhile is skipped
    return names


def end_with_parent() -> None:
    """If the server is killed, the kernel kills its engine process at once: its memory is free before the shim acts."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def inspect_here(inspect):
    """vLLM inspects a model's class in a subprocess, to avoid CUDA here. On CPUs this would only cost seconds."""
    return inspect()


def main() -> None:
    engine_processes.get_mp_context = context_for_engine
    registry._run_in_subprocess = inspect_here
    os.register_at_fork(after_in_child=end_with_parent)
    gc.enable()
    gc.freeze()  # imports are never freed: not scanning them keeps their pages shared with the engine process
    entry.main()


if __name__ == "__main__":
    main()
