"""The live page in a browser: it updates itself, keeps its place, and works with keys and on a phone."""

import shutil
import threading
import time

import pytest
from monitor.runs import metrics, run, write

pytest.importorskip("playwright", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium; Debian's package of that name has it", allow_module_level=True)

import uvicorn  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402

from plaudit.monitor import app as module  # noqa: E402
from plaudit.web.security import guard  # noqa: E402

expect.set_options(timeout=30_000)


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REFRESH", 0.1)
    folder = run(tmp_path / "run")
    server = uvicorn.Server(uvicorn.Config(guard(module.make_app(folder)), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield folder, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def visit():
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def go(address, **options):
            page = browser.new_context(**options).new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: message.type == "error" and problems.append(message.text))
            page.goto(address)
            return page

        yield go
        browser.close()
    assert problems == []


def test_curves_follow_the_run_and_the_page_keeps_its_place(served, visit):
    folder, address = served
    page = visit(f"{address}/curves", viewport={"width": 500, "height": 400})
    page.evaluate("window.scrollTo(0, 300)")
    drawing = page.get_by_role("img", name="KL, steps 1 to 10: now 5")
    expect(drawing).to_have_count(1)
    write(folder / "ppo" / "metrics.jsonl", [metrics(11)])
    expect(page.get_by_role("img", name="KL, steps 1 to 11: now 5.5")).to_have_count(1)
    assert page.evaluate("window.scrollY") == 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/curves", "/tokens", "/rollouts"])
def test_a_phone_need_not_scroll_sideways(served, visit, path, scheme):
    page = visit(served[1] + path, viewport={"width": 360, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_token_is_read_with_keys_only(served, visit):
    page = visit(f"{served[1]}/tokens")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('token')"):
            break
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith(" good: ")
    assert "advantage 1.5" in label


def test_without_javascript_every_page_works_and_loads_itself_again(served, visit):
    page = visit(f"{served[1]}/", java_script_enabled=False)
    page.get_by_role("link", name="Rollouts").click()
    page.get_by_label("Sort by").select_option("score")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("120 rollouts")).to_be_visible()
    assert page.locator("meta[http-equiv=refresh]").count() == 1
