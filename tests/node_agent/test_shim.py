"""Real shims over real process trees: they start, tell, end whole, and never end what is not theirs."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from core import process_identity
from node_agent import processes, shims
from node_agent.shim.proc import descendants, read_process, send_signal
from tests.fakes import install_engine

FOREVER = ["sleep", "3600"]
DEAF = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]
PATIENCE_S = 60


class Tree:
    """One instance folder and the shim in it."""

    def __init__(self, cluster: str = ""):
        self.folder = Path(tempfile.mkdtemp(prefix="shim-"))
        self.cluster = cluster or f"cluster-{uuid.uuid4()}"
        self.data_folder = "/data"
        self.state: shims.ShimState | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "engine.sock"

    def spec(self, argv: list[str], **fields) -> shims.ShimSpec:
        common = {"cluster": self.cluster, "data_folder": "/data", "instance": "instance-1", "generation": 1}
        environment = {"PATH": os.environ["PATH"]}
        return shims.ShimSpec(**{**common, "argv": argv, "env": environment, "cwd": "/", "stop_grace": 5, **fields})

    def launch(self, *argv: str, **fields) -> shims.ShimState:
        spec = self.spec(list(argv), **fields)
        self.data_folder = spec.data_folder
        self.state = shims.launch(self.folder, spec)
        return self.state

    def launch_fake(self, switches: dict | None = None, **fields) -> shims.ShimState:
        engine = install_engine(self.folder / "engine", **(switches or {}))
        state = self.launch(str(engine), "--uds", str(self.socket), "--served-model-name", "fake", **fields)
        until(self.socket.exists)
        return state

    def read(self) -> shims.ShimState:
        return shims.read(self.folder)

    def stop(self, grace: float = 5) -> shims.ShimState:
        assert shims.request_stop(self.folder, self.state, grace)
        return self.ended()

    def ended(self) -> shims.ShimState:
        until(lambda: self.read().phase == "exited")
        return self.read()

    def engine_pids(self) -> set[int]:
        return {found.pid for found in processes.find_marked(self.cluster, "/data")} - {self.state.shim_pid}

    def lines(self) -> list[str]:
        return [line.text for line in shims.tail(self.folder, 1000)]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def new_tree() -> Iterator[Callable[..., Tree]]:
    trees: list[Tree] = []

    def make(cluster: str = "") -> Tree:
        trees.append(Tree(cluster))
        return trees[-1]

    yield make
    for tree in trees:
        for instance in {found.instance for found in processes.find_marked(tree.cluster, tree.data_folder)}:
            processes.kill_marked(tree.cluster, tree.data_folder, instance)
        shutil.rmtree(tree.folder)


@pytest.fixture
def tree(new_tree) -> Tree:
    return new_tree()


def get(tree: Tree, path: str) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(tree.socket)), base_url="http://engine") as client:
        return client.get(path)


def test_an_engine_serves_under_its_shim_and_ends_cleanly_when_asked(tree):
    started = tree.launch_fake()
    assert get(tree, "/health").status_code == 200
    assert shims.is_running(started)
    assert process_identity.is_alive(started.pid, started.start)

    ended = tree.stop()

    assert (ended.reason, ended.exit_code, ended.signal, ended.killed) == ("stop", 0, None, False)
    assert (ended.pid, ended.start, ended.generation) == (started.pid, started.start, 1)
    assert ended.started_at <= ended.ended_at
    assert not shims.is_running(ended)
    assert not process_identity.is_alive(started.pid, started.start)


def test_an_engine_deaf_to_sigterm_is_killed_after_its_grace(tree):
    tree.launch_fake({"ignore_sigterm": True})
    ended = tree.stop(grace=0.3)
    assert (ended.reason, ended.exit_code, ended.signal, ended.killed) == ("stop", None, signal.SIGKILL, True)


def test_grandchildren_that_left_their_session_and_are_deaf_end_with_the_tree(tree):
    tree.launch_fake({"grandchildren": 3})
    assert len(tree.engine_pids()) == 4

    ended = tree.stop()

    assert ended.exit_code == 0
    assert ended.killed
    assert not tree.engine_pids()


def test_a_killed_engine_takes_what_it_left_behind_with_it(tree):
    started = tree.launch_fake({"grandchildren": 2})
    assert send_signal(started.pid, started.start, signal.SIGKILL)

    ended = tree.ended()

    assert (ended.reason, ended.exit_code, ended.signal) == ("exit", None, signal.SIGKILL)
    assert not tree.engine_pids()


def test_a_tree_that_forks_faster_than_it_can_be_looked_at_ends_too(tree):
    comet = "import os, time\nwhile True:\n    if os.fork(): os._exit(0)\n    time.sleep(0.003)"
    bomb = f"import os, time\nfor _ in range(8):\n    if not os.fork():\n        exec({comet!r})\ntime.sleep(3600)"
    tree.launch(sys.executable, "-c", bomb)
    seen: set[int] = set()
    until(lambda: seen.update(tree.engine_pids()) or len(seen) > 20)

    ended = tree.stop(grace=0)

    assert ended.killed
    assert not tree.engine_pids()


def test_an_engine_that_crashes_at_start_says_its_code_and_its_last_words(tree):
    engine = install_engine(tree.folder / "engine", crash_before_ready={"code": 3, "stderr": "no such weights"})
    tree.launch(str(engine), "--uds", str(tree.socket))
    ended = tree.ended()
    assert (ended.reason, ended.exit_code, ended.killed) == ("exit", 3, False)
    assert tree.lines()[-1] == "no such weights"


def test_a_shim_that_is_killed_takes_its_engine_along_and_escapees_carry_their_marks(tree):
    started = tree.launch_fake({"grandchildren": 2}, drop_privileges=True)
    assert send_signal(started.shim_pid, started.shim_start, signal.SIGKILL)

    until(lambda: not process_identity.is_alive(started.pid, started.start))
    assert not shims.is_running(tree.read())
    escaped = processes.find_marked(tree.cluster, "/data")
    assert [(found.instance, found.generation) for found in escaped] == [("instance-1", 1)] * 2

    killed = processes.kill_marked(tree.cluster, "/data", "instance-1")

    assert set(killed) == set(escaped)
    assert not processes.find_marked(tree.cluster, "/data")


def test_an_engine_lives_while_its_lease_is_renewed_and_ends_when_it_is_not(tree):
    started = tree.launch(*FOREVER, lease_seconds=2)
    for _ in range(30):
        shims.renew_lease(tree.folder)
        time.sleep(0.1)
    assert tree.read().phase == "running"

    ended = tree.ended()

    assert (ended.reason, ended.signal, ended.pid) == ("lease", signal.SIGTERM, started.pid)


def test_a_tree_ends_after_its_supervisor(tree):
    with subprocess.Popen(FOREVER) as supervisor:
        watched = {"pid": supervisor.pid, "start": process_identity.start_time(supervisor.pid)}
        tree.launch(*FOREVER, supervisor=watched)
        supervisor.kill()
        supervisor.wait()
        assert tree.ended().reason == "supervisor"


def test_a_recycled_pid_is_no_supervisor(tree):
    tree.launch(*FOREVER, supervisor={"pid": os.getpid(), "start": process_identity.start_time(os.getpid()) - 1})
    assert tree.ended().reason == "supervisor"


def test_a_signal_alone_and_a_stop_file_alone_end_the_tree(new_tree):
    by_signal, by_file = new_tree(), new_tree()
    started = by_signal.launch(*DEAF, stop_grace=0.2)
    by_file.launch(*DEAF)
    until(lambda: by_signal.lines() == by_file.lines() == ["deaf"])
    send_signal(started.shim_pid, started.shim_start, signal.SIGTERM)
    (by_file.folder / "stop.json").write_text('{"grace": 0.2}')
    assert (by_signal.ended().reason, by_signal.ended().killed) == ("stop", True)
    assert (by_file.ended().reason, by_file.ended().killed) == ("stop", True)


def test_a_more_urgent_stop_request_shortens_the_grace(tree):
    tree.launch(*DEAF)
    until(tree.lines)
    shims.request_stop(tree.folder, tree.state, 3600)
    until(lambda: tree.read().phase == "stopping")
    assert shims.stop_requested_at(tree.folder) is not None
    assert tree.stop(grace=0).killed


def test_output_is_kept_in_files_of_limited_size_and_number(tree):
    tree.launch("seq", "1", "2000", log_bytes=4096, log_files=3)
    tree.ended()

    files = sorted(path.name for path in tree.folder.glob("engine.log*"))
    assert files == ["engine.log", "engine.log.1", "engine.log.2"]
    assert all((tree.folder / name).stat().st_size <= 4096 for name in files)
    kept = tree.lines()
    assert kept == [str(number) for number in range(2001 - len(kept), 2001)]
    assert [line.text for line in shims.tail(tree.folder, 3)] == ["1998", "1999", "2000"]


def test_lines_carry_the_time_at_which_they_came_and_earlier_runs_can_be_cut_off(tree):
    first = tree.launch("echo", "first")
    tree.ended()
    until(lambda: not process_identity.is_alive(first.shim_pid, first.shim_start))
    second = tree.launch("printf", "10%%\\r50%%\\r\\nsecond, unfinished", generation=2)
    tree.ended()

    assert tree.lines() == ["first", "10%", "50%", "second, unfinished"]
    recent = shims.tail(tree.folder, 10, since=second.started_at)
    assert [line.text for line in recent] == ["10%", "50%", "second, unfinished"]
    assert all(line.timestamp >= second.started_at for line in recent)


def test_a_full_disk_costs_lines_and_never_the_engine(tree):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        tree.launch("sh", "-c", "trap '' XFSZ; seq 1 5000; exit 7")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    ended = tree.ended()

    assert ended.exit_code == 7
    kept = tree.lines()
    assert kept[0] == "1"
    assert ended.log_dropped == 5000 - len(kept) > 0


def test_an_engine_gets_the_environment_of_its_spec_and_its_marks_and_nothing_else(tree, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    tree.launch("/usr/bin/env", env={"ONLY": "this"}, generation=7)
    tree.ended()
    assert set(tree.lines()) == {
        "ONLY=this",
        f"SERAI_CLUSTER={tree.cluster}",
        "SERAI_DATA_FOLDER=/data",
        "SERAI_INSTANCE=instance-1",
        "SERAI_GENERATION=7",
        "SPT_NOENV=1",
    }


def opened_by(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(link)


def test_a_shim_is_nobodys_child_and_holds_nothing_of_its_launcher(tree):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.set_inheritable(True)
        state = tree.launch(*FOREVER)
        for pid in (state.shim_pid, state.pid):
            assert not [target for target in opened_by(pid) if target.startswith("socket:")]
    assert read_process(state.shim_pid).parent != os.getpid()
    assert state.shim_pid not in {process.pid for process in descendants(os.getpid())}
    assert os.getsid(state.shim_pid) not in (os.getsid(0), os.getsid(state.pid))


def test_what_is_written_for_an_instance_is_readable_by_its_account_only(tree):
    tree.launch("echo", "secret")
    tree.ended()
    for path in tree.folder.iterdir():
        if path.name != "shim.log":
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_folder_holds_one_tree_at_a_time(tree):
    first = tree.launch(*FOREVER)
    with pytest.raises(shims.LaunchFailed, match="already running"):
        tree.launch(*FOREVER, generation=2)
    assert tree.read().pid == first.pid
    assert process_identity.is_alive(first.pid, first.start)


def test_two_launchers_at_once_get_one_tree(tree):
    tree.launch(*FOREVER)
    (tree.folder / "state.json").unlink()  # what the second launcher would have seen a moment earlier
    with pytest.raises(shims.LaunchFailed, match="Another shim"):
        shims.launch(tree.folder, tree.spec(FOREVER, generation=2))
    assert {found.generation for found in processes.find_marked(tree.cluster, "/data")} == {1}


def test_a_new_run_in_the_folder_forgets_the_stop_request_and_the_socket_of_the_one_before(tree):
    tree.launch_fake()
    tree.stop()
    assert tree.socket.exists()
    tree.launch_fake(generation=2)
    assert get(tree, "/health").status_code == 200
    assert shims.stop_requested_at(tree.folder) is None
    assert tree.stop().generation == 2


@pytest.mark.parametrize("spec", [None, "{", "[]", '{"argv": ["true"]}', "with an empty argv", "with an odd key"])
def test_a_broken_spec_ends_in_a_state_that_says_so(tree, spec):
    fields = shims.asdict(tree.spec(["true"]))
    texts = {
        "with an empty argv": json.dumps({**fields, "argv": []}),
        "with an odd key": json.dumps({**fields, "odd": 1}),
    }
    if spec is not None:
        (tree.folder / "spec.json").write_text(texts.get(spec, spec))

    subprocess.run([sys.executable, "-I", "-S", shims.SHIM, tree.folder], check=True, stderr=subprocess.DEVNULL)

    until(lambda: tree.read() is not None)
    state = tree.read()
    assert (state.phase, state.reason, state.pid) == ("exited", "error", None)
    assert state.error


def test_a_command_that_cannot_begin_is_named(tree):
    tree.launch("/nowhere/python")
    ended = tree.ended()
    assert (ended.reason, ended.exit_code) == ("error", 127)
    assert "/nowhere/python" in ended.error


def test_a_shim_that_cannot_write_its_state_starts_no_engine(tree):
    (tree.folder / "state.json.tmp").mkdir()
    with pytest.raises(shims.LaunchFailed, match="state.json"):
        tree.launch("touch", str(tree.folder / "made"))
    assert not (tree.folder / "made").exists()
    until(lambda: not processes.find_marked(tree.cluster, "/data"))


def test_a_state_that_is_missing_or_torn_is_no_state(tree):
    assert shims.read(tree.folder) is None
    (tree.folder / "state.json").write_text('{"pid": 1, "pha')
    assert shims.read(tree.folder) is None
    assert not shims.is_running(None)


def test_a_state_is_forgotten_and_the_output_stays(tree):
    tree.launch("echo", "kept")
    tree.ended()
    shims.remove_state_files(tree.folder)
    assert shims.read(tree.folder) is None
    assert tree.lines() == ["kept"]


def test_killing_marked_processes_never_touches_another_cluster_folder_instance_or_generation(new_tree):
    mine = new_tree()
    strangers = [new_tree(), new_tree(mine.cluster), new_tree(mine.cluster), new_tree(mine.cluster)]
    other = [{}, {"data_folder": "/other"}, {"instance": "instance-12"}, {"generation": 2}]
    mine.launch(*FOREVER)
    for stranger, fields in zip(strangers, other, strict=True):
        stranger.launch(*FOREVER, **fields)

    killed = processes.kill_marked(mine.cluster, "/data", "instance-1", generation=1)

    assert {found.pid for found in killed} == {mine.state.pid, mine.state.shim_pid}
    assert not shims.is_running(mine.read())
    for stranger in strangers:
        assert shims.is_running(stranger.read())
        assert process_identity.is_alive(stranger.state.pid, stranger.state.start)


def test_a_process_with_another_start_time_is_neither_alive_nor_signalled():
    with subprocess.Popen(FOREVER) as process:
        start = process_identity.start_time(process.pid)
        assert process_identity.is_alive(process.pid, start)
        assert not process_identity.is_alive(process.pid, start + 1)
        assert not send_signal(process.pid, start + 1, signal.SIGKILL)
        assert send_signal(process.pid, start, signal.SIGKILL)
        until(lambda: not process_identity.is_alive(process.pid, start))  # a zombie is dead
        assert process_identity.start_time(process.pid) == start
        process.wait()
        assert process_identity.start_time(process.pid) is None


def test_the_memory_of_the_whole_tree_is_seen_now_and_as_a_peak(tree):
    hog = "import subprocess, sys, time; b = b'x' * 64_000_000; time.sleep(3600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hog!r}])"
    state = tree.launch(sys.executable, "-c", parent)
    until(lambda: sum(processes.memory_bytes(process.pid) for process in descendants(state.shim_pid)) > 64_000_000)
    assert tree.stop(grace=0.1).max_rss_bytes > 64_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_an_engine_of_root_runs_without_capabilities(tree):
    if subprocess.run(["unshare", "--user", "true"], check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    tree.launch("cat", "/proc/self/status", drop_privileges=True)
    tree.ended()
    status = dict(line.split(":\t", 1) for line in tree.lines() if ":\t" in line)
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert "65534" in status["Uid"]
