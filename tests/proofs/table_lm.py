"""The enumerable language model as a model of transformers' interface, so that the library runs it unchanged."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from proofs.enumerable import CAP, EOS, PENALTY, RESPONSES, STATES, VOCABULARY, state_of
from torch import nn

from plaudit import rng
from plaudit.batches import Responses
from plaudit.models.plain import PlainEngine
from plaudit.models.policy import Policy, RewardModel
from plaudit.models.tokenizer import Tokenizer, collate
from plaudit.rewards import ModelReward
from plaudit.training.rollouts import ScoreScale, generate

PROMPT = [3]
SCALE = ScoreScale(mean=0.0, std=1.0, missing_eos_penalty=PENALTY)
ENGINE = PlainEngine()
TOKENIZER = Tokenizer(hf=None, bos_id=None, eos_id=EOS, pad_id=EOS)  # pad = eos: masks must not depend on it
CONFIG = SimpleNamespace(hidden_size=STATES, vocab_size=VOCABULARY, model_type="table")


class Backbone(nn.Module):
    """Hidden state: one-hot of the state. The first attended token is the prompt, which decides nothing."""

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False):
        rows, n = input_ids.shape
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        state = torch.zeros(rows, dtype=torch.long) if past_key_values is None else past_key_values
        states = []
        for t in range(n):
            read = torch.where(state == 0, 1, VOCABULARY * state + input_ids[:, t])
            state = torch.where(attention_mask[:, t - n].bool(), read, state)
            states.append(state)
        hidden = F.one_hot(torch.stack(states, 1) % STATES, STATES).float()
        return SimpleNamespace(last_hidden_state=hidden, past_key_values=state)


class TableLM(nn.Module):
    """A language model whose next-token logits are the rows of a table (STATES, VOCABULARY)."""

    config = CONFIG

    def __init__(self, table):
        super().__init__()
        self.base_model = Backbone()
        self.head = nn.Linear(STATES, VOCABULARY, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(table.T))

    def get_output_embeddings(self):
        return self.head

    def forward(
        self, input_ids, attention_mask=None, past_key_values=None, use_cache=False, output_hidden_states=False
    ):
        output = self.base_model(input_ids, attention_mask, past_key_values)
        output.logits, output.hidden_states = self.head(output.last_hidden_state), (output.last_hidden_state,)
        return output

    @property
    def table(self):
        return self.head.weight.detach().double().numpy().T.copy()


class TableClassifier(nn.Module):
    """A sequence classifier whose logits of whole responses are given."""

    config = CONFIG

    def __init__(self, logits):
        super().__init__()
        self.base_model = Backbone()
        self.score = nn.Linear(STATES, 1, bias=False)
        with torch.no_grad():
            self.score.weight.zero_()
            for response, logit in logits.items():
                self.score.weight[0, state_of(response)] = logit


def policy_of(table, value_head=True):
    return Policy(TableLM(table), ENGINE, value_head=value_head)


def reward_of(logits):
    return ModelReward(RewardModel(TableClassifier(logits), ENGINE))


def sampled(policy, reward, rows, *purpose):
    """`rows` responses of the policy and their raw scores."""
    noise = rng.uniforms(range(rows), CAP, 0, "proof", 0, "/".join(map(str, purpose)))
    responses = generate(policy, [PROMPT] * rows, noise, TOKENIZER, 1.0)
    return responses, reward(responses)


def every_response():
    """All 40 responses as one batch."""
    batch = collate([(PROMPT, list(y)) for y in RESPONSES], TOKENIZER.pad_id)
    ended = torch.tensor([y[-1] == EOS for y in RESPONSES])
    return Responses(batch.ids, batch.attention_mask, batch.loss_mask[:, -CAP:], ended)


def gradient_of(policy, loss):
    """(STATES, VOCABULARY) gradient of a loss with respect to the policy's table."""
    policy.zero_grad()
    loss.backward()
    return policy.lm.head.weight.grad.double().numpy().T.copy()


def scored_responses(policy):
    """(40,) log-probability of every response, with its gradient."""
    batch = collate([(PROMPT, list(y)) for y in RESPONSES], TOKENIZER.pad_id)
    logprobs, _ = policy(batch.ids, batch.attention_mask, batch.loss_mask[:, -CAP:])
    return logprobs.sum(1)
