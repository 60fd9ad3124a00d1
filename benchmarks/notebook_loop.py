"""PPO as notebooks write it: the plain baseline. `python -m benchmarks.notebook_loop`.

It generates for one prompt at a time, pads batches on the right to their longest text, computes logits over the whole
vocabulary at every position (prompt and padding included), and trains all parameters with Adam. The computation is
correct: no dropout, log-probabilities aligned and masked, advantages whitened.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from torch import Tensor, nn
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from benchmarks.contender import WARM_UP, Stopwatch, device_of, print_record, record, start
from benchmarks.workload import Workload, saved_models

NAME = "notebook-style loop"


class PolicyWithValue(nn.Module):
    """A causal language model and a value head on its last hidden state."""

    def __init__(self, lm: GPT2LMHeadModel) -> None:
        super().__init__()
        self.lm = lm
        self.value_head = nn.Linear(lm.config.n_embd, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, V) logits and (B, T) values."""
        output = self.lm(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return output.logits.float(), self.value_head(output.hidden_states[-1]).squeeze(-1).float()


def load(work: Workload, options: argparse.Namespace) -> SimpleNamespace:
    """Policy, frozen reference and reward model, optimizer, device and autocast context."""
    device = device_of(options)
    policy_folder, reward_folder = saved_models(work, Path(options.work))
    policy = PolicyWithValue(GPT2LMHeadModel.from_pretrained(policy_folder)).to(device).eval()
    reference = GPT2LMHeadModel.from_pretrained(policy_folder).to(device).eval().requires_grad_(False)
    reward_model = GPT2ForSequenceClassification.from_pretrained(reward_folder).to(device).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=work.lr, eps=1e-5)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == "bfloat16")
    return SimpleNamespace(
        device=device, policy=policy, reference=reference, reward_model=reward_model, optimizer=optimizer,
        autocast=autocast,
    )  # fmt: skip


def padded(texts: list[Tensor], pad_id: int) -> tuple[Tensor, Tensor]:
    """(B, T) ids padded on the right, and their attention mask."""
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(text) for text in texts], device=ids.device)
    return ids, (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()


def logprobs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, T - 1) log-probability of each token after the first."""
    return torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


@torch.no_grad()
def generate(run: SimpleNamespace, work: Workload) -> list[Tensor]:
    """Ids of prompt and response, generated one prompt at a time."""
    texts = []
    for prompt, length in zip(work.prompts, work.lengths, strict=True):
        ids = torch.tensor([prompt], device=run.device)
        with run.autocast:
            text = run.policy.lm.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=work.temperature,
                top_k=0,
                top_p=1.0,
                min_new_tokens=length,  # no end token before `length`
                max_new_tokens=length,
                pad_token_id=run.policy.lm.config.eos_token_id,
            )
        texts.append(text[0])
    return texts


@torch.no_grad()
def score(run: SimpleNamespace, work: Workload, texts: list[Tensor]) -> SimpleNamespace:
    """Masks, logprobs, values, advantages, returns. Column t of a (B, T - 1) tensor belongs to token t + 1."""
    ids, attention = padded(texts, run.policy.lm.config.eos_token_id)
    columns = torch.arange(1, ids.shape[1], device=run.device)
    first = torch.tensor([len(prompt) for prompt in work.prompts], device=run.device)[:, None]
    mask = (columns >= first) & attention[:, 1:].bool()
    with run.autocast:
        logits, values = run.policy(ids, attention)
        logprobs = logprobs_of(logits / work.temperature, ids)
        ref_logits = run.reference(input_ids=ids, attention_mask=attention).logits.float()
        ref_logprobs = logprobs_of(ref_logits / work.temperature, ids)
        scores = run.reward_model(input_ids=ids, attention_mask=attention).logits.squeeze(-1).float()
    values = values[:, :-1] * mask
    rewards = -work.kl_coef * (logprobs - ref_logprobs) * mask
    rewards += scores[:, None] * (columns == attention.sum(1, keepdim=True) - 1)
    advantages, following = torch.zeros_like(rewards), torch.zeros_like(scores)
    for t in reversed(range(rewards.shape[1])):
        next_values = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
        following = (rewards[:, t] + work.gamma * (next_values + work.lam * following) - values[:, t]) * mask[:, t]
        advantages[:, t] = following
    returns = advantages + values
    chosen = advantages[mask]
    advantages = (advantages - chosen.mean()) / (chosen.std() + 1e-8) * mask
    return SimpleNamespace(
        texts=texts, mask=mask, logprobs=logprobs, values=values, advantages=advantages, returns=returns
    )  # fmt: skip


def update(run: SimpleNamespace, work: Workload, batch: SimpleNamespace) -> list[float]:
    """Train for some epochs of minibatches, each padded to its longest text; the loss of each optimizer step."""
    losses = []
    for _ in range(work.epochs):
        for rows in torch.randperm(len(batch.texts)).split(work.minibatch_size):
            ids, attention = padded([batch.texts[i] for i in rows.tolist()], run.policy.lm.config.eos_token_id)
            rows = rows.to(run.device)
            width = ids.shape[1] - 1
            names = ("mask", "logprobs", "values", "advantages", "returns")
            mask, old_logprobs, old_values, advantages, returns = (getattr(batch, n)[rows, :width] for n in names)
            with run.autocast:
                logits, values = run.policy(ids, attention)
            ratio = (logprobs_of(logits / work.temperature, ids) - old_logprobs)[mask].exp()
            clipped = ratio.clamp(1 - work.clip_range, 1 + work.clip_range)
            policy_loss = -torch.min(ratio * advantages[mask], clipped * advantages[mask]).mean()
            values = values[:, :-1]
            near = old_values + (values - old_values).clamp(-work.value_clip, work.value_clip)
            value_loss = 0.5 * torch.max((values - returns)[mask] ** 2, (near - returns)[mask] ** 2).mean()
            loss = policy_loss + work.value_coef * value_loss
            run.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(run.policy.parameters(), work.max_grad_norm)
            run.optimizer.step()
            losses.append(loss.item())
    return losses


def main(argv: list[str] | None = None) -> None:
    """Time some updates and print the record."""
    options, work = start(__doc__, argv)
    transformers.logging.set_verbosity_error()
    torch.manual_seed(work.seed)
    run = load(work, options)
    watch = Stopwatch(run.device)
    for _ in range(WARM_UP + options.updates):
        watch.start()
        texts = generate(run, work)
        watch.lap("generation")
        batch = score(run, work, texts)
        watch.lap("scoring")
        losses = update(run, work, batch)
        watch.lap("training")
    assert len(losses) == work.optimizer_steps
    print_record(
        record(NAME, watch, work, options, optimizer="Adam", trains="all parameters, value head on the policy")
    )


if __name__ == "__main__":
    main()
