import click
import pytest

from plaudit.algorithms.ppo import Config as PPOConfig
from plaudit.cli import commands, flags
from plaudit.config import ALGORITHMS, SECTIONS, default_settings, known_settings


def parse(*argv: str) -> click.Context:
    """The context of a command that is not invoked."""
    group = commands.make_context("plaudit", list(argv[:1]))
    name, command, _ = commands.resolve_command(group, list(argv[:1]))
    return command.make_context(name, list(argv[1:]), parent=group)


def settings(*argv: str) -> dict[str, str]:
    return flags.by_full_name(parse(*argv).params)


def refusal(*argv: str) -> str:
    with pytest.raises(click.ClickException) as caught:
        parse(*argv)
    return flags.message(caught.value, commands, list(argv))


def help_of(capsys, *argv: str) -> str:
    with pytest.raises(click.exceptions.Exit) as left:
        parse(*argv, "--help")
    assert left.value.exit_code == 0
    return " ".join(capsys.readouterr().out.split())


def given(names: list[str]) -> dict[str, object]:
    """What `words` gives: a setting that may be repeated is a tuple."""
    lists = [name for name, default in default_settings().items() if isinstance(default, tuple)]
    return {name: (str(i),) if name in lists else str(i) for i, name in enumerate(names)}


def words(names: list[str], spelling=str) -> list[str]:
    return [word for i, name in enumerate(names) for word in (f"--{spelling(name)}", str(i))]


def dashed(name: str) -> str:
    return name.replace("_", "-")


def bare(name: str) -> str:
    return dashed(name.rpartition(".")[2])


@pytest.mark.parametrize("command", ["run", "seeds", "doctor"])
def test_run_seeds_and_doctor_take_every_setting_by_its_full_name(capsys, command):
    names = list(default_settings())
    expected = given(names)
    assert settings(command, *words(names)) == expected
    assert settings(command, *words(names, dashed)) == expected
    text = help_of(capsys, command)
    shown = {name: known_settings()[name].metadata["short"] or name for name in names}
    assert [name for name in names if f" --{dashed(shown[name])} " not in text] == []


@pytest.mark.parametrize("section", [section for section in SECTIONS if section != "data"])
def test_a_stage_takes_its_own_settings_bare_or_full_and_the_general_ones(section):
    argv = ["eval", "RUN"] if section == "evaluation" else [dashed(section)]
    names = [name for name in default_settings() if name.rpartition(".")[0] in ("", section)]
    expected = given(names)
    assert settings(*argv, *words(names)) == settings(*argv, *words(names, bare)) == expected
    other = "ppo.lr" if section == "sft" else "sft.lr"
    assert f"unknown flag '--{other}'" in refusal(*argv, f"--{other}", "1")


def test_every_algorithm_is_a_command():
    assert [name for name in ALGORITHMS if dashed(name) not in commands.commands] == []
    assert settings("reward_model", "--lr", "0.1") == {"reward_model.lr": "0.1"}  # underscores here too


def test_flags_that_are_not_given_are_no_settings():
    assert settings("run", "--out", "x", "--resume") == {}


def test_help_has_meaning_unit_range_and_default(capsys):
    text = help_of(capsys, "ppo")
    kl_coef, lr = f"{PPOConfig().kl_coef:g}", f"{PPOConfig().lr:g}"
    assert f"stay closer to the SFT model [score/nat; at least 0; default {kl_coef}]" in text
    assert f"lower it if KL jumps [from 0 to 1; default {lr} for movie-gpt2, otherwise by the model's size]" in text
    assert "[auto, cpu, cuda, mps; default auto]" in text
    assert "--sft." not in text
    assert "A flag overrides --config" in text


def test_help_lists_the_commands_in_the_order_of_use_and_the_exit_codes(capsys):
    text = help_of(capsys)
    places = [text.index(f" {name} ") for name in ("run", "sft", "reward-model", "ppo", "eval", "sample", "doctor")]
    assert places == sorted(places)
    assert "..." not in text[: text.index("First steps")].replace("ARGS]...", "")  # no description is cut
    assert "130 stopped by Ctrl-C" in text


@pytest.mark.parametrize("value", ["-1", "-1.5", "-.5", "-1e-3"])
def test_a_negative_value_needs_no_equals_sign(value):
    assert settings("ppo", "--missing_eos_penalty", value, "--seed", "2") == {
        "ppo.missing_eos_penalty": value,
        "seed": "2",
    }


def test_underscores_in_values_stay():
    assert settings("run", "--data", "my_films.csv", "--model=a_b") == {"data.name": "my_films.csv", "model": "a_b"}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            "run --ppo.kl-coeff 1",
            "unknown flag '--ppo.kl-coeff' (did you mean '--ppo.kl-coef'?); see plaudit run --help",
        ),
        ("ppo --klcoef=1", "unknown flag '--klcoef' (did you mean '--kl-coef'?); see plaudit ppo --help"),
        ("run --kl-coef 1", "unknown flag '--kl-coef' (did you mean --ppo.kl-coef or "),
        (
            "run --lr 1",
            "unknown flag '--lr' (did you mean --sft.lr or --reward-model.lr or --ppo.lr or ",
        ),
        ("reward_model --zzzzzzzzz", "unknown flag '--zzzzzzzzz'; see plaudit reward-model --help"),
        ("run here", "got unexpected extra argument (here); see plaudit run --help"),
        ("run --re", "unknown flag '--re'"),  # a shortened --resume could become --reward one day
        ("run --ppo.kl 1", "unknown flag '--ppo.kl' (did you mean '--ppo.kl-coef', '--ppo.kl-estimator', "),
        ("ppo --value 1", "unknown flag '--value' (did you mean '--value-clip' or '--value-coef'?); see plaudit ppo"),
        ("run --kl 1", "unknown flag '--kl' (did you mean '--ppo.kl-coef', "),
        ("run --reinforce.kl 1", "unknown flag '--reinforce.kl' (did you mean '--reinforce.kl-coef', "),
        ("rnu", "unknown command 'rnu' (did you mean 'run'?): run, sft, reward-model, ppo, "),
        ("--seed 2 run", "'--seed' stands before the command: write plaudit COMMAND --seed ...; see plaudit --help"),
        ("run --seed", "option '--seed' requires an argument; see plaudit run --help"),
        ("run --seed --resume", "option '--seed' requires a value, not --resume; see plaudit run --help"),
        ("run --out --resume", "option '--out' requires a value, not --resume; see plaudit run --help"),
        ("run --resume --overwrite", "--resume and --overwrite exclude each other; see plaudit run --help"),
        ("eval", "missing argument 'RUN'; see plaudit eval --help"),
        ("sample RUN hi -n 0", "invalid value for '-n' / '--samples': 0 is not in the range x>=1; see plaudit sample"),
        ("sample RUN hi -n 2.5", "invalid value for '-n' / '--samples': '2.5' is not a valid whole number"),
        ("sample RUN hi --seed=-1", "invalid value for '--seed': -1 is not in the range x>=0"),
        ("frontier RUN --draws 8", "invalid value for '--draws': 8 is not in the range x>=16"),
        ("seeds --n 0", "invalid value for '--n': 0 is not in the range x>=1; see plaudit seeds --help"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(argv, line):
    message = refusal(*argv.split())
    assert message.startswith(line)
    assert "\n" not in message


def test_sample_s_defaults_and_a_prompt_that_looks_like_a_flag():
    params = parse("sample", "runs/x", "--", "--what_a film").params
    assert (params["prompt"], params["samples"], params["seed"], params["max_new_tokens"]) == (
        "--what_a film",
        4,
        1,
        None,
    )


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("command", [None, *commands.commands])
def test_no_line_of_a_help_is_longer_than_80_columns(capsys, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(click.exceptions.Exit):
        commands.make_context("plaudit", ["--help"]) if command is None else parse(command, "--help")
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_a_flag_of_a_list_may_be_repeated_and_needs_a_value():
    argv = ["run", "--reward", "polite.py:score=0.3", "--reward", "model=1"]
    assert settings(*argv) == {"reward": ("polite.py:score=0.3", "model=1")}
    assert settings("run", "--seed", "3") == {"seed": "3"}
    assert "'--reward' requires a value, not --seed" in refusal("run", "--reward", "--seed", "3")
