"""Chat templates of our own, in the formats of well-known models, for TRL and for us. Imports neither.

Each is written with `{% generation %}` marks, which TRL needs to learn replies alone; `unmarked` is the same template
without them, as most models have it. The marks cover what the templates that TRL ships for these formats mark.
"""

import re

_REPLY = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{% set thought, _, answer = m.content.rpartition('</think>') %}"
    "{% if loop.last or EVERY %}{{ '<think>\n' + thought.replace('<think>', '').strip('\n') + '\n</think>\n\n' }}"
    "{% endif %}{{ answer.lstrip('\n') + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + _REPLY
)
MARKED = {
    # ChatML; what is learned begins with the reply and ends with the line break after its end token.
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + _REPLY
    ),
    # With a default system message, as Qwen 2.5 has it; the line break before the reply is marked too.
    "chatml, default system": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nuse few words<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ '\n' + m.content + '<|im_end|>\n' }}{% endgeneration %}"
        "{% else %}{{ '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + _REPLY
    ),
    # With a thinking block, as Qwen 3 has it. TRL's marked copy writes the block in every reply.
    "chatml, thinking": _THINKING.replace("EVERY", "true"),
    # Llama 3: roles in headers.
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
        "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    # Gemma: turns of user and model. The format has no system role, and this template drops it.
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<start_of_turn>model\n' }}"
        "{% generation %}{{ m.content | trim + '<end_of_turn>\n' }}{% endgeneration %}"
        "{% elif m.role == 'user' %}{{ '<start_of_turn>user\n' + m.content | trim + '<end_of_turn>\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # Phi-3: a control token for each role, and eos after the conversation.
    "phi3": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>\n' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}"
    ),
}


def unmarked(name: str) -> str:
    """The template as a model has it: without marks, and with an empty thinking block in the last reply alone."""
    template = _THINKING.replace(" or EVERY", "") if name == "chatml, thinking" else MARKED[name]
    return re.sub(r"{% (end)?generation %}", "", template)
