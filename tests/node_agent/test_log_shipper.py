"""From the shim's files to the model's stream: nothing lost, nothing doubled, whatever is restarted or forgotten."""

import shutil
import time

import pytest
import redis

from core import broker
from inference.logs import lines, stream
from inference.models import InstanceState
from models_app.models import Model
from node_agent import folders
from node_agent.log_shipper import LogShipper, log_source
from node_agent.log_tail import START, read_lines
from node_agent.shim.log import Log
from tests.support import instance_rows
from tests.support.waiting import eventually

MODELS = "/api/models"


@pytest.fixture(autouse=True)
def clean():
    broker.client().flushdb()
    yield
    shutil.rmtree(folders.runtime_dir(), ignore_errors=True)


@pytest.fixture
def model(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="ours")


class LoggingEngine:
    """An instance whose output is written as the shim writes it."""

    def __init__(self, model, replica=0, file_bytes=8 * 2**20, state=InstanceState.READY):
        self.row = instance_rows.instance(model, state, replica=replica)
        self.folder = folders.folder_of(self.row.pk)
        self.folder.mkdir(mode=0o700)
        self.log = Log(str(self.folder / "engine.log"), file_bytes, 3)

    def say(self, *texts: str) -> None:
        for text in texts:
            self.log.feed(text.encode() + b"\n")


@pytest.fixture
def shipping():
    """shipping(engine, …) starts an agent's shipper for them; all end with the test."""
    started = []

    def start(*engines: LoggingEngine) -> LogShipper:
        shipper = LogShipper()
        shipper.start()
        started.append(shipper)
        shipper.set_sources([log_source(engine.row) for engine in engines], complete=True)
        return shipper

    yield start
    for shipper in started:
        shipper.stop()


@pytest.fixture
def shown(api, viewer):
    """The model's lines as its tenant reads them."""
    client = api(viewer)

    def read(count: int = 1000) -> list[str]:
        reply = client.get(f"{MODELS}/ours/logs?lines={count}")
        return [line["message"] for line in reply.json()["logs"]]

    return read


def test_what_an_engine_writes_is_read_by_its_tenant_and_not_by_a_stranger(shipping, shown, api, stranger, model):
    engine = LoggingEngine(model)
    shipping(engine)
    engine.say("loading", "ready")
    assert eventually(lambda: shown() == ["loading", "ready"])
    engine.say("serving")
    assert eventually(lambda: shown() == ["loading", "ready", "serving"])
    assert api(stranger).get(f"{MODELS}/ours/logs").status_code == 404


def test_lines_of_two_replicas_are_told_in_the_order_of_time(shipping, shown, model):
    one, two = LoggingEngine(model), LoggingEngine(model, replica=1)
    for turn in range(700):  # more than goes in one step
        one.say(f"one {turn}")
        two.say(f"two {turn}")
        if turn % 100 == 0:
            time.sleep(0.002)  # stamps are in milliseconds
    shipping(one, two)
    assert eventually(lambda: len(shown(2000)) == 1400)
    got = shown(2000)
    assert [text for text in got if text.startswith("one")] == [f"one {turn}" for turn in range(700)]
    assert max(abs(got.index(f"one {turn}") - got.index(f"two {turn}")) for turn in range(0, 700, 50)) < 250


def test_a_new_agent_goes_on_where_the_old_one_was(shipping, shown, model):
    engine = LoggingEngine(model)
    engine.say(*[f"line {number}" for number in range(20)])
    old = shipping(engine)
    assert eventually(lambda: len(shown()) == 20)
    old.stop()
    engine.say("meanwhile")
    shipping(engine)
    engine.say("afterwards")
    assert eventually(lambda: shown()[-1:] == ["afterwards"])
    assert shown() == [f"line {number}" for number in range(20)] + ["meanwhile", "afterwards"]


def test_two_agents_at_once_double_nothing(shipping, shown, model):
    engine = LoggingEngine(model)
    shipping(engine)
    shipping(engine)
    for number in range(200):
        engine.say(f"line {number}")
    assert eventually(lambda: len(shown()) >= 200)
    assert shown() == [f"line {number}" for number in range(200)]


def test_files_that_are_turned_over_lose_nothing_that_is_still_there(shipping, shown, model):
    engine = LoggingEngine(model, file_bytes=4000)
    shipping(engine)
    wrote = []
    for number in range(400):
        text = f"line {number} {'x' * 40}"
        engine.say(text)
        wrote.append(text)
        if number % 20 == 0:
            eventually(lambda: shown()[-1:] == wrote[-1:])
    assert eventually(lambda: shown() == wrote)


def test_an_instance_that_crashed_is_read_to_its_end(shipping, shown, model):
    engine = LoggingEngine(model)
    shipper = shipping(engine)
    engine.say(*[f"line {number}" for number in range(1500)], "ValueError: the last words")
    shipper.set_sources([], complete=False)
    assert eventually(lambda: shown()[-1:] == ["ValueError: the last words"])
    assert len(shown(5000)) == 1501


def test_when_valkey_has_lost_its_data_it_is_filled_again_from_the_files(shipping, shown, model):
    alive, ended = LoggingEngine(model), LoggingEngine(model, replica=1, state=InstanceState.FAILED)
    ended.say("an end")
    alive.say("a beginning")
    shipper = shipping(alive, ended)
    assert eventually(lambda: len(shown()) == 2)
    shipper.set_sources([log_source(alive.row)], complete=False)
    broker.client().flushdb()
    assert eventually(lambda: shipper.wants_all)
    shipper.set_sources([log_source(alive.row), log_source(ended.row)], complete=True)
    assert eventually(lambda: sorted(shown()) == ["a beginning", "an end"])
    alive.say("a sequel")
    assert eventually(lambda: shown()[-1:] == ["a sequel"])


def test_cleared_lines_do_not_come_back_with_them(shipping, shown, api, member, model):
    engine = LoggingEngine(model)
    shipper = shipping(engine)
    engine.say("a secret of yesterday")
    assert eventually(shown)
    api(member).post("/api/logs/ours/clear")
    engine.row.refresh_from_db()
    broker.client().flushdb()
    shipper.set_sources([log_source(engine.row)], complete=True)
    engine.say("today")
    assert eventually(lambda: shown() == ["today"])


def test_while_valkey_is_away_nobody_waits_and_lines_catch_up(shipping, shown, model, monkeypatch):
    engine, nowhere = LoggingEngine(model), redis.Redis(port=1)
    with monkeypatch.context() as fault:
        fault.setattr(broker, "client", lambda: nowhere)
        shipper = shipping(engine)
        engine.say("unheard")
        begun = time.monotonic()
        for _turn in range(100):
            shipper.set_sources([log_source(engine.row)], complete=True)
        assert time.monotonic() - begun < 5
    assert eventually(lambda: shown() == ["unheard"])


def test_the_stream_is_capped_by_lines_and_by_bytes(model, monkeypatch):
    monkeypatch.setattr(stream, "MAX_LINES", 100)
    monkeypatch.setattr(stream, "MAX_BYTES", 5000)
    for turn in range(30):
        few = [lines.StoredLogLine(float(turn), "i", 0, "short") for _number in range(50)]
        assert stream.append(model.pk, [stream.ReadProgress("i", str(turn) if turn else "", str(turn + 1))], few)
    assert 50 <= stream.sizes([model.pk])[0] <= 100
    long = [lines.StoredLogLine(99.0, "i", 0, "x" * 1000) for _number in range(50)]
    assert stream.append(model.pk, [stream.ReadProgress("i", "30", "31")], long)
    assert sum(len(entry.line.text) for entry in stream.latest(model.pk, 1000)) <= 5000


def test_what_is_kept_has_no_secrets_colours_or_endless_lines(shipping, shown, model):
    engine = LoggingEngine(model)
    shipping(engine)
    engine.say(
        "key sk-serai-abcdefghijklmnop and postgres://serai:hunter2@db/serai",
        "HF token hf_abcdefghijklmnopqrstuvwxyz012345 api_key='0123456789abcdef' Authorization: Bearer abc.def-ghi",
        "\x1b[1;36m(EngineCore)\x1b[0;0m \x1b]0;title\x07ready\x00\x08",
        "x" * 10_000,
        "prompt tokens: 5, eos_token: </s>, max_tokens=256",
    )
    first, second, third, fourth, fifth = eventually(lambda: len(shown()) == 5 and shown())
    assert first == "key sk-serai-abcd*** and postgres://serai:***@db/serai"
    for secret in ("hf_abcd", "0123456789abcdef", "abc.def-ghi"):
        assert secret not in second
    assert third == "(EngineCore) ready"
    assert fourth == "x" * 4000 + "… (6000 more characters)"
    assert fifth == "prompt tokens: 5, eos_token: </s>, max_tokens=256"


def test_a_place_whose_file_is_gone_begins_at_the_oldest_one(model):
    engine = LoggingEngine(model, file_bytes=1000)
    engine.say(*["x" * 80 for _number in range(5)])
    (first, *_rest) = read_lines(engine.folder, START, 10)
    engine.say(*["y" * 80 for _number in range(60)])
    texts = {read.line.text[0] for read in read_lines(engine.folder, first.position, 1000)}
    assert texts == {"y"}


def test_a_line_that_is_being_written_is_left_for_the_next_time(model):
    engine = LoggingEngine(model)
    engine.say("whole")
    path = engine.folder / "engine.log"
    path.write_bytes(path.read_bytes() + b"1700000000.000 ha")
    (read,) = read_lines(engine.folder, START, 10)
    path.write_bytes(path.read_bytes() + b"lf\n")
    assert [each.line.text for each in read_lines(engine.folder, read.position, 10)] == ["half"]
