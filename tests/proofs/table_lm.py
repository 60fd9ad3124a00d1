"""The enumerable language model as the library sees it: tables behind the adapter that Hugging Face models have."""

from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from proofs.enumerable import CAP, EOS, MISSING_EOS, STATES, VOCABULARY, state_of
from torch import nn

from plaudit import rng
from plaudit.algorithms.rollout import ScoreScale, respond, score_responses
from plaudit.config import build
from plaudit.models.tokenizer import Tokenizer
from plaudit.training.run import Run

PROMPT = [3]
SCALE = ScoreScale(mean=0.0, std=1.0, missing_eos=MISSING_EOS)
RUN = Run(Path("nowhere"), build({"device": "cpu", "dtype": "float32"}))
TOKENIZER = Tokenizer(hf=None, bos_id=None, eos_id=EOS, pad_id=EOS)  # pad = eos: masks must not care


class Cache:
    """All that a table needs of the past: the state of each row."""

    def __init__(self, state):
        self.state = state

    def batch_select_indices(self, indices):
        self.state = self.state[indices]


class Trunk(nn.Module):
    """Hidden state: one-hot of the state. The first attended token is the prompt and says nothing."""

    def forward(self, input_ids, attention_mask, position_ids, past_key_values=None, use_cache=False):
        n = input_ids.shape[1]
        state = torch.zeros(len(input_ids), dtype=torch.long) if past_key_values is None else past_key_values.state
        seen = []
        for t in range(n):
            read = torch.where(state == 0, 1, VOCABULARY * state + input_ids[:, t])
            state = torch.where(attention_mask[:, t - n].bool(), read, state)
            seen.append(state)
        hidden = F.one_hot(torch.stack(seen, 1), STATES).float()
        return SimpleNamespace(last_hidden_state=hidden, past_key_values=Cache(state))


CONFIG = SimpleNamespace(hidden_size=STATES, vocab_size=VOCABULARY, model_type="table")


class TableLM(nn.Module):
    """Next-token logits straight from a table (STATES, VOCABULARY)."""

    config = CONFIG

    def __init__(self, table):
        super().__init__()
        self.base_model = Trunk()
        self.head = nn.Linear(STATES, VOCABULARY, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(table.T))

    def get_output_embeddings(self):
        return self.head

    @property
    def table(self):
        return self.head.weight.detach().double().numpy().T.copy()


class TableReward(nn.Module):
    """A reward model whose logit of each whole response stands in a table."""

    config = CONFIG

    def __init__(self, scores):
        super().__init__()
        self.base_model = Trunk()
        self.score = nn.Linear(STATES, 1, bias=False)
        with torch.no_grad():
            self.score.weight.zero_()
            for response, score in scores.items():
                self.score.weight[0, state_of(response)] = score


def sampled(lm, reward_model, rows, *purpose):
    """`rows` responses of `lm` and their reward-model logits, by the library's own path."""
    noise = rng.uniforms(range(rows), CAP, 0, "proof", 0, "/".join(map(str, purpose)))
    responses = respond(lm, [PROMPT] * rows, noise, TOKENIZER, 1.0, RUN)
    return responses, score_responses(reward_model, responses, RUN)
