"""POST /api/auth/token and what its tokens are good for."""

import base64
import json

import jwt
import pytest
from django.conf import settings
from rest_framework_simplejwt.tokens import AccessToken

from accounts import tokens
from accounts.models import LoginSession

PASSWORD = "correct horse battery staple"
TOKEN = "/api/auth/token"
HOME = "/api/keys"  # any route that an owner may read


@pytest.fixture
def person(owner):
    owner.set_password(PASSWORD)
    owner.save()
    return owner


def log_in(client, username, password=PASSWORD, **extra):
    return client.post(TOKEN, {"username": username, "password": password}, **extra)


def good_claims(user) -> dict:
    token = tokens.open_session(user)["access_token"]
    return jwt.decode(token, options={"verify_signature": False})


def signed(claims: dict, key: str = settings.JWT_SIGNING_KEY, algorithm: str = "HS256", **headers) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def without_signature(claims: dict, algorithm: str) -> str:
    parts = ({"alg": algorithm, "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, ""])


def test_a_password_is_exchanged_for_tokens_as_the_document_shows(api, person):
    reply = log_in(api(), person.username)
    assert reply.status_code == 200
    body = reply.json()
    assert (body["token_type"], body["expires_in"]) == ("bearer", 3600)
    assert reply.headers["Cache-Control"] == "no-store"
    assert api(body["access_token"]).get(HOME).status_code == 200


def test_a_wrong_password_and_an_unknown_name_look_the_same(api, person):
    replies = [log_in(api(), person.username, "wrong"), log_in(api(), "nobody", "wrong")]
    assert [reply.status_code for reply in replies] == [401, 401]
    errors = [reply.json()["error"] for reply in replies]
    assert errors[0] == errors[1]
    assert errors[0]["code"] == "AUTHENTICATION_FAILED"


@pytest.mark.parametrize("body", [{}, {"username": "a"}, {"username": ["a"], "password": "b"}])
def test_a_body_without_name_and_password_is_refused_by_field(api, db, body):
    reply = api().post(TOKEN, body)
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "INVALID_REQUEST"


def test_a_body_that_is_not_json_is_400(api, db):
    reply = api().post(TOKEN, "{", content_type="application/json")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "INVALID_REQUEST")


def test_too_many_failures_pause_that_name_at_that_address_and_nobody_else(api, person, member):
    member.set_password(PASSWORD)
    member.save()
    for _attempt in range(settings.AXES_FAILURE_LIMIT):
        log_in(api(), person.username, "wrong")
    reply = log_in(api(), person.username)
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "RATE_LIMITED")
    assert int(reply.headers["Retry-After"]) > 0
    assert log_in(api(), member.username).status_code == 200
    assert log_in(api(), person.username, REMOTE_ADDR="192.0.2.7").status_code == 200


def test_a_forged_forwarded_header_does_not_escape_the_pause(api, person):
    for number in range(settings.AXES_FAILURE_LIMIT):
        log_in(api(), person.username, "wrong", headers={"X-Forwarded-For": f"192.0.2.{number}"})
    assert log_in(api(), person.username, headers={"X-Forwarded-For": "192.0.2.99"}).status_code == 429


def test_a_refresh_token_gives_new_tokens_once(api, person):
    first = log_in(api(), person.username).json()
    second = api().post(f"{TOKEN}/refresh", {"refresh_token": first["refresh_token"]})
    assert second.status_code == 200
    assert api(second.json()["access_token"]).get(HOME).status_code == 200


def test_a_refresh_token_that_comes_twice_ends_the_log_in(api, person):
    first = log_in(api(), person.username).json()
    second = api().post(f"{TOKEN}/refresh", {"refresh_token": first["refresh_token"]}).json()
    assert api().post(f"{TOKEN}/refresh", {"refresh_token": first["refresh_token"]}).status_code == 401
    assert api().post(f"{TOKEN}/refresh", {"refresh_token": second["refresh_token"]}).status_code == 401
    assert api(second["access_token"]).get(HOME).status_code == 401


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_revoking_either_token_ends_the_log_in(api, person, kind):
    mine = log_in(api(), person.username).json()
    other = log_in(api(), person.username).json()
    assert api().post(f"{TOKEN}/revoke", {"token": mine[kind]}).status_code == 200
    assert api(mine["access_token"]).get(HOME).status_code == 401
    assert api().post(f"{TOKEN}/refresh", {"refresh_token": mine["refresh_token"]}).status_code == 401
    assert api(other["access_token"]).get(HOME).status_code == 200


def test_a_new_password_ends_the_log_ins_of_the_old_one(api, person, member):
    mine, neighbour = api(person), api(member)
    person.set_password("another horse")
    person.save()
    assert mine.get(HOME).status_code == 401
    assert neighbour.get("/api/models").status_code == 200


def test_a_disabled_person_is_out_at_once(api, person):
    client = api(person)
    refresh = tokens.open_session(person)["refresh_token"]
    person.is_active = False
    person.save()
    assert client.get(HOME).status_code == 401
    assert api().post(f"{TOKEN}/refresh", {"refresh_token": refresh}).status_code == 401
    assert log_in(api(), person.username).status_code == 401


def test_a_log_in_whose_row_is_gone_is_worth_nothing(api, person):
    client = api(person)
    LoginSession.objects.all().delete()
    assert client.get(HOME).status_code == 401


def test_the_claims_that_the_forgeries_start_from_are_good(api, person):
    assert api(signed(good_claims(person))).get(HOME).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"exp": 1}, {"exp": None}, {"aud": "other"}, {"aud": None}, {"iss": "other"}, {"iss": None},
        {"token_type": "refresh"}, {"token_type": None}, {"sid": None}, {"sid": "x"}, {"user_id": None}, {"jti": None},
        {"sid": "00000000-0000-4000-8000-000000000000"}, {"user_id": "user-other"}, {"iat": "x"},
        {"nbf": 4102444800},  # the year 2100
    ],
    ids=str,
)  # fmt: skip
def test_a_token_with_a_wrong_or_missing_claim_is_refused(api, person, change):
    claims = {name: value for name, value in (good_claims(person) | change).items() if value is not None}
    assert api(signed(claims)).get(HOME).status_code == 401


def test_a_token_under_another_key_is_refused(api, person):
    claims = good_claims(person)
    for foreign in (settings.SECRET_KEY, "x" * 64, settings.KEY_PEPPER.hex()):
        assert api(signed(claims, foreign)).get(HOME).status_code == 401


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "HS256", "RS256"])
def test_a_token_without_a_signature_is_refused(api, person, algorithm):
    assert api(without_signature(good_claims(person), algorithm)).get(HOME).status_code == 401


def test_a_token_of_another_algorithm_is_refused(api, person):
    assert api(signed(good_claims(person), algorithm="HS512")).get(HOME).status_code == 401


def test_a_token_with_a_critical_header_that_we_do_not_know_is_refused(api, person):
    assert api(signed(good_claims(person), crit=["tenant"], tenant="evil")).get(HOME).status_code == 401


def test_a_token_of_the_library_that_belongs_to_no_log_in_is_refused(api, person):
    assert api(str(AccessToken.for_user(person))).get(HOME).status_code == 401


def test_a_changed_payload_or_signature_is_refused(api, person):
    token = tokens.open_session(person)["access_token"]
    header, payload, signature = token.split(".")
    forged = base64.urlsafe_b64encode(json.dumps(good_claims(person)).encode()).rstrip(b"=").decode()
    for wrong in (
        f"{header}.{forged}.{signature}",
        token[:-2],
        f"{header}.{payload}.",
        token + "A",
        token[:-8] + "AAAAAAAA",
    ):
        assert api(wrong).get(HOME).status_code == 401


def test_two_tokens_with_a_long_equal_beginning_are_two_people(api, person, viewer):
    mine, other = (tokens.open_session(user)["access_token"] for user in (person, viewer))
    assert mine[:60] == other[:60]
    assert api(mine).get(HOME).status_code == 200
    assert api(other).get(HOME).status_code == 403


def test_the_keys_of_all_purposes_differ_and_are_long():
    keys = [settings.SECRET_KEY, settings.JWT_SIGNING_KEY, settings.KEY_PEPPER.hex(), settings.CACHE_SALT_KEY.hex()]
    assert len(set(keys)) == len(keys)
    assert all(len(key) >= 32 for key in keys)
