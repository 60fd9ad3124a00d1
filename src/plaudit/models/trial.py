"""One generation, one forward pass and one score with the real tokenizer, before anything is trained."""

from __future__ import annotations

from typing import Any

import torch

from plaudit.errors import ModelError
from plaudit.models.loading import load_causal_lm, load_reward_model, window
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import RewardModel
from plaudit.models.quiet import first_line
from plaudit.models.tokenizer import Tokenizer, pad_left

TEXTS, _UNKNOWN = 32, 0.5  # texts to look at, and the share of unknown tokens at which the tokenizer does not fit them


@torch.no_grad()
def try_model(
    name: str, tokenizer: Tokenizer, texts: list[str], device: torch.device, classifier: str | None = None
) -> None:
    """Refuse a model that cannot do what training will ask of it.

    Args:
        texts: TEXTS of those to train on; the first two are continued.
        classifier: name of the model that the reward model is, or starts from; None without one.

    Raises:
        ModelError: the tokenizer does not fit the model or the texts, the model cannot be run, or its numbers are not
            finite.
    """
    check_texts(name, tokenizer, texts)
    model = load_causal_lm(name).to(device).eval()
    check_vocabulary(name, tokenizer, model)
    rows = [tokenizer.demonstration("", text)[1][:-1] for text in texts[:2]]
    longest = max(1, min(8, window(model) - 3))
    prompts = [[*([] if tokenizer.bos_id is None else [tokenizer.bos_id]), *row[:longest]] for row in rows if row]
    ids, mask = (tensor.to(device) for tensor in pad_left(prompts, tokenizer.pad_id))
    noise = torch.full((len(prompts), 2), 0.5, dtype=torch.float64)
    engine, figures = PlainEngine(), []
    try:
        responses = engine.generate(model, ids, mask, noise, tokenizer.end_ids, tokenizer.pad_id)
        batch = (responses.ids, responses.attention_mask)
        figures.append(engine.logprobs(model, *batch, responses.response_mask)[0])
        if classifier is not None:
            model = RewardModel(load_reward_model(classifier, tokenizer.pad_id).to(device).eval(), engine)
            figures.append(model(*batch))
    except ModelError:
        raise
    except Exception as error:  # of any class: whatever the model's own code raises
        raise ModelError(f"{name}: the model cannot be run: {first_line(error)}; use another model") from error
    if not all(torch.isfinite(figure).all() for figure in figures):
        raise ModelError(f"{name}: the model's log-probabilities or scores are not finite; use another copy of it")


def check_vocabulary(name: str, tokenizer: Tokenizer, lm: Any) -> None:
    """Refuse a tokenizer with tokens for which the model has no embedding.

    Raises:
        ModelError: there is one.
    """
    size = lm.get_input_embeddings().weight.shape[0]
    beyond = {id: token for token, id in tokenizer.hf.get_vocab().items() if id >= size}
    if beyond:
        first = min(beyond)
        raise ModelError(
            f"{name}: the tokenizer has {beyond[first]!r} with id {first}, but the model has {size} embeddings; take "
            "both from one folder, or add embeddings (model.resize_token_embeddings(len(tokenizer))) and save it again"
        )


def check_texts(name: str, tokenizer: Tokenizer, texts: list[str]) -> None:
    """Refuse a tokenizer that does not know the texts to train on.

    Raises:
        ModelError: it gives no tokens, or the unknown token for half of them.
    """
    ids = [id for text in texts for id in tokenizer.response(text)[:-1]]
    unknown = ids.count(tokenizer.hf.unk_token_id)
    if not ids or unknown >= _UNKNOWN * len(ids):
        found = f"{unknown} of {len(ids)} tokens are unknown" if ids else "it gives no tokens"
        raise ModelError(f"{name}: the tokenizer does not know these texts ({found}); use a model of their language")
