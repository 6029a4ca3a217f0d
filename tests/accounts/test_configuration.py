"""The shared configuration: as the document shows it, typed, in ranges, audited, in force everywhere soon."""

import logging

import pytest

from accounts import configuration
from accounts.models import AuditRecord

CONFIG, HISTORY = "/api/config", "/api/config/history"
SHOWN = {
    "gpu_monitor_interval": 30,
    "max_concurrent_models": 10,
    "default_model_timeout": 300,
    "health_check_interval": 60,
    "log_level": "INFO",
    "alert_thresholds": {
        "gpu_utilization_high": 90,
        "gpu_temperature_high": 80,
        "response_time_high": 2.0,
        "error_rate_high": 0.05,
    },
}


def test_the_defaults_are_the_documents(api, operator):
    assert api(operator).get(CONFIG).json() == SHOWN


def test_a_change_merges_nested_objects(api, operator):
    body = {
        "gpu_monitor_interval": 60,
        "max_concurrent_models": 15,
        "alert_thresholds": {"gpu_utilization_high": 85, "gpu_temperature_high": 75},
    }
    reply = api(operator).put(CONFIG, body)
    assert reply.status_code == 200
    expected = {**SHOWN, **body, "alert_thresholds": {**SHOWN["alert_thresholds"], **body["alert_thresholds"]}}
    assert reply.json() == expected


def test_each_changed_value_is_audited_with_the_old_one(api, operator):
    api(operator).put(CONFIG, {"max_concurrent_models": 15, "gpu_monitor_interval": 30})
    record = AuditRecord.objects.get()
    assert (record.action, record.object_id, record.user) == ("configuration.change", "max_concurrent_models", operator)
    assert record.details == {"old": 10, "new": 15}


def test_the_history_tells_who_changed_what_newest_first(api, operator):
    for seconds in (60, 90):
        api(operator).put(CONFIG, {"gpu_monitor_interval": seconds})
    api(operator).put(CONFIG, {"alert_thresholds": {"error_rate_high": 0.1}})
    page = api(operator).get(HISTORY, {"size": 2}).json()
    assert (page["total"], page["page"], page["size"], page["pages"]) == (3, 1, 2, 2)
    told = [(change["setting"], change["old"], change["new"], change["actor"]) for change in page["items"]]
    assert told == [
        ("alert_thresholds.error_rate_high", 0.05, 0.1, operator.username),
        ("gpu_monitor_interval", 60, 90, operator.username),
    ]
    assert page["items"][0]["at"].endswith("Z") and page["items"][0]["address"] == "127.0.0.1"


def test_the_history_of_one_setting(api, operator, tenant):
    api(operator, **{"Serai-Tenant": tenant.slug}).put(CONFIG, {"log_level": "DEBUG", "gpu_monitor_interval": 60})
    (change,) = api(operator).get(HISTORY, {"setting": "log_level"}).json()["items"]
    assert (change["old"], change["new"]) == ("INFO", "DEBUG")
    assert api(operator).get(HISTORY, {"setting": "max_concurrent_models"}).json()["items"] == []


@pytest.mark.parametrize("query", [{"setting": "nothing"}, {"page": 0}, {"size": 101}, {"page": "x"}])
def test_a_wrong_question_about_the_history_is_refused_by_name(api, operator, query):
    reply = api(operator).get(HISTORY, query)
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, list(query))


@pytest.mark.parametrize(
    "body, field",
    [
        ({"max_concurrent_models": 0}, "max_concurrent_models"),
        ({"max_concurrent_models": 2.5}, "max_concurrent_models"),
        ({"max_concurrent_models": "10"}, "max_concurrent_models"),
        ({"max_concurrent_models": True}, "max_concurrent_models"),
        ({"max_concurrent_models": None}, "max_concurrent_models"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"log_level": ["INFO"]}, "log_level"),
        ({"alert_thresholds": 90}, "alert_thresholds"),
        ({"alert_thresholds": {"error_rate_high": 1.1}}, "alert_thresholds.error_rate_high"),
        ({"alert_thresholds.error_rate_high": 0.5}, "alert_thresholds.error_rate_high"),
        ({"alert_thresholds": {"nothing": 1}}, "alert_thresholds.nothing"),
        ({"nothing": 1}, "nothing"),
        ({"gpu_monitor_interval": {"x": 1}}, "gpu_monitor_interval"),
        ({"log_level": {}}, "log_level"),
        ({"nothing": {}}, "nothing"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name_and_changes_nothing(api, operator, body, field):
    reply = api(operator).put(CONFIG, {"health_check_interval": 5, **body})
    assert (reply.status_code, list(reply.json()["error"]["details"])) == (422, [field])
    assert api(operator).get(CONFIG).json() == SHOWN


@pytest.mark.parametrize("body", [[], "x", 1, [1]])
def test_a_body_that_is_no_object_is_refused(api, operator, body):
    assert api(operator).put(CONFIG, body).status_code == 422


def test_nobody_but_operators_sees_or_changes_it(api, owner, key):
    for client in (api(owner), api(key())):
        assert client.get(CONFIG).status_code == 403
        assert client.put(CONFIG, {"log_level": "DEBUG"}).status_code == 403
        assert client.get(HISTORY).status_code == 403


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999"])
def test_a_number_without_a_value_is_refused(api, operator, number):
    body = f'{{"alert_thresholds": {{"response_time_high": {number}}}}}'
    assert api(operator).put(CONFIG, body, content_type="application/json").status_code in (400, 422)
    assert api(operator).get(CONFIG).json() == SHOWN


@pytest.mark.django_db(transaction=True)
def test_a_following_process_takes_a_change_over_without_asking(api, operator, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)
    memory = configuration._Cache()
    changes = iter(["ERROR"])

    def pause(_seconds):
        """Somebody changes the level during the first pause; the second one ends the process."""
        for level in changes:
            return api(operator).put(CONFIG, {"log_level": level})
        raise SystemExit

    monkeypatch.setattr(configuration.time, "sleep", pause)
    with pytest.raises(SystemExit):
        memory.watch()
    assert memory.get().log_level == "ERROR"
    assert root.level == logging.ERROR
