"""Each point of safety: who is let in, from where, and what a response may do in a browser."""

import re

import pytest
from feedback.projects import project
from feedback.sites import ADDRESS, CODE, TOKEN, Clock, another, form, joined, owner, pages, vote
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from plaudit.feedback.app import make_app
from plaudit.feedback.visits import Site
from plaudit.web.security import LARGEST, Attempts, guard, new_code, new_token, same, same_code, visible

GETS = ["/compare", "/history", "/history/1", "/done", "/model", "/results", "/health", "/class", "/export/csv"]
POSTS = ["/vote", "/undo", "/revise", "/reveal", "/backup"]


@pytest.fixture
def client(tmp_path):
    with pages(tmp_path) as (client, _):
        yield client


# Who is let in


@pytest.mark.parametrize("path", GETS)
def test_without_a_cookie_no_page_says_anything(client, path):
    response = client.get(path, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")


@pytest.mark.parametrize("path", POSTS)
def test_without_a_cookie_nothing_is_changed(client, path):
    response = client.post(path, data={"uuid": "1", "assignment": "1", "answer": "left"}, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")


def test_the_link_leads_to_a_clean_address_and_a_strict_cookie(client):
    response = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in client.get("/").text


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), "é", "\x00"])
def test_another_token_is_refused(client, token):
    assert client.get("/", params={"token": token}).status_code == 403
    assert not client.cookies


def test_a_cookie_of_another_secret_is_nobody(client, tmp_path):
    owner(client)
    name = next(iter(client.cookies))
    browser = another(client)
    browser.cookies.set(name, new_token())
    assert browser.get("/health", follow_redirects=False).status_code == 303


def test_two_projects_on_one_machine_have_cookies_of_their_own(tmp_path):
    names = set()
    for part in "ab":
        with pages(tmp_path / part) as (client, _):
            names |= set(owner(client).cookies)
    assert len(names) == 2


def test_the_cookie_is_for_encrypted_connections_where_there_is_one(tmp_path):
    app = guard(make_app(project(tmp_path), Site("A project", token=TOKEN)))
    client = TestClient(app, base_url="https://127.0.0.1:8765")
    response = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert "Secure" in response.headers["set-cookie"]


@pytest.mark.parametrize("path", ["/health", "/class", "/export/all", "/export/preferences"])
def test_pages_of_the_owner_are_closed_to_others(client, path):
    assert joined(client, "Ada").get(path).status_code == 403
    assert owner(client).get(path).status_code == 200


def test_others_cannot_back_up(client):
    assert joined(client, "Ada").post("/backup").status_code == 403


def test_nobody_can_join_without_a_code(tmp_path):
    store = project(tmp_path)
    with TestClient(make_app(store, Site("A project", code=None)), base_url=ADDRESS) as client:
        for code in ("", "None", CODE):
            assert client.post("/join", data={"name": "Ada", "code": code}).status_code == 403


@pytest.mark.parametrize("given", [CODE, CODE.lower(), CODE.replace("-", ""), f" {CODE.replace('-', ' ')} "])
def test_a_code_is_right_however_it_is_typed(given):
    assert same_code(given, CODE)


@settings(deadline=None)
@given(st.text())
def test_another_code_is_wrong(given):
    assert same_code(given, CODE) == ("".join(filter(str.isalnum, given.upper()))[:32] == CODE.replace("-", ""))


def test_secrets_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    assert same("given", "given")
    assert not same_code("wrong", CODE)
    assert len(compared) == 2


def test_tokens_and_codes_are_never_the_same_twice():
    assert len({new_token() for _ in range(100)}) == 100
    assert all(len(token) >= 43 for token in (new_token() for _ in range(10)))  # 256 bits
    codes = {new_code() for _ in range(1000)}
    assert len(codes) == 1000
    assert not set("".join(codes)) & set("01ILO")


def test_joining_is_rate_limited(tmp_path):
    clock = Clock()
    with pages(tmp_path, clock=clock) as (client, store):
        for _ in range(10):
            assert client.post("/join", data={"name": "Eve", "code": "AAAA-AAAA"}).status_code == 403
        assert client.post("/join", data={"name": "Eve", "code": CODE}).status_code == 429  # even with the right one
        clock.now += 61
        assert client.post("/join", data={"name": "Ada", "code": CODE}).status_code == 200
        assert [one.name for one in store.annotators()] == ["owner", "Ada"]


def test_a_class_behind_one_address_can_join_at_once(client):
    for i in range(40):
        joined(client, f"student {i}")


def test_attempts_are_limited_over_all_addresses_and_forgotten():
    attempts = Attempts(most=3, seconds=60)
    for i in range(30):
        assert attempts.allowed(f"address {i}", 0)
        attempts.failed(f"address {i}", 0)
    assert not attempts.allowed("a new address", 0)
    assert attempts.allowed("a new address", 60)
    assert len(attempts._failed) == 0


# What others see


def test_an_annotator_sees_no_votes_of_others(tmp_path):
    with pages(tmp_path, 3, plan={"overlap": 2}) as (client, store):
        ada, eve = joined(client, "Ada"), joined(client, "Eve")
        for _ in range(3):
            vote(ada)
        ids = [label.assignment for label in store.labels()]
        assert len(ids) == 3
        assert "You have not answered yet" in eve.get("/history").text
        for one in ids:
            assert eve.get(f"/history/{one}").status_code == 409
            for path in ("/vote", "/revise"):
                answer = {"uuid": new_token(), "assignment": one, "answer": "right"}
                assert eve.post(path, data=answer).status_code == 409
            assert eve.post("/reveal", data={"uuid": new_token(), "assignment": one}).status_code == 409
        assert eve.post("/undo", data={"uuid": new_token()}).status_code == 409
        assert [label.outcome == label.left for label in store.labels()] == [True] * 3
        for path in GETS:
            assert "Ada" not in eve.get(path).text


# From where


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.5:8765", "",
     "127.0.0.1@evil.example", "evil.example/127.0.0.1", "[::1", "127.0.0.1:8765, evil.example", "0x7f.1"],
)  # fmt: skip
def test_another_host_is_refused(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765", "127.0.0.1"])
def test_this_machine_is_a_host(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_a_server_for_other_machines_has_addresses_and_the_names_that_were_given():
    app = guard(
        lambda scope, receive, send: PlainTextResponse("in")(scope, receive, send), ["Lab.local"], anywhere=True
    )
    client = TestClient(app)
    for host in ("192.168.1.5:8765", "lab.local:8765", "localhost", "[fe80::1]:80"):
        assert client.get("/", headers={"Host": host}).text == "in"
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},  # another server of this machine
        {"Origin": "http://localhost:8765"},  # not the name under which the page was opened
        {"Origin": ADDRESS, "Sec-Fetch-Site": "cross-site"},
        {"Origin": ADDRESS, "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
        {},
    ],
)
@pytest.mark.parametrize("path", [*POSTS, "/join"])
def test_a_form_of_another_site_is_refused(client, path, headers):
    owner(client)
    client.headers.pop("Origin")
    response = client.post(path, data={"uuid": "1", "assignment": "1", "answer": "left"}, headers=headers)
    assert response.status_code == 403


@pytest.mark.parametrize("headers", [{"Origin": ADDRESS}, {"Sec-Fetch-Site": "same-origin"}])
def test_a_form_of_ours_is_accepted(client, headers):
    owner(client)
    client.headers.pop("Origin")
    fields = form(client.get("/compare").text)
    response = client.post("/vote", data={**fields, "answer": "tie"}, headers=headers, follow_redirects=False)
    assert response.status_code == 303


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(client, method):
    assert client.request(method, "/vote").status_code == 405


@pytest.mark.parametrize("path", [*POSTS])
def test_a_link_changes_nothing(client, path):
    assert owner(client).get(path).status_code == 405


def test_large_bodies_are_refused(client):
    owner(client)
    answer = {"uuid": "x" * LARGEST, "assignment": "1", "answer": "left"}
    assert client.post("/vote", data=answer).status_code == 413
    chunks = (b"uuid=" + b"x" * 100 for _ in range(1000))
    assert client.post("/vote", content=chunks).status_code == 413  # of unknown length


def test_a_link_from_another_site_is_loaded_once_more(client):
    """A strict cookie is not sent along such a link; without this the person would have to sign in again."""
    response = client.get("/", headers={"Sec-Fetch-Site": "cross-site"})
    assert 'http-equiv="refresh"' in response.text
    assert 'http-equiv="refresh"' not in client.get("/", headers={"Sec-Fetch-Site": "same-origin"}).text


# What a response may do


@pytest.mark.parametrize(
    "path", ["/", "/join", "/compare", "/health", "/style.css", "/page.js", "/nothing", "/export/csv"]
)
def test_every_response_has_the_headers(client, path):
    headers = owner(client).get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path in ("/style.css", "/page.js") else "no-store")


def test_a_refusal_has_the_headers_too(client):
    for response in (
        client.get("/", headers={"Host": "evil.example"}),
        client.post("/vote", headers={"Origin": "null"}),
    ):
        assert "default-src 'self'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", *GETS[:-1]])
def test_nothing_in_a_page_is_inline_or_from_elsewhere(tmp_path, path):
    """The content security policy would block it."""
    with pages(tmp_path, 12, plan={"overlap": 2, "practice": 2}, more={"eval": 1}) as (client, _):
        for browser in (owner(client), joined(client, "Ada")):
            for answer in ("left", "right", "tie", "both_bad", "skip", "left"):
                vote(browser, answer)
        html = client.get(path).text
        assert not re.findall(r"<[^>]*\s(?:style|on\w+)=", html)
        assert not re.findall(r"<style|<script(?! src=\"/page)|javascript:", html)
        assert not re.findall(r"\s(?:src|href|action)=\"(?!/|#)", html)


@pytest.mark.parametrize("path", ["/../pyproject.toml", "/%2e%2e/app.py", "/pages/style.css", "/style.css/../app.py",
                                  "/export/..%2f..%2ffeedback.db", "/export/feedback.db", "/backups/"])  # fmt: skip
def test_no_path_comes_from_a_client(client, path):
    assert owner(client).get(path).status_code in (404, 200)
    assert "import" not in owner(client).get(path).text


HOSTILE = [
    "<script>alert(1)</script>",
    "</div></main><form action=/backup method=post><button>free money",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "{{ 7 * 7 }} {% include 'base.html.jinja' %} ${7*7}",
    "&lt;script&gt; &amp; &#x3c;",
    "javascript:alert(1)",
    "]]><!-- -->",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_responses_are_text(tmp_path, text):
    store = project(tmp_path, 0)
    ids = [store.add_completion(f"ask {text}", f"{text}{part}") for part in ("", " and more")]
    store.add_item(*ids)
    with pages(tmp_path, store=store) as (client, _):
        owner(client)
        asked = client.get("/compare").text
        vote(client)
        for html in (asked, client.get("/history").text, client.get("/history/1").text):
            body = html.partition("<main")[2]
            assert "<script" not in body
            assert "<img" not in body
            assert "<svg" not in body.replace('<svg class="interval-figure"', "")
            escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
            assert escaped.replace("'", "&#39;") in html


@settings(deadline=None)
@given(st.text(max_size=200))
def test_visible_text_keeps_every_character(text):
    html = str(visible(text))
    shown = re.sub(r'<span class="hidden-character">U\+([0-9A-F]+)</span>', lambda m: chr(int(m.group(1), 16)), html)
    assert "<" not in shown
    for old, new in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        shown = shown.replace(old, new)
    assert shown == text.replace("\r\n", "\n")
    html.encode("utf-8")  # not even a lone surrogate is left


@pytest.mark.parametrize("character", "\u202e\u202a\u2066\u2069\x00\x1b\x07\x85\ud800")
def test_characters_that_hide_or_reorder_are_shown_by_their_number(character):
    assert visible(f"a{character}b") == f'a<span class="hidden-character">U+{ord(character):04X}</span>b'


@pytest.mark.parametrize("code", ["film-2026", "Film 2026", "klasse_7b", "çağrı-kodu"])
def test_a_code_of_ones_own_is_right_as_it_was_written_and_in_capitals(code):
    for typed in (code, code.upper(), code.replace("-", " "), f" {code}"):
        assert same_code(typed, code)
    assert not same_code(code[:-1], code)
    assert not same_code("", code)
