"""Somebody who has lost the cookie comes back: with the own name, the join code and the own return code."""

import re

import pytest
from feedback.sites import CODE, Clock, another, joined, pages, vote

from plaudit.web.security import new_code, plain_code, secret_from


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(tmp_path, clock):
    with pages(tmp_path, 6, clock=clock) as (client, store):
        client.store = store
        yield client


def code_of(browser):
    return re.search(r"Your return code is <strong>([^<]*)</strong>", browser.get("/").text)[1]


def come_back(client, name, code, join=CODE):
    """A browser without cookies, and what the server says to the form."""
    browser = another(client)
    return browser, browser.post("/join", data={"name": name, "code": join, "return": code})


def test_the_return_code_leads_back_to_the_own_answers(client):
    ada = joined(client, "Ada")
    vote(ada)
    code = code_of(ada)
    assert re.fullmatch(r"(\w{4}-){2}\w{4}", code)
    for typed in (code, code.lower(), code.replace("-", " "), f"  {code} "):
        browser, response = come_back(client, " ada", typed)
        assert "Welcome back, Ada" in response.text
        assert plain_code(code_of(browser)) == plain_code(code)
    vote(browser)
    assert "answered 2 of 6" in browser.get("/").text
    assert "answered 2 of 6" in ada.get("/").text  # the first browser is still signed in
    assert [one.name for one in client.store.annotators()] == ["owner", "Ada"]


def test_a_name_alone_or_with_the_code_of_somebody_else_leads_nowhere(client):
    ada, bob = joined(client, "Ada"), joined(client, "Bob")
    browser, response = come_back(client, "Ada", "")
    assert response.status_code == 409
    assert "if it is yours, enter your return code" in response.text
    for name, code, join in (
        ("Ada", code_of(bob), CODE), ("Ada", new_code(3), CODE), ("Ada", CODE, CODE), ("Ada", code_of(ada)[:-1], CODE),
        ("Eve", code_of(ada), CODE), ("Ada", code_of(ada), "AAAA-AAAA"), ("Ada", "-", CODE), ("owner", CODE, CODE),
    ):  # fmt: skip
        browser, response = come_back(client, name, code, join)
        assert response.status_code == 403
        assert not browser.cookies
    assert [one.name for one in client.store.annotators()] == ["owner", "Ada", "Bob"]


def test_guessing_return_codes_is_limited(client, clock):
    code = code_of(joined(client, "Ada"))
    for _ in range(10):
        assert come_back(client, "Ada", new_code(3))[1].status_code == 403
    assert come_back(client, "Ada", code)[1].status_code == 429
    clock.now += 61
    assert come_back(client, "Ada", code)[1].status_code == 200


def test_no_return_code_is_kept_or_shown_to_others(client):
    ada = joined(client, "Ada")
    code = code_of(ada)
    with client.store.database.reading() as connection:
        dump = "\n".join(connection.iterdump())
    assert code not in dump
    assert plain_code(code) not in dump
    client.get("/", params={"token": "the-token-of-the-owner"})
    for path in ("/", "/class", "/health", "/export/all", "/export/csv"):
        assert code not in client.get(path).text
    assert "return code" not in client.get("/").text
    assert code not in joined(client, "Bob").get("/").text


def test_the_code_is_a_cookie_that_no_script_reads(client):
    response = another(client).post("/join", data={"name": "Ada", "code": CODE}, follow_redirects=False)
    cookies = response.headers.get_list("set-cookie")
    assert len(cookies) == 2
    assert all("HttpOnly" in one and "SameSite=strict" in one for one in cookies)


def test_a_hostile_cookie_is_text(client):
    ada = joined(client, "Ada")
    name = next(name for name in ada.cookies if name.endswith("-code"))
    cookie = "; ".join(f"{key}={'<script>' if key == name else value}" for key, value in ada.cookies.items())
    ada.cookies.clear()
    page = ada.get("/", headers={"Cookie": cookie}).text
    assert "<strong>&lt;script&gt;</strong>" in page


def test_the_same_code_is_another_secret_in_another_project_and_for_another_name():
    assert len({secret_from("ABCD-EFGH", *context) for context in (("p", "ada"), ("q", "ada"), ("p", "bob"))}) == 3
    assert secret_from("abcd efgh", "p") == secret_from("ABCD-EFGH", "p")
