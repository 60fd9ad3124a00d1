"""The page as a browser without JavaScript sees it, and what it refuses."""

import json
import re
from html import unescape

import pytest
from chat.talk import FORM, answered, talking, wait_for
from starlette.testclient import TestClient

from plaudit.chat import app as module
from plaudit.chat.answers import percent_of, shade, spoken
from plaudit.chat.app import PAGES
from plaudit.web.door import behind_door
from plaudit.web.security import guard

ADDRESS = "http://127.0.0.1:8765"
HOSTILE = '</span><script>alert(1)</script><img src=x onerror="alert(2)"> \u202egnp.exe \x1b[31m'
OWN = {"Origin": ADDRESS}


def words(html):
    """What a page says, in one line."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html.partition("<main")[2])))


def browser(chat):
    return TestClient(chat.app(), base_url=ADDRESS)


def ask(client, session, **changed):
    response = client.post("/ask", data=FORM | changed, follow_redirects=False)
    if response.status_code == 303:
        answered(session, int(response.headers["location"].rpartition("-")[2]))
    return response


@pytest.fixture
def talk():
    with talking() as (session, worker, chat):
        wait_for(lambda: session.state == "ready")
        yield session, worker, browser(chat)


def test_a_prompt_and_its_answers_stand_on_the_page_with_every_figure(talk):
    session, _, client = talk
    assert ask(client, session).headers["location"] == "/#turn-1"
    html = client.get("/").text
    said = words(html)
    for expected in (
        "Score −0.25", "Score 0.75", "PPO scores 1 higher than SFT", "Judge positive 75% positive",
        "Length 4 tokens ended", "KL 1.5 nats", "temperature 0.8 · seed 3 · up to 16 tokens",
    ):  # fmt: skip
        assert expected in said
    assert 'class="token shade-0 word"' in html  # e^-0.5 is 61%
    assert html.count('class="token shade-4"') == 2  # e^-6 is 0.2%
    assert ">61%</span>" in html
    assert ' good: probability 0.607. Likeliest:  good 61%, &lt;b&gt;other&lt;/b&gt; 8%"' in html
    assert '<th scope="row"><span class="piece"> good</span></th>' in html  # the table


def test_the_defaults_are_those_of_the_run_and_then_those_of_the_last_prompt(talk):
    session, _, client = talk

    def values():
        return dict(re.findall(r'id="(temperature|seed|max_new_tokens)"[^>]*value="([^"]*)"', client.get("/").text))

    assert values() == {"temperature": "0.8", "seed": "3", "max_new_tokens": "16"}
    ask(client, session, temperature="1.5", seed="7", max_new_tokens="5", answers="2")
    assert values() == {"temperature": "1.5", "seed": "7", "max_new_tokens": "5"}
    assert "<option selected>2</option>" in client.get("/").text
    assert len(session.conversations[0].turns[0].sides[0]) == 2


def test_a_prompt_of_the_evaluation_is_picked(talk):
    session, _, client = talk
    assert "an evaluation prompt" in client.get("/").text
    ask(client, session, prompt="", picked="0")
    assert session.conversations[0].turns[0].message == "an evaluation prompt"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"picked": "0"}, "not both"),
        ({"prompt": "", "picked": "1"}, "no such prompt"),
        ({"prompt": "", "picked": "../x"}, "no such prompt"),
        *(({"temperature": value}, "temperature must be") for value in ("0", "-1", "nan", "inf", "x", "", "1e9")),
        *(({"seed": value}, "seed must be") for value in ("-1", "1.5", "", "9" * 30, "²")),
        *(({"max_new_tokens": value}, "greatest length must be") for value in ("0", "100000", "x")),
        *(({"answers": value}, "number of answers must be") for value in ("0", "5", "")),
        ({"after": "1"}, "no such dialogue"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_asked(talk, changed, expected):
    session, _, client = talk
    response = ask(client, session, **changed)
    assert response.status_code in (400, 409)
    assert expected in words(response.text)
    assert session.conversations == []


def test_hostile_text_is_shown_as_text(monkeypatch):
    with talking(names=(f"sft{HOSTILE}", "ppo")) as (session, _, chat):
        client = browser(chat)
        ask(client, session, prompt=HOSTILE)
        answers = session.conversations[0].turns[0].sides[0]
        answers[0]["pieces"] = [*answers[0]["pieces"][:3], HOSTILE]
        answers[0]["alternatives"][0].append([HOSTILE, -1.0, 5])
        answers[0]["parts"] = {HOSTILE: 1.0, "other": None}
        answers[0]["no_score"] = HOSTILE
        session.about |= {"no_judge": HOSTILE, "no_score": HOSTILE, "prompts": [{"shown": HOSTILE, "prompt": HOSTILE}]}
        pages = [client.get("/").text]
        session.state, session.problem = "stopped", HOSTILE
        session.conversations[0].turns[0].state, session.conversations[0].turns[0].problem = "failed", HOSTILE
        pages.append(client.get("/").text)
        for html in pages:
            assert html.count("alert(1)") > 4
            assert "<script>" not in html
            assert "<img" not in html
            assert "\u202e" not in html
            assert "\x1b" not in html
            assert not re.findall(r"<[^>]*\s(?:style|on\w+)=", re.sub(r'"[^"]*"', '""', html))


def test_a_dialogue_goes_on_with_the_answers_that_are_chosen():
    with talking("chats") as (session, _, chat):
        client = browser(chat)
        wait_for(lambda: session.state == "ready")
        ask(client, session, answers="2")
        html = client.get("/").text
        assert "Reply to both" in html
        assert "SFT continues answer" in words(html)
        ask(client, session, prompt="why?", after="1", first="2", second="1")
        turns = session.conversations[0].turns
        assert turns[1].sides[0][0]["text"] == " hello / hello 1 / why? 0"
        assert turns[1].sides[1][0]["text"] == " hello / hello 0 / why? 0"
        assert client.get("/").text.count("<article") == 1
        response = ask(client, session, prompt="why?", after="1", first="9")
        assert "no such answer" in words(response.text)


def test_the_newest_stands_first_and_older_ones_on_further_pages(talk, monkeypatch):
    session, _, client = talk
    monkeypatch.setattr(module, "TOGETHER", 2)
    for word in ("one", "two", "three"):
        ask(client, session, prompt=word)
    first, second = client.get("/").text, client.get("/?page=2").text
    assert re.findall(r'<h2 class="text">([^<]*)<', first) == ["three", "two"]
    assert re.findall(r'<h2 class="text">([^<]*)<', second) == ["one"]
    for page in ("0", "9", "-1", "x", "²", "9" * 20):
        assert client.get(f"/?page={page}").status_code == 200


def test_the_export_has_one_line_an_answer(talk):
    session, _, client = talk
    ask(client, session, answers="2", prompt="hé")
    response = client.get("/export.jsonl")
    assert response.headers["content-disposition"] == 'attachment; filename="chat-my-run.jsonl"'
    rows = [json.loads(line) for line in response.text.splitlines()]
    assert [(row["model"], row["answer"]) for row in rows] == [("sft", 1), ("sft", 2), ("ppo", 1), ("ppo", 2)]
    for row in rows:
        assert row["prompt"] == "hé"
        assert row["settings"] == {"temperature": 0.8, "seed": 3, "max_new_tokens": 16, "answers": 2}
        assert row["logprobs"] == [-0.5, -1.25, -4.0, -6.0]
        assert {"text", "ids", "pieces", "score", "parts", "judge", "kl", "ended", "alternatives"} <= row.keys()


def test_the_queue_stands_on_the_page(tmp_path):
    with talking(f"until {tmp_path / 'ready'}") as (session, _, chat):
        client = browser(chat)
        for word in ("one", "two"):
            client.post("/ask", data=FORM | {"prompt": word}, follow_redirects=False)
        html = client.get("/").text
        assert "The models are loading" in words(html)
        assert "Next in the queue, once the models have loaded." in words(html)
        assert "Number 2 in the queue" in words(html)
        assert '<meta http-equiv="refresh"' in html  # for browsers without JavaScript
        (tmp_path / "ready").touch()
        answered(session, 2)
        wait_for(lambda: not session.pending)
        assert '<meta http-equiv="refresh"' not in client.get("/").text


def test_models_that_have_stopped_are_started_again_from_the_page(talk):
    session, _, client = talk
    ask(client, session, prompt="die")
    wait_for(lambda: session.state == "stopped")
    said = words(client.get("/").text)
    assert "The models have stopped: the disk is gone" in said
    assert "plaudit chat my-run" in said
    assert "not answered: the disk is gone" in said
    assert client.post("/start", follow_redirects=False).status_code == 303
    assert ask(client, session).status_code == 303
    assert session.newest_first()[0].turns[0].state == "answered"


def test_what_has_not_changed_is_not_sent_again(talk):
    session, _, client = talk
    tag = client.get("/").headers["etag"]
    assert client.get("/", headers={"If-None-Match": tag}).status_code == 304
    ask(client, session)
    assert client.get("/", headers={"If-None-Match": tag}).status_code == 200


def test_scores_and_verdicts_that_are_missing_are_explained(talk):
    session, _, client = talk
    session.about |= {"no_score": "no finished reward_model here", "no_judge": "judge = none"}
    ask(client, session)
    for rows in session.conversations[0].turns[0].sides:
        for name in ("score", "parts", "judge", "kl", "token_kl"):
            rows[0].pop(name)
    said = words(client.get("/").text)
    assert "No scores: no finished reward_model here" in said
    assert "No judge: judge = none" in said
    assert "KL 1.5" not in said


def test_numbers_that_are_none_are_words(talk):
    session, _, client = talk
    ask(client, session)
    row = session.conversations[0].turns[0].sides[0][0]
    row |= {"kl": None, "score": None, "judge": None, "logprobs": [None, -0.5, -1, -2], "parts": {"a": None, "b": 1.0}}
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("logprob", "expected", "step"),
    [(0.0, "100%", 0), (-1e-6, "100%", 0), (-0.001, ">99%", 0), (-0.693, "50%", 0), (-1.2, "30%", 1), (-2.0, "14%", 2),
     (-3.5, "3%", 3), (-5.0, "1%", 4), (-9.0, "<1%", 4), (None, "0%", 4)],
)  # fmt: skip
def test_probabilities_as_words_and_shades(logprob, expected, step):
    assert (percent_of(logprob), shade(logprob)) == (expected, step)


def test_what_cannot_be_seen_has_a_name():
    assert [spoken(text) for text in (" ", "  ", "\n", "", " a\n")] == [
        "space", "white space", "white space", "part of a character", " a↵",
    ]  # fmt: skip


# The door


@pytest.fixture
def closed():
    with talking() as (session, _, chat):
        wait_for(lambda: session.state == "ready")
        app = guard(behind_door(chat.app(), PAGES, "run", "the token", "cookie"))
        yield session, TestClient(app, base_url=ADDRESS)


@pytest.mark.parametrize("path", ["/", "/export.jsonl", "/ask", "/start"])
def test_without_the_link_nothing_opens(closed, path):
    session, client = closed
    for asked in (path, f"{path}?token=", f"{path}?token=the%20tokem"):
        assert client.get(asked).status_code == 403
        assert client.post(asked, data=FORM, headers=OWN).status_code == 403
    assert session.conversations == []


def test_the_link_leads_to_a_clean_address_and_a_strict_cookie(closed):
    session, client = closed
    response = client.get("/?token=the%20token", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert "HttpOnly" in response.headers["set-cookie"]
    assert "SameSite=strict" in response.headers["set-cookie"]
    client.cookies.set("cookie", "the token")
    assert client.post("/ask", data=FORM, headers=OWN, follow_redirects=False).status_code == 303
    assert len(session.conversations) == 1


@pytest.mark.parametrize("path", ["/ask", "/start"])
def test_forms_of_other_sites_and_names_are_refused(closed, path):
    session, client = closed
    client.cookies.set("cookie", "the token")
    for headers, status in (
        ({}, 403), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), (OWN | {"Host": "evil"}, 421),
        (OWN | {"Sec-Fetch-Site": "cross-site"}, 403),
    ):  # fmt: skip
        assert client.post(path, data=FORM, headers=headers).status_code == status
    assert client.post("/ask", data=FORM | {"prompt": "x" * 20_000}, headers=OWN).status_code == 413
    assert session.conversations == []
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
    assert client.get("/").headers["cache-control"] == "no-store"


def test_asking_by_address_is_not_possible(closed):
    session, client = closed
    client.cookies.set("cookie", "the token")
    assert client.get("/ask?prompt=x").status_code in (404, 405)
    assert client.get("/start").status_code in (404, 405)
    assert session.conversations == []
