"""The model card of one model of a run: README.md with the metadata that the hub reads."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import tomli_w
from huggingface_hub import HfApi, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from plaudit.config import ALGORITHMS, default_settings, flatten, short_names, tomllib
from plaudit.data import hub, memory
from plaudit.data.corpus import BUILT_IN
from plaudit.evaluation.evaluate import policy_stage
from plaudit.evaluation.report import RunFiles
from plaudit.evaluation.report.words import (
    REWARD_MODEL,
    bracketed,
    duration,
    interval,
    measures,
    number,
    verdict,
    warnings,
    written,
)
from plaudit.models.ensemble import member_folders
from plaudit.training.run import Run

# Built-in models that are on the hub: id there, and license.
_ON_HUB = {"smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@.*)?")
_LANGUAGE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("{0}"), AutoModelForCausalLM.from_pretrained("{0}")
batch = tokenizer("{1}", return_tensors="pt")
print(tokenizer.decode(model.generate(**batch)[0], skip_special_tokens=True))"""
_CHAT = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("{0}"), AutoModelForCausalLM.from_pretrained("{0}")
turns = [{{"role": "user", "content": "{1}"}}]
batch = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**batch)[0], skip_special_tokens=True))"""
# A reward model: it is opened, reads a text or a conversation, and scores it.
_OPEN = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer, model = (c.from_pretrained("{0}") for c in (AutoTokenizer, AutoModelForSequenceClassification))
"""
_OPEN_ENSEMBLE = """from statistics import mean, pstdev
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{0}")
models = [AutoModelForSequenceClassification.from_pretrained("{0}", subfolder=folder) for folder in {2}]
"""
_TEXT = 'batch = tokenizer("{1}", return_tensors="pt")\n'
_TURNS = """turns = [{{"role": "user", "content": "{1}"}}, {{"role": "assistant", "content": "It depends."}}]
batch = tokenizer.apply_chat_template(turns, return_dict=True, return_tensors="pt")
"""
_SCORE = "print(model(**batch).logits.item())"
_SCORE_ENSEMBLE = """scores = [model(**batch).logits.item() for model in models]
print(mean(scores), pstdev(scores))"""


def card(run: Run, stage: str, repos: dict[str, str]) -> str:
    """The README.md of a stage's model, from the files in the run directory.

    Args:
        repos: the repository of each stage that is on the hub, or will be.
    """
    files = RunFiles(run.path)
    environment = Environment(
        loader=PackageLoader(__name__, ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    scores = stage == "reward_model"
    chat = run.summary("sft").get("chat", False)
    members = _members(run, stage)
    opened, score = (_OPEN_ENSEMBLE, _SCORE_ENSEMBLE) if len(members) > 1 else (_OPEN, _SCORE)
    example = opened + (_TURNS if chat else _TEXT) + score if scores else _CHAT if chat else _LANGUAGE
    prompt = "the film is" if run.config.data.name in BUILT_IN else "What do you think?" if chat else "I think that"
    head, rows = ([], []) if scores or stage == "sft" else _comparison(files, stage)
    content = {
        "metadata": _metadata(run, stage, repos),
        "title": repos[stage].rpartition("/")[2],
        "about": _about(run, stage, repos),
        "example": example.format(repos[stage], prompt, json.dumps(members)),
        "scale": _scale(run, stage),
        "head": head,
        "rows": rows,
        "held_out": _held_out(files),
        "sentences": [s for s in _sentences(run, files, stage) if s],
        "data": _data(run, stage),
        "command": _command(run, stage),
        "settings": tomli_w.dumps({stage: dataclasses.asdict(getattr(run.config, stage))}).strip(),
        "made": _made(run, stage),
        "limits": _limits(stage),
    }
    page = environment.get_template("card.md.jinja").render(content)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def base_of(model: str) -> tuple[str, str]:
    """The hub id of a base model and its license; each is empty where it is not known."""
    if model in _ON_HUB:
        return _ON_HUB[model]
    if not _on_hub(model):
        return "", ""
    name, found = model.partition("@")[0], []

    def request(name: str, timeout: float) -> None:
        found.append(HfApi().model_info(name, timeout=timeout))

    if hub.ask(request, name) is not None or not found:
        return name, ""
    data = found[0].card_data
    license = getattr(data, "license", None) if data else None
    return name, license if isinstance(license, str) else ""


def _on_hub(name: str) -> bool:
    """Whether a model or a data set has come from the hub."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).expanduser().exists()


def _metadata(run: Run, stage: str, repos: dict[str, str]) -> str:
    base, license = base_of(run.config.model)
    made_from = base if stage == "sft" else repos.get("sft", base)
    scores = stage == "reward_model"
    data = run.config.data.name
    return ModelCardData(
        base_model=made_from or None,
        datasets=[data] if _on_hub(data) and data not in BUILT_IN else None,
        library_name="transformers",
        license=license or None,
        pipeline_tag="text-classification" if scores else "text-generation",
        tags=["plaudit", "rlhf", "reward-model" if scores else stage],
    ).to_yaml()


def _about(run: Run, stage: str, repos: dict[str, str]) -> str:
    def link(name: str, text: str) -> str:
        return f"[{text}](https://huggingface.co/{repos[name]})" if name in repos else text

    base, _ = base_of(run.config.model)
    start = f"[{base}](https://huggingface.co/{base})" if base else f"`{_shown(run.config.model)}`"
    if stage == "sft":
        return f"A language model: {start} after supervised fine-tuning."
    if stage == "reward_model":
        kind = "comparisons" if run.summary(stage).get("kind") == "comparisons" else "labelled texts"
        return f"A reward model: a score for texts, trained on {kind} from the {link('sft', 'SFT model')} of {start}."
    reward = run.summary(stage).get("reward", "reward model")
    goal = f"the {link('reward_model', 'reward model')}" if reward == "reward model" else f"the reward `{reward}`"
    return (
        f"A language model trained by RLHF: {start} after supervised fine-tuning ({link('sft', 'SFT model')}) and "
        f"{_learned(run, stage, goal)}."
    )


def _learned(run: Run, stage: str, goal: str) -> str:
    """How the policy was trained, in words."""
    if run.summary(stage).get("source") == "data":
        return f"{stage.upper()} on the judgements of the data"
    if stage == "best_of_n":
        return f"imitation of the best of {run.config.best_of_n.group_size} of its responses by {goal}"
    if stage in ("dpo", "kto"):
        return f"{stage.upper()} on its responses, judged by {goal}"
    return f"{stage.upper()} for {goal}, with a KL penalty against the SFT model"


def _scale(run: Run, stage: str) -> str:
    if stage == "reward_model":
        logit = "logit: its sigmoid is the probability that a text is good, or that the better of two is."
        if (count := len(_members(run, stage))) == 1:
            return f"The number is a {logit}"
        return (
            f"This is an ensemble of {count} reward models: one in the repository itself, the others in folders. The "
            f"first number, the mean of their scores, is a {logit} The second is their standard deviation: where it is "
            "large, they disagree, and the score is a guess."
        )
    settings = getattr(run.config, stage if hasattr(getattr(run.config, stage), "temperature") else "ppo")
    return (
        f"`generate` samples as in training: temperature {settings.temperature:g}, at most {settings.max_new_tokens} "
        "new tokens."
    )


def _members(run: Run, stage: str) -> list[str]:
    """The folder of each model in a stage's repository; "" is the repository itself."""
    folder = run.folder(stage)
    return ["", *(member.relative_to(folder).as_posix() for member in member_folders(folder)[1:])]


def _held_out(files: RunFiles) -> str:
    prompts = number(files.meta, "prompts")
    return f"On {prompts:.0f} held-out prompts, with the same random numbers for both models:" if prompts else ""


def _comparison(files: RunFiles, stage: str) -> tuple[list[str], list[list[str]]]:
    """The table of a policy beside the SFT model, with intervals where they were measured."""
    before, after = (files.table("evaluation.json", name) for name in ("sft", stage))
    rows = []
    for measure in measures(files.reward, files.bounds):
        cells = []
        for side in (before, after):
            ends = interval(side, measure.key.removesuffix("_mean") + "_ci95")
            cells.append(f"{written(number(side, measure.key), measure.form)} {bracketed(ends, measure.form)}".strip())
        if cells != ["–", "–"]:
            rows.append([measure.name, *cells, measure.about])
    return ["", "SFT model", "this model", ""], rows


def _sentences(run: Run, files: RunFiles, stage: str) -> list[str]:
    summary = run.summary(stage)
    if stage == "sft":
        before, after = (number(summary, key) for key in ("perplexity_before", "perplexity"))
        if after is None:
            return []
        texts = summary.get("held_out_texts", "the")
        return [
            f"Perplexity on {texts} held-out texts: {written(after, '{:.2f}')}, {written(before, '{:.2f}')} before."
        ]
    if stage == "reward_model":
        if number(summary, "accuracy") is None:
            return ["There is no held-out figure of this model."]
        accuracy = f"{written(number(summary, 'accuracy'), '{:.1%}')} {bracketed(interval(summary, 'accuracy_ci95'))}"
        alone = [written(share, "{:.1%}") for share in summary.get("members", {}).get("accuracy", [])]
        rule = summary.get("best_rule")
        best = summary.get("trivial_rules", {}).get(rule)
        beside = (
            f"The best trivial rule ('{rule}') reaches {written(number(best, 'accuracy'), '{:.1%}')} "
            f"{bracketed(interval(best, 'accuracy_ci95'))} on them."
        )
        error, slope = (written(number(summary, key), "{:.3f}") for key in ("ece", "length_correlation"))
        return [
            f"Accuracy on {summary.get('held_out', 0):,} held-out judgements: {accuracy.strip()} (95% interval).",
            f"Of the models alone: {', '.join(alone)}." if alone else "",
            beside if best else "",
            f"Expected calibration error {error}; correlation of score and length {slope}.",
            *(f"**Warning:** {line}" for line in summary.get("warnings", [])),
        ]
    evaluation = files.contents.get("evaluation.json", {})
    if stage not in evaluation or policy_stage(run) != stage:
        return ["There is no evaluation of this model."]
    text = verdict(evaluation, files.lines(f"{stage}/metrics.jsonl"), None, stage)
    judge = files.table("evaluation.json", "meta", "judge")
    task = number(judge, "accuracy_task")
    about = f"The judge agrees with {written(task, '{:.0%}')} of the held-out labels of this data." if task else ""
    return [text, about, *(f"**Warning:** {line}" for line in warnings(evaluation))]


def _data(run: Run, stage: str) -> str:
    summary = run.summary(stage)
    counts = {"texts": "texts", "records": "judgements", "prompts": "prompts"}
    count = next((f"{summary[key]:,} {word} of " for key, word in counts.items() if key in summary), "")
    made = (run.made_from(stage) or {}).get("data", "")
    name = run.config.data.name
    data = "data that a program passed" if name.startswith(memory.PREFIX) else f"`{_shown(name)}`"
    return f"Trained on {count}{data} (fingerprint `{made[:12]}`) by:"


def _command(run: Run, stage: str) -> str:
    """The command that trains this model, or the call in Python where data or reward are those of a program.

    Of the settings it has those that are not the default.
    """
    defaults, short = default_settings(), {full: name for name, full in short_names().items()}
    given = {
        name: value
        for name, value in flatten(dataclasses.asdict(run.config)).items()
        if value != defaults.get(name) and name.rpartition(".")[2] not in ("track", "keep_checkpoints", "save_every")
    }
    reward = "" if run.config.reward else run.summary(stage).get("reward", REWARD_MODEL)
    if run.config.data.name.startswith(memory.PREFIX) or reward not in ("", REWARD_MODEL):
        own = {name: _shown(value) if isinstance(value, str) else value for name, value in given.items()}
        data = repr(own.pop("data.name", defaults["data.name"]))
        stages = [name for name in ALGORITHMS if run.complete(name)]
        call = f"plaudit.open_run(path, {'...' if memory.PREFIX in data else data}, {own})"
        how = f", reward={reward}" if reward not in ("", REWARD_MODEL) else ""
        return f"```python\nrun = {call}\nfor report in plaudit.steps(run, {stages}{how}):\n    ...\n```"
    words = ["plaudit", "run" if stage in ("sft", "reward_model", "ppo") else stage]
    for name, value in given.items():
        flag = f"--{short.get(name, name).replace('_', '-')}"
        for each in value if isinstance(value, tuple) else (value,):
            words += [flag, _shown(each) if isinstance(each, str) else f"{each}"]
    return f"```sh\n{shlex.join(words)}\n```"


def _shown(name: str) -> str:
    """A name as it may be published: of a path its last part alone."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or name.startswith((".", "~")) or path.exists() else name


def _made(run: Run, stage: str) -> str:
    versions = tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8")).get("versions", {})
    libraries = ", ".join(f"{name} {value}" for name, value in versions.items() if name != "settings")
    seconds = run.log(stage).seconds()
    device = (run.made_from(stage) or {}).get("settings", {}).get("device", "cpu")
    dtype = str(run.dtype).removeprefix("torch.")
    return f"{duration(seconds)} of steps on {device} in {dtype}. Versions: {libraries}."


def _limits(stage: str) -> list[str]:
    general = "It was measured on data like those that it was trained on, and not for truth, safety or bias."
    if stage == "reward_model":
        return [
            general,
            "It ranks texts like those that it was trained on. A policy that is trained against it can find texts that "
            "it scores too high.",
        ]
    if stage == "sft":
        return [general, "It imitates its training texts, with their errors."]
    return [
        general,
        "It was trained to raise one number. A higher score does not prove better responses: compare the figures that "
        "training did not use.",
        "What it says about facts and people may be wrong.",
    ]
