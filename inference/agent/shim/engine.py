"""How the engine's process begins: held back until its state is on disk, bound to the life of the shim."""

import ctypes
import os
import signal
import sys
from typing import NamedTuple, NoReturn

from records import Spec

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000
NOBODY = 65534
HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
IGNORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python itself


class Engine(NamedTuple):
    pid: int
    output: int  # what it writes, to be read
    gate: int  # one byte lets it begin; closed without one, it ends
    failure: int  # why it could not begin; empty once it has


def become_subreaper() -> None:
    """Orphans among our descendants become our children instead of init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def fork(spec: Spec) -> Engine:
    output, output_end = os.pipe()
    gate_end, gate = os.pipe()
    failure, failure_end = os.pipe()  # closed by a successful exec
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        _begin(spec, shim, gate_end, output_end, failure_end)
    for fd in (output_end, gate_end, failure_end):
        os.close(fd)
    return Engine(pid, output, gate, failure)


def _begin(spec: Spec, shim: int, gate: int, output: int, failure: int) -> NoReturn:
    try:
        _become_engine(spec, shim, gate, output)
    except (OSError, TypeError, ValueError) as error:
        os.write(failure, f"{spec.argv[0]}: {error}".encode())
    finally:
        os._exit(127)


def _become_engine(spec: Spec, shim: int, gate: int, output: int) -> None:
    os.setsid()
    for signum in HANDLED_SIGNALS + IGNORED_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    if spec.drop_privileges and os.geteuid() == 0:
        _drop_privileges()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of credentials, which clears it
    if os.getppid() != shim or not os.read(gate, 1):  # the shim has died already
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(spec.cwd)
    os.execvpe(spec.argv[0], spec.argv, {**spec.env, **spec.markers()})


def _drop_privileges() -> None:
    """Give up root's capabilities in a user namespace, where that is allowed; files keep their owner."""
    group = os.getegid()
    if ctypes.CDLL(None).unshare(CLONE_NEWUSER) != 0:
        print("User namespaces are not allowed here: the engine keeps root's privileges.", file=sys.stderr)
        return
    maps = {"setgroups": "deny", "uid_map": f"{NOBODY} 0 1", "gid_map": f"{NOBODY} {group} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")
