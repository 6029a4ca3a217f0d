"""The loop of the shim: output, stop requests, lease, supervisor, and the end of the tree."""

import fcntl
import json
import math
import os
import selectors
import signal
import sys
import time
from dataclasses import asdict
from types import FrameType

import engine
from log import Log
from proc import descendants, kill_groups, read_process, send_signal, start_time
from records import ShimSpec, ShimState, write_atomically

TICK_INTERVAL = 0.5  # between checks of stop request, lease and supervisor
SAMPLE_INTERVAL = 2.0  # between measurements of the tree's memory
EXIT_TIMEOUT = 1.0  # for the other processes to end by themselves after the engine has ended
SWEEP_INTERVAL = 0.02  # between two rounds of SIGKILL
SUPERVISOR_DELAY = 5.0
SUPERVISOR_GRACE = 10.0
LOCK_TIMEOUT = 2.0
READ_BYTES = 65536
MAX_DRAIN_READS = 64  # of what is left in the pipe; an unknown process may never close its other end
MAX_SAVE_TRIES = 20  # a full disk may get free space again


class Shim:
    def __init__(self, folder: str):
        self.folder = folder
        self.state = ShimState(shim_pid=os.getpid(), shim_start=start_time(os.getpid()))
        self.unsaved = False
        self.terminated = False
        self.kill_at = math.inf  # when SIGKILLs begin, on the monotonic clock
        self.next_tick = self.next_sample = 0.0
        self.lease_mtime: int | None = None
        self.lease_seen = time.monotonic()
        self.supervisor_lost = math.inf

    def run(self) -> None:
        self.load()
        self.listen()
        self.start()
        while self.reap():
            self.wait()
            now = time.monotonic()
            if now >= self.next_tick or self.terminated:
                self.next_tick = now + TICK_INTERVAL
                self.tick(now)
            if now >= self.kill_at:
                self.sweep()
        self.finish()

    def load(self) -> None:
        with open(self.file("spec.json"), encoding="utf-8") as file:
            self.spec = ShimSpec(**json.load(file))
        for name in ("cluster", "data_folder", "instance", "generation"):
            setattr(self.state, name, getattr(self.spec, name))
        self.log = Log(self.file("engine.log"), self.spec.log_bytes, self.spec.log_files)

    def listen(self) -> None:
        engine.become_subreaper()
        self.wakeups, write_end = os.pipe()
        os.set_blocking(self.wakeups, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in engine.HANDLED_SIGNALS:
            signal.signal(signum, self.on_signal)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.wakeups, selectors.EVENT_READ)

    def on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self.terminated |= signum != signal.SIGCHLD  # which only needs to wake the selector

    def start(self) -> None:
        """Save the engine's pid before the engine can do anything."""
        pid, self.output, gate, failure = engine.fork(self.spec)
        self.state.pid, self.state.start = pid, start_time(pid)
        self.state.started_at = time.time()
        self.save()
        os.write(gate, b"1")
        os.close(gate)
        self.state.error = os.read(failure, READ_BYTES).decode(errors="replace") or None
        os.close(failure)
        os.set_blocking(self.output, False)
        self.selector.register(self.output, selectors.EVENT_READ)

    def wait(self) -> None:
        until_kill = max(self.kill_at - time.monotonic(), SWEEP_INTERVAL)
        for key, _ in self.selector.select(min(TICK_INTERVAL, until_kill)):
            if key.fd == self.wakeups:
                os.read(self.wakeups, READ_BYTES)
            else:
                self.read_output()

    def read_output(self) -> bool:
        """One read only: an engine that writes without pause must not block our other work."""
        try:
            output = os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return False
        self.log.feed(output)
        if not output and self.output in self.selector.get_map():
            self.selector.unregister(self.output)
        return bool(output)

    def reap(self) -> bool:
        """Whether any process of the tree is left: as the subreaper we inherit its orphans."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.state.max_rss_bytes = max(self.state.max_rss_bytes, usage.ru_maxrss * 1024)
            if pid == self.state.pid:
                self.engine_ended(os.waitstatus_to_exitcode(status))

    def engine_ended(self, code: int) -> None:
        self.state.exit_code, self.state.signal = (code, None) if code >= 0 else (None, -code)
        self.state.phase = "stopping"
        self.state.reason = self.state.reason or ("error" if self.state.error else "exit")
        self.kill_at = min(self.kill_at, time.monotonic() + EXIT_TIMEOUT)
        self.save_if_possible()

    def tick(self, now: float) -> None:
        if self.unsaved:
            self.save_if_possible()
        if self.terminated or os.path.exists(self.file("stop.json")):
            self.terminated = False
            self.end("stop", self.requested_grace())
        if self.lease_expired(now):
            self.end("lease", self.spec.stop_grace)
        if self.supervisor_gone(now):
            self.end("supervisor", min(self.spec.stop_grace, SUPERVISOR_GRACE))
        if now >= self.next_sample:
            self.next_sample = now + SAMPLE_INTERVAL
            self.sample()

    def requested_grace(self) -> float:
        try:
            with open(self.file("stop.json"), encoding="utf-8") as file:
                return max(0.0, float(json.load(file)["grace"]))
        except (OSError, ValueError, KeyError, TypeError):
            return self.spec.stop_grace

    def lease_expired(self, now: float) -> bool:
        """On the monotonic clock since the file last changed: a step of the wall clock must not end engines."""
        try:
            mtime: int | None = os.stat(self.file("lease")).st_mtime_ns
        except OSError:
            mtime = self.lease_mtime
        if mtime != self.lease_mtime:
            self.lease_mtime, self.lease_seen = mtime, now
        return self.spec.lease_seconds is not None and now - self.lease_seen > self.spec.lease_seconds

    def supervisor_gone(self, now: float) -> bool:
        if self.spec.supervisor is not None and self.supervisor_lost == math.inf:
            supervisor = read_process(self.spec.supervisor["pid"])
            if not (supervisor and supervisor.alive and supervisor.start == self.spec.supervisor["start"]):
                self.supervisor_lost = now
        return now - self.supervisor_lost >= SUPERVISOR_DELAY

    def sample(self) -> None:
        rss = sum(process.rss_bytes for process in descendants(os.getpid()))
        if rss > self.state.max_rss_bytes or self.log.dropped > self.state.log_dropped:
            self.state.max_rss_bytes = max(rss, self.state.max_rss_bytes)
            self.state.log_dropped = self.log.dropped
            self.save_if_possible()

    def end(self, reason: str, grace: float) -> None:
        """Request the engine's end. A later, more urgent request only shortens the grace."""
        self.kill_at = min(self.kill_at, time.monotonic() + grace)
        if self.state.reason is None:
            self.state.phase, self.state.reason = "stopping", reason
            self.save_if_possible()
            assert self.state.pid, "nothing ends before its start"
            os.kill(self.state.pid, signal.SIGTERM)  # not yet reaped, so the pid is still its own

    def sweep(self) -> None:
        """Groups first: the engine leads its own group, and a tree that forks faster than we scan stays in it."""
        found = [process for process in descendants(os.getpid()) if process.alive]
        self.state.killed |= kill_groups({process.group for process in found})
        for process in found:
            if send_signal(process.pid, process.start, signal.SIGKILL):
                self.state.killed = True

    def finish(self) -> None:
        for _ in range(MAX_DRAIN_READS):
            if not self.read_output():
                break
        self.log.flush()
        self.state.log_dropped = self.log.dropped
        self.state.phase, self.state.ended_at = "exited", time.time()
        for _ in range(MAX_SAVE_TRIES):
            if self.save_if_possible():
                break
            time.sleep(TICK_INTERVAL)

    def fail(self, error: Exception) -> None:
        """After an error of ours: leave no process behind and record the reason."""
        while self.reap():
            self.sweep()
            time.sleep(SWEEP_INTERVAL)
        self.state.reason, self.state.error = "error", f"{type(error).__name__}: {error}"
        self.state.phase, self.state.ended_at = "exited", time.time()
        self.save_if_possible()

    def save_if_possible(self) -> bool:
        try:
            self.save()
        except OSError:
            self.unsaved = True
        return not self.unsaved

    def save(self) -> None:
        write_atomically(self.file("state.json"), asdict(self.state))
        self.unsaved = False

    def file(self, name: str) -> str:
        return os.path.join(self.folder, name)


def detach() -> None:
    """Start a session of our own. Our parent exits at once, so that init reaps us and no zombie is left."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)


def lock(folder: str) -> None:
    """One shim per folder. An earlier one may not have exited yet."""
    fd = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(f"Another shim runs in {folder}.")
        time.sleep(SWEEP_INTERVAL)


def main(folder: str) -> None:
    detach()
    lock(folder)
    shim = Shim(folder)
    try:
        shim.run()
    except Exception as error:
        shim.fail(error)
        raise


if __name__ == "__main__":
    main(os.path.realpath(sys.argv[1]))
