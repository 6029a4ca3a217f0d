"""The console in a real browser: the one-time link, and a model stopped by a click."""

import json

from tests.live.test_lifecycle import chat, status
from tests.support.browser_page import browser, needs_chromium
from tests.support.waiting import eventually

pytestmark = needs_chromium


def test_the_one_time_link_logs_in_once_and_the_console_stops_a_model(product, acme, key):
    """The banner has it in a terminal only; this product's goes to a file."""
    assert "/console/enter/" not in (product.data.parent / f"{product.data.name}.log").read_text()
    shown = product.manage("first_run", "--base-url", product.base_url, "--with-secrets")
    link = json.loads(shown.splitlines()[-1])["login_link"]
    model = acme.fake_model()
    chat(key, model)
    with browser() as page:
        page.goto(link)
        page.wait_for_url(f"{product.base_url}/console/")
        page.goto(f"{product.base_url}/console/models_app/model/?q={model}")
        page.check("input[name=_selected_action]")
        page.select_option("select[name=action]", "stop_models")
        page.locator("button[name=index]").click()
        page.wait_for_load_state("networkidle")
        assert f"{model} is stopping." in page.content()
    eventually(lambda: status(key, model) == "stopped")
    with browser() as page:
        page.goto(link)
        page.wait_for_selector("text=used already")
        page.goto(f"{product.base_url}/console/")
        assert "/console/login/" in page.url
