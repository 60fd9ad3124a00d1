"""Make exchange.json and trl-reward-model: TRL's trainers on plaudit's files and models, and what they computed.

`make parity` runs `ours.py` first, which writes these files and models, and then this script in TRL's environment,
where plaudit is not installed. The trainers run as released:

- `DPOTrainer` on the training rows of pairs.jsonl with the SFT model: the token ids of its data set, and the first
  step's log.
- `RewardTrainer` on the same file with the reward model: token ids, and the first step's log. After some steps its
  model is saved as trl-reward-model, with its scores of some texts.
- `PPOTrainer` with both models: the token ids and scores of its first rollout, as its own `get_reward` returns them.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

HERE = Path(__file__).parent
TEXTS = ["a joy to watch", "film 3: a warm and moving film", "the cast is dreadful", "film 7: slow , stupid and loud"]
QUIET = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
         "disable_tqdm": True, "logging_steps": 1}  # fmt: skip


def pairs(ours: Path, part: str) -> Dataset:
    data = load_dataset("json", data_files=str(ours / "pairs.jsonl"), split="train")
    return data.filter(lambda row: row["split"] == part)


def rows(trainer, *names: str) -> list[dict]:
    return [{name: row[name] for name in names} for row in trainer.train_dataset]


def first(trainer, *names: str) -> dict:
    log = next(line for line in trainer.state.log_history if names[0] in line)
    return {name: log[name] for name in names}


def dpo(ours: Path, folder: str) -> dict:
    data = pairs(ours, "train")
    args = DPOConfig(output_dir=folder, per_device_train_batch_size=len(data), max_steps=1, **QUIET)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(ours / "sft"),
        args=args,
        train_dataset=data,
        eval_dataset=pairs(ours, "evaluation"),
        processing_class=AutoTokenizer.from_pretrained(ours / "sft"),
    )
    found = rows(trainer, "prompt_ids", "chosen_ids", "rejected_ids")
    trainer.train()
    return {"rows": found, "step": first(trainer, "loss", "logps/chosen", "logps/rejected")}


def reward(ours: Path, folder: str, target: Path) -> dict:
    data = pairs(ours, "train")
    args = RewardConfig(
        output_dir=folder, per_device_train_batch_size=len(data), max_steps=20, learning_rate=0.03, **QUIET
    )
    tokenizer = AutoTokenizer.from_pretrained(ours / "sft")  # that of the reward model adds eos, and TRL adds it too
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(ours / "reward_model"),
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
    )
    found = rows(trainer, "chosen_ids", "rejected_ids")
    trainer.train()
    step = first(trainer, "loss", "accuracy", "margin", "mean_reward")
    trainer.save_model(str(target))
    (target / "training_args.bin").unlink(missing_ok=True)
    model, tokenizer = (c.from_pretrained(target) for c in (AutoModelForSequenceClassification, AutoTokenizer))
    with torch.no_grad():
        ids = [tokenizer(text + tokenizer.eos_token)["input_ids"] for text in TEXTS]
        scores = [model.eval()(torch.tensor([each])).logits.item() for each in ids]
    accuracy = [line["accuracy"] for line in trainer.state.log_history if "accuracy" in line]
    return {"rows": found, "step": step, "last_accuracy": accuracy[-1], "texts": TEXTS, "ids": ids, "scores": scores}


def ppo(ours: Path, folder: str) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(ours / "sft")
    prompts = list(pairs(ours, "train")["prompt"])[:4]
    args = PPOConfig(
        output_dir=folder, per_device_train_batch_size=len(prompts), gradient_accumulation_steps=1, num_mini_batches=1,
        num_ppo_epochs=1, total_episodes=len(prompts), response_length=8, stop_token="eos", seed=1,
        num_sample_generations=0, **{k: v for k, v in QUIET.items() if k != "logging_steps"},
    )  # fmt: skip
    classifier = AutoModelForSequenceClassification.from_pretrained
    reward_model = classifier(ours / "reward_model")
    seen = []
    original = ppo_trainer.get_reward

    def watched(model, query_responses, pad, length):
        out = original(model, query_responses, pad, length)
        if model is reward_model:
            seen.append((query_responses, out[1], out[2], pad))
        return out

    ppo_trainer.get_reward = watched
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    PPOTrainer(
        args=args, processing_class=tokenizer, model=AutoModelForCausalLM.from_pretrained(ours / "sft"),
        ref_model=AutoModelForCausalLM.from_pretrained(ours / "sft"), reward_model=reward_model,
        value_model=classifier(ours / "reward_model"), train_dataset=Dataset.from_dict({"input_ids": ids}),
        eval_dataset=Dataset.from_dict({"input_ids": ids[:1]}),
    ).train()  # fmt: skip
    ppo_trainer.get_reward = original
    query_responses, scores, last, pad = seen[0]
    texts = [
        [id for id in row[: end + 1] if id != pad]
        for row, end in zip(query_responses.tolist(), last.tolist(), strict=True)
    ]
    return {"ids": texts, "scores": scores.tolist(), "pad_id": pad}


def main() -> None:
    ours = Path(sys.argv[1])
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    content = {"sha256": hashlib.sha256((ours / "pairs.jsonl").read_bytes()).hexdigest()}
    with tempfile.TemporaryDirectory() as folder:
        transformers.set_seed(1)
        content["dpo"] = dpo(ours, folder)
        content["reward"] = reward(ours, folder, HERE / "trl-reward-model")
        content["ppo"] = ppo(ours, folder)
    text = json.dumps(content, separators=(",", ":")).replace("},", "},\n").replace('],"', '],\n"')
    (HERE / "exchange.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
