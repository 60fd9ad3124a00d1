"""Make trl-1.12-tokens.json: what TRL's own trainers make of the published layouts, as token ids and labels.

`make parity` runs this. Each trainer prepares its data set as it does before training, and is not trained. For SFT the
fixture has [ids, labels]; for preferences [chosen ids, rejected ids] of RewardTrainer and [prompt, chosen, rejected] of
DPOTrainer; for unpaired ones [prompt, completion] of KTOTrainer. Of hh-harmless, and of the templates that TRL ships,
there are hashes of ids only.
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from rows import HARMLESS, PUBLISHED, ROWS, conversation, digest, harmless, tokenizer
from templates import MARKED, unmarked
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

TARGET = Path(__file__).parent / "trl-1.12-tokens.json"
JINJA = Path(trl.__file__).parent / "chat_templates"
MESSAGES = ("messages", "messages with a system message", "messages with a control token")


def prepared(trainer, config, rows, template, columns, kind=GPT2LMHeadModel, **settings):
    """Columns of the data set that a trainer makes of some rows."""
    words = tokenizer(template)
    model = kind(GPT2Config(vocab_size=len(words), n_embd=8, n_layer=1, n_head=1, n_positions=16, num_labels=1))
    with tempfile.TemporaryDirectory() as folder:
        ref_model = {"ref_model": kind(model.config)} if trainer in (DPOTrainer, KTOTrainer) else {}
        args = config(output_dir=folder, use_cpu=True, bf16=False, report_to="none", max_length=None, **settings)
        made = trainer(
            model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=words, **ref_model
        )
        return [[row[name] for name in columns] for row in made.train_dataset]


def sft(rows, template=None, **settings):
    return prepared(SFTTrainer, SFTConfig, rows, template, ("input_ids", "labels"), **settings)


def reward(rows, template=None):
    columns = ("chosen_ids", "rejected_ids")
    return prepared(RewardTrainer, RewardConfig, rows, template, columns, GPT2ForSequenceClassification)


def dpo(rows, template=None):
    return prepared(DPOTrainer, DPOConfig, rows, template, ("prompt_ids", "chosen_ids", "rejected_ids"))


def kto(rows, template=None):
    return prepared(KTOTrainer, KTOConfig, rows, template, ("prompt_ids", "completion_ids"))


def of_layouts():
    """The rows of every layout, with every template where they are conversations; SFT's labels as ids or -100."""
    plain = {
        "text": sft(ROWS["text"]),
        "prompt-completion": sft(ROWS["prompt-completion"]),
        "preference, reward": reward(ROWS["preference"]),
        "preference, dpo": dpo(ROWS["preference"]),
        "implicit preference, reward": reward(ROWS["implicit preference"]),
        "unpaired preference": kto(ROWS["unpaired preference"]),
        "text with a control token": sft(ROWS["text with a control token"]),
        "prompt-completion without a space": sft(ROWS["prompt-completion without a space"]),
    }
    chats = {}
    for name, marked in MARKED.items():
        own = unmarked(name)
        chats[name] = {
            **{layout: sft(ROWS[layout], marked, assistant_only_loss=True) for layout in MESSAGES},
            "conversational prompt-completion": sft(ROWS["conversational prompt-completion"], own),
            "conversational preference, reward": reward(ROWS["conversational preference"], own),
            "conversational preference, dpo": dpo(ROWS["conversational preference"], own),
            "implicit conversational preference, reward": reward(ROWS["implicit conversational preference"], own),
            "conversational unpaired preference": kto(ROWS["conversational unpaired preference"], own),
            "completion of several turns": sft(ROWS["completion of several turns"], own),
        }
    return {"plain": plain, "chats": chats}


def of_published():
    """Hashes of SFT's ids and labels with templates that TRL ships, for which it substitutes its own marked copies."""
    found = {}
    for name, (_, layout) in PUBLISHED.items():
        template = (JINJA / f"{name}.jinja").read_text(encoding="utf-8")
        found[name] = [digest(row) for row in sft(ROWS[layout], template, assistant_only_loss=True)]
    return found


def of_harmless(name):
    """Hashes of the ids of each row: as transcripts, and as conversations."""
    pairs = harmless()
    both = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    messages = [{"chosen": conversation(chosen), "rejected": conversation(rejected)} for chosen, rejected in pairs]
    split = [{"prompt": c["chosen"][:-1], "chosen": c["chosen"][-1:], "rejected": c["rejected"][-1:]} for c in messages]
    split = [row for row, c in zip(split, messages, strict=True) if c["rejected"][:-1] == row["prompt"]]
    return {
        "transcripts, reward": [digest(row) for row in reward(both)],
        "messages": [
            digest(row)
            for row in sft([{"messages": c["chosen"]} for c in messages], MARKED[name], assistant_only_loss=True)
        ],
        "conversations, dpo": [digest(row) for row in dpo(split, unmarked(name))],
    }


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    made_by = {"command": "make parity", **{name: version(name) for name in ("trl", "transformers", "tokenizers")}}
    fixture = {"made_by": made_by, **of_layouts(), "published": of_published()}
    if HARMLESS.exists():
        fixture["harmless"] = of_harmless("chatml, default system")
    TARGET.write_text(json.dumps(fixture, separators=(",", ":")).replace(',"', ',\n"') + "\n", encoding="utf-8")
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
