"""What is left when the supervisor is killed, and what the next `up` finds."""

import psutil

from tests.live.test_lifecycle import chat, info, status
from tests.support.live_product import running
from tests.support.waiting import eventually


def processes_of(data):
    """Every live process that carries this data folder in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(data) in (environment.get("SERAI_DATA"), environment.get("SERAI_DATA_FOLDER")):
            found.append(process)
    return found


def test_a_killed_supervisor_leaves_nothing_and_the_next_start_is_whole(tmp_path):
    data = tmp_path / "data"
    with running(data) as product:
        tenant = product.tenant("acme")
        person = tenant.key()
        wanted, called = tenant.fake_model(), tenant.fake_model()
        person.post(f"/api/models/{wanted}/start").raise_for_status()
        chat(person, called).raise_for_status()
        eventually(lambda: status(person, wanted) == "running")
        left = [process for process in processes_of(data) if process.pid != product.process.pid]
        product.process.kill()
        eventually(lambda: not any(process.is_running() and process.status() != "zombie" for process in left), 30)
    assert len(left) >= 7  # web, worker, scheduler, two shims, two engines

    with running(data) as again:
        person = type(person)("key", again.client(person.credential), person.credential, person.tenant)
        eventually(lambda: info(person, called)["status"] == "stopped")  # a request had started it; the next one will
        eventually(lambda: status(person, wanted) == "running")  # a person had
        assert chat(person, called).status_code == 200
        assert again.record["api_key"] == product.record["api_key"]
        usage = person.get("/api/usage").json()["items"]
        assert {item["model_name"] for item in usage} >= {called}
