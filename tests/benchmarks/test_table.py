import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from benchmarks import __main__ as bench
from benchmarks.__main__ import run, stages, trainers
from benchmarks.options import common, parser
from benchmarks.table import render

GIB = 2**30
RESULTS = {
    "machine": {
        "cpu": "A CPU", "gpu": None, "device": "cpu", "threads": 2, "torch": "2.13.0",
        "python": "3.11.9", "shapes": {"square": [2048, 2048, 2048], "skinny": [64, 768, 3072]},
        "flops": {"square": {"float32": 2.5e11, "bfloat16": 5e10}, "skinny": {"float32": 1e11, "bfloat16": 2e10}},
        "copy": 1.23e10,
    },
    "contenders": [
        {"name": "plaudit", "ours": True, "seconds": [9.0, 10.0, 30.0], "generation": 1.0, "scoring": 2.0,
         "training": 7.0, "tokens": 320, "peak_memory": 3 * GIB, "settings": {"prompts": 32, "trains": "all"}},
        {"name": "TRL", "ours": False, "seconds": [40.0, 42.0, 41.0], "generation": 5.0, "scoring": 6.0,
         "training": 30.0, "tokens": 320, "peak_memory": 6 * GIB, "settings": {"prompts": 32, "trains": "twice"}},
        {"name": "plain", "ours": False, "error": "failed: a|b"},
    ],
    "stages": {"sft": 60.0, "ppo": 100.25},
}  # fmt: skip


def test_the_table_of_these_numbers():
    assert render(RESULTS) == (
        "| name | seconds an update | generation / scoring / training | tokens/s | peak memory | time vs plaudit "
        "| plaudit's memory vs this |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| plaudit | 10.00 (9.00-30.00) | 1.00 / 2.00 / 7.00 | 32.0 | 3.00 GiB | 1.00 | 100% |\n"
        "| TRL | 41.00 (40.00-42.00) | 5.00 / 6.00 / 30.00 | 7.8 | 6.00 GiB | 4.10 | 50% |\n"
        "| plain | failed: a\\|b |  |  |  |  |  |\n"
        "\n"
        "`plaudit run` with the built-in model and data:\n"
        "\n"
        "| stage | seconds |\n"
        "| --- | --- |\n"
        "| sft | 60.0 |\n"
        "| ppo | 100.2 |\n"
        "| all | 160.2 |\n"
        "\n"
        "A CPU, threads 2, torch 2.13.0, Python 3.11.9:\n"
        "\n"
        "| peak | measured |\n"
        "| --- | --- |\n"
        "| matrix product 2048 x 2048 x 2048, float32 | 250 GFLOP/s |\n"
        "| matrix product 2048 x 2048 x 2048, bfloat16 | 50 GFLOP/s |\n"
        "| matrix product 64 x 768 x 3072, float32 | 100 GFLOP/s |\n"
        "| matrix product 64 x 768 x 3072, bfloat16 | 20 GFLOP/s |\n"
        "| copy, read and written | 12.3 GB/s |\n"
        "\n"
        "Medians of 3 updates (fastest-slowest) after a warm-up; memory is the peak of the process.\n"
        "\n"
        "- all: prompts 32\n"
        "- plaudit: trains all\n"
        "- TRL: trains twice\n"
    )


def test_without_plaudit_there_is_no_comparison():
    results = copy.deepcopy(RESULTS)
    results["contenders"][0] = {"name": "plaudit", "ours": True, "error": "failed"}
    results["stages"] = None
    assert "| TRL | 41.00 (40.00-42.00) | 5.00 / 6.00 / 30.00 | 7.8 | 6.00 GiB |  |  |" in render(results)


def test_errors_of_all_contenders_are_shown():
    nothing = {"contenders": [{"name": "x", "error": "no"}], "machine": {"error": "no"}, "stages": {"error": "no"}}
    assert "| x | no |" in render(nothing)


def trainer(name, seconds, tokens, peak_memory):
    return {"name": name, "seconds": seconds, "tokens": tokens, "peak_memory": peak_memory,
            "settings": {"size": "gpt2", "optimizer": name}}  # fmt: skip


def test_trainers_are_compared_by_tokens_and_medians_over_rounds():
    comparisons = [
        {
            "name": "SFT", "goal": 4,
            "plaudit": [trainer("plaudit", [1.0, 3.0], [100, 300], 3 * GIB), {"error": "no"},
                        trainer("plaudit", [2.0, 2.0], [300, 300], 3 * GIB)],
            "trl": [trainer("TRL", [2.0, 2.0], [100, 100], 4 * GIB), trainer("TRL", [4.0, 1.0], [100, 150], 6 * GIB),
                    trainer("TRL", [1.0, 1.0], [100, 100], 5 * GIB)],
        },
        {"name": "DPO", "goal": 5, "plaudit": [trainer("plaudit", [1.0], [1], GIB)], "trl": [{"error": "a|b"}]},
    ]  # fmt: skip
    text = render(RESULTS | {"trainers": comparisons})
    # plaudit: 100 and 150 tokens a second; TRL: 50, 50 and 100
    assert "| SFT | 125 (100-150) | 50 (50-100) | 2.5 | 4 | 3.00 GiB | 5.00 GiB | 60% | 60% |" in text
    assert "| DPO | trl: a\\|b |  |  |  |  |  |  |  |" in text
    assert "Rounds: 3," in text
    assert "- all: size gpt2\n- SFT, plaudit: optimizer plaudit\n- SFT, TRL: optimizer TRL\n- DPO, plaudit:" in text
    assert "TRL's newest" not in render(RESULTS)


def test_trainers_take_turns_and_trl_runs_once_a_round_for_one_task(tmp_path, monkeypatch):
    ran = []

    def program(name, command, log):
        ran.append((name, command[2], command[command.index("--task") + 1], "--train-layers" in command))
        return {"number": len(ran)}

    monkeypatch.setattr(bench, "run", program)
    options = parser("").parse_args([])
    options.only, options.rounds, options.steps, options.trainer_updates = ["GRPO", "packed"], 2, 3, 1
    options.clock, options.trl_new_python = "cpu", "python"
    found = trainers(options, tmp_path)
    assert [each["name"] for each in found] == ["SFT, packed", "GRPO", "GRPO, top 2 layers"]
    once = [
        ("SFT, packed, TRL", "benchmarks.trl_trainers", "sft-packed", False),
        ("SFT, packed, plaudit", "benchmarks.our_trainers", "sft-packed", False),
        ("GRPO, TRL", "benchmarks.trl_trainers", "grpo", False),
        ("GRPO, plaudit", "benchmarks.our_trainers", "grpo", False),
        ("GRPO, top 2 layers, plaudit", "benchmarks.our_trainers", "grpo", True),
    ]
    assert ran == [(f"{name}, round {number}", *rest) for number in (1, 2) for name, *rest in once]
    assert [[r["number"] for r in each["trl"]] for each in found] == [[1, 6], [3, 8], [3, 8]]
    assert [[r["number"] for r in each["plaudit"]] for each in found] == [[2, 7], [4, 9], [5, 10]]


def test_a_gpu_is_named_and_its_memory_is_shown():
    results = copy.deepcopy(RESULTS)
    results["machine"] |= {"gpu": "A GPU", "device": "cuda"}
    for contender in results["contenders"][:2]:
        contender["peak_gpu_memory"] = GIB
    text = render(results)
    assert "| 1.00 GiB | 4.10 | 100% |" in text
    assert "A GPU, threads 2" in text
    assert "peak GPU memory" in text


def test_a_contender_that_is_missing_or_fails_leaves_its_error(tmp_path, capsys):
    log = tmp_path / "log"
    assert run("x", ["no-such-python"], log) == {"error": "not run: no-such-python: No such file or directory"}
    failing = [sys.executable, "-c", "raise SystemExit('no data')"]
    assert run("x", failing, log) == {"error": "failed, exit status 1: no data"}
    chatty = [sys.executable, "-c", "print('hello'); print('{\"a\": 1}')"]
    assert run("x", chatty, log) == {"a": 1}
    assert capsys.readouterr().err == "x ...\n" * 3


def test_the_stages_are_those_of_a_fresh_run(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()

    def plaudit(command, **_):
        out = Path(command[command.index("--out") + 1])
        assert not out.exists()
        out.mkdir()
        (out / "evaluation.json").write_text('{"meta": {"wall_seconds": {"sft": 1.5}}}', encoding="utf-8")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", plaudit)
    options = SimpleNamespace(device="cpu")
    assert stages(options, tmp_path) == {"sft": 1.5}
    monkeypatch.setattr(subprocess, "run", lambda command, **_: SimpleNamespace(returncode=2))
    assert stages(options, tmp_path)["error"].startswith("failed, exit status 2")


def test_common_options_reach_the_contenders():
    options = parser("").parse_args(["--size", "tiny", "--updates", "2", "--dtype", "bfloat16"])
    assert parser("").parse_args(common(options)) == options
