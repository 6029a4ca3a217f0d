"""The manager document's client examples, word for word but for the address and a key: Python, Node, a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.test_lifecycle import info
from tests.support.browser_page import blank_page, browser, needs_chromium
from tests.support.waiting import eventually

EXAMPLES = Path(__file__).resolve().parents[1] / "support" / "examples"
ADDRESS = "http://localhost:8080"
MODEL = "Qwen3-Coder-30B-A3B-Instruct-UD-64K"
NODE = shutil.which("node")
READY = "fake engine: ready"
TALK = """
const chunks = [];
await streamChat('你好', model, chunk => chunks.push(chunk));
return {
    answer: await chat('你好', model),
    streamed: chunks.map(chunk => chunk.choices[0]?.delta?.content ?? '').join(''),
    info: await getModelInfo(model),
};
"""
MORE_PYTHON = """
print(json.dumps([client.get_model_info(model_name), client.stop_model(model_name)]))
"""


@pytest.fixture(scope="module")
def model(acme) -> str:
    return acme.fake_model(MODEL, aliases=["Qwen3-Coder-30B"])


def with_key(name: str, base_url: str, credential: str) -> str:
    """The example with the address changed and the credential added to each request."""
    source = (EXAMPLES / name).read_text().replace(ADDRESS, base_url)
    header = f'"Authorization": "Bearer {credential}"'
    source = re.sub(r"""(["'])Content-Type\1: \1application/json\1""", rf"\g<0>, {header}", source)
    source = source.replace("/info`)", f"/info`, {{ headers: {{ {header} }} }})")
    return re.sub(r"""(requests\.(?:get|post)\(f"[^"]+")\)""", rf"\1, headers={{{header}}})", source)


def talked(result: dict) -> None:
    assert result["answer"].startswith("token0")
    assert result["streamed"] == result["answer"]
    assert result["info"]["model"]["model_name"] == MODEL


def run_python(source: str, folder: Path) -> str:
    script = folder / "client.py"
    script.write_text(source)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_python_client(product, key, model, tmp_path):
    source = with_key("llm_manager_client.py.txt", product.base_url, key.credential)
    answer, told = run_python(source + MORE_PYTHON, tmp_path).splitlines()
    described, stopped = json.loads(told)
    assert answer.startswith("token0")
    assert (described["model"]["model_name"], described["model"]["status"]) == (MODEL, "routing")
    assert stopped["success"] is True
    eventually(lambda: info(key, model)["status"] == "stopped")


def test_the_python_client_asks_for_devices_as_an_operator(product, tmp_path):
    source = with_key("llm_manager_client.py.txt", product.base_url, product.operator.credential)
    declared, _usage = source.split("# 使用示例")
    told = json.loads(run_python(declared + "print(json.dumps(LLMManagerClient().get_device_info()))", tmp_path))
    assert told["devices"]["cpu"]["info"]["cpu_count"] == os.cpu_count()


@pytest.mark.skipif(NODE is None, reason="no node: apt-get install nodejs")
def test_the_javascript_client_in_node(product, key, model, tmp_path):
    script = tmp_path / "client.js"
    driver = f"(async model => {{{TALK}}})({json.dumps(model)}).then(told => console.log(JSON.stringify(told)));"
    script.write_text(with_key("llm_manager_client.js", product.base_url, key.credential) + driver)
    run = subprocess.run([NODE, script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    talked(json.loads(run.stdout))


@needs_chromium
def test_the_javascript_client_in_a_page_of_a_named_origin(product, key, model, app_page):
    with browser() as page:
        page.goto(app_page)
        page.add_script_tag(content=with_key("llm_manager_client.js", product.base_url, key.credential))
        talked(page.evaluate(f"async model => {{{TALK}}}", model))


@needs_chromium
def test_the_log_monitor_in_a_page_of_a_named_origin(product, key, model, app_page):
    """EventSource can send no header, so the page fetches a ticket first."""
    key.post(f"/api/models/{model}/start")
    ticket = key.post("/api/auth/ticket").json()["ticket"]
    source = with_key("llm_manager_client.js", product.base_url, key.credential)
    with browser() as page:
        page.goto(app_page)
        page.add_script_tag(content=source.replace("/logs/stream`", f"/logs/stream?ticket={ticket}`"))
        with page.expect_console_message(lambda message: READY in message.text, timeout=60_000) as shown:
            page.evaluate("model => monitorLogs(model)", model)
        assert re.fullmatch(rf"\[.+\] .*{READY}.*", shown.value.text)
        refused = "ticket => new Promise(done => new EventSource(ticket).onerror = () => done('refused'))"
        again = f"{product.base_url}/api/models/{model}/logs/stream?ticket={ticket}"
        assert page.evaluate(refused, again) == "refused"


@needs_chromium
def test_a_page_of_another_origin_reads_nothing(product, key, model):
    with blank_page() as unnamed, browser() as page:
        page.goto(unnamed)
        page.add_script_tag(content=with_key("llm_manager_client.js", product.base_url, key.credential))
        refused = "async model => await chat('x', model).then(() => 'read', error => error.name)"
        assert page.evaluate(refused, model) == "TypeError"
