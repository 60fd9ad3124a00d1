"""A sequence classifier for families of which transformers has only the language model: its backbone and a linear head.

The folder of such a reward model is opened by plaudit. transformers alone needs the same registration first.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification


def register(config: Any) -> None:
    """Let transformers make a sequence classifier of this family; does nothing where it can already, or never will."""
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    language_model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    family = next(kind for kind in language_model.__mro__[1:] if issubclass(kind, PreTrainedModel))

    def initialise(self: Any, config: Any) -> None:
        family.__init__(self, config)
        lm = language_model(config)
        head, prefix = lm.get_output_embeddings(), self.base_model_prefix
        setattr(self, prefix, getattr(lm, prefix))
        self.num_labels = config.num_labels
        self.score = nn.Linear(head.in_features, config.num_labels, bias=False)
        self.post_init()

    name = f"{language_model.__name__.removesuffix('LMHeadModel').removesuffix('ForCausalLM')}ForSequenceClassification"
    members = {
        "__init__": initialise,
        "__module__": __name__,
        "base_model_prefix": language_model.base_model_prefix,
        "config_class": type(config),
    }
    kind = type(name, (GenericForSequenceClassification, family), members)
    # exist_ok, because transformers ignores a class of our own for its own configs otherwise; none exists, see above.
    AutoModelForSequenceClassification.register(type(config), kind, exist_ok=True)
