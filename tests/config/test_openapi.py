"""The published schema: complete, without warnings, served with its readers from our own address."""

import re

import pytest
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from gateway.api import anthropic_messages, generation, openai_responses, pooling
from gateway.app import MODEL_OPERATIONS, OPERATIONS
from tests.accounts.test_policy import routes


@pytest.fixture(scope="module")
def schema():
    with GENERATOR_STATS.silence():
        return SchemaGenerator().get_schema(public=True)


def test_the_schema_is_valid_and_made_without_a_warning():
    GENERATOR_STATS.reset()
    validate_schema(SchemaGenerator().get_schema(public=True))
    assert not GENERATOR_STATS


def test_every_route_of_rest_is_in_it(schema):
    shown = {
        f"{method.upper()} {re.sub('{[^}]+}', '{}', path)}"
        for path, methods in schema["paths"].items()
        for method in methods
    }
    assert {str(route) for route in routes() if not route.template.startswith("/api/v1/")} <= shown


def test_every_route_of_the_data_plane_is_in_it(schema):
    paths = {*OPERATIONS, *(f"/api/models/{{ref}}{suffix}" for suffix in MODEL_OPERATIONS)}
    assert paths <= {path for path, methods in schema["paths"].items() if "post" in methods}
    assert {"/v1/models", "/v1/models/{ref}"} <= set(schema["paths"])


@pytest.mark.parametrize(
    "path, fields",
    [
        ("/v1/chat/completions", generation.CHAT),
        ("/v1/completions", generation.COMPLETION),
        ("/v1/embeddings", pooling.EMBED),
        ("/v1/rerank", pooling.RERANK),
        ("/v2/rerank", pooling.RERANK),
        ("/rerank", pooling.RERANK),
        ("/v1/score", pooling.SCORE),
        ("/v1/responses", openai_responses.RESPONSE),
        ("/v1/messages", anthropic_messages.MESSAGE),
        ("/v1/messages/count_tokens", anthropic_messages.COUNT),
        ("/tokenize", generation.TOKENIZE),
        ("/detokenize", generation.DETOKENIZE),
        ("/api/models/{ref}/generate", generation.COMPLETION),
        ("/api/models/{ref}/chat/completions", generation.CHAT),
        ("/api/models/{ref}/embeddings", pooling.EMBED),
    ],
)
def test_the_data_planes_fields_are_those_it_takes(schema, path, fields):
    body = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) - {"model"} == set(fields)


def test_one_credential_of_either_kind_is_enough(schema):
    assert schema["paths"]["/api/keys"]["get"]["security"] == [{"bearer": []}, {"apiKey": []}, {"console": []}]
    assert "security" not in schema["paths"]["/api/auth/token"]["post"]


def test_anybody_may_read_the_schema(client, db):
    reply = client.get("/openapi.json")
    assert reply.status_code == 200
    assert reply.json()["info"]["title"] == "Serai"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_pages_on_it_load_everything_from_our_own_address(client, db, path):
    page = client.get(path)
    assert page.status_code == 200
    html = page.content.decode()
    assets = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert assets
    assert not [asset for asset in assets if not asset.startswith("/")]
    for asset in assets:
        assert client.get(asset).status_code == 200
    assert "https://" not in html
