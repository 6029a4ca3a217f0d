"""Starts the engine's process: it waits until its state is on disk, and it is killed when the shim ends."""

import os
import signal
from typing import NamedTuple, NoReturn

import privileges
from privileges import prctl
from records import ShimSpec

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
IGNORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python itself


class ForkedEngine(NamedTuple):
    pid: int
    output: int  # to read what it writes
    gate: int  # one byte lets it start; closed without one, it exits
    failure: int  # why it could not start; empty once it has


def become_subreaper() -> None:
    """Orphans among our descendants become our children instead of init's."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def fork(spec: ShimSpec) -> ForkedEngine:
    output, output_end = os.pipe()
    gate_end, gate = os.pipe()
    failure, failure_end = os.pipe()  # closed by a successful exec
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        _run_child(spec, shim, gate_end, output_end, failure_end)
    for fd in (output_end, gate_end, failure_end):
        os.close(fd)
    return ForkedEngine(pid, output, gate, failure)


def _run_child(spec: ShimSpec, shim: int, gate: int, output: int, failure: int) -> NoReturn:
    try:
        _become_engine(spec, shim, gate, output)
    except (OSError, TypeError, ValueError) as error:
        os.write(failure, f"{spec.argv[0]}: {error}".encode())
    finally:
        os._exit(127)


def _become_engine(spec: ShimSpec, shim: int, gate: int, output: int) -> None:
    os.setsid()
    for signum in HANDLED_SIGNALS + IGNORED_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    if spec.drop_privileges and os.geteuid() == 0:
        privileges.drop()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of credentials, which clears it
    if os.getppid() != shim or not os.read(gate, 1):  # the shim has died already
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(spec.cwd)
    os.execvpe(spec.argv[0], spec.argv, {**spec.env, **spec.markers()})
