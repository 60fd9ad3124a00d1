import math

import pytest
import torch
from tiny import GOOD, make_tokenizer, make_tokenizer_of
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from plaudit.errors import ModelError
from plaudit.models.classifier import Classifier

SMALL = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32, "initializer_range": 0.5}  # fmt: skip
PROMPTS, RESPONSES = ["the film", "a joy", ""], [" is a joy to watch", " ! " * 9, "dull"]


def make(folder, kind="bert", labels=("BAD", "GOOD"), pad=True, **settings):
    """A folder with a random classifier of a family and its own tokenizer."""
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    if kind == "gpt2":
        tokenizer = make_tokenizer()
        if pad:
            tokenizer.pad_token = "ÿ"
        config = GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
                            pad_token_id=tokenizer.pad_token_id, **names, **settings)  # fmt: skip
        model = GPT2ForSequenceClassification(config)
    else:
        tokenizer = make_tokenizer_of("wordpiece")
        cls, configured = {
            "bert": (BertForSequenceClassification, BertConfig),
            "roberta": (RobertaForSequenceClassification, RobertaConfig),
        }[kind]
        model = cls(
            configured(**SMALL, max_position_embeddings=34, pad_token_id=tokenizer.pad_token_id, **names, **settings)
        )
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def logits_alone(folder, tokenizer, text):
    """What transformers gives one text without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0].double()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "gpt2 without padding"])
def test_the_score_is_the_log_odds_of_the_label_for_prompt_and_response(tmp_path, kind):
    folder = make(tmp_path, kind.split()[0], pad="without" not in kind)
    classifier = Classifier(folder, "GOOD")
    for prompt, response, score in zip(PROMPTS, RESPONSES, classifier(PROMPTS, RESPONSES), strict=True):
        p = logits_alone(folder, classifier.tokenizer, prompt + response).softmax(0)[1].item()
        assert score == pytest.approx(math.log(p / (1 - p)), abs=1e-4)


def test_with_three_labels_the_odds_are_against_all_others_and_with_several_at_once_of_each_alone(tmp_path):
    labels = ("BAD", "NEUTRAL", "GOOD")
    for kind in ("single_label_classification", "multi_label_classification"):
        folder = make(tmp_path / kind, labels=labels, problem_type=kind)
        classifier = Classifier(folder, "NEUTRAL")
        (score,) = classifier(["the film"], [" is a joy"])
        logits = logits_alone(folder, classifier.tokenizer, "the film is a joy")
        p = (logits.softmax(0) if kind.startswith("single") else logits.sigmoid())[1].item()
        assert score == pytest.approx(math.log(p / (1 - p)), abs=1e-4)


def test_with_one_label_the_score_is_its_logit(tmp_path):
    folder = make(tmp_path, labels=("reward",))
    classifier = Classifier(folder)
    assert classifier(["the film"], [" is a joy"]) == pytest.approx(
        logits_alone(folder, classifier.tokenizer, "the film is a joy").tolist(), abs=1e-5
    )


def test_a_decoder_with_one_label_is_a_reward_model_and_reads_the_end_token(tmp_path):
    folder = make(tmp_path, "gpt2", labels=("reward",))
    classifier = Classifier(folder)
    ended = logits_alone(folder, classifier.tokenizer, "the film is a joy<|endoftext|>").item()
    assert classifier(["the film", ""], [" is a joy", "dull"])[0] == pytest.approx(ended, abs=1e-4)


@pytest.mark.parametrize("label", ["", "good", "1"])
def test_a_label_must_be_chosen_among_several(tmp_path, label):
    folder = make(tmp_path)
    with pytest.raises(ModelError) as caught:
        Classifier(folder, label)
    assert f"its labels are BAD, GOOD: give {folder}:BAD or {folder}:GOOD" in str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_text_that_is_too_long_loses_its_beginning(tmp_path, kind):
    classifier = Classifier(make(tmp_path, kind), "GOOD")
    long = " ".join(GOOD * 9)
    first, second, other = classifier(["dull " + long, "kind " + long, long], [" a joy", " a joy", " slow"])
    assert first == pytest.approx(second, abs=1e-5)
    assert abs(first - other) > 1e-3


def test_a_language_model_is_no_classifier(tiny_model_folder):
    with pytest.raises(ModelError, match="GPT2LMHeadModel, not a sequence classifier"):
        Classifier(tiny_model_folder)


def test_the_reward_model_of_a_run_is_a_classifier(finished_run):
    folder = finished_run / "reward_model"
    classifier = Classifier(str(folder))
    (score,) = classifier(["the film"], [" is a joy"])
    assert score == pytest.approx(logits_alone(folder, classifier.tokenizer, "the film is a joy").item(), abs=1e-4)
