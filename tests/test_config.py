import dataclasses
import importlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.config import (
    PRESETS,
    SECTIONS,
    Config,
    build,
    default_settings,
    flatten,
    known_settings,
    preset,
    read_saved,
    read_toml,
    resolve,
    section_class,
    to_toml,
    without_effect,
)
from plaudit.errors import ConfigError, ModelError


def refusal(*layers: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        build(*layers)
    return str(caught.value)


def test_without_layers_every_setting_has_its_default():
    assert build() == Config()
    assert build().ppo.kl_coef == PPOConfig().kl_coef


def test_a_later_layer_overrides_an_earlier_one_and_leaves_the_rest():
    config = build({"seed": 3, "ppo.lr": 0.01}, {"ppo.lr": 0.02})
    assert (config.seed, config.ppo.lr, config.sft.lr) == (3, 0.02, 1e-3)


def test_text_from_a_command_line_becomes_the_setting_s_type():
    config = build({"seed": "7", "ppo.iterations": "1e3", "ppo.lr": "1e-4", "ppo.missing_eos_penalty": "2"})
    assert (config.seed, config.ppo.iterations, config.ppo.lr, config.ppo.missing_eos_penalty) == (7, 1000, 1e-4, 2.0)
    assert [type(v) for v in (config.seed, config.ppo.iterations, config.ppo.missing_eos_penalty)] == [int, int, float]


@pytest.mark.parametrize("seed", [2**53 + 1, str(2**53 + 1)])
def test_a_large_whole_number_is_not_rounded(seed):
    assert build({"seed": seed}).seed == 9007199254740993


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("seed", -1, "seed = -1: must be at least 0"),
        ("seed", "x", "seed = 'x': must be a whole number at least 0"),
        ("seed", 1.5, "seed = 1.5: must be a whole number at least 0"),
        ("seed", "1.5", "seed = '1.5': must be a whole number at least 0"),
        ("seed", "inf", "seed = 'inf': must be a whole number at least 0"),
        ("seed", True, "seed = True: must be a whole number at least 0"),
        ("seed", [1], "seed = [1]: must be a whole number at least 0"),
        ("ppo.lr", 2, "ppo.lr = 2.0: must be from 0 to 1"),
        ("ppo.lr", "nan", "ppo.lr = nan: must be a number from 0 to 1"),
        ("ppo.lr", {"x": 1}, "ppo.lr = {'x': 1}: must be a number from 0 to 1"),
        ("ppo.missing_eos_penalty", "low", "ppo.missing_eos_penalty = 'low': must be a number at least 0"),
        ("model", 3, "model = 3: must be text"),
        ("device", "cdua", "device = 'cdua' (did you mean 'cuda'?): must be one of auto, cpu, cuda, mps"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_possible(name, value, line):
    assert refusal({name: value}) == line


@pytest.mark.parametrize(("name", "value"), [("ppo.lr", 0), ("ppo.lr", 1), ("seed", 0), ("ppo.temperature", 0.05)])
def test_a_range_includes_its_ends(name, value):
    assert flatten(dataclasses.asdict(build({name: value})))[name] == value


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ppo.kl_coeff", "ppo.kl_coef"),
        ("kl_coeff", "ppo.kl_coef"),
        ("sede", "seed"),
        (
            "missing_eos",
            "ppo.missing_eos_penalty', 'reinforce.missing_eos_penalty', 'rloo.missing_eos_penalty', "
            "'grpo.missing_eos_penalty', 'dpo.missing_eos_penalty' or 'kto.missing_eos_penalty",
        ),
        (
            "ppo.kl",
            "ppo.kl_coef', 'ppo.kl_estimator', 'ppo.kl_in', 'ppo.kl_control', 'ppo.kl_target' or 'ppo.kl_horizon",
        ),
        ("ppo.size", "ppo.batch_size', 'ppo.minibatch_size' or 'ppo.microbatch_size"),
        ("ppo.clip", "ppo.clip_range' or 'ppo.value_clip"),
        ("promt_min", "prompt_min"),
        ("ppo.missing_eos_score", "ppo.missing_eos_penalty"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, near):
    assert refusal({name: 1}) == f"unknown setting '{name}' (did you mean '{near}'?)"


def test_a_name_like_no_other_gets_no_suggestion():
    assert refusal({"zzzzzz": 1}) == "unknown setting 'zzzzzz'"


def test_settings_that_are_impossible_together_are_refused():
    assert refusal({"prompt_min": 9}) == "prompt_min = 9 is above prompt_max = 8"
    assert refusal({"ppo.min_new_tokens": 49}) == "ppo.min_new_tokens = 49 is above ppo.max_new_tokens = 48"
    assert (
        refusal({"ppo.batch_size": 8, "ppo.minibatch_size": 32})
        == "ppo.minibatch_size = 32 is above ppo.batch_size = 8"
    )


@pytest.mark.parametrize(
    ("name", "value", "other", "useful"),
    [
        ("ppo.kl_target", 3.0, "ppo.kl_control", "adaptive"),
        ("ppo.kl_estimator", "k3", "ppo.kl_coef", 0.1),
        ("dpo.beta", 0.2, "dpo.loss", "ipo"),
        ("dpo.simpo_margin", 0.5, "dpo.loss", "simpo"),
        ("sft.lora_alpha", 32, "sft.lora_rank", 8),
    ],
)
def test_a_setting_that_another_one_makes_useless_is_named(name, value, other, useful):
    section = name.partition(".")[0]
    idle = {"ppo.kl_coef": 0.0, "dpo.loss": "simpo" if name == "dpo.beta" else "sigmoid"}
    useless = {name: value} | {k: v for k, v in idle.items() if k == other}
    (line,) = without_effect(build(useless), [section])
    assert line.startswith(f"{name} = {value} changes nothing while {other} = ")
    assert without_effect(build(useless, {other: useful}), [section]) == []
    assert without_effect(build({other: useful}), [section]) == []


@pytest.mark.parametrize("name", [name for name, field in known_settings().items() if field.metadata["only_with"]])
def test_what_a_setting_needs_is_a_setting_of_its_section_that_can_have_this_value(name):
    other, _, values = known_settings()[name].metadata["only_with"].partition("=")
    needed = known_settings()[f"{name.partition('.')[0]}.{other}"].metadata
    assert set(values.split("|")) <= {*needed["choices"]} if values else needed["low"] == 0


def test_a_contradiction_in_one_layer_may_be_resolved_by_the_next():
    assert build({"ppo.batch_size": 8}, {"ppo.minibatch_size": 4}).ppo.batch_size == 8


def test_a_file_s_error_names_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    for text, message in (
        ("[ppo]\nkl_coeff = 1\n", f"{path}: unknown setting 'ppo.kl_coeff' (did you mean 'ppo.kl_coef'?)"),
        ("[ppo]\nlr = 2\n", f"{path}: ppo.lr = 2.0: must be from 0 to 1"),
        ("ppo = 3\n", f"{path}: unknown setting 'ppo'"),
        ("seed = \n", f"{path}: cannot be read as TOML: "),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_toml(path)
        assert str(caught.value).startswith(message)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no such settings file$"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_toml(tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "notepad.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 4\n")
    assert read_toml(path) == {"seed": 4}


def test_what_to_toml_writes_read_toml_reads(tmp_path):
    config = build({"seed": 2**60 + 1, "ppo.lr": 1e-7, "data": 'C:\\films "new"\n\r\t\x7fé'})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config, {"plaudit": "0.1.0"}), encoding="utf-8")
    assert build(read_toml(path)) == config
    assert '[versions]\nplaudit = "0.1.0"' in path.read_text(encoding="utf-8")


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8")), st.floats(0, 1), st.integers(0, 2**100))
def test_any_value_survives_a_file(tmp_path_factory, text, number, whole):
    config = build({"data.name": text, "ppo.lr": number, "seed": whole})
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(to_toml(config, {}), encoding="utf-8", newline="")
    assert build(read_toml(path)) == config


@pytest.mark.parametrize("section", SECTIONS)
def test_the_settings_in_a_module_s_source_are_those_of_the_module(section):
    modules = {"data": "plaudit.data.options", "evaluation": "plaudit.evaluation.evaluate"}
    module = importlib.import_module(modules.get(section, f"plaudit.algorithms.{section}"))
    real, read = module.Config, section_class(section)
    described = [[(f.name, f.default, dict(f.metadata)) for f in dataclasses.fields(c)] for c in (real, read)]
    assert described[0] == described[1]
    assert real.__doc__ == read.__doc__
    assert type(getattr(Config(), section)) is real


def test_settings_of_one_section_are_replaced_with_dataclasses_replace():
    config = dataclasses.replace(Config(), ppo=dataclasses.replace(Config().ppo, kl_coef=0.5))
    assert config.ppo.kl_coef == 0.5
    assert config == build({"ppo.kl_coef": 0.5}) != Config()
    assert dataclasses.asdict(config)["ppo"]["kl_coef"] == 0.5


def test_resolve_gives_every_setting_checked_and_converted():
    settings = resolve({"seed": "3"}, {"ppo.lr": "1e-4"})
    assert settings == default_settings() | {"seed": 3, "ppo.lr": 1e-4}


def test_every_preset_is_possible():
    names = [path.stem for path in PRESETS.glob("*.toml")]
    assert "gpt2-sst2" in names
    for name in names:
        build(preset(name))
    assert build(preset("gpt2-sst2")).data.name == "stanfordnlp/sst2"


def test_a_built_in_model_has_settings_that_every_layer_overrides():
    brought = build({"model": "smollm2"})
    assert brought == build(preset("smollm2")) != build()
    assert build({"model": "smollm2", "ppo.lr": 0.5}) == build(preset("smollm2"), {"ppo.lr": 0.5})
    with pytest.raises(ModelError, match="no model 'gpt2-sst2'"):  # a preset's name, but not that of its model
        build({"model": "gpt2-sst2"})


def test_an_unknown_preset_is_refused_with_the_presets():
    with pytest.raises(
        ConfigError, match=r"no preset 'gpt2-sst' \(did you mean 'gpt2-sst2'\?\); the presets are: .*gpt2-sst2"
    ):
        preset("gpt2-sst")


def test_every_setting_says_what_it_is_and_its_default_is_possible():
    names = default_settings()
    assert len(names) > 40
    build(names)
    assert all(described.metadata["help"] for described in known_settings().values())
    assert {f"{s}.microbatch_size" for s in ("sft", "reward_model", "ppo")} | {"engine"} <= set(names)


@pytest.mark.parametrize("value", ["polite.py:score=0.3", ["polite.py:score=0.3", "model=1"], ("model",), []])
def test_a_list_of_texts_is_read_back_from_toml(tmp_path, value):
    config = build({"reward": value})
    assert config.reward == ((value,) if isinstance(value, str) else tuple(value))
    (tmp_path / "config.toml").write_text(to_toml(config, {}), encoding="utf-8")
    assert read_saved(tmp_path / "config.toml")["reward"] == config.reward


@pytest.mark.parametrize("value", [1, [1], ["model", None], {"model": 1}, True])
def test_what_is_no_list_of_texts_is_refused(value):
    with pytest.raises(ConfigError, match=r"reward.*: "):
        build({"reward": value})
