"""The pages in a browser, as people use them: keys, mouse, phone, no JavaScript, hostile text, no server."""

import shutil
import threading
import time
from contextlib import contextmanager

import pytest
from feedback.projects import project
from feedback.sites import CODE, TOKEN, site

pytest.importorskip("playwright", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium; Debian's package of that name has it", allow_module_level=True)

import uvicorn  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402

from plaudit.feedback.app import make_app  # noqa: E402
from plaudit.web.security import guard  # noqa: E402

SHORT = 30_000  # milliseconds that a slow machine may take
expect.set_options(timeout=SHORT)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(store, **values):
    """The pages at an address of this machine."""
    config = uvicorn.Config(guard(make_app(store, site(**values))), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve(tmp_path):
    """Start the pages of a project with this many pairs; the store and the address."""
    open_ones = []

    def start(pairs=6, store=None, **values):
        store = store or project(tmp_path, pairs)
        context = serving(store, **values)
        open_ones.append((context, store))
        return store, context.__enter__()

    yield start
    for context, store in open_ones:
        context.__exit__(None, None, None)
        store.close()


@pytest.fixture
def visit(chromium):
    """A page of a new browser whose user is the owner; it fails the test on an error or a blocked resource."""
    contexts, problems = [], []

    def go(address, path="/compare", **options):
        context = chromium.new_context(**options)
        context.set_default_timeout(SHORT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.goto(f"{address}/?token={TOKEN}")
        page.goto(address + path)
        page.problems = problems
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []


def asked(page):
    return page.locator("#vote [name=assignment]").get_attribute("value")


def press(page, key, settled=True):
    """Press a key once the page takes answers, and wait for the next page."""
    before = asked(page)
    page.wait_for_timeout(300 if settled else 0)
    page.keyboard.press(key)
    page.locator(f"#vote [name=assignment]:not([value='{before}'])").or_(page.locator("main:not(.comparing)")).wait_for(
        state="attached"
    )
    return int(before)


def answers(store):
    """What was answered, by assignment: the side and the strength, or the kind."""
    return {
        x.assignment: ("left" if x.outcome == x.left else "right", x.strength) if x.outcome in ("a", "b") else x.outcome
        for x in store.labels()
    }


def test_every_key_does_what_the_screen_says(serve, visit):
    store, address = serve(9)
    page = visit(address)
    expected = {}
    for key, answer in (
        ("ArrowLeft", ("left", 1)),
        ("ArrowRight", ("right", 1)),
        ("Shift+ArrowLeft", ("left", 2)),
        ("Shift+ArrowRight", ("right", 2)),
        ("ArrowDown", "tie"),
        ("b", "both_bad"),
        ("s", "skip"),
        ("B", "both_bad"),
    ):
        expected[press(page, key)] = answer
    assert answers(store) == expected
    expect(page.locator("#saved")).to_have_text("✓ 8 saved")
    last = max(expected)
    press(page, "z")
    assert int(asked(page)) == last
    assert answers(store) == {key: value for key, value in expected.items() if key != last}
    for key in ("←", "→", "⇧ ←", "⇧ →", "↓", "B", "S", "Z", "?"):
        assert page.locator("kbd:visible", has_text=key).count(), key


def test_an_answer_is_saved_before_the_next_pair_shows(serve, visit):
    store, address = serve(4)
    page = visit(address)
    for number in range(1, 4):
        press(page, "ArrowLeft")
        assert len(store.labels()) == number  # at the moment in which the next pair is there


def test_the_next_pair_was_fetched_before_the_answer(serve, visit):
    _, address = serve(4)
    page = visit(address)
    page.wait_for_load_state("networkidle")
    requests = []
    page.on("request", lambda request: requests.append((request.method, request.url.removeprefix(address))))
    press(page, "ArrowLeft")
    page.wait_for_load_state("networkidle")
    assert requests[0] == ("POST", "/vote")
    assert requests[1:] == [("GET", f"/compare?beside={asked(page)}")]  # for the pair after this one


def test_a_key_that_is_held_or_pressed_too_early_does_not_answer(serve, visit):
    store, address = serve(6)
    page = visit(address)
    press(page, "ArrowLeft")
    page.keyboard.press("ArrowLeft")  # at once: nobody has read the new pair
    page.keyboard.down("ArrowRight")  # held: the browser repeats it
    for _ in range(3):
        page.keyboard.down("ArrowRight")
    page.keyboard.up("ArrowRight")
    page.wait_for_timeout(600)
    assert len(store.labels()) <= 2
    for keys in ("Control+b", "Alt+s", "Meta+s"):
        page.keyboard.press(keys)
    page.wait_for_timeout(300)
    assert "both_bad" not in answers(store).values()


def test_the_mouse_does_the_same(serve, visit):
    store, address = serve(3)
    page = visit(address)
    before = int(asked(page))
    page.get_by_role("button", name="2 much better").click()
    page.locator(f"#vote [name=assignment]:not([value='{before}'])").wait_for(state="attached")
    assert answers(store) == {before: ("right", 2)}
    page.get_by_role("button", name="Undo").click()
    page.locator(f"#vote [name=assignment][value='{before}']").wait_for(state="attached")
    assert answers(store) == {}


def test_the_tabulator_reaches_everything_and_focus_can_be_seen(serve, visit):
    store, address = serve(2)
    page = visit(address)
    names = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        names.append(focused.inner_text().split("\n")[0].strip())
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") != "none", names[-1]
        if names[-1].startswith("Tie"):
            break
    assert names[0].startswith("Skip to the content")
    assert [name[:8] for name in names if "better" in name] == ["1 much b", "1 better"]
    page.keyboard.press("Enter")
    page.locator("#saved", has_text="1 saved").wait_for()
    assert list(answers(store).values()) == ["tie"]


def test_the_help_opens_and_closes_and_no_answer_slips_through(serve, visit):
    store, address = serve(2)
    page = visit(address)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.wait_for_timeout(300)
    page.keyboard.press("b")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    assert answers(store) == {}
    page.get_by_role("button", name="Help").click()
    expect(page.locator("#help")).to_be_visible()


def test_screen_readers_hear_what_happens(serve, visit):
    _, address = serve(3)
    page = visit(address)
    tree = page.locator("body").aria_snapshot()
    for words in ("Which response is better?", "Response 1", "Response 2", "Prompt"):
        assert words in tree
    assert page.locator("[aria-live=polite][role=status]").count() == 1
    press(page, "ArrowLeft")
    expect(page.locator("#announced")).to_have_text("Saved. 1 of 3 answered")
    expect(page.locator("h1")).to_be_focused()


def test_a_phone_stacks_the_cards_and_needs_no_scrolling_sideways(serve, visit):
    store, address = serve(3)
    page = visit(address, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    left, right = (page.locator(f"#{side}").bounding_box() for side in ("left", "right"))
    assert right["y"] >= left["y"] + left["height"]
    tie = page.get_by_role("button", name="Tie").bounding_box()
    assert tie["y"] + tie["height"] <= 740
    for path in ("/", "/history", "/done", "/health", "/class", "/model", "/compare"):
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 36
    before = asked(page)
    page.get_by_role("button", name="1 better").tap()
    page.locator(f"#vote [name=assignment]:not([value='{before}'])").wait_for(state="attached")
    assert len(store.labels()) == 1


def test_everything_works_without_javascript(serve, visit):
    store, address = serve(2)
    page = visit(address, java_script_enabled=False)
    page.get_by_role("button", name="1 better").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Help").click()  # a popover opens without a script
    expect(page.locator("#help")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="2 better").click()
    page.get_by_role("button", name="Both bad").click()
    assert page.url == f"{address}/done"
    page.get_by_role("link", name="History").click()
    page.get_by_role("link", name="2 better").click()
    page.get_by_role("button", name="Tie").click()
    assert sorted(answers(store).values()) == ["both_bad", "tie"]


def test_hostile_responses_do_nothing_and_are_shown(serve, visit, tmp_path):
    store = project(tmp_path, 0)
    texts = (
        "<script>document.title = 'taken'</script><img src=x onerror=\"alert('taken')\">",
        "\u202eevil\u202c and more",
    )
    store.add_item(*(store.add_completion("</main><h1>taken</h1>", text) for text in texts))
    _, address = serve(store=store)
    page = visit(address)
    shown = " ".join(page.locator(".card .text").all_inner_texts())
    assert texts[0] in shown
    assert "U+202E" in shown
    assert page.locator("h1").count() == 1
    page.wait_for_timeout(200)
    assert "taken" not in page.title()


def test_a_long_response_keeps_the_buttons_in_reach(serve, visit, tmp_path):
    store = project(tmp_path, 0)
    store.add_item(*(store.add_completion("ask", text) for text in ("word " * 20_000, "x" * 50_000)))
    _, address = serve(store=store)
    page = visit(address, viewport={"width": 1000, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    box = page.get_by_role("button", name="Tie").bounding_box()
    assert box["y"] + box["height"] <= 700


def test_time_in_which_nobody_works_is_not_counted(serve, visit):
    store, address = serve(3)
    page = visit(address, path="/done")
    page.clock.install()
    page.goto(f"{address}/compare")
    page.clock.run_for(5_000)
    page.mouse.move(5, 5)
    page.clock.run_for(600_000)  # gone for ten minutes
    expect(page.locator("#timer")).to_have_text("Timer paused")
    page.mouse.move(9, 9)
    page.clock.run_for(3_000)
    expect(page.locator("#timer")).to_have_text("")
    page.keyboard.press("ArrowLeft")
    page.locator("#saved", has_text="1 saved").wait_for()
    [label] = store.labels()
    assert 30_000 <= label.active_ms <= 60_000
    assert label.wall_ms >= 600_000


def test_an_answer_is_sent_again_until_the_server_has_it(serve, visit):
    store, address = serve(3)
    page = visit(address)
    failing = iter((True, True, False))
    page.route("**/vote", lambda route: route.abort() if next(failing, False) else route.continue_())
    press(page, "ArrowLeft")
    assert len(store.labels()) == 1
    page.problems.clear()  # the browser reports the two failures


def test_when_the_server_is_away_the_page_says_so_and_keeps_the_pair(serve, visit):
    store, address = serve(3)
    page = visit(address)
    before = asked(page)
    page.route("**/vote", lambda route: route.abort())
    page.wait_for_timeout(300)
    page.keyboard.press("ArrowLeft")
    page.locator("#saved.problem", has_text="Not saved: the server does not answer").wait_for()
    assert asked(page) == before
    assert store.labels() == []
    page.unroute("**/vote")
    press(page, "ArrowLeft")
    assert len(store.labels()) == 1
    page.problems.clear()


def test_somebody_joins_with_the_code_and_a_link_from_another_site_keeps_people_signed_in(serve, chromium):
    _, address = serve(3)
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{address}/join")
    page.get_by_label("Your name").fill("Grace")
    page.get_by_label("Join code").fill(CODE.lower())
    page.get_by_role("button", name="Join").click()
    expect(page).to_have_url(f"{address}/")
    expect(page.locator("h1")).to_contain_text("Grace")
    page.route("http://elsewhere.test/", lambda route: route.fulfill(
        content_type="text/html", body=f'<a href="{address}/">go</a>'))  # fmt: skip
    page.goto("http://elsewhere.test/")
    page.get_by_role("link", name="go").click()
    expect(page.locator("h1")).to_contain_text("Grace")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(serve, visit, scheme):
    """Contrast of text and background, by the formula of WCAG 2: at least 4.5."""
    _, address = serve(3)
    page = visit(address, color_scheme=scheme)
    for path, selectors in {
        "/compare": [".card .text", ".label", "button[value=left]", ".plain", "kbd", ".top nav a", "#progress"],
        "/": [".primary", ".lead", ".muted"],
        "/done": [".tile p", ".tile .value"],
    }.items():
        page.goto(address + path)
        for selector in selectors:
            assert contrast(page, selector) >= 4.5, (path, selector)


def contrast(page, selector):
    found = page.locator(selector).first.evaluate("""e => {
        const color = getComputedStyle(e).color;
        while (e && getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)") e = e.parentElement;
        return [color, getComputedStyle(e ?? document.body).backgroundColor];
    }""")
    light = []
    for color in found:
        parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)
