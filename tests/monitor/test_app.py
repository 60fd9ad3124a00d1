"""Each page of a run, as a browser without JavaScript sees it; whatever the files hold, the page stays up."""

import json
import os
import platform
import re
import shutil
from html import unescape

import pytest
from monitor.runs import HOSTILE, metrics, rollout, run, tokens, write
from starlette.testclient import TestClient

from plaudit.monitor.app import PAGES, make_app
from plaudit.web.door import behind_door
from plaudit.web.security import guard

PATHS = ["/", "/curves", "/tokens", "/rollouts"]
ADDRESS = "http://127.0.0.1:8765"


def client(folder, other=None):
    return TestClient(make_app(folder, other), base_url=ADDRESS)


def words(html):
    """What a page says, in one line."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html.partition("<main")[2])))


@pytest.fixture
def folder(tmp_path):
    return run(tmp_path / "run")


def own(folder, process):
    (folder / ".owner.json").write_text(json.dumps({"process": process, "host": platform.node()}))


def test_the_overview_says_how_far_each_stage_is(folder):
    said = words(client(folder).get("/").text)
    assert "SFT not begun" in said
    assert "PPO killed step 10 of 20. Its process ended without a word" in said
    own(folder, os.getpid())
    assert "PPO running step 10 of 20, about 20 s left" in words(client(folder).get("/").text)
    (folder / "ppo" / "summary.json").write_text("{}")
    assert "PPO finished step 10 of 10" in words(client(folder).get("/").text)


def test_scores_by_other_rewards_are_shown_where_there_are_any(folder):
    assert "other rewards" not in words(client(folder).get("/").text)
    sides = {"sft": {"score_mean": 12.0}, "policy": {"score_mean": 10.5}}
    entries = {HOSTILE: sides | {"meta": {"score_difference_ci95": [-2.25, -0.75]}}, "damaged": [1]}
    (folder / "other_rewards.json").write_text(json.dumps(entries))
    html = client(folder).get("/").text
    assert "<script>" not in html
    assert "12.00 10.50 −1.50 [−2.25, −0.75] damaged – – –" in words(html)


ENDINGS = {
    ("stopped", "SIGINT"): "PPO stopped step 10 of 20, by Ctrl-C. It can go on with --resume",
    ("stopped", "SIGTERM"): "PPO stopped step 10 of 20, by SIGTERM. It can go on with --resume",
    ("stopped", ""): "PPO stopped step 10 of 20. It can go on with --resume",
    ("failed", f"no <b>memory</b> {HOSTILE}"): "PPO failed step 10 of 20 no <b>memory</b> <script>alert(1)</script>",
}


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize(("ending", "said"), ENDINGS.items())
def test_the_overview_says_how_a_stage_ended(folder, ending, said, owned):
    """Also where the process lives on, as in a notebook."""
    if owned:
        own(folder, os.getpid())
    how, reason = ending
    before = client(folder).get("/").headers["etag"]
    (folder / "ended.json").write_text(json.dumps({"ppo": {"how": how, "reason": reason, "step": 10}}))
    page = client(folder).get("/", headers={"If-None-Match": before})
    assert said in words(page.text)
    assert "<b>" not in page.text


def test_a_stage_that_fails_before_its_first_step_has_failed(folder):
    (folder / "ended.json").write_text(json.dumps({"sft": {"how": "failed", "reason": "no room", "step": 0}}))
    assert "SFT failed no steps yet no room" in words(client(folder).get("/").text)


def test_an_evaluation_that_failed_is_an_error_on_the_overview(folder):
    ending = {"how": "failed", "reason": "other.py: no such file", "step": 0}
    (folder / "ended.json").write_text(json.dumps({"evaluation": ending}))
    assert "The evaluation failed: other.py: no such file" in words(client(folder).get("/").text)
    (folder / "ended.json").write_text(json.dumps({"evaluation": ending | {"how": "stopped", "reason": "SIGINT"}}))
    assert "evaluation failed" not in words(client(folder).get("/").text)


@pytest.mark.parametrize("stage", ["sft", "reward_model"])
def test_a_stage_whose_settings_have_no_number_of_steps_takes_it_from_its_log(tmp_path, stage):
    folder = run(tmp_path / "run", stage=stage)
    own(folder, os.getpid())
    write(folder / stage / "timing.jsonl", [{"step": 11, "seconds": 2.0, "total": 30}])
    assert "running step 10 of 30, about 40 s left" in words(client(folder).get("/").text)


def test_the_overview_has_findings_and_preflight_checks(folder):
    flat = [metrics(step, entropy=3.0 if step < 8 else 0.1, score=0.0) for step in range(11, 30)]
    write(folder / "ppo" / "metrics.jsonl", flat)
    said = words(client(folder).get("/").text)
    assert "1 of 2 checks passed" in said
    assert "✗ failed" in said
    assert "ntropy" in said.partition("What the figures show")[2].partition("Preflight")[0]


def test_curves_have_a_band_a_value_a_reading_and_words_for_screen_readers(folder):
    html = client(folder).get("/curves").text
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(figures) == 4
    kl = next(one for one in figures if ">KL" in one)
    assert '<rect class="band"' in kl
    assert 'aria-label="KL, steps 1 to 10: now 5, in its band (healthy: up to 15)"' in kl
    assert "The policy stays near the SFT model." in kl
    assert "aria-label" in figures[0]


def test_two_runs_are_overlaid_with_their_difference_at_the_latest_common_step(folder, tmp_path):
    other = run(tmp_path / "other", steps=4)
    html = client(folder, other).get("/curves").text
    assert 'class="line second"' in html
    assert "The other run: 2 at step 4, +0." in words(html)
    assert words(html).count("Dashed line: other") == 1
    assert "other" in words(client(folder, other).get("/tokens?iteration=3").text)


def test_tokens_have_every_figure_as_a_number(folder):
    said = words(client(folder).get("/tokens").text)
    assert "PPO, iteration 10" in said
    html = client(folder).get("/tokens?iteration=2&colour=kl").text
    assert "probability 0.607, kl 0.5, reward −0.05, value 0.2, advantage 1.5" in html
    assert "PPO, iteration 2" in words(html)


def test_without_a_critic_there_are_no_values(folder):
    row = tokens(11)
    del row["values"]
    write(folder / "ppo" / "tokens.jsonl", [row])
    assert client(folder).get("/tokens?colour=values").status_code == 200


def test_rollouts_are_filtered_sorted_searched_and_paged(folder):
    page = client(folder).get("/rollouts")
    assert "120 rollouts; iterations 1 to 10; page 1 of 3" in words(page.text)
    assert "12 rollouts" in words(client(folder).get("/rollouts?iteration=3").text)
    sorted_ = re.findall(r'data-label="Score">([^<]*)<', client(folder).get("/rollouts?sort=score").text)
    assert sorted_ == sorted(sorted_, key=float, reverse=True)
    assert "10 rollouts" in words(client(folder).get("/rollouts?text=RESPONSE%2011").text)
    assert "0 rollouts" in words(client(folder).get("/rollouts?text=nowhere").text)


@pytest.mark.parametrize("path", PATHS)
def test_hostile_text_is_shown_as_text(folder, path):
    write(folder / "ppo" / "rollouts.jsonl", [rollout(11, 0, prompt=HOSTILE, response=HOSTILE)])
    write(folder / "ppo" / "metrics.jsonl", [metrics(11) | {f"score.{HOSTILE}": 1.0, HOSTILE: 2.0}])
    html = client(folder).get(path + ("?iteration=11" if path == "/rollouts" else "")).text
    assert "<script>" not in html
    assert "<img" not in html
    assert "\u202e" not in html.partition("<main")[2]
    assert not re.findall(r"<[^>]*\s(?:style|on\w+)=", re.sub(r'"[^"]*"', '""', html))
    assert "\x1b" not in html


@pytest.mark.parametrize("path", PATHS)
def test_damaged_missing_and_half_written_files_leave_the_page_up(tmp_path, path):
    assert client(tmp_path / "nowhere").get(path).status_code == 200
    folder = run(tmp_path / "run")
    browser = client(folder)
    for name in ("metrics.jsonl", "rollouts.jsonl", "tokens.jsonl", "timing.jsonl"):
        file = folder / "ppo" / name
        write(file, [{"step": 11, "score": None, "kl": float("nan"), "seconds": float("inf")}, [1], 5, None])
        write(file, [{"step": True}, {"iteration": 11, "tokens": "x", "logprobs": [None, "a"], "score": {}}])
        with file.open("ab") as out:
            out.write(b'\xff\xfe\n{"step": 12, "sc')
    (folder / "doctor.json").write_text('{"ppo": [1, {"ok": 3}], "sft": 5')
    assert browser.get(path).status_code == 200
    assert "not complete yet" in words(browser.get("/").text)
    (folder / "config.toml").write_text("[[[")
    assert browser.get(path).status_code == 200
    shutil.rmtree(folder / "ppo")  # a run that begins again
    assert browser.get(path).status_code == 200
    shutil.rmtree(folder)
    assert browser.get(path).status_code == 200


def test_what_has_not_changed_is_not_sent_again(folder):
    browser = client(folder)
    tag = browser.get("/curves").headers["etag"]
    assert browser.get("/curves", headers={"If-None-Match": tag}).status_code == 304
    write(folder / "ppo" / "metrics.jsonl", [metrics(11)])
    assert browser.get("/curves", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/curves?stage=../secret", "/tokens?stage=/etc", "/rollouts?sort=iteration;", "/tokens?colour=x",
     "/../config.toml", "/ppo/metrics.jsonl", "/curves?stage=ppo/../ppo"],
)  # fmt: skip
def test_no_path_comes_from_a_client(folder, path):
    assert client(folder).get(path).status_code == 404


@pytest.mark.parametrize("value", ["-1", "x", "9" * 30, "²", ""])
def test_numbers_that_are_none_are_ignored(folder, value):
    for path in (f"/rollouts?page={value}&iteration={value}", f"/tokens?iteration={value}"):
        assert client(folder).get(path).status_code == 200


def test_rounds_of_a_loop_are_stages(folder):
    run(folder / "rounds" / "2")
    assert "round 2: PPO" in words(client(folder).get("/").text)
    assert "round 2: PPO" in client(folder).get("/curves?stage=rounds/2/ppo").text.partition("<h1>")[2]


# The door


@pytest.fixture
def closed(folder):
    app = guard(behind_door(make_app(folder), PAGES, "run", "the token", "cookie"))
    return TestClient(app, base_url=ADDRESS)


@pytest.mark.parametrize("path", PATHS)
def test_without_the_link_no_page_opens(closed, path):
    for asked in (path, f"{path}?token=", f"{path}?token=the%20tokem"):
        response = closed.get(asked)
        assert response.status_code == 403
        assert "PPO" not in response.text


def test_the_link_leads_to_a_clean_address_and_a_strict_cookie(closed):
    response = closed.get("/?token=the%20token", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert "HttpOnly" in response.headers["set-cookie"]
    assert "SameSite=strict" in response.headers["set-cookie"]
    closed.cookies.set("cookie", "the token")
    assert "PPO" in closed.get("/").text


def test_the_guard_is_around_it(closed):
    closed.cookies.set("cookie", "the token")
    assert closed.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert closed.post("/", headers={"Origin": "http://evil.example"}).status_code == 403
    assert "default-src 'self'" in closed.get("/").headers["content-security-policy"]
