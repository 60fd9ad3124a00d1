"""What transformers alone makes of our saved folders, in a process without plaudit, equals our own numbers."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import GOOD, make_lm, make_tokenizer_of
from transformers import GPT2ForSequenceClassification

from plaudit.models.loading import load_causal_lm, load_reward_model, load_tokenizer, save
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import RewardModel
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.settings import RolloutConfig

WITHOUT_PLAUDIT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

given = json.load(open(sys.argv[1]))
out = {}
for folder in given["classifiers"]:
    tokenizer, model = (c.from_pretrained(folder) for c in (AutoTokenizer, AutoModelForSequenceClassification))
    with torch.no_grad():
        batch = tokenizer(given["texts"], padding=True, return_tensors="pt")
        scores = model(**batch).logits[:, 0].tolist()
    out[folder] = {"scores": scores, "labels": model.config.id2label, "pad": tokenizer.pad_token_id,
                   "eos": tokenizer.eos_token_id}
for folder in given["policies"]:
    tokenizer, model = (c.from_pretrained(folder) for c in (AutoTokenizer, AutoModelForCausalLM))
    batch = tokenizer(given["prompts"], padding=True, return_tensors="pt")
    torch.manual_seed(0)
    made = model.generate(**batch, output_logits=True, output_scores=True, return_dict_in_generate=True)
    scores = torch.stack(made.scores, 1).log_softmax(-1)  # as they are sampled
    new = made.sequences[:, batch["input_ids"].shape[1]:]
    out[folder] = {"ids": batch["input_ids"].tolist(), "mask": batch["attention_mask"].tolist(), "new": new.tolist(),
                   "logprobs": scores.gather(2, new[..., None])[..., 0].tolist(),
                   "least": scores.min().item(), "config": model.generation_config.to_diff_dict()}
assert "plaudit" not in sys.modules
json.dump(out, open(sys.argv[2], "w"))
"""
TEXTS = ["a joy", "the cast is wonderful , funny , clever and kind", "", "a </s> dull <|endoftext|> film [SEP] ÿ"]
PROMPTS = ["the cast is", "a", "funny , clever and"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A function that runs transformers alone on some folders."""

    def run(classifiers, policies):
        folder = tmp_path_factory.mktemp("plain")
        given = {"classifiers": classifiers, "policies": policies, "texts": TEXTS, "prompts": PROMPTS}
        (folder / "given.json").write_text(json.dumps(given))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-c", WITHOUT_PLAUDIT, str(folder / "given.json"), str(folder / "out.json")]
        subprocess.run(command, check=True, env=environment, cwd=folder)
        return json.loads((folder / "out.json").read_text())

    return run


@torch.no_grad()
def our_scores(folder):
    tokenizer = load_tokenizer(folder)
    batch = collate([tokenizer.demonstration("", text) for text in TEXTS], tokenizer.pad_id)
    model = RewardModel(load_reward_model(folder, tokenizer.pad_id).eval(), PlainEngine())
    return model(batch.ids, batch.attention_mask).tolist()


@torch.no_grad()
def our_logprobs(folder, found, temperature):
    """Log-probabilities under our model of the tokens that transformers sampled, up to each row's eos."""
    tokenizer, lm = load_tokenizer(folder), load_causal_lm(folder).eval()
    rows = []
    for prompt, new in zip(PROMPTS, found["new"], strict=True):
        new = new[: new.index(tokenizer.eos_id) + 1] if tokenizer.eos_id in new else new
        ids = torch.tensor([[*tokenizer.prompt(prompt), *new]])
        mask = torch.ones_like(ids, dtype=torch.bool)
        rows.append(PlainEngine().logprobs(lm, ids, mask, mask[:, -len(new) :], temperature)[0])
    return rows


def check_policy(folder, found, settings):
    tokenizer = load_tokenizer(folder)
    for prompt, ids, mask in zip(PROMPTS, found["ids"], found["mask"], strict=True):
        assert [id for id, kept in zip(ids, mask, strict=True) if kept] == tokenizer.prompt(prompt)
    for ours, theirs in zip(our_logprobs(folder, found, settings.temperature), found["logprobs"], strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs[: len(ours)]), rtol=1e-4, atol=1e-4)
    assert found["least"] > -float("inf")  # no token is cut off by top-k or top-p
    expected = {"do_sample": True, "top_k": 0, "temperature": settings.temperature}
    expected |= {"max_new_tokens": settings.max_new_tokens, "eos_token_id": tokenizer.eos_id}
    expected |= {"pad_token_id": tokenizer.pad_id}
    assert {name: found["config"].get(name) for name in expected} == expected
    assert tokenizer.pad_id != tokenizer.eos_id


def test_folders_of_a_run_give_our_numbers_in_plain_transformers(finished_run, tiny_config, plain):
    reward = str(finished_run / "reward_model")
    policies = [str(finished_run / stage) for stage in ("sft", "ppo")]
    found = plain([reward], policies)
    torch.testing.assert_close(found[reward]["scores"], our_scores(reward), rtol=1e-4, atol=1e-4)
    assert found[reward]["labels"] == {"0": "score"}
    assert found[reward]["pad"] != found[reward]["eos"]
    for folder in policies:
        check_policy(folder, found[folder], tiny_config.ppo)


def test_every_kind_of_tokenizer_is_saved_with_bos_eos_and_padding(tmp_path, plain):
    settings = RolloutConfig(temperature=0.7, max_new_tokens=5)
    classifiers, policies = [], []
    for kind in ("byte-level", "byte-level without bos", "metaspace", "unigram", "wordpiece"):
        tokenizer = Tokenizer.of(make_tokenizer_of(kind))
        lm = make_lm()
        classifier = GPT2ForSequenceClassification(lm.config)
        classifier.score = torch.nn.Linear(32, 1, bias=False)
        classifier.config.num_labels = 1
        for model, folders, sampling in ((classifier, classifiers, None), (lm, policies, settings)):
            folders.append(str(tmp_path / f"{kind} {len(classifiers)}{len(policies)}"))
            save(model, tokenizer, tmp_path / folders[-1], sampling)
            again = load_tokenizer(folders[-1])
            assert (again.bos_id, again.eos_id, again.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
            for text in (*GOOD, *TEXTS):
                assert again.demonstration(text, text) == tokenizer.demonstration(text, text)
    found = plain(classifiers, policies)
    for folder in classifiers:
        # "</s>" is an ordinary piece of a unigram vocabulary: transformers reads it as the end token.
        texts = len(TEXTS) - ("unigram" in folder)
        expected = our_scores(folder)[:texts]
        torch.testing.assert_close(found[folder]["scores"][:texts], expected, rtol=1e-4, atol=1e-4)
    for folder in policies:
        check_policy(folder, found[folder], settings)
