"""The page in a browser: answers come by themselves, and everything works with keys, on a phone and in two tabs."""

import shutil
import threading
import time

import pytest
from chat.talk import answered, talking, wait_for

pytest.importorskip("playwright", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium; Debian's package of that name has it", allow_module_level=True)

import uvicorn  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402

from plaudit.chat import app as module  # noqa: E402
from plaudit.chat.app import PAGES  # noqa: E402
from plaudit.web.door import behind_door  # noqa: E402
from plaudit.web.security import guard  # noqa: E402

expect.set_options(timeout=30_000)


@pytest.fixture
def served(request, monkeypatch, tmp_path):
    """(session, link); the parameter is the story of the fake process. With "until" it loads until `ready` is there."""
    monkeypatch.setattr(module, "REFRESH", (0.1, 0.2))
    story = getattr(request, "param", "")
    with talking(f"until {tmp_path / 'ready'}" if story == "until" else story) as (session, _, chat):
        app = guard(behind_door(chat.app(), PAGES, "my run", "secret", "cookie"))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield session, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/?token=secret"
        server.should_exit = True
        thread.join()


@pytest.fixture
def visit():
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def go(link, context=None, **options):
            page = (context or browser.new_context(**options)).new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: message.type == "error" and problems.append(message.text))
            page.goto(link)
            return page

        yield go, problems
        browser.close()


def ask(page, words):
    page.get_by_role("textbox", name="Prompt").fill(words)
    page.get_by_role("button", name="Answer").click()


@pytest.mark.parametrize("served", ["until"], indirect=True)
def test_a_prompt_waits_while_the_models_load_and_the_answers_come_by_themselves(served, visit, tmp_path):
    page = visit[0](served[1])
    expect(page.get_by_text("The models are loading")).to_be_visible()
    ask(page, "hello")
    expect(page.get_by_text("Next in the queue, once the models have loaded.")).to_be_visible()
    expect(page.get_by_role("heading", name="hello")).to_be_visible()
    (tmp_path / "ready").touch()
    expect(page.get_by_text("PPO scores 1 higher than SFT")).to_be_visible()
    expect(page.get_by_label("or pick one of the evaluation")).to_be_visible()  # it comes when the models are ready
    assert page.get_by_role("textbox", name="Prompt").input_value() == "hello"
    assert page.url.endswith("/")
    assert visit[1] == []


def test_two_tabs_show_the_same_history(served, visit):
    link = served[1]
    go, problems = visit
    first = go(link)
    second = go(link, first.context)
    ask(first, "from the first")
    expect(second.get_by_role("heading", name="from the first")).to_be_visible()
    ask(second, "from the second")
    expect(first.locator(".answer-of")).to_have_count(4)
    assert first.locator("#history h2").all_text_contents() == ["from the second", "from the first"]
    assert problems == []


def test_what_stands_at_a_token_is_seen_with_pointer_and_with_keys(served, visit):
    page = visit[0](served[1])
    ask(page, "hello")
    expect(page.locator(".answer-of")).to_have_count(2)
    page.get_by_role("textbox", name="Prompt").press("Control+Enter")  # once more, and without the mouse
    expect(page.locator(".answer-of")).to_have_count(4)
    token = page.locator(".token").first
    expect(token.locator(".others")).not_to_be_visible()
    token.hover()
    expect(token.locator(".others")).to_contain_text("<b>other</b> 8%")
    page.mouse.move(0, 0)
    page.locator("#picked").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('token')"):
            break
    page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith(" film: probability 0.287. Likeliest:  film 61%")
    expect(page.locator(".token:focus .others")).to_be_visible()
    page.keyboard.press("Tab")  # out of the tokens, past the others
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("Enter")
    expect(page.get_by_role("table").first).to_contain_text("film")
    page.wait_for_timeout(500)  # the page looks again meanwhile
    expect(page.get_by_role("table").first).to_be_visible()
    assert visit[1] == []


def test_what_is_wrong_stands_beside_the_form_and_keeps_what_was_typed(served, visit):
    page = visit[0](served[1])
    page.get_by_label("Temperature").fill("0")
    ask(page, "hello")
    expect(page.get_by_role("alert")).to_contain_text("The temperature must be a number from 0.05 to 5.")
    assert page.get_by_role("textbox", name="Prompt").input_value() == "hello"
    assert served[0].conversations == []


def test_models_that_stop_are_started_again(served, visit):
    page = visit[0](served[1])
    ask(page, "die")
    expect(page.get_by_text("The models have stopped: the disk is gone")).to_be_visible()
    page.get_by_role("button", name="Start them again").click()
    ask(page, "hello")
    expect(page.get_by_text("PPO scores 1 higher than SFT")).to_be_visible()


@pytest.mark.parametrize("served", ["chats"], indirect=True)
def test_a_dialogue_goes_on(served, visit):
    page = visit[0](served[1])
    wait_for(lambda: served[0].state == "ready")
    page.get_by_role("textbox", name="Message").fill("hello")
    page.get_by_role("button", name="Answer").click()
    page.get_by_label("Reply to both").fill("why?")
    page.get_by_label("Reply to both").press("Control+Enter")
    expect(page.locator(".answer-of")).to_have_count(4)
    expect(page.get_by_label("Reply to both")).to_have_value("")
    assert len(served[0].conversations) == 1
    assert visit[1] == []


def test_without_javascript_the_form_works_and_the_page_loads_itself_again(served, visit):
    session, link = served
    page = visit[0](link, java_script_enabled=False)
    page.get_by_label("Answers each").select_option("2")
    ask(page, "hello")
    answered(session, 1)
    page.reload()
    expect(page.locator(".answer-of")).to_have_count(4)
    page.locator(".token").first.focus()
    expect(page.locator(".token").first.locator(".others")).to_be_visible()
    page.get_by_role("textbox", name="Prompt").fill("")
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_text("The prompt is empty")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(served, visit, scheme):
    page = visit[0](served[1], viewport={"width": 360, "height": 700}, color_scheme=scheme)
    ask(page, "a" * 300)
    expect(page.locator(".answer-of")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for token in page.locator(".token").all():
        token.focus()
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_export_is_a_file(served, visit):
    page = visit[0](served[1])
    ask(page, "hello")
    expect(page.locator(".answer-of")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as JSONL").click()
    assert download.value.suggested_filename == "chat-my-run.jsonl"
