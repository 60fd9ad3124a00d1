import json
import subprocess
import sys
from pathlib import Path

from plaudit.config import POLICIES
from recipes import gpu_check
from tests.tiny import labelled_texts

ROOT = Path(gpu_check.__file__).parents[1]


def test_all_of_it_at_tiny_size(tmp_path, monkeypatch, capsys):
    """Everything but the benchmark's rows, which have tests of their own; one of them is enough here."""
    monkeypatch.setattr(gpu_check, "BENCHMARK", {"grpo": gpu_check.BENCHMARK["grpo"]})
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
    assert results["equality"]["found"].keys() == gpu_check.LIMITS.keys()
    exact = results["equality"]["found"]["float32"]
    assert exact["equal_responses"] == exact["responses"] == 32
    assert 0 < exact["logprobs"] < results["equality"]["found"]["bfloat16"]["logprobs"]
    assert list(results["algorithms"]["found"]) == ["sft", "reward_model", *POLICIES, "evaluation"]
    assert results["benchmark"]["grpo"]["found"]["tokens"] == [480]
    for name in (*POLICIES, "grpo |", "evaluation", "minutes: "):
        assert name in printed


def test_what_is_wrong_or_late_is_named(tmp_path):
    late = gpu_check.part([sys.executable, "-c", "import time; print('{\"a\": 1}', flush=True); time.sleep(9)"],
                          tmp_path / "log", 1.0)  # fmt: skip
    assert (late["found"], late["error"]) == ({"a": 1}, "not finished after 1 s")
    bad = gpu_check.part([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", 60)
    assert bad["error"] == f"exit status 3; see {tmp_path / 'log'}"
    entry = {"ok": True, "steps": 1, "seconds": 1.0, "finite": True, "error": "", "peak_memory": 2**30}
    results = {"equality": {"found": {}, "error": ""}, "algorithms": {"found": {"ppo": entry}, "error": "not finished"}}
    assert not gpu_check.failed(results)
    assert not gpu_check.failed(results | {"benchmark": {"sft": {"found": {}, "error": gpu_check.NO_TIME}}})
    assert gpu_check.failed(results | {"benchmark": {"sft": bad}})
    results["algorithms"]["found"]["ppo"] = entry | {"ok": False, "error": "ValueError: odd"}
    assert gpu_check.failed(results)
    assert "| ppo | 1 | 1.0 | 1.00 GiB | ValueError: odd |" in gpu_check.tables(results)
    none = subprocess.run(
        [sys.executable, "-m", "recipes.gpu_check", "--help"], cwd=ROOT, check=True, capture_output=True
    )
    assert b"--minutes" in none.stdout
