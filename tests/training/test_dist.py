"""Several processes: shares of rows, and whole jobs under torchrun, which must give the figures of one process."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from plaudit.batches import Responses, Rollout, join_rollouts, select_rows
from plaudit.errors import RewardError, RunError
from plaudit.training import dist
from recipes import gpu_check
from tests import ranks
from tests.disturbed import Job


@pytest.mark.parametrize(("n", "size"), [(10, 4), (3, 4), (1, 2), (0, 2), (7, 1)])
def test_shares_are_all_rows_in_order_and_differ_by_one_at_most(n, size, monkeypatch):
    monkeypatch.setattr(dist, "size", lambda: size)
    shares = []
    for rank in range(size):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        shares.append(dist.rows(n))
    assert [row for share in shares for row in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_that_stays_alone_is_refused_and_writes_nothing(tmp_path, tiny_config):
    """Rank 0, to which nobody comes, and rank 1, which finds no rank 0: two jobs, at the same time."""
    code = (
        "import sys; from datetime import timedelta; from plaudit.training import meeting; "
        "from plaudit.cli import main; meeting.JOINING = timedelta(seconds=2); sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "run"
    words = ["sft", "--model", tiny_config.model, "--data", tiny_config.data.name, "--out", str(out)]
    started = []
    for rank, port in enumerate(("29541", "29542")):
        job = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", code, *words]
        started.append(subprocess.Popen(command, env=os.environ | job, stderr=subprocess.PIPE, text=True))
    for rank, process in enumerate(started):
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 1
        assert f"plaudit: rank {rank}: error: WORLD_SIZE is 2, but the processes of the job have not met" in error
        assert "frame #" not in error
        assert "Traceback" not in error
    assert not out.exists()


def test_one_process_exchanges_nothing():
    assert dist.size() == 1
    assert dist.gather(3) == [3]
    assert dist.each([1, 2], lambda x: 2 * x) == [2, 4]
    assert dist.on_main(lambda: 5) == dist.together(lambda: 5) == 5
    assert dist.added_figures({"loss": 1.0}) == {"loss": 1.0}


def test_figures_are_added_and_maxima_are_kept(monkeypatch):
    monkeypatch.setattr(
        dist, "gather", lambda value: [{"loss": 1.0, "ratio_max": 2.0}, {}, {"loss": 2.0, "ratio_max": 1.5}]
    )
    assert dist.added_figures({}) == {"loss": 3.0, "ratio_max": 2.0}


def test_gradients_in_bfloat16_are_added_in_float32(monkeypatch):
    """Sums of ones stay at 256 in bfloat16, whose next number is 258."""

    def others_add(tensor):
        for _ in range(299):
            tensor += 1

    monkeypatch.setattr(torch.distributed, "all_reduce", others_add)
    gradients = [torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(5, dtype=torch.bfloat16)]
    dist._add(gradients)
    for gradient, shape in zip(gradients, ((2, 3), (5,)), strict=True):
        torch.testing.assert_close(gradient, torch.full(shape, 300, dtype=torch.bfloat16), rtol=0, atol=0)


@pytest.fixture
def second_of_two(monkeypatch):
    """A function that makes this process rank 1 of 2, whose rank 0 sends a value."""

    def make(sent):
        monkeypatch.setattr(dist, "size", lambda: 2)
        monkeypatch.setattr(dist, "rank", lambda: 1)
        monkeypatch.setattr(dist, "gather", lambda own: [sent, own])

    return make


def fails(error):
    def call():
        raise error

    return call


def test_all_ranks_raise_the_error_of_the_first_that_failed(second_of_two):
    second_of_two(RewardError("no score"))
    with pytest.raises(RewardError, match="no score"):
        dist.together(fails(ValueError("odd")))
    with pytest.raises(RewardError, match="no score"):
        dist.together(lambda: 3)
    second_of_two(None)
    with pytest.raises(ValueError, match="odd"):
        dist.together(fails(ValueError("odd")))


def test_with_a_sharded_model_an_error_ends_its_rank_at_once(second_of_two, monkeypatch):
    """The others may be within the model, where they wait for this rank; they meet only after a reward's error."""
    second_of_two(RunError("of rank 0"))
    monkeypatch.setattr("plaudit.models.sharding.any_sharded", lambda: True)
    with pytest.raises(MemoryError):
        dist.together(fails(MemoryError()))
    with pytest.raises(RunError, match="of rank 0"):
        dist.together(fails(RewardError("no score")))


def test_joined_rollouts_have_the_rows_of_each_with_more_padding():
    def part(rows, prompt, width, value):
        mask = torch.ones(rows, width, dtype=torch.bool)
        ids = torch.full((rows, prompt + width), value)
        responses = Responses(ids, torch.ones_like(ids, dtype=torch.bool), mask, torch.ones(rows, dtype=torch.bool))
        numbers = [torch.full((rows, width), float(value))] * 5
        return Rollout(responses, *numbers, torch.full((rows,), 1.0 * value), torch.full((rows,), 2.0 * value))

    joined = join_rollouts([part(2, 3, 2, 7), part(1, 1, 4, 8)], pad_id=0)
    assert joined.responses.ids.tolist() == [[7, 7, 7, 7, 7, 0, 0]] * 2 + [[0, 0, 8, 8, 8, 8, 8]]
    assert joined.responses.attention_mask.tolist() == (joined.responses.ids > 0).tolist()
    assert joined.responses.response_mask.sum(1).tolist() == [2, 2, 4]
    assert joined.responses.prompts() == [[7, 7, 7], [7, 7, 7], [8]]
    assert joined.logprobs.tolist() == [[7, 7, 0, 0]] * 2 + [[8, 8, 8, 8]]
    assert joined.scores.tolist() == [14, 14, 16]
    assert select_rows(joined, torch.tensor([2])).raw_scores.tolist() == [8]


LOGS_ITS_RANK = """
import os
from pathlib import Path

def note(responses):
    with Path(__file__).with_suffix("." + os.environ["RANK"]).open("a") as file:
        file.write(f"{len(responses)}\\n")

def score(prompts, responses):
    note(responses)
    return [float(len(text)) for text in responses]

def judge(responses):
    note(responses)
    return [0.25 for text in responses]
"""


def test_judge_and_trials_of_the_reward_are_asked_on_one_rank(tmp_path):
    job = Job(tmp_path)
    job.reward.write_text(LOGS_ITS_RANK)
    other = tmp_path / "judge.py"
    other.write_text(LOGS_ITS_RANK)
    done = job.run(2, "run", "--judge", f"{other}:judge")
    assert done.code == 0, done.said

    def asked(of, rank):
        path = of.with_suffix(f".{rank}")
        return list(map(int, path.read_text().split())) if path.exists() else []

    assert asked(other, 1) == []
    assert len(asked(other, 0)) > 2
    # 256 responses of the reference, 6 iterations of 10, and 6 held-out prompts: for figures and to show, twice each.
    shares = [128, *[5] * 6, 3, 3, 3, 3]
    assert asked(job.reward, 1) == shares
    trials = asked(job.reward, 0)[: -len(shares)]
    assert asked(job.reward, 0)[len(trials) :] == shares
    assert trials == [8, 16]  # texts of the data, and the responses of the preflight checks


JOBS = {"2, DDP": (2, "none"), "2, FSDP2": (2, "full"), "4, DDP": (4, "none"), "4, FSDP2": (4, "full")}
AGAIN = ("2, FSDP2", "2, DDP")  # made once more, by other processes and in another order


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The run directories of every algorithm on 1, 2 and 4 processes, some with frozen layers and some with LoRA.

    The same processes do both jobs of a size, because most of the time of a job goes into starting them.
    """
    folder = tmp_path_factory.mktemp("ranks")
    inputs, one = ranks.make_inputs(folder), folder / "run 1"
    ranks.train(1, inputs, {one: ranks.MIXED})
    made = {"1": one} | {name: folder / f"run {name}" for name in (*JOBS, *(f"{name}, again" for name in AGAIN))}

    def train(names):
        suffix = ", again" if names is AGAIN else ""
        settings = {made[name + suffix]: (*ranks.MIXED, f"sharding={JOBS[name][1]}") for name in names}
        ranks.train(JOBS[names[0]][0], inputs, settings, start=one)

    with ThreadPoolExecutor(2) as pool:  # while a rank waits for another one, the other jobs compute
        list(pool.map(train, (("4, DDP", "4, FSDP2"), ("2, DDP", "2, FSDP2"), AGAIN)))
    return made


@pytest.mark.parametrize("job", JOBS)
def test_every_algorithm_gives_the_figures_of_one_process(jobs, job):
    found = ranks.compared(jobs["1"], jobs[job])
    assert {stage: each for stage, each in found.items() if not each.ok} == {}
    assert found["ppo"].responses == found["grpo"].responses == 40
    assert not ranks.evaluation_differs(jobs["1"], jobs[job])
    shares = [*(jobs[job] / "ppo" / "checkpoints").glob("*/shard-*")]
    assert len(shares) == (2 * JOBS[job][0] if "FSDP2" in job else 0)


@pytest.mark.parametrize("job", AGAIN)
def test_a_job_that_is_repeated_gives_the_same_bits(jobs, job):
    again = jobs[f"{job}, again"]
    assert ranks.not_repeated(jobs[job], again) == []
    found = ranks.compared(jobs[job], again).values()
    assert {(each.of_figures, each.of_weights, each.others) for each in found} == {(0.0, 0.0, 0)}
    assert {name for name in ranks.FILES if not [*again.rglob(name)]} == set()  # all of them are compared


def test_a_difference_is_seen(jobs, tmp_path):
    """In one bit, and where an algorithm has made too few updates."""
    folder = jobs["1"] / "grpo"
    for name in ("metrics.jsonl", "rollouts.jsonl", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    assert ranks.difference(folder, tmp_path).ok
    log = tmp_path / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    values = json.loads(lines[-1])
    log.write_text("".join(lines[:-1]) + json.dumps(values | {"loss": values["loss"] + 2e-5}) + "\n")
    assert not ranks.difference(folder, tmp_path).ok
    few = [json.dumps(json.loads(line) | {"optimizer_steps": 1}) + "\n" for line in lines]
    log.write_text("".join(few))
    assert not ranks.difference(tmp_path, tmp_path).ok


def test_a_file_that_is_not_repeated_is_named(tmp_path):
    for run, digit, files in (("job", 1, 2), ("again", 2, 1)):
        (tmp_path / run / "ppo").mkdir(parents=True)
        for name in ranks.LOGS[:files]:
            (tmp_path / run / "ppo" / name).write_text(f'{{"loss": 0.30000000000000{digit}}}\n')
        (tmp_path / run / "evaluation.json").write_text(f'{{"wall_seconds": {{"ppo": {digit}}}}}')
    assert ranks.not_repeated(tmp_path / "job", tmp_path / "again") == ["ppo: metrics.jsonl", "ppo: rollouts.jsonl"]


def test_the_check_of_a_gpu_compares_such_jobs(jobs, tmp_path, monkeypatch):
    """With the jobs that are here, in place of its own."""

    def train(processes, inputs, asked, start=None):
        ((out, settings),) = asked.items()
        strategy = "FSDP2" if "sharding=full" in settings else "DDP"
        assert {*ranks.MIXED, "device=cpu"} <= {*settings}
        shutil.copytree(jobs["1" if processes == 1 else f"{processes}, {strategy}"], out)
        if processes == 4 and strategy == "FSDP2":
            raise RuntimeError("odd")

    monkeypatch.setattr(ranks, "train", train)
    options = gpu_check.parsed(["--device", "cpu", "--out", str(tmp_path), "--ranks", "2"])
    found = gpu_check.ranks(options)
    assert {*found} == {f"{stage}, {name}" for stage in (*ranks.STAGES, "evaluation") for name in ("DDP", "FSDP2")}
    assert {entry["ok"] for entry in found.values()} == {True}
    options.ranks = 4
    found = gpu_check.ranks(options)
    assert [name for name, entry in found.items() if not entry["ok"]] == ["FSDP2"]
    options.seconds = 0.0
    assert gpu_check.ranks(options)["DDP"] == {"error": gpu_check.NO_TIME, "ok": True}
