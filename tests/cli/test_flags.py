import argparse

import pytest

from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.cli.flags import parse, settings_of
from plaudit.config import default_settings
from plaudit.errors import ConfigError


def settings(*argv: str) -> dict[str, str]:
    return settings_of(parse(list(argv)))


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(list(argv))
    return str(caught.value)


def help_of(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as left:
        parse([*argv, "--help"])
    assert left.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def flags(names: list[str], spelling=str) -> list[str]:
    return [word for i, name in enumerate(names) for word in (f"--{spelling(name)}", str(i))]


def dashed(name: str) -> str:
    return name.replace("_", "-")


def bare(name: str) -> str:
    return dashed(name.rpartition(".")[2])


@pytest.mark.parametrize("command", ["run", "seeds"])
def test_run_and_seeds_take_every_setting_by_its_full_name(capsys, command):
    names = list(default_settings())
    expected = {name: str(i) for i, name in enumerate(names)}
    assert settings(command, *flags(names)) == expected
    assert settings(command, *flags(names, dashed)) == expected
    text = help_of(capsys, command)
    assert [name for name in names if f" --{dashed(name)} " not in text] == []


@pytest.mark.parametrize(
    ("command", "section"), [("sft", "sft"), ("reward-model", "reward_model"), ("ppo", "ppo"), ("eval", "evaluation")]
)
def test_a_stage_takes_its_own_settings_bare_or_full_and_the_general_ones(command, section):
    place = ["RUN"] if command == "eval" else []
    names = [name for name in default_settings() if name.rpartition(".")[0] in ("", section)]
    expected = {name: str(i) for i, name in enumerate(names)}
    assert settings(command, *place, *flags(names)) == settings(command, *place, *flags(names, bare)) == expected
    other = "ppo.lr" if command == "sft" else "sft.lr"
    assert f"unknown flag '--{other}'" in refusal(command, *place, f"--{other}", "1")


def test_flags_that_were_not_given_are_no_settings():
    assert settings("run", "--out", "x", "--resume") == {}


def test_help_tells_meaning_unit_range_and_default(capsys):
    text = help_of(capsys, "ppo")
    kl_coef, lr = f"{PPOConfig().kl_coef:g}", f"{PPOConfig().lr:g}"
    assert f"price of a nat of KL against the SFT model (beta) [score/nat; at least 0; default {kl_coef}]" in text
    assert f"peak learning rate of Adam; it falls linearly to 0 [0 to 1; default {lr}]" in text
    assert "[auto, cpu or cuda; default auto]" in text
    assert "--sft." not in text


def test_help_of_all_commands_documents_them_and_the_exit_codes(capsys):
    text = help_of(capsys)
    for word in (
        "run",
        "sft",
        "reward",
        "ppo",
        "eval",
        "sample",
        "frontier",
        "seeds",
        "notebooks",
        "130 stopped by Ctrl-C",
        "2 a flag or a setting",
    ):
        assert word in text


@pytest.mark.parametrize("value", ["-1", "-1.5", "-.5", "-1e-3"])
def test_a_negative_value_needs_no_equals_sign(value):
    assert settings("ppo", "--missing_eos_score", value, "--seed", "2") == {
        "ppo.missing_eos_score": value,
        "seed": "2",
    }


def test_underscores_in_values_stay():
    assert settings("run", "--data", "my_films.csv", "--model=a_b") == {"data": "my_films.csv", "model": "a_b"}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            "run --ppo.kl-coeff 1",
            "unknown flag '--ppo.kl-coeff' (did you mean '--ppo.kl-coef'?); see plaudit run --help",
        ),
        ("ppo --klcoef=1", "unknown flag '--klcoef' (did you mean '--kl-coef'?); see plaudit ppo --help"),
        ("run --kl-coef 1", "unknown flag '--kl-coef' (did you mean --ppo.kl-coef?); see plaudit run --help"),
        (
            "run --lr 1",
            "unknown flag '--lr' (did you mean --sft.lr or --reward_model.lr or --ppo.lr?); see plaudit run --help",
        ),
        ("run --zzzzzzzzz", "unknown flag '--zzzzzzzzz'; see plaudit run --help"),
        ("run here", "unexpected 'here'; see plaudit run --help"),
        ("run --re", "unknown flag '--re'"),  # a shortened --resume could become --reward one day
        ("rnu", "unknown command 'rnu' (did you mean 'run'?): run, sft, reward, ppo, eval, sample"),
        ("--seed 2 run", "'--seed' stands before the command: write plaudit COMMAND --seed ...; see plaudit --help"),
        ("run --seed", "argument --seed: expected one argument; see plaudit run --help"),
        (
            "run --resume --overwrite",
            "argument --overwrite: not allowed with argument --resume; see plaudit run --help",
        ),
        ("eval", "the following arguments are required: RUN; see plaudit eval --help"),
        (
            "sample RUN hi -n 0",
            "argument -n/--samples: '0': must be a whole number at least 1; see plaudit sample --help",
        ),
        ("sample RUN hi -n 2.5", "argument -n/--samples: '2.5': must be a whole number at least 1"),
        ("frontier RUN --kl-coefs 0.1 -1", "argument --kl-coefs: '-1': must be a number at least 0"),
        ("frontier RUN --kl-coefs inf", "argument --kl-coefs: 'inf': must be a number at least 0"),
        ("frontier RUN --draws 8", "argument --draws: '8': must be a whole number at least 16"),
        ("seeds --n 0", "argument --n: '0': must be a whole number at least 1; see plaudit seeds --help"),
        ("sample RUN hi --seed=-1", "argument --seed: '-1': must be a whole number at least 0"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(argv, line):
    said = refusal(*argv.split())
    assert said.startswith(line)
    assert "\n" not in said


def test_sample_s_defaults_and_a_prompt_that_looks_like_a_flag():
    args = parse(["sample", "runs/x", "--", "--what_a film"])
    assert isinstance(args, argparse.Namespace)
    assert (args.prompt, args.samples, args.seed, args.max_new_tokens) == ("--what_a film", 4, 1, None)
