import numpy as np
import torch
from tiny import BAD, GOOD

from plaudit.lesson import scoring
from plaudit.models.loading import load_reward_model, load_tokenizer
from plaudit.training.run import Run


def test_logits_are_those_of_each_text_alone_in_order(finished_run, monkeypatch):
    monkeypatch.setattr(scoring, "_AT_ONCE", 3)
    folder = Run.existing(finished_run).model("reward_model")
    tokenizer = load_tokenizer(folder)
    model = load_reward_model(folder, tokenizer.pad_id)
    texts = [*GOOD, *BAD, "a"]
    together = scoring.logits_of(model, tokenizer, texts)
    for text, logit in zip(texts, together, strict=True):
        ids = torch.tensor([[*tokenizer.prompt(""), *tokenizer.response(text)]])
        with torch.no_grad():
            alone = model.base_model(input_ids=ids).last_hidden_state[0, -1] @ model.score.weight[0]
        np.testing.assert_allclose(float(alone), logit, atol=1e-4)
