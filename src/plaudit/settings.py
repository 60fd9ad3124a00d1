"""How a setting is described, and the settings that several algorithms or all of them share."""

from dataclasses import dataclass, field
from typing import Any

# Help texts of settings that several algorithms have.
LORA_RANK = (
    "rank of the LoRA adapters, often 8 or 16: train these instead of the linear layers; needs a larger lr; 0: off"
)
LORA_ALPHA = "LoRA scales its adapters by lora_alpha / lora_rank"
MICROBATCH_SIZE = (
    "sequences in one forward and backward pass; gradients are accumulated over the batch, the result is the same; "
    "lower it when memory runs out; 0: the whole batch"
)


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    short: str = "",
    only_with: str = "",
) -> Any:
    """A dataclass field with its description, for `--help` and validation.

    Values must have the type of the default: int, float, str, or a tuple of texts, whose flag may be repeated. `low`
    and `high` are allowed themselves. `short` is a name without the section: `data` for `data.name`. `only_with` says
    when the setting changes anything: where another one of its section has one of some values, "loss=sigmoid|ipo", or
    is not 0, "lora_rank".
    """
    about = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices, "short": short}
    about["only_with"] = only_with
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class General:
    """Model, hardware and prompts."""

    model: str = setting(
        "movie-gpt2",
        "language model to start from: movie-gpt2, smollm2, a folder, or a hub id, also with a revision: owner/name@v1",
    )
    seed: int = setting(1, "random seed; change it to see how much results vary", low=0)
    device: str = setting(
        "auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda", "mps")
    )
    dtype: str = setting(
        "auto",
        "number format of the forward pass; auto is bfloat16 where the hardware multiplies it (a CUDA GPU since "
        "Ampere, a CPU with AMX or AVX512-BF16), otherwise float32",
        choices=("auto", "float32", "bfloat16"),
    )
    engine: str = setting(
        "auto",
        "plain runs everything with transformers and torch only; fast uses packed batches, cached activations and "
        "(in bfloat16) rounded weights for the model families that plaudit knows; auto is fast where it can be",
        choices=("auto", "plain", "fast"),
    )
    sharding: str = setting(
        "none",
        "with several processes (torchrun): none gives each the whole model (DDP); full divides weights, gradients and "
        "optimizer state among them (FSDP2), for a model that does not fit with its optimizer; it is slower, and "
        "sampling still needs room for one whole model",
        choices=("none", "full"),
    )
    reward: tuple[str, ...] = setting(
        (),
        "what policies are trained for: FILE.py:NAME is a function of prompts and responses, model the run's reward "
        "model, otherwise a folder or hub id of a classifier; each may have a weight, as in polite.py:score=0.3; "
        "repeat it for a weighted sum",
    )
    reward_timeout: float = setting(
        120.0,
        "longest time that a function, as a reward or as the judge, may take for one batch; raise it for a slow one; "
        "0: no limit",
        unit="seconds",
        low=0,
    )
    track: tuple[str, ...] = setting(
        (),
        "where the figures of each step go, besides metrics.jsonl and metrics.csv; repeat it for several",
        choices=("tensorboard", "wandb", "trackio"),
    )
    keep_checkpoints: int = setting(0, "1 keeps the checkpoints of finished stages, 0 removes them", low=0, high=1)
    prompt_min: int = setting(2, "shortest prompt to cut from the beginning of a text", unit="prompt_unit", low=1)
    prompt_max: int = setting(8, "longest prompt to cut from the beginning of a text", unit="prompt_unit", low=1)
    prompt_unit: str = setting(
        "words",
        "unit of prompt_min and prompt_max; with tokens, a prompt whose text has other tokens is skipped and counted",
        choices=("words", "tokens"),
    )
    prompt_from_words: int = setting(
        0, "shortest text to cut a prompt from; raise it to leave out fragments; 0: any", unit="words", low=0
    )


@dataclass(frozen=True)
class SupervisedConfig:
    """Settings of every algorithm that learns from records, in epochs of batches."""

    epochs: int = setting(2, "passes over the training data; raise it while held-out figures still improve", low=1)
    batch_size: int = setting(32, "records (texts or comparisons) in one optimizer step", unit="records", low=1)
    microbatch_size: int = setting(0, MICROBATCH_SIZE, unit="records", low=0)
    train_layers: int = setting(
        0,
        "train only this many layers, counted from the output, and keep the others fixed: faster, with less memory; "
        "0: train all",
        unit="layers",
        low=0,
    )
    lora_rank: int = setting(0, LORA_RANK, low=0)
    lora_alpha: int = setting(16, LORA_ALPHA, low=1, only_with="lora_rank")
    lr: float = setting(1e-3, "peak learning rate of AdamW; lower it if the loss jumps", low=0, high=1)
    warmup: float = setting(0.05, "fraction of the steps in which lr rises linearly to its peak", low=0, high=1)
    weight_decay: float = setting(0.01, "decoupled weight decay of AdamW; raise it against overfitting", low=0, high=1)
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it", low=1e-6)
    max_tokens: int = setting(
        64, "longest text to train on; longer ones are left out and counted", unit="tokens", low=4
    )
    save_every: int = setting(100, "steps between checkpoints", unit="steps", low=1)


@dataclass(frozen=True)
class SamplingConfig:
    """How the responses of a policy are sampled and scored, in training and evaluation."""

    max_new_tokens: int = setting(
        48, "longest response, end token included; raise it if many are cut off", unit="tokens", low=1
    )
    min_new_tokens: int = setting(
        0,
        "draw a limit for each response, from this to max_new_tokens, and cut a longer one there, in training and "
        "evaluation (plaudit sample draws none); set missing_eos_penalty = 0 with it; 0: all have the limit "
        "max_new_tokens",
        unit="tokens",
        low=0,
    )
    temperature: float = setting(
        0.78,
        "divides the logits, in sampling and in log-probabilities; lower it for more likely, less varied responses",
        low=0.05,
        high=10,
    )
    missing_eos_penalty: float = setting(
        1.0,
        "subtracted from the normalised score of a response cut off at max_new_tokens; raise it if too few end",
        unit="standard deviations",
        low=0,
    )
    lower_bound: float = setting(
        0.0,
        "train for the mean of the reward model's members less this many times their spread; raise it to avoid "
        "responses about which they disagree; needs reward_model.members",
        unit="standard deviations",
        low=0,
    )


@dataclass(frozen=True)
class RolloutConfig(SamplingConfig):
    """Settings of every algorithm that samples responses and scores them."""

    iterations: int = setting(36, "rounds of sampling responses and updating the policy", unit="iterations", low=1)
    batch_size: int = setting(
        128, "responses sampled in one iteration; raise it if the score is noisy", unit="responses", low=2
    )
    minibatch_size: int = setting(32, "responses in one optimizer step", unit="responses", low=1)
    microbatch_size: int = setting(0, MICROBATCH_SIZE, unit="responses", low=0)
    epochs: int = setting(2, "passes over the responses of one iteration", low=1)
    train_layers: int = setting(
        2,
        "train only this many layers of the policy, counted from the output; the others keep the SFT model's weights: "
        "faster, with less memory; 0: train all",
        unit="layers",
        low=0,
    )
    lora_rank: int = setting(0, LORA_RANK, low=0)
    lora_alpha: int = setting(16, LORA_ALPHA, low=1, only_with="lora_rank")
    lr: float = setting(
        3e-4, "peak learning rate of Adam, from which it falls linearly to 0; lower it if KL jumps", low=0, high=1
    )
    warmup: float = setting(0.1, "fraction of the iterations in which lr rises linearly to its peak", low=0, high=1)
    kl_coef: float = setting(
        0.15,
        "penalty for each nat of KL from the SFT model (beta); raise it to stay closer to the SFT model",
        unit="score/nat",
        low=0,
    )
    kl_estimator: str = setting(
        "k1",
        "estimate of KL in the penalty: k1, k2 and k3 of the sampled token, full is the sum over the vocabulary",
        choices=("k1", "k2", "k3", "full"),
        only_with="kl_coef",
    )
    kl_in: str = setting(
        "reward",
        "reward subtracts the penalty from the reward; loss adds it to the loss and differentiates the estimate",
        choices=("reward", "loss"),
        only_with="kl_coef",
    )
    entropy_coef: float = setting(
        0.0, "bonus in the loss for each nat of entropy of the next token; raise it if responses become alike", low=0
    )
    kl_control: str = setting(
        "fixed",
        "fixed keeps kl_coef; adaptive changes it so that KL approaches kl_target",
        choices=("fixed", "adaptive"),
    )
    kl_target: float = setting(
        6.0, "KL that kl_control = adaptive aims at", unit="nats/response", low=1e-6, only_with="kl_control=adaptive"
    )
    kl_horizon: int = setting(
        10_000,
        "time constant of kl_control = adaptive; raise it for slower changes",
        unit="responses",
        low=1,
        only_with="kl_control=adaptive",
    )
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; a larger one is scaled down to it", low=1e-6)
    save_every: int = setting(10, "iterations between checkpoints", unit="iterations", low=1)


@dataclass(frozen=True)
class OneStepConfig(RolloutConfig):
    """Settings of every algorithm that takes one optimizer step an iteration, on the responses of the policy itself."""

    epochs: int = setting(1, "passes over the responses; more than 1 makes the gradient biased", low=1)
    minibatch_size: int = setting(
        128, "responses in one optimizer step; less than batch_size makes the gradient biased", unit="responses", low=1
    )
    iterations: int = setting(
        72, "rounds of sampling responses and updating the policy; raise it to train longer", unit="iterations", low=1
    )
    lr: float = setting(1e-3, "peak learning rate of Adam; lower it if KL jumps", low=0, high=1)


@dataclass(frozen=True)
class DrawnConfig(SamplingConfig, SupervisedConfig):
    """Settings of every algorithm that learns from responses of the SFT model, drawn and scored before training."""

    responses: int = setting(
        4608, "responses to draw from the SFT model; a multiple of group_size", unit="responses", low=2
    )
    group_size: int = setting(8, "responses to each prompt", unit="responses", low=2)
    train_layers: int = setting(
        2,
        "train only this many layers of the policy, counted from the output; the others keep the SFT model's weights: "
        "faster, with less memory; 0: train all",
        unit="layers",
        low=0,
    )
    lr: float = setting(3e-4, "peak learning rate of AdamW; lower it if KL is too high", low=0, high=1)
    max_tokens: int = setting(
        64, "longest text of the data to train on; longer ones are left out and counted", unit="tokens", low=4
    )

    @property
    def minibatch_size(self) -> int:
        """Records in one optimizer step, by the name that it has where responses are sampled during training."""
        return self.batch_size
