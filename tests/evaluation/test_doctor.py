import dataclasses
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from tiny import make_lm

from plaudit.cli import main
from plaudit.errors import ModelError
from plaudit.evaluation import doctor as module
from plaudit.evaluation.doctor import after_doctor, doctor, memory_needed
from plaudit.models import cache, generation, heads
from plaudit.models.loading import load_causal_lm, save
from plaudit.models.trunk import hidden_states
from plaudit.pipeline import steps
from plaudit.training import memory
from plaudit.training.metrics import StepReport
from plaudit.training.run import Run


def failing(config, run, stage="ppo") -> dict[str, str]:
    """Findings that are not ok, by name."""
    return {c.name: c.figure for c in doctor(config, run, stage) if not c.ok and not c.name.startswith("reward model")}


@pytest.fixture
def run(finished_run) -> Run:
    return Run.existing(finished_run)


def test_a_sound_run_passes_every_check_of_the_machinery(run, tiny_config):
    checks = doctor(tiny_config, run, "ppo")
    assert [c.name for c in checks] == [
        "dropout off", "cache equals full forward", "sampled equals scored", "initial ratio 1", "initial KL 0",
        "eos in the vocabulary", "eos reachable", "reward model better than chance", "reward model not length-biased",
        "memory",
    ]  # fmt: skip
    assert all(c.ok for c in checks if c.stops)
    base = doctor(tiny_config, run, "sft")
    assert [c.name for c in base] == [c.name for c in checks[:6]] + ["memory"]
    assert all(c.ok for c in base)


def test_dropout_that_ignores_eval_is_found(run, tiny_config, monkeypatch):
    def load(name):
        lm = module_load(name)
        lm.transformer.h[0].mlp.register_forward_hook(lambda _, __, out: F.dropout(out, 0.5, training=True))
        return lm

    module_load = module.load_causal_lm
    monkeypatch.setattr(module, "load_causal_lm", load)
    assert "dropout off" in failing(tiny_config, run)


def test_positions_that_count_the_padding_are_found(run, tiny_config, monkeypatch):
    monkeypatch.setattr(cache, "position_ids", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape))
    assert "sampled equals scored" in failing(tiny_config, run)


def test_a_reader_that_miscounts_positions_behind_its_cache_is_found(run, tiny_config, monkeypatch):
    embed = cache.embed
    monkeypatch.setattr(cache, "embed", lambda lm, ids, positions: embed(lm, ids, positions + (ids.shape[1] == 1)))
    assert "cache equals full forward" in failing(tiny_config, run)


def test_a_model_of_its_own_kind_that_miscounts_positions_behind_its_cache_is_found(run, tiny_config, monkeypatch):
    def load(name):
        lm = module_load(name)
        lm.config.model_type = "unknown"
        forward = lm.transformer.forward

        def shifted(position_ids, past_key_values=None, **rest):
            behind = past_key_values is not None
            return forward(position_ids=position_ids + behind, past_key_values=past_key_values, **rest)

        lm.transformer.forward = shifted
        return lm

    module_load = module.load_causal_lm
    monkeypatch.setattr(module, "load_causal_lm", load)
    config = dataclasses.replace(tiny_config, ppo=dataclasses.replace(tiny_config.ppo, train_layers=0))
    assert "cache equals full forward" in failing(config, run)


def test_a_sampler_with_top_k_is_found(run, tiny_config, monkeypatch):
    exact = generation.sample_tokens

    def top_k(logits, u):
        return exact(logits.masked_fill(logits < logits.topk(5).values[:, -1:], -torch.inf), u)

    monkeypatch.setattr(generation, "sample_tokens", top_k)
    assert set(failing(tiny_config, run, "sft")) == {"sampled equals scored"}


def test_a_temperature_in_sampling_alone_is_found(run, tiny_config, monkeypatch):
    respond = module.respond
    monkeypatch.setattr(module, "respond", lambda lm, p, n, t, temperature, *rest: respond(lm, p, n, t, 2.0, *rest))
    assert "sampled equals scored" in failing(tiny_config, run)


def test_an_update_that_scores_otherwise_than_the_rollout_is_found(run, tiny_config, monkeypatch):
    collect = module.collect
    monkeypatch.setattr(module, "collect", lambda *args: collect(*args[:5], 1.7, args[6]))
    assert set(failing(tiny_config, run)) == {"initial ratio 1"}


def test_a_reference_that_is_another_model_is_found(run, tiny_config, monkeypatch):
    loaded = []

    def load(name):
        loaded.append(module_load(name))
        if len(loaded) == 2:
            with torch.no_grad():
                loaded[1].transformer.wpe.weight.add_(0.1 * make_lm(seed=3).transformer.wpe.weight)
        return loaded[-1]

    module_load = module.load_causal_lm
    monkeypatch.setattr(module, "load_causal_lm", load)
    assert set(failing(tiny_config, run)) == {"initial KL 0"}


@pytest.fixture
def on_a_trunk(tiny_config):
    return dataclasses.replace(tiny_config, ppo=dataclasses.replace(tiny_config.ppo, train_layers=1))


def test_a_reference_that_is_another_model_below_is_found_too(run, on_a_trunk, monkeypatch):
    assert failing(on_a_trunk, run) == {}
    test_a_reference_that_is_another_model_is_found(run, on_a_trunk, monkeypatch)


def test_states_that_were_kept_in_a_wrong_place_are_found(run, on_a_trunk, monkeypatch):
    respond = module.respond

    def shifted(*args):
        responses = respond(*args)
        assert responses.below.depth == 1
        states = responses.below.states.roll(1, dims=1)
        return dataclasses.replace(responses, below=dataclasses.replace(responses.below, states=states))

    monkeypatch.setattr(module, "respond", shifted)
    assert "cache equals full forward" in failing(on_a_trunk, run)


def test_an_eos_that_the_model_cannot_write_is_found(run, tiny_config, monkeypatch):
    load = module.load_tokenizer
    monkeypatch.setattr(module, "load_tokenizer", lambda name: dataclasses.replace(load(name), eos_id=300))
    assert failing(tiny_config, run)["eos in the vocabulary"] == "id 300 of 300"
    assert failing(tiny_config, run)["eos reachable"].startswith("0% of 16 responses")


def test_a_cap_that_cuts_most_responses_is_doubted(run, tiny_config):
    config = dataclasses.replace(tiny_config, ppo=dataclasses.replace(tiny_config.ppo, max_new_tokens=1))
    assert set(failing(config, run)) == {"eos reachable"}


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ({"accuracy_ci95": [0.49, 0.6]}, "reward model better than chance"),
        ({"held_out": 0, "accuracy_ci95": None}, "reward model better than chance"),
        ({"length_correlation": -0.31}, "reward model not length-biased"),
        ({"length_correlation": 0.31}, "reward model not length-biased"),
    ],
)
def test_a_reward_model_to_doubt_is_doubted_and_stops_nothing(figures, name):
    sound = {"held_out": 100, "accuracy_ci95": [0.6, 0.8], "length_correlation": 0.29}
    assert all(c.ok for c in module._reward_model(sound))
    (check,) = [
        c for c in module._reward_model({k: v for k, v in (sound | figures).items() if v is not None}) if not c.ok
    ]
    assert (check.name, check.stops, check.mark) == (name, False, "WARN")


def test_what_backward_keeps_is_counted_by_autograd_itself(tiny_tokenizer, tmp_path):
    """GPT-2's blocks as we load them; 18 is within a tenth of what is really saved, whatever the batch."""
    save(make_lm(vocab=300, layers=4, width=64), tiny_tokenizer, tmp_path)
    lm = load_causal_lm(str(tmp_path)).eval()
    weights, saved = {p.untyped_storage().data_ptr() for p in lm.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        everywhere = torch.ones(8, 64, dtype=torch.bool)
        kept = hidden_states(lm, torch.ones(8, 64, dtype=torch.long), everywhere, everywhere)
    assert kept.requires_grad
    assert sum(saved.values()) / (8 * 64 * 64 * 4 * 4) == pytest.approx(module._KEPT, rel=0.1)


def test_memory_by_hand(tiny_config, run, monkeypatch):
    lm = make_lm(vocab=300, layers=2, width=32)
    weights = 4 * sum(p.numel() for p in lm.parameters())
    # Tokens x 18 numbers x width x layers x 4 bytes, and 4 or 5 copies of logits of 4 bytes; batches of 8 and 16.
    update = 8 * ((5 + 16) * 18 * 32 * 2 * 4 + 16 * 300 * 4 * 4)
    rollout = 16 * 16 * 300 * 4 * 5
    # What a layer makes of all tokens that are sampled at once, and keys and values of both layers.
    sampling = 256 * (5 + 16) * (18 * 32 + 2 * 2 * 32) * 4
    # Policy and reward model; gradient, two moments and the reference of the blocks alone: embeddings do not learn.
    top = 4 * sum(p.numel() for p in lm.transformer.h.parameters())
    assert memory_needed(tiny_config, lm, prompt=5) == 2 * weights + 4 * top + update + rollout + sampling
    monkeypatch.setattr(lm.config, "num_key_value_heads", lm.config.num_attention_heads // 2, raising=False)
    sampling -= 256 * (5 + 16) * 2 * 32 * 4
    assert memory_needed(tiny_config, lm, prompt=5) == 2 * weights + 4 * top + update + rollout + sampling
    monkeypatch.setattr(heads, "LOGITS_AT_ONCE", 1000)  # nor do those of a head that does not learn
    update, rollout = 8 * (5 + 16) * 18 * 32 * 2 * 4 + 1000 * 4 * 4, 1000 * 4 * 5
    assert memory_needed(tiny_config, lm, prompt=5) == 2 * weights + 4 * top + update + rollout + sampling
    all_learn = dataclasses.replace(tiny_config, ppo=dataclasses.replace(tiny_config.ppo, train_layers=0))
    needed = []
    for most in (2000, 3000):
        monkeypatch.setattr(heads, "LEARNED_AT_ONCE", most)
        needed.append(memory_needed(all_learn, lm, prompt=5))
    assert needed[1] - needed[0] == 1000 * 4 * 4
    free = memory.free(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    monkeypatch.setattr(memory, "free", lambda device: 2**20)
    assert set(failing(tiny_config, run, "sft")) == {"memory"}
    monkeypatch.setattr(memory, "free", lambda device: None)
    assert failing(tiny_config, run, "sft") == {}


def test_what_products_in_bfloat16_leave_behind_is_foreseen_once(tmp_path, tiny_config, finished_run, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "run")
    monkeypatch.setattr(memory, "held", lambda device: 0)
    monkeypatch.setattr(module, "_learned_in", set())

    def amount(dtype):
        config = dataclasses.replace(tiny_config, dtype=dtype)
        return doctor(config, Run(tmp_path / "run", config), "ppo")[-1].amount

    assert amount("bfloat16") == amount("float32") + 2**29
    rounded = dataclasses.replace(tiny_config, dtype="bfloat16")
    next(after_doctor(rounded, Run(tmp_path / "run", rounded), "ppo", iter([StepReport("ppo", 1, 1, {}, {})])))
    assert amount("bfloat16") == amount("float32")  # it is there


def test_before_a_stage_the_findings_are_kept_without_the_machine_s_own(finished_run, tiny_config, run):
    kept = json.loads((finished_run / "doctor.json").read_text())
    for stage in ("sft", "ppo"):
        found = [dataclasses.asdict(c) for c in doctor(tiny_config, run, stage) if c.name != "memory"]
        assert kept[stage] == found


def test_what_does_not_hold_stops_before_step_1(tmp_path, monkeypatch, capsys, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    respond = module.respond
    monkeypatch.setattr(module, "respond", lambda lm, p, n, t, temperature, *rest: respond(lm, p, n, t, 2.0, *rest))
    assert main(["ppo", "--out", str(tmp_path / "run"), "--overwrite"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("plaudit: error: before ppo: sampled equals scored: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "ppo" / "metrics.jsonl").exists()
    config = Run.existing(tmp_path / "run").config
    new = Run.open(tmp_path / "new", config, resume=False, overwrite=False, stages=("sft",))
    with pytest.raises(ModelError, match="before sft: sampled equals scored"):
        next(steps(config, new, ("sft",)))


def test_a_doubt_is_told_once_with_the_first_step(tmp_path, finished_run, tiny_config, capsys):
    from plaudit.cli import progress

    shutil.copytree(finished_run, tmp_path / "run")
    path = tmp_path / "run" / "reward_model" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"length_correlation": 0.9}))
    run = Run.open(tmp_path / "run", tiny_config, resume=False, overwrite=True, stages=("ppo",))
    progress.follow(steps(tiny_config, run, ("ppo",)), run.path, ("ppo",))
    lines = [line for line in capsys.readouterr().err.splitlines() if "length-biased" in line]
    assert lines == [
        "ppo: WARNING: reward model not length-biased: logit and length correlate at +0.90; PPO may change the length "
        "instead of the content: balance the lengths of good and bad texts"
    ]


def test_what_was_predicted_is_held_against_what_was_taken(finished_run):
    kept = json.loads((finished_run / "memory.json").read_text())
    assert kept.keys() == {"sft", "ppo"}
    for stage in kept.values():
        assert 2**27 < stage["predicted"] < 2**36
        # The suite's own process, whose peak may come from an earlier test.
        assert 2**27 < stage["measured"] < 2**36


def test_prompts_without_room_are_left_to_the_stage_that_needs_them(run, tiny_config):
    none = dataclasses.replace(tiny_config, prompt_min=50, prompt_max=60)
    assert [c.name for c in doctor(none, run, "sft")] == ["memory"]


def test_the_command_looks_at_a_run_or_at_the_base_model(finished_run, tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    main(["doctor", str(finished_run)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[4] == "ok   initial KL 0: 0 nats per response at most"
    base = ["doctor", "--model", tiny_config.model, "--data", tiny_config.data, "--dtype", "float32"]
    assert main([*base, "--ppo.max-new-tokens", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("ok   ") for line in lines)
    monkeypatch.setattr(memory, "free", lambda device: 1)
    assert main(base) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("WARN memory: ")
    assert main(["doctor", str(tmp_path / "nowhere")]) == 1
    assert "no run here" in capsys.readouterr().err
