import sys

from plaudit.training.metrics import read_jsonl
from recipes import seen_prompts


def test_each_policy_learns_from_its_own_prompts_alone_and_is_measured_on_them(
    finished_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(seen_prompts, "SETS", {"1": [0], "2": [1, 2]})
    monkeypatch.setattr(seen_prompts, "ROWS", 8)
    words = ["seen_prompts.py", str(finished_run), "--out", str(tmp_path), "--draws", "4", "--set", "ppo.kl_coef=0.1"]
    monkeypatch.setattr(sys, "argv", words)
    seen_prompts.main()
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[2:]]
    names = [name for name in ("1", "2", "all") for _ in ("its own", "held-out")]
    assert [row[0] for row in rows] == names
    assert [row[2] for row in rows] == ["its own", "held-out"] * 3
    asked = [
        {line["prompt"] for line in read_jsonl(tmp_path / f"{name}-ppo.kl_coef=0.1" / "ppo" / "rollouts.jsonl")}
        for name in "12"
    ]
    assert [len(prompts) for prompts in asked] == [1, 2]
    assert not asked[0] & asked[1]
    seen_prompts.main()  # continues: nothing is trained or measured again
    assert capsys.readouterr().out == printed


def test_the_choices_of_best_of_n_are_taught_on_the_prompts_asked_for(finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seen_prompts, "SETS", {"2": [1, 2]})
    monkeypatch.setattr(seen_prompts, "ROWS", 8)
    settings = ["--set", "best_of_n.responses=16", "--set", "best_of_n.group_size=4"]
    words = ["seen_prompts.py", str(finished_run), "--out", str(tmp_path), "--prompts", "2", "--draws", "4", *settings]
    monkeypatch.setattr(sys, "argv", words)
    seen_prompts.main()
    assert len(capsys.readouterr().out.splitlines()) == 4
    (drawn,) = tmp_path.glob("2-*/best_of_n/drawn.jsonl")
    lines = read_jsonl(drawn)
    assert len(lines) == 16
    assert len({line["prompt"] for line in lines}) == 2
