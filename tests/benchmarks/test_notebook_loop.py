import json
import math

import pytest
import torch
from torch import nn

from benchmarks import notebook_loop
from benchmarks.contender import WARM_UP, Stopwatch, start


@pytest.fixture
def loaded(tmp_path):
    """The loop at tiny size, ready to run: (run, work)."""
    return load(tmp_path)


def load(folder):
    options, work = start("", ["--size", "tiny", "--device", "cpu", "--data", "nowhere", "--work", str(folder)])
    torch.manual_seed(0)
    return notebook_loop.load(work, options), work


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Responses of the untrained policy; made once, because generation takes most of the time."""
    run, work = load(tmp_path_factory.mktemp("models"))
    return notebook_loop.generate(run, work)


def test_responses_have_their_lengths_and_continue_their_prompts(loaded, texts):
    _, work = loaded
    for text, prompt, length in zip(texts, work.prompts, work.lengths, strict=True):
        assert tuple(text[: len(prompt)].tolist()) == prompt
        assert len(text) == len(prompt) + length


def test_an_update_is_32_optimizer_steps_with_finite_losses(loaded, texts):
    run, work = loaded
    before = [p.clone() for p in run.policy.parameters()]
    losses = notebook_loop.update(run, work, notebook_loop.score(run, work, texts))
    assert len(losses) == work.optimizer_steps == 32
    assert all(map(math.isfinite, losses))
    assert {int(state["step"]) for state in run.optimizer.state.values()} == {32}
    assert len(run.optimizer.state) == len(before)
    assert all((p != q).any() for p, q in zip(run.policy.parameters(), before, strict=True))
    same = zip(run.reference.parameters(), before, strict=False)
    assert all(torch.equal(p, q) for p, q in same)


def test_only_response_tokens_are_scored(loaded, texts):
    run, work = loaded
    batch = notebook_loop.score(run, work, texts)
    assert batch.mask.sum(1).tolist() == list(work.lengths)
    assert batch.advantages[batch.mask].mean().abs() < 1e-6
    for name in ("values", "advantages"):
        assert (getattr(batch, name)[~batch.mask] == 0).all()


def test_returns_without_kl_are_the_score_of_the_response(loaded, texts):
    """With lam = 1 and no KL (policy = reference) the return of every token is the response's score."""
    run, work = loaded
    work = type(work)(**{**vars(work), "lam": 1.0})
    nn.init.normal_(run.policy.value_head.weight)
    batch = notebook_loop.score(run, work, texts)
    for row, text in enumerate(texts):
        alone = run.reward_model(input_ids=text[None]).logits.squeeze()
        returns = batch.returns[row][batch.mask[row]]
        torch.testing.assert_close(returns, alone.expand_as(returns), rtol=1e-4, atol=1e-5)


def test_the_record_is_one_json_line(tmp_path, capsys):
    notebook_loop.main(
        ["--size", "tiny", "--device", "cpu", "--work", str(tmp_path), "--updates", "2", "--prompts", "6",
         "--epochs", "1"]
    )  # fmt: skip
    lines = capsys.readouterr().out.strip().splitlines()
    record = json.loads(lines[-1])
    assert record["name"] == notebook_loop.NAME
    assert len(record["seconds"]) == 2
    assert record["tokens"] == record["settings"]["response_tokens"] > 0
    assert record["settings"]["optimizer_steps"] == 2  # four and two responses
    assert 1e7 < record["peak_memory"] < 1e12
    assert 0 < record["generation"] + record["training"] <= 2 * max(record["seconds"])


def test_the_stopwatch_counts_each_second_in_one_phase():
    watch = Stopwatch(torch.device("cpu"))
    times = iter([0.0, 2.0, 5.0, 6.0, 10.0, 11.0])
    watch._now = lambda: next(times)
    watch.start()
    for phase in ("generation", "training", "generation"):
        watch.lap(phase)
    watch.start()
    watch.lap("scoring")
    assert watch.updates == [{"generation": 3.0, "training": 3.0}, {"scoring": 1.0}]
    assert WARM_UP == 1
