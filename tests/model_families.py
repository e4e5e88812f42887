"""Imitations of well-known families of models: short chat templates of our own that behave like theirs, on tiny tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# ruff: noqa: E501  a template is easier to read on few lines

TURN_OF_CHATML = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
LLAMA_TURN = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}"
DEEPSEEK_TURN = (
    "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user, assistant') }}{% endif %}{% endfor %}"
)


def each(turn: str, reply: str = "", before: str = "") -> str:
    """A template that writes each message `m` as `turn`, and then the start of a reply."""
    loop = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    return f"{before}{loop}{{% if add_generation_prompt %}}{reply}{{% endif %}}"


def text(value: str) -> str:
    """A template that writes a text as it is, line ends included."""
    return "{{ " + repr(value) + " }}"


def either(condition: str, yes: str, no: str) -> str:
    return f"{{% if {condition} %}}{yes}{{% else %}}{no}{{% endif %}}"


@dataclass(frozen=True)
class Imitation:
    """A model of a family: its name, its template, and how its prompts must end."""

    model: str
    template: str
    plain: str  # what follows the user's text if thinking is off
    think: str  # … and if it is on
    merged: bool = False  # the system text is part of the user turn
    ends: tuple[str, ...] = ("<|im_end|>",)  # tokens that end a reply besides the tokenizer's end token
    trained_end: str = "<|im_end|>"  # what training writes after an answer
    eos: str = "<|im_end|>"
    special: tuple[str, ...] = ()
    has_clock: bool = False
    from_template: bool = False  # recognised by its template alone


EMPTY = "<think>\n\n</think>\n\n"
CHATML = "<|im_end|>\n<|im_start|>assistant\n"
LLAMA = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
CHATML_REPLY = text("<|im_start|>assistant\n")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")
LLAMA_DATE = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n'"
    " + (messages[0].content if messages[0].role == 'system' else '') + '<|eot_id|>' }}"
)
WITHOUT_SYSTEM = "{% if m.role != 'system' %}%s{% endif %}"

FAMILIES: dict[str, Imitation] = {
    "qwen2.5": Imitation("Qwen2.5-7B-Instruct", each(TURN_OF_CHATML, CHATML_REPLY), CHATML, CHATML),
    "qwen3": Imitation(
        "Qwen3-8B",
        each(TURN_OF_CHATML, CHATML_REPLY + either("enable_thinking is defined and not enable_thinking", text(EMPTY), "")),
        CHATML + EMPTY, CHATML, from_template=True,
    ),
    "qwen3-instruct-2507": Imitation(
        "Qwen3-4B-Instruct-2507",
        each("{% set m = dict(role=m.role, content=m.content.split('</think>')[-1]) %}" + TURN_OF_CHATML, CHATML_REPLY),
        CHATML, CHATML,
    ),
    "qwen3-thinking-2507": Imitation(
        "Qwen3-4B-Thinking-2507", each(TURN_OF_CHATML, CHATML_REPLY + text("<think>\n")), CHATML + EMPTY, CHATML + "<think>\n",
    ),
    "deepseek-r1": Imitation(
        "DeepSeek-R1-Distill-Llama-8B", each(DEEPSEEK_TURN, text("<｜Assistant｜><think>\n")),
        "<｜Assistant｜>" + EMPTY, "<｜Assistant｜><think>\n",
        ends=DEEPSEEK[2:], trained_end=DEEPSEEK[2], eos=DEEPSEEK[2], special=DEEPSEEK, from_template=True,
    ),
    "deepseek-v3.1": Imitation(
        "DeepSeek-V3.1",
        each(DEEPSEEK_TURN, text("<｜Assistant｜>") + either("thinking", text("<think>"), text("</think>"))),
        "<｜Assistant｜></think>", "<｜Assistant｜><think>",
        ends=DEEPSEEK[2:], trained_end=DEEPSEEK[2], eos=DEEPSEEK[2], special=DEEPSEEK, from_template=True,
    ),
    "llama-3": Imitation(
        "Llama-3.2-3B-Instruct",
        each(WITHOUT_SYSTEM.replace("%s", LLAMA_TURN), text(LLAMA.removeprefix("<|eot_id|>")), LLAMA_DATE), LLAMA, LLAMA,
        ends=("<|eot_id|>",), trained_end="<|eot_id|>", eos="<|endoftext|>", special=HEADERS, has_clock=True,
        from_template=True,
    ),
    "gemma": Imitation(
        "gemma-2-9b-it",
        each(
            "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim"
            " + '<end_of_turn>\\n' }}",
            text("<start_of_turn>model\n"),
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + ALTERNATE,
        ),
        "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n<start_of_turn>model\n",
        merged=True, ends=("<end_of_turn>",), trained_end="<end_of_turn>", eos="<|endoftext|>",
        special=("<start_of_turn>", "<end_of_turn>"), from_template=True,
    ),
    "medgemma": Imitation(  # merges the system text itself
        "medgemma-27b-text-it",
        "{% set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}"
        + each(
            WITHOUT_SYSTEM.replace(
                "%s",
                "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (system if m.role == 'user' else '')"
                " + m.content | trim + '<end_of_turn>\\n' }}",
            ),
            text("<start_of_turn>model\n"),
        ),
        "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n<start_of_turn>model\n",
        ends=("<end_of_turn>",), trained_end="<end_of_turn>", eos="<|endoftext|>",
        special=("<start_of_turn>", "<end_of_turn>", "<unused94>", "<unused95>"),
    ),
    "gemma-4": Imitation(  # the switch is in the system turn
        "gemma-4-12b-it",
        each("{{ '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + ('<|think|>\\n' if m.role == 'system' and"
             " enable_thinking else '') + m.content | trim + '<turn|>\\n' }}",
             text("<|turn>model\n")),
        "<turn|>\n<|turn>model\n", "<turn|>\n<|turn>model\n", ends=("<turn|>",), trained_end="<turn|>", eos="<|endoftext|>",
        special=("<|turn>", "<turn|>"), from_template=True,
    ),
    "mistral": Imitation(
        "Mistral-7B-Instruct-v0.2",
        each("{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}",
             before=ALTERNATE),
        " [/INST]", " [/INST]", merged=True, ends=("</s>",), trained_end="</s>", eos="</s>",
        special=("[INST]", "[/INST]", "</s>"), from_template=True,
    ),
    "magistral": Imitation(  # a system prompt of its own, with the date, unless there is one; history may have reasoning
        "Magistral-Small-2509",
        "{% if messages[0].role != 'system' %}{{ '[SYSTEM_PROMPT]Today is ' + strftime_now('%Y-%m-%d') + '. Write [THINK] first."
        "[/SYSTEM_PROMPT]' }}{% endif %}"
        + each("{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}{% elif m.role == 'user' %}"
               "{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}"),
        "[/INST][THINK][/THINK]", "[/INST]", ends=("</s>",), trained_end="</s>", eos="</s>",
        special=("[INST]", "[/INST]", "[THINK]", "[/THINK]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "</s>"),
        has_clock=True, from_template=True,
    ),
    "gpt-oss": Imitation(
        "gpt-oss-20b",
        each("{% if m.role == 'system' %}{{ '<|start|>developer<|message|>' + m.content + '<|end|>' }}{% elif m.role == 'user' %}"
             "{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% else %}"
             "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}"
             "{% endif %}",
             text("<|start|>assistant"),
             "{{ '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '\\nReasoning: '"
             " + (reasoning_effort or 'medium') + '<|end|>' }}"),
        "<|end|><|start|>assistant<|channel|>final<|message|>", "<|end|><|start|>assistant",
        ends=("<|return|>",), trained_end="<|return|>", eos="<|return|>",
        special=("<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|channel|>"), has_clock=True, from_template=True,
    ),
    "glm": Imitation(  # no turn is ended: it ends where the next one starts
        "GLM-4.5-Air",
        each("{{ '<|' + m.role + '|>\\n' + m.content }}{% if m.role == 'user' and enable_thinking is defined and not enable_thinking %}"
             "{{ '/nothink' }}{% endif %}",
             text("<|assistant|>") + either("enable_thinking is defined and not enable_thinking", text("\n<think></think>"), ""),
             text("[gMASK]<sop>") + "{# <|observation|> #}"),
        "/nothink<|assistant|>\n<think></think>", "<|assistant|>", ends=("<|user|>",), trained_end="<|endoftext|>",
        eos="<|endoftext|>", special=("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"), from_template=True,
    ),
    "phi-reasoning": Imitation(  # replaces the system text by its own
        "Phi-4-reasoning",
        each(WITHOUT_SYSTEM.replace("%s", "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}"),
             text("<|im_start|>assistant<|im_sep|>"),
             text("<|im_start|>system<|im_sep|>You are Phi. Write <think> your thoughts </think> first.<|im_end|>")),
        "<|im_end|><|im_start|>assistant<|im_sep|>" + EMPTY, "<|im_end|><|im_start|>assistant<|im_sep|>",
        merged=True, special=("<|im_sep|>",), from_template=True,
    ),
    "huatuogpt-o1": Imitation(
        "HuatuoGPT-o1-8B", each(LLAMA_TURN, text(LLAMA.removeprefix("<|eot_id|>"))), LLAMA + "## Final Response\n\n", LLAMA,
        ends=("<|eot_id|>",), trained_end="<|eot_id|>", eos="<|eot_id|>", special=HEADERS,
    ),
    "granite": Imitation(
        "granite-3.3-8b-instruct",
        each("{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|endoftext|>\\n' }}",
             text("<|start_of_role|>assistant<|end_of_role|>"),
             either("thinking", text("<|start_of_role|>control<|end_of_role|>Think first.<|endoftext|>\n"), "")),
        "<|endoftext|>\n<|start_of_role|>assistant<|end_of_role|>", "<|endoftext|>\n<|start_of_role|>assistant<|end_of_role|>",
        ends=("<|endoftext|>",), trained_end="<|endoftext|>", eos="<|endoftext|>",
        special=("<|start_of_role|>", "<|end_of_role|>"), from_template=True,
    ),
    "seed-oss": Imitation(
        "Seed-OSS-36B-Instruct",
        each("{{ '<seed:bos>' + m.role + '\\n' + m.content + '<seed:eos>' }}",
             text("<seed:bos>assistant\n") + either("thinking_budget == 0", text("<seed:think>No time to think.</seed:think>"), "")),
        "<seed:eos><seed:bos>assistant\n<seed:think>No time to think.</seed:think>", "<seed:eos><seed:bos>assistant\n",
        ends=("<seed:eos>",), trained_end="<seed:eos>", eos="<seed:eos>", special=("<seed:bos>", "<seed:eos>"),
        from_template=True,
    ),
    "kimi-thinking": Imitation(
        "Kimi-VL-A3B-Thinking",
        each("{{ '<|im_' + m.role + '|>' + m.content + '<|im_end|>' }}", text("<|im_assistant|>") + text("◁think▷")),
        "<|im_end|><|im_assistant|>◁think▷◁/think▷", "<|im_end|><|im_assistant|>◁think▷",
        special=("<|im_system|>", "<|im_user|>", "<|im_assistant|>"), from_template=True,
    ),
    "baichuan-m2": Imitation(
        "Baichuan-M2-32B",
        each(TURN_OF_CHATML, CHATML_REPLY + either("thinking_mode == 'off'", text(EMPTY), either("thinking_mode == 'on'",
             text("<think>\n"), ""))),
        CHATML + EMPTY, CHATML + "<think>\n",
    ),
    "ehr-r1": Imitation(
        "EHR-R1-8B",
        each(TURN_OF_CHATML, CHATML_REPLY + either("enable_thinking is defined and not enable_thinking", text(EMPTY), "")),
        CHATML + EMPTY, CHATML,
    ),
    "ehr-r1-72b": Imitation("EHR-R1-72B", each(TURN_OF_CHATML, CHATML_REPLY), CHATML + EMPTY, CHATML),
}  # fmt: skip


@cache
def _raw_tokenizer() -> str:
    """The tokenizer of scripts/make_tiny_model.py, as JSON."""
    from scripts.make_tiny_model import make_tokenizer, texts

    return make_tokenizer(texts([]), 1024).backend_tokenizer.to_str()


def tokenizer_like(family: Imitation) -> Any:
    """A tokenizer with the template and the special tokens of a family."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_raw_tokenizer()),
        pad_token="<|endoftext|>",
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *family.special]})
    tokenizer.eos_token = family.eos
    tokenizer.name_or_path = family.model
    return tokenizer


def make_model(name: str, folder: Path) -> Path:
    """A tiny, untrained model of a family, in a directory of its name."""
    from scripts.make_tiny_model import save_model

    family = FAMILIES[name]
    tokenizer = tokenizer_like(family)
    tokenizer.save_pretrained(folder / family.model)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    size |= {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 8192}
    save_model(size, 0, tokenizer, folder / family.model)
    return folder / family.model
