"""What the pages do, without JavaScript: from the first pair to the last, history, blind comparison, overview."""

import json
import re

import pytest
from feedback.projects import project
from feedback.sites import CODE, NEW, OLD, Clock, form, joined, owner, pages, vote

from plaudit.feedback import screens
from plaudit.feedback.store import Store
from plaudit.records import Message

ANSWERS = {
    "left": (True, 1),
    "left-strong": (True, 2),
    "right": (False, 1),
    "right-strong": (False, 2),
}


@pytest.fixture
def open_pages(tmp_path):
    """Pages of a project in a folder of its own."""
    opened = []

    def enter(*args, **values):
        context = pages(tmp_path / f"project {len(opened)}", *args, **values)
        opened.append(context)
        return context.__enter__()

    yield enter
    for context in opened:
        context.__exit__(None, None, None)


# Start


def test_the_start_names_the_project_its_guidelines_and_the_keys(open_pages):
    client, _ = open_pages(guidelines="Choose the kinder one.", plan={"practice": 2})
    html = owner(client).get("/").text
    assert "A project" in html
    assert "Choose the kinder one." in html
    assert "Start with two practice pairs" in html
    assert all(f"<kbd>{key}</kbd>" in html for key in ("←", "→", "⇧ ←", "⇧ →", "↓", "B", "S", "Z", "?"))


def test_somebody_who_comes_back_goes_on_where_he_left(open_pages):
    client, _ = open_pages(4)
    ada = joined(client, "Ada")
    vote(ada)
    asked = form(ada.get("/compare").text)["assignment"]
    html = ada.get("/").text
    assert "Welcome back, Ada" in html
    assert "1 of 4 pairs" in html
    assert form(ada.get("/compare").text)["assignment"] == asked


def test_a_new_start_of_the_server_finds_the_same_people(tmp_path):
    with pages(tmp_path, plan={"overlap": 2}) as (client, _):
        ada = joined(client, "Ada")
        cookies = dict(ada.cookies)
        vote(ada)
        vote(owner(client))
    with pages(tmp_path, store=Store.open(tmp_path), plan={"overlap": 2}) as (client, store):
        client.cookies.update(cookies)
        assert "Welcome back, Ada" in client.get("/").text
        client.cookies.clear()
        vote(owner(client))
        assert [one.name for one in store.annotators()] == ["owner", "Ada"]
        assert [label.annotator for label in store.labels()] == [2, 1, 1]


def test_two_practice_pairs_come_first_and_do_not_count(open_pages):
    client, store = open_pages(3, plan={"practice": 2})
    owner(client)
    sky = client.get("/compare").text
    assert "Practice: this answer does not count" in sky
    better = "right" if "Air scatters" in sky.partition('id="right"')[2] else "left"
    vote(client, better)
    assert "yes, that response is the better one" in client.get("/compare").text
    vote(client, "tie")
    html = client.get("/compare").text
    assert "From here on your answers count" in html
    assert "0 of 3 answered" in html
    assert [label.purpose for label in store.labels()] == ["practice", "practice"]


def test_a_wrong_practice_answer_is_explained(open_pages):
    client, _ = open_pages(1, plan={"practice": 2})
    owner(client)
    sky = client.get("/compare").text
    better = 2 if "Air scatters" in sky.partition('id="right"')[2] else 1
    vote(client, {1: "right", 2: "left"}[better])
    assert f"response {better} was the better one" in client.get("/compare").text


def test_practice_pairs_of_the_project_are_used(tmp_path):
    store = project(tmp_path, 1, practice=1)
    screens.add_practice(store)
    assert len(store.items("practice")) == 1


def test_a_name_is_taken_once(open_pages):
    client, _ = open_pages()
    joined(client, "Ada")
    response = client.post("/join", data={"name": " Ada ", "code": CODE})
    assert response.status_code == 409
    assert "somebody else has the name" in response.text
    assert client.post("/join", data={"name": " ", "code": CODE}).status_code == 409


# Compare


@pytest.mark.parametrize("answer", [*ANSWERS, "tie", "both_bad", "skip"])
def test_an_answer_is_saved_and_leads_to_the_next_pair(open_pages, answer):
    client, store = open_pages(3)
    fields = form(owner(client).get("/compare").text)
    data = {**fields, "answer": answer, "active_ms": "2500", "wall_ms": "4000"}
    response = client.post("/vote", data=data, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/compare")
    [label] = store.labels()
    left, strength = ANSWERS.get(answer, (None, 1))
    assert label.strength == strength
    assert (label.active_ms, label.wall_ms) == (2500, 4000)
    assert (label.outcome == label.left) is left if left is not None else label.outcome == answer
    assert form(client.get("/compare").text)["assignment"] != fields["assignment"]


def test_an_answer_from_the_script_is_acknowledged_without_a_page(open_pages):
    client, store = open_pages(3)
    fields = form(owner(client).get("/compare").text)
    headers = {"Accept": "application/json"}
    assert client.post("/vote", data={**fields, "answer": "left"}, headers=headers).json() == {"saved": True}
    assert len(store.labels()) == 1


def test_the_same_form_twice_counts_once(open_pages):
    client, store = open_pages(3)
    fields = form(owner(client).get("/compare").text)
    for _ in range(3):
        assert client.post("/vote", data={**fields, "answer": "left"}).status_code == 200
    assert len(store.labels()) == 1
    assert client.post("/vote", data={**fields, "answer": "right"}).status_code == 409  # back, and another button
    assert len(store.labels()) == 1


@pytest.mark.parametrize("change", [{"answer": "middle"}, {"answer": ""}, {"answer": "tie-strong"}, {"uuid": ""},
                                    {"assignment": "x"}, {"assignment": "-1"}, {"assignment": "9" * 99},
                                    {"answer": "left-weak"}])  # fmt: skip
def test_a_damaged_form_is_refused_and_changes_nothing(open_pages, change):
    client, store = open_pages(3)
    fields = form(owner(client).get("/compare").text)
    response = client.post("/vote", data={**fields, "answer": "left", **change})
    assert response.status_code in (400, 409)
    assert "That did not work" in response.text
    assert store.labels() == []


def test_without_a_script_the_server_measures_the_time(tmp_path):
    clock = Clock()
    with pages(tmp_path, clock=clock) as (client, store):
        fields = form(owner(client).get("/compare").text)
        clock.now += 7.5
        client.post("/vote", data={**fields, "answer": "left"})
        assert store.labels()[0].wall_ms == 7500


@pytest.mark.parametrize("sent", ["-5", "x", "9" * 40, "1e9", "٣"])
def test_nonsense_about_the_time_does_no_harm(open_pages, sent):
    client, store = open_pages()
    fields = form(owner(client).get("/compare").text)
    client.post("/vote", data={**fields, "answer": "left", "active_ms": sent, "wall_ms": sent}).raise_for_status()
    assert 0 <= store.labels()[0].active_ms <= store.labels()[0].wall_ms <= 24 * 3600 * 1000


def test_undo_takes_back_the_last_answer_and_asks_again(open_pages):
    client, store = open_pages(3)
    owner(client)
    vote(client)
    second = vote(client, "right")
    html = client.get("/compare").text
    assert "disabled" not in html
    again = client.post("/undo", data=form(html, "/undo"))
    assert form(again.text)["assignment"] == second["assignment"]
    assert len(store.labels()) == 1


def test_there_is_nothing_to_undo_at_first(open_pages):
    client, _ = open_pages()
    html = owner(client).get("/compare").text
    assert 'form="undo" disabled' in html
    assert client.post("/undo", data=form(html, "/undo")).status_code == 409


def test_the_next_pair_is_fetched_in_advance(open_pages):
    client, store = open_pages(3)
    first = form(owner(client).get("/compare").text)
    path = f"/compare?beside={first['assignment']}"
    assert f'data-next="{path}"' in client.get("/compare").text
    html = client.get(path).text
    second = form(html)
    assert second["assignment"] != first["assignment"]
    assert "1 of 3 answered" in html  # as it is once the first one is answered
    assert "1 saved" in html
    for fields in (first, second):
        client.post("/vote", data={**fields, "answer": "left"}).raise_for_status()
    assert len(store.labels()) == 2


def test_after_the_last_pair_comes_the_page_that_says_so(open_pages):
    client, store = open_pages(3, command="plaudit reward-model --out runs/demo --comparisons")
    owner(client)
    while vote(client):
        pass
    html = client.get("/compare").text
    assert "All done, thank you" in html
    assert "3 of 3 pairs" in html
    assert "plaudit reward-model --out runs/demo --comparisons" in html
    assert len(store.labels()) == 3
    assert "plaudit reward-model" not in joined(client, "Ada").get("/done").text  # it is for the owner


def test_repeated_pairs_have_their_sides_swapped_and_show_consistency(tmp_path):
    clock = Clock()
    with pages(tmp_path, 12, plan={"repeat_share": 0.5}, clock=clock) as (client, store):
        owner(client)
        while vote(client, "left"):
            clock.now += 5
        assert any(label.repeat for label in store.labels())
        assert re.search(r"The same answer again</h3><p class=\"value\">0%", client.get("/done").text)


def test_while_pairs_are_made_the_page_waits(open_pages):
    client, store = open_pages(0)
    store.set_progress("pairs", 3, 40, "writing responses", now=1000.0)
    html = owner(client).get("/compare").text
    assert "3 of 40" in html
    assert "writing responses" in html
    assert 'data-refresh="2"' in html
    store.set_progress("pairs", 40, 40, now=1000.0)
    assert client.get("/compare").url.path == "/done"


def test_a_process_that_has_ended_early_is_not_waited_for_in_silence(open_pages):
    client, store = open_pages(0)
    store.set_progress("pairs", 3, 40, "error: the process <b> ended", now=1000.0)
    html = owner(client).get("/compare").text
    assert "No more pairs are being written" in html
    assert "on their way" not in html
    assert 'role="alert">error: the process &lt;b&gt; ended' in html
    assert 'data-refresh="2"' in html  # the command may be started again


def test_dialogues_show_who_says_what(tmp_path):
    store = project(tmp_path, 0)
    dialogue = (Message("system", "Be brief."), Message("user", "Hello?"), Message("assistant", "Hi."))
    store.add_item(*(store.add_completion(dialogue, text) for text in ("Bye.", "")))
    with pages(tmp_path, store=store) as (client, _):
        html = owner(client).get("/compare").text
        assert re.findall(r'<p class="label">(\w+)</p>', html) == ["System", "User", "Assistant"]
        assert "(this response is empty)" in html


def test_a_response_of_100_kilobytes_is_shown_whole(tmp_path):
    store = project(tmp_path, 0)
    long = "".join(f"word{i} " for i in range(12_000))
    store.add_item(*(store.add_completion("ask", text) for text in (long, "short")))
    with pages(tmp_path, store=store) as (client, _):
        assert long.strip() in owner(client).get("/compare").text
        vote(client)
        assert len(client.get("/history").text) < 20_000  # the list has beginnings only
        assert long.strip() in client.get("/history/1").text


# History


def test_any_answer_can_be_revised_and_the_earlier_one_stays(open_pages):
    client, store = open_pages(4)
    owner(client)
    first = vote(client, "left")
    vote(client, "tie")
    html = client.get("/history").text
    assert re.findall(r"<a href=\"/history/\d+\">([^<]*)</a>", html) == ["Tie", "1 better"]
    html = client.get(f"/history/{first['assignment']}").text
    assert "✓ chosen" in html
    answer = {**form(html, "/revise"), "answer": "right-strong"}
    assert client.post("/revise", data=answer).url.path == "/history"
    assert "2 much better" in client.get("/history").text
    assert {label.outcome == label.left for label in store.labels()} == {False}
    with store.database.reading() as connection:
        kinds = [row[0] for row in connection.execute("SELECT kind FROM event ORDER BY id")]
    assert kinds == ["choose", "tie", "revise"]


def test_a_long_history_has_pages(open_pages):
    client, _ = open_pages(45)
    owner(client)
    for _ in range(45):
        vote(client)
    seen = []
    for page in (1, 2, 3, 99, 0, "x"):
        seen.append(len(re.findall(r'<a href="/history/\d+">', client.get(f"/history?page={page}").text)))
    assert seen == [20, 20, 5, 5, 20, 20]


def test_an_answer_that_is_not_there_is_an_error_of_one_line(open_pages):
    client, _ = open_pages()
    response = owner(client).get("/history/999")
    assert response.status_code == 409
    assert "That did not work" in response.text
    assert client.get("/history/x").status_code == 404


# Blind comparison

BLIND = {"purpose": "eval", "plan": {"purpose": "eval", "overlap": 9}}


def every_response(client):
    """All that the server says to somebody."""
    paths = ["/", "/compare", "/history", "/done", "/model", "/results", "/health", "/class", "/style.css", "/page.js",
             "/join", "/nothing", "/export/preferences", "/export/conversations", "/export/csv", "/export/all",
             *(f"/history/{i}" for i in range(1, 9))]  # fmt: skip
    for path in paths:
        response = client.get(path)
        yield path, response.text + str(response.headers)


def test_which_model_wrote_what_is_in_no_response_before_the_answers_are_locked(open_pages):
    client, store = open_pages(6, **BLIND)
    ada = joined(client, "Ada")
    for browser in (owner(client), ada):
        for answer in ("left", "right", "tie", "both_bad"):
            vote(browser, answer)
        for path, said in every_response(browser):
            for secret in (OLD, NEW, "hash-1", "hash-2", "sft", "ppo"):
                assert secret not in said.lower(), path
    assert store.generators()


def test_locking_shows_the_result_and_makes_the_answers_final(open_pages):
    client, store = open_pages(6, **BLIND)
    owner(client)
    for _ in range(4):  # in `project` response a is of the old model
        left = "good" in client.get("/compare").text.partition('id="left"')[2].partition("</section>")[0]
        vote(client, "right" if left else "left")  # prefers the new one
    html = client.get("/results").text
    assert "4 of your answers are not locked" in html
    html = client.post("/reveal", data=form(html, "/reveal")).text
    assert f"<h2>{NEW} against {OLD}</h2>" in html
    assert re.search(r"Wins</h3><p class=\"value\">4</p><p>ties: 0, losses: 0", html)
    assert "95% interval" in html
    assert "It is not clear yet" in html or f"<strong>{NEW}</strong>" in html
    label = store.labels("eval")[0]
    assert NEW in client.get(f"/history/{label.assignment}").text
    answer = {"uuid": "another", "assignment": label.assignment, "answer": "tie"}
    assert client.post("/revise", data=answer).status_code == 409
    assert client.get("/export/csv").status_code == 200


def test_a_single_answer_can_be_locked(open_pages):
    client, _ = open_pages(6, **BLIND)
    ada = joined(client, "Ada")
    first, second = vote(ada), vote(ada)
    html = ada.get(f"/history/{first['assignment']}").text
    html = ada.post("/reveal", data=form(html, "/reveal")).text
    assert OLD in html
    assert NEW in html
    assert "locked" in html
    assert OLD not in ada.get(f"/history/{second['assignment']}").text
    assert form(ada.get("/results").text, "/reveal")  # the other one is still open
    assert OLD not in ada.get("/compare").text


def test_results_are_of_the_own_answers_and_of_all_for_the_owner(open_pages):
    client, _ = open_pages(6, **BLIND)
    for name, votes in (("Ada", 3), ("Eve", 2)):
        browser = joined(client, name)
        for _ in range(votes):
            vote(browser)
        html = browser.post("/reveal", data=form(browser.get("/results").text, "/reveal")).text
        assert f"{votes} answers of yours" in html
    assert "5 answers of everybody" in owner(client).get("/results").text


# Overview


def test_data_health_has_every_figure_with_its_numbers(tmp_path):
    with pages(tmp_path, 10, plan={"overlap": 2, "gold_share": 0.3}, more={"gold": 3}) as (client, store):
        for name, answers in (("Ada", ("left",)), ("Eve", ("left", "right", "tie"))):
            browser, i = joined(client, name), 0
            while vote(browser, answers[i % len(answers)]):
                i += 1
        html = owner(client).get("/health").text
        votes = len(store.labels())
        assert f"{votes} answers on" in html
        for title in ("Two people agree", "Krippendorff&#39;s alpha", "Gold pairs", "“Always left” is right",
                      "“Always longer” is right", "The same answer again"):  # fmt: skip
            assert title in html, title
        assert len(re.findall(r"\d of \d+; 95% interval", html)) >= 4
        assert "on the left" in html
        assert "most disputed" in html
        assert html.count('class="dispute"') >= 1
        assert "Ada" in html


@pytest.mark.parametrize("name", ["preferences", "conversations", "csv", "all"])
def test_exports_come_as_files(open_pages, name):
    client, _ = open_pages(4)
    owner(client)
    for _ in range(3):
        vote(client)
    response = client.get(f"/export/{name}")
    assert response.headers["content-disposition"].startswith("attachment; filename=")
    if name == "preferences":
        assert [set(json.loads(line)) for line in response.text.splitlines()] == [{"prompt", "chosen", "rejected"}] * 3
    assert len(response.text.splitlines()) >= 3


def test_a_backup_can_be_opened(open_pages):
    client, store = open_pages(2)
    owner(client)
    vote(client)
    html = client.post("/backup").text
    [copy] = (store.folder / "backups").iterdir()
    assert copy.name in html
    assert copy.stat().st_size > 0


def test_the_screen_of_a_class_shows_who_is_where(tmp_path):
    clock = Clock()
    with pages(tmp_path, 8, plan={"overlap": 3, "votes": 4}, clock=clock) as (client, _):
        for name, votes in (("Ada", 4), ("Eve", 1), ("Bob", 0)):
            browser = joined(client, name)
            for _ in range(votes):
                vote(browser)
        html = owner(client).get("/class").text
        assert CODE in html
        assert "http://127.0.0.1:8765/join" in html
        assert re.findall(r"</progress> (\d of \d)", html) == ["4 of 4", "1 of 4", "0 of 4"]
        assert re.findall(r"<td>(finished|working|away|not begun)</td>", html) == ["finished", "working", "not begun"]
        clock.now += 500
        assert "<td>away</td>" in client.get("/class").text


def test_files_are_kept_by_browsers_for_as_long_as_they_are_the_same(open_pages):
    client, _ = open_pages()
    link = re.search(r'href="(/style.css\?v=\w+)"', owner(client).get("/").text).group(1)
    assert "immutable" in client.get(link).headers["cache-control"]
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
