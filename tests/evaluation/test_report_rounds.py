"""The rounds of `plaudit loop` on the page of a run directory."""

import re

import pytest
from evaluation.test_report import make_config, missing_files, write_object

from plaudit.evaluation.report import LOOP, write_report
from plaudit.evaluation.report.rounds import HEADS, best_rule, cells, verdict

FIRST = {
    "number": 1, "votes": 120, "accuracy": 0.611, "accuracy_ci95": [0.52, 0.69],
    "trivial_rules": {"longer": 0.55, "first": 0.48}, "agreement": 0.77, "win_rate": None, "win_rate_ci95": None,
    "compared": 0,
}  # fmt: skip
SECOND = FIRST | {
    "number": 2, "votes": 240, "win_rate": 0.66, "win_rate_ci95": [0.53, 0.77], "compared": 41, "accuracy": 0.7,
}  # fmt: skip


def page_of(folder, *rounds):
    make_config(folder)
    write_object(folder / "sft/summary.json", {"perplexity": 40.0})
    write_object(folder / LOOP, {"rounds": list(rounds)})
    return write_report(folder).read_text(encoding="utf-8")


def rows_of(page):
    section = page.partition("<h2>Rounds</h2>")[2].partition("</section>")[0]
    return [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*?)</tr>", section)], section


def test_each_round_is_a_row_and_a_point(tmp_path):
    rows, section = rows_of(page_of(tmp_path, FIRST, SECOND))
    percent = "\N{NO-BREAK SPACE}%"
    assert rows[0][:2] == ["1", "120"]
    assert rows[0][5:] == ["–", "0", "–"]
    assert rows[1] == [
        *("2", "240", f"70{percent} [52{percent}, 69{percent}]", f"77{percent}", f"55{percent} (longer)"),
        *("policy 1 with the SFT model", "41", f"66{percent} [53{percent}, 77{percent}]"),
    ]
    assert all(len(row) == len(HEADS) for row in rows)
    assert section.count("<svg") == 1
    assert "best rule" in section
    assert "people" in section


def test_policies_of_a_loop_are_not_missed_in_its_own_folder(tmp_path):
    page = page_of(tmp_path, FIRST, SECOND)
    assert "ppo" not in missing_files(page)
    assert "has no results yet" not in page


def test_without_a_loop_there_is_no_section(tmp_path):
    make_config(tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<h2>Rounds</h2>" not in page
    assert "has no results yet" in page


@pytest.mark.parametrize(
    ("ends", "expected"),
    [([0.53, 0.77], "preferred"), ([0.2, 0.45], "did not prefer"), ([0.4, 0.7], "did not clearly prefer")],
)
def test_the_sentence_follows_the_interval(ends, expected):
    found = verdict([FIRST, SECOND | {"win_rate_ci95": ends}])
    assert found.startswith(f"People {expected} policy 1 to the SFT model: 66")
    third = SECOND | {"number": 3, "win_rate_ci95": ends}
    assert f"People {expected} policy 2 to policy 1: " in verdict([FIRST, SECOND, third])


def test_one_round_compares_nothing_yet():
    assert verdict([FIRST]) == "1 round of votes; the next round compares its policy with the SFT model."


@pytest.mark.parametrize("missing", sorted(FIRST))
def test_a_figure_that_is_missing_or_of_another_kind_is_a_dash(tmp_path, missing):
    for value in (None, "<b>", [1], {"x": "y"}):
        broken = SECOND | {missing: value}
        assert len(cells(broken)) == len(HEADS)
        best_rule(broken)
        page = page_of(tmp_path, FIRST, broken)
        assert "<h2>Rounds</h2>" in page
        assert "<b>" not in rows_of(page)[1]
