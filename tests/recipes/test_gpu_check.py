import json
import subprocess
import sys
from pathlib import Path

from benchmarks.options import RANDOM
from plaudit.config import POLICIES
from recipes import gpu_check
from recipes.gpu_section import section
from tests.tiny import labelled_texts

ROOT = Path(gpu_check.__file__).parents[1]
ENTRY = {"ok": True, "steps": 1, "seconds": 1.0, "finite": True, "error": "", "peak_memory": 2**30}


def results_of(**parts):
    """What gpu.json has, with these parts and no others."""
    none = {"found": {}, "error": ""}
    return {"machine": none, "equality": none, "algorithms": none, "updates": [], "trainers": []} | parts


def test_all_of_it_at_tiny_size(tmp_path, monkeypatch, capsys):
    """Everything but the benchmark's rows, which have tests of their own, and jobs of several processes.

    Two of the rows are enough here; test_dist.py has such jobs.
    """
    rows = gpu_check.plans("tiny")
    some = {"updates": {"plaudit": rows["updates"]["plaudit"]}, "trainers": {"grpo": rows["trainers"]["grpo"]}}
    monkeypatch.setattr(gpu_check, "plans", lambda size: some)
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.tsv").write_text(labelled_texts(30), encoding="utf-8")
    out = tmp_path / "gpu"
    code = gpu_check.main(
        ["--size", "tiny", "--device", "cpu", "--minutes", "5", "--out", str(out), "--texts", str(data)]
    )
    printed = capsys.readouterr().out
    results = json.loads((out / "gpu.json").read_text())
    assert code == 0, printed
    assert results["machine"]["found"]["gpus"] == 0
    assert results["equality"]["found"].keys() == gpu_check.LIMITS.keys()
    exact = results["equality"]["found"]["float32"]
    assert exact["equal_responses"] == exact["responses"] == 32
    assert 0 < exact["logprobs"] < results["equality"]["found"]["bfloat16"]["logprobs"]
    assert list(results["algorithms"]["found"]) == ["sft", "reward_model", *POLICIES, "evaluation"]
    assert [row["tokens"] for row in results["trainers"]] == [[480]]
    text = (out / "gpu.md").read_text()
    assert printed.startswith(text)
    assert "minutes: " in printed
    assert "## On a GPU\n\n" in text
    assert "GPUs: 0; CUDA None; plaudit " in text
    assert "| matrix product 64 x 64 x 64, float32 |" in text
    for name in (*gpu_check.LIMITS, *POLICIES, "evaluation", "plaudit", "grpo"):
        assert f"\n| {name} | " in text, name
    assert "several processes were not run" in text
    assert "its texts are random token ids" in text


def test_without_the_folder_of_data_there_are_random_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path / "clone")
    assert gpu_check.parsed([]).data == gpu_check.parsed(["--data", "random"]).data == RANDOM
    assert gpu_check.parsed(["--data", "mine"]).data == Path("mine").absolute()
    for name in gpu_check.DATA_FILES:
        (tmp_path / "shared" / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shared" / "data" / name).touch()
    (tmp_path / "clone").mkdir()
    assert gpu_check.parsed([]).data.samefile(tmp_path / "shared" / "data")


def test_what_is_wrong_or_late_is_named(tmp_path):
    late = gpu_check.part([sys.executable, "-c", "import time; print('{\"a\": 1}', flush=True); time.sleep(9)"],
                          tmp_path / "log", 1.0)  # fmt: skip
    assert (late["found"], late["error"]) == ({"a": 1}, "not finished after 1 s")
    bad = gpu_check.part([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", 60)
    assert bad["error"] == f"exit status 3; see {tmp_path / 'log'}"
    results = results_of(algorithms={"found": {"ppo": ENTRY}, "error": "not finished"})
    assert not gpu_check.failed(results)
    assert not gpu_check.failed(results | {"trainers": [{"name": "sft", "error": gpu_check.NO_TIME}]})
    assert gpu_check.failed(results | {"trainers": [{"name": "sft", "error": bad["error"]}]})
    assert gpu_check.failed(results | {"machine": bad})
    wrong = results_of(algorithms={"found": {"ppo": ENTRY | {"ok": False, "error": "ValueError: odd"}}, "error": ""})
    assert gpu_check.failed(wrong)
    assert "| ppo | 1 | 1.0 | 1.00 GiB | ValueError: odd |" in section(wrong, "tiny size", "none", 0)
    none = subprocess.run(
        [sys.executable, "-m", "recipes.gpu_check", "--help"], cwd=ROOT, check=True, capture_output=True
    )
    assert b"--minutes" in none.stdout


def test_what_a_part_has_started_ends_with_it(tmp_path):
    code = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print('{\"p\": %d}' % p.pid, flush=True)"
    found = gpu_check.part([sys.executable, "-c", f"{code}; time.sleep(60)"], tmp_path / "log", 3.0)
    assert found["error"] == "not finished after 3 s"
    assert found["seconds"] < 30
    state = Path(f"/proc/{found['found']['p']}/stat")
    assert not state.exists() or state.read_text().split()[2] in "ZX"


def test_late_rows_are_not_started(tmp_path):
    rows = gpu_check.benchmark({"plaudit": ["nothing"], "notebook-style loop": ["nothing"]}, [], tmp_path, until=0.0)
    assert rows == [
        {"name": "plaudit", "ours": True, "error": gpu_check.NO_TIME},
        {"name": "notebook-style loop", "ours": False, "error": gpu_check.NO_TIME},
    ]


def test_jobs_of_several_processes_have_rows():
    gap = {"figure": "loss", "of_figures": 2e-6, "of_weights": 1e-4, "responses": 40, "others": 0, "updates": 8}
    found = {"ppo, DDP": gap | {"ok": True}, "dpo, DDP": gap | {"ok": False}, "FSDP2": {"ok": False, "error": "failed"}}
    text = section(results_of(ranks={"found": found, "error": "not finished after 9 s"}), "tiny size", "none", 4)
    assert "| 4 processes beside one, float32 | updates |" in text
    assert "| ppo, DDP | 8 | 2.0e-06 (loss) | 1.0e-04 | 0 of 40 | ok |" in text
    assert "| dpo, DDP | 8 | 2.0e-06 (loss) | 1.0e-04 | 0 of 40 | WRONG |" in text
    assert "| FSDP2 |  |  |  |  | failed |" in text
    assert "ranks: not finished after 9 s" in text
    assert gpu_check.failed(results_of(ranks={"found": found, "error": ""}))
