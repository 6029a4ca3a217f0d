"""The supervisor, with toys for services: what it does when they, or it, die in an uncivilised way."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.up_process import Up, small_disk, toy_checkout
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    return toy_checkout(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def start(toy, tmp_path):
    started = []

    def start(*arguments, terminal=False, **environment) -> Up:
        up = Up(toy, tmp_path / "data", *arguments, terminal=terminal, **environment)
        started.append(up)
        return up

    yield start
    for up in started:
        up.close()


def child(up: Up, word: str) -> psutil.Process:
    return next(process for process in up.left() if process.cmdline()[-1] == word)


def curl_line(up: Up) -> str:
    up.wait_for("curl ")
    line = next(line.strip() for line in up.text.splitlines() if line.strip().startswith("curl"))
    assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    return line


def test_the_banner_says_where_how_to_log_in_and_what_to_paste(start):
    up = start(terminal=True)
    url = up.wait_until_ready()
    curl = curl_line(up)
    assert f"{url}/console/enter/toy" in up.text
    assert "admin / toy-password" in up.text
    assert f"{url}/v1/chat/completions" in curl and "sk-serai-toy" in curl and '"model": "toy"' in curl
    assert "first-run.json" not in up.text


def test_a_later_start_shows_a_new_link_but_no_password_and_no_key_again(start):
    up = start(terminal=True, TOY_FIRST="0")
    url = up.wait_until_ready()
    curl_line(up)
    assert f"{url}/console/enter/toy" in up.text and f"are in {up.data}/first-run.json" in up.text
    assert "toy-password" not in up.text and "sk-serai-toy" not in up.text


def test_a_journal_gets_no_secret_but_the_place_where_they_lie(start):
    up = start()
    url = up.wait_until_ready()
    curl = curl_line(up)
    assert f"{url}/console/\n" in up.text and f"are in {up.data}/first-run.json" in up.text
    assert not [secret for secret in ("toy-password", "sk-serai-toy", "/console/enter/") if secret in up.text]
    up.data.joinpath("first-run.json").write_text('{\n  "password": "x",\n  "api_key": "sk-serai-toy",\n  "a": "b"\n}')
    printed = subprocess.run(["bash", "-c", curl.replace("curl", "printf '%s\\n'", 1)], capture_output=True, text=True)
    assert "Authorization: Bearer sk-serai-toy\n" in printed.stdout


def test_a_start_without_an_operator_says_how_to_make_one(start):
    up = start(TOY_OPERATOR="0")
    up.wait_until_ready()
    up.wait_for("python3 manage.py operator add NAME")
    assert up.process.poll() is None


def test_ctrl_c_ends_everything_with_exit_code_0(start):
    up = start(TOY_WORKER="grandchild")
    up.wait_until_ready()
    assert len(up.left()) >= 5
    up.interrupt()
    assert up.end() == 0
    assert up.left() == []


def test_a_service_that_crashes_is_started_again(start):
    up = start(TOY_WORKER="crash")
    up.wait_until_ready()
    up.wait_for(r"worker ended \(exit code 3\); starting it again in 0\.5 s")
    up.wait_for(r"worker works \(crash\)")


def test_a_killed_web_server_comes_back_and_no_request_meets_a_closed_door(start):
    up = start()
    port = int(up.wait_until_ready().rpartition(":")[2])
    web = next(process for process in up.left() if "web" in process.cmdline())
    web.kill()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b"200" in connection.recv(100)
    assert "web ended (SIGKILL)" in up.text


def test_several_web_processes_share_the_address(start):
    up = start("--web", "2")
    up.wait_until_ready()
    assert len([process for process in up.left() if "web" in process.cmdline()]) == 2


def test_a_second_ctrl_c_does_not_wait_for_the_deaf(start):
    up = start(TOY_WORKER="deaf")
    up.wait_until_ready()
    up.wait_for(r"worker works \(deaf\)")
    up.interrupt()
    up.wait_for("Ctrl-C again to force")
    up.interrupt()
    assert up.end(seconds=10) == 0
    assert up.left() == []


def test_nothing_is_left_when_the_supervisor_is_killed(start):
    up = start(TOY_WORKER="deaf")
    up.wait_until_ready()
    up.wait_for(r"worker works \(deaf\)")
    up.process.kill()
    eventually(lambda: not up.left(), seconds=30)


def test_the_next_start_ends_what_a_killed_supervisor_and_its_janitor_left(start):
    first = start(TOY_WORKER="deaf")
    first.wait_until_ready()
    first.wait_for(r"worker works \(deaf\)")
    deaf = child(first, "worker")
    child(first, "launcher.session_reaper").kill()
    first.process.kill()
    first.process.wait()
    second = start()
    second.wait_until_ready()
    assert f"({deaf.pid})" in second.wait_for("ended what an earlier start had left behind: (.*)").group(1)
    assert not deaf.is_running() or deaf.status() == psutil.STATUS_ZOMBIE


def test_a_process_of_somebody_else_that_got_an_old_pid_is_left_alone(start):
    up = start()
    up.wait_until_ready()
    up.process.kill()
    up.process.wait()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    state = up.data / "private" / "up.json"
    state.write_text(state.read_text().replace(str(up.process.pid), str(stranger.pid)))
    second = start()
    second.wait_until_ready()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_second_start_on_the_same_data_is_refused(start):
    first = start()
    url = first.wait_until_ready()
    second = start()
    assert second.end() == 1
    assert second.text.count("\n") == 1
    assert "already runs" in second.text and url in second.text and "SERAI_DATA" in second.text
    assert first.process.poll() is None


def test_a_busy_port_is_named_with_the_way_out(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        up = start("--port", str(port))
        assert up.end() == 1
    assert up.text.count("\n") == 1
    assert str(port) in up.text and "SERAI_PORT=" in up.text


def test_a_failed_migration_stops_everything_and_says_so(start):
    up = start(TOY_MIGRATE="7")
    assert up.end() == 1
    assert "migrate failed (exit code 7)" in up.text


def test_a_failed_engine_installation_stops_nothing_and_names_the_command(start):
    up = start(TOY_ENGINE="1")
    up.wait_until_ready()
    up.wait_for(r"could not be installed \(no luck\).*to try again: python3 manage.py engine install vllm")
    assert up.process.poll() is None


def test_a_second_banner_tells_when_the_engine_is_there(start):
    up = start(TOY_ENGINE="wait", terminal=True)
    up.wait_until_ready()
    up.wait_for("until then the model answers 503")
    assert "this line works now" not in up.text
    (up.data / "go-on").touch()
    up.wait_for("this line works now")
    assert (up.text.count("curl "), up.text.count("sk-serai-toy")) == (2, 2)  # both in the first banner


def test_one_banner_is_enough_where_the_engine_is_there_already(start):
    up = start(TOY_ENGINE="0")
    up.wait_until_ready()
    up.wait_for("curl ")
    up.interrupt()
    assert up.end() == 0
    assert "The engine" not in up.text


def test_sigterm_is_as_good_as_ctrl_c(start):
    up = start()
    up.wait_until_ready()
    up.process.send_signal(signal.SIGTERM)
    assert up.end() == 0
    assert up.left() == []


def test_children_know_their_supervisor_and_session(start):
    up = start()
    up.wait_until_ready()
    environment = child(up, "worker").environ()
    assert environment["SERAI_SUPERVISOR_PID"] == str(up.process.pid)
    ticks = Path(f"/proc/{up.process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert environment["SERAI_SUPERVISOR_START"] == ticks
    assert environment["DATABASE_URL"] == os.environ["DATABASE_URL"]


def test_a_data_folder_that_cannot_be_one_is_refused_in_one_line(toy, tmp_path):
    (tmp_path / "file").touch()
    up = Up(toy, tmp_path / "file" / "data")
    assert up.end() == 1
    assert up.text.count("\n") == 1
    assert "SERAI_DATA" in up.text and "Traceback" not in up.text


def test_a_full_disk_is_refused_in_one_line(toy, tmp_path):
    up = Up(toy, tmp_path / "data", prefix=small_disk(tmp_path / "data", "8m"))
    assert up.end() == 1
    assert up.text.count("\n") == 1
    assert "MB are free" in up.text and "SERAI_DATA" in up.text
