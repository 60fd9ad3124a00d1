import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.errors import ConfigError, RewardError
from plaudit.rewards import described, load_function, sources_of, uses_model
from plaudit.rewards.sources import parse, short_names


def polite(prompts, responses):
    return [1.0] * len(responses)


def short(prompts, responses):
    return [-len(response) for response in responses]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


WEIGHTS = st.one_of(st.just(1.0), st.floats(-1e6, 1e6).filter(bool))


@given(
    st.sampled_from(["model", "polite.py:score", "a/b=1/c.py:f", "owner/name", "owner/name:GOOD", "C:\\x.py:f"]),
    WEIGHTS,
)
def test_a_part_and_its_weight_are_read_back(text, weight):
    assert parse(text).weight == 1.0
    found = parse(f"{text}={weight!r}")
    assert (found.text, found.weight) == (text, weight)
    assert found.is_model == (text == "model")
    assert (found.file is not None) == (".py:" in text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polite.py", "name the function in the file: polite.py:NAME"),
        ("polite.py=0.3", "name the function in the file: polite.py:NAME"),
        ("polite.py:score=high", "the weight 'high' is not a number; write polite.py:score=0.3"),
        ("model=nan", "the weight 'nan' is not a number"),
        ("model=", "the weight '' is not a number"),
        ("modle=1", "no such file or folder; write FILE.py:NAME"),
        ("", "no such file or folder"),
        ("=1", "no such file or folder"),
    ],
)
def test_a_malformed_part_is_refused_with_the_right_form(here, text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"reward = {text!r}: {message}")


def test_a_folder_may_have_a_label_and_its_name_a_colon_or_an_equals_sign(here):
    for name in ("judge", "a:b", "lr=0.1"):
        (here / name).mkdir()
    assert parse("judge").classifier == ("judge", "")
    assert parse("judge:GOOD=2").classifier == ("judge", "GOOD")
    assert parse("a:b").classifier == ("a:b", "")
    assert parse("./lr=0.1/../judge:GOOD").classifier == ("./lr=0.1/../judge", "GOOD")
    assert parse("./lr=0.1/../judge:GOOD").title == "judge:GOOD"


@pytest.mark.parametrize(
    ("reward", "description", "names"),
    [
        (None, "", ["model"]),
        ("model", "", ["model"]),
        (("model=1",), "", ["model"]),
        ("model=2", "2 model", ["model"]),
        (polite, "polite", ["polite"]),
        (["a/polite.py:score=0.3", "model"], "0.3 polite.py:score + model", ["score", "model"]),
        ([polite, short], "polite + short", ["polite", "short"]),
        ({polite: 0.5, "b/x.py:polite": 2, "model": -1}, "0.5 polite + 2 x.py:polite + -1 model",
         ["polite", "x.py:polite", "model"]),
        (["x.py:score", "y.py:score=0"], "x.py:score + 0 y.py:score", ["x.py:score", "y.py:score"]),
    ],
)  # fmt: skip
def test_a_reward_is_a_function_a_text_or_several_of_them_with_weights(reward, description, names):
    sources = sources_of(reward)
    assert described(sources) == description
    assert short_names(sources)[-1] == names[-1]
    assert len(set(short_names(sources))) == len(names)
    assert uses_model(sources) == ("model" in names)


def test_without_a_reward_the_setting_counts_and_a_reward_replaces_it():
    setting = ("polite.py:score=0.3", "model=1")
    assert described(sources_of(None, setting)) == "0.3 polite.py:score + model"
    assert described(sources_of(short, setting)) == "short"


def test_a_part_that_is_given_twice_or_no_weight_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"'polite\.py:score' is given twice"):
        sources_of(["polite.py:score", "polite.py:score=2"])
    with pytest.raises(ConfigError, match="every weight is 0"):
        sources_of(["polite.py:score=0", "model=0"])


def test_a_function_comes_from_its_file_with_the_files_beside_it(here):
    (here / "words.py").write_text("GOOD = {'joy'}\n")
    file = here / "polite.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\nfrom words import GOOD\n\n"
        "@dataclass\nclass Weight:\n    x: float = 2.0\n\n"
        "def score(prompts, responses):\n    return [Weight().x * (r in GOOD) for r in responses]\n"
    )
    path = list(sys.path)
    score = load_function(file, "score")
    assert score([""] * 2, ["joy", "pain"]) == [2.0, 0.0]
    assert sys.path == path
    assert "polite" not in sys.modules
    sys.modules.pop("words")


def test_a_file_runs_once_until_it_changes(here):
    file = here / "counted.py"
    file.write_text("CALLS = []\n\ndef score(prompts, responses):\n    return CALLS\n")
    assert load_function(file, "score") is load_function(file, "score")
    before = load_function(file, "score")
    file.write_text(file.read_text() + "# repaired\n")
    assert load_function(file, "score") is not before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "x = 1\nimport nothing_of_this_name\n",
            ", line 2: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("def score(:\n", ", line 1: SyntaxError: "),
        ("\n\nraise ValueError('first\\nsecond')\n", ", line 3: ValueError: first second"),
        ("import sys\nsys.exit(3)\n", ", line 2: SystemExit: 3"),
        ("def other(): pass\n", ": has no function 'score'; it has: other"),
        ("score = 3\n", ": has no function 'score'"),
        ("", ": has no function 'score'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_with_its_line(here, content, message):
    file = here / "polite.py"
    file.write_text(content)
    with pytest.raises(RewardError) as caught:
        load_function(file, "score")
    assert str(caught.value).startswith(f"{file}{message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_named(here):
    with pytest.raises(RewardError, match=r"polite\.py: no such file; give the path of a Python file"):
        sources_of("polite.py:score")[0].open()


@pytest.mark.parametrize(
    "header", ["score(responses)", "score()", "score(a, b, c)", "score(a, b, *, temperature)", "score(*, a, b)"]
)
def test_a_function_with_other_parameters_is_refused(here, header):
    (here / "polite.py").write_text(f"def {header}:\n    return []\n")
    with pytest.raises(RewardError, match=r"reward 'polite\.py:score': must take the prompts and the responses"):
        sources_of("polite.py:score")[0].open()


@pytest.mark.parametrize(
    "header",
    ["score(p, r)", "score(*texts)", "score(p, r, scale=2.0)", "score(p, r, prompt_ids)", "score(p, r, **more)"],
)
def test_a_function_may_have_parameters_of_its_own(here, header):
    (here / "polite.py").write_text(f"def {header}:\n    return []\n")
    assert sources_of("polite.py:score")[0].open() is not None


def test_weights_keep_all_their_digits_that_matter():
    for weight in (0.1, 1 / 3, 12345.678, 1e-9):
        assert math.isclose(float(described(sources_of(f"model={weight!r}")).split()[0]), weight, rel_tol=1e-11)
