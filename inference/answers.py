"""Reading the reply of a model: its reasoning, its answer, the items it names, yes or no. The number p(yes) is in `p_yes.py`.

A reply is read the same whichever model wrote it, so that stored outputs can be scored without the model: with the marks of
reasoning of all families (families.yaml). Evaluation and RL rewards read replies with the same functions, so that the reward is
the score; a change of the rules raises `READER_VERSION`, and `SCORE_VERSION` in evaluation/score.py. All functions accept any
text, take time linear in its length, and never raise.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import cache, lru_cache
from typing import NamedTuple

from inference.answer_lists import find_literals, read_lines, read_literals, read_table
from mimiciv_dataset.tasks import NO, YES

READER_VERSION = 2  # of the rules by which replies are read

# gpt-oss writes messages in channels; decoding that skips special tokens leaves only the text between them.
_FINAL_CHANNEL = re.compile(r"<\|channel\|>[ \n]*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL = re.compile(r"<\|(?:start|channel|message|end|return|call|constrain)\|>")
_STRIPPED_FINAL = "assistantfinal"
_STRIPPED_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z\"'*<])")  # without a space: "analysis of …" can be a lab item

# What encloses an answer, besides marks of reasoning; special tokens, before which an answer ends.
_ANSWER_TAGS = "answer|response|solution|final_answer|final answer|output"
_ANSWER_OPEN = re.compile(rf"<(?:{_ANSWER_TAGS})>|<\|begin_of_(?:solution|box)\|>|<\|START_(?:RESPONSE|TEXT)\|>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(rf"</(?:{_ANSWER_TAGS})>|<\|end_of_(?:solution|box)\|>|<\|END_(?:RESPONSE|TEXT)\|>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_TEX = re.compile(r"\\(?:text|textbf|textit|mathbf|mathrm)\s*\{([^{}]*)\}")
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|?>|<[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:eos|bos|pad|end_of_turn|start_of_turn|unused\d+)>|\[/?INST\]"
)
_ITEM_TAG = re.compile(r"</?(?:items?|li|ul|ol|list|name|medication|event)>", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n|\\n|<br ?/?>")
_FENCE = "```"
_LANGUAGE = re.compile(r"[\w+-]*[ \t]*\n")

_QUOTE_MARKS = "\"'`“”‘’«»"
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹘﹣－"), "-")
_FOLDED = _DASHES | dict.fromkeys(map(ord, "‘’ʼ`´"), "'") | dict.fromkeys(map(ord, "“”"), '"')
_FOLDED |= dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), None)

# A "no" before another word on its line is a determiner ("no evidence of …") unless that word starts a clause.
_CLAUSE = r"(?:and|as|based|because|but|given|he|it|or|she|since|the|there|this)\b"
_YES_NO = re.compile(rf"(?<![^\W_])(?:yes(?![^\W_]|-\w)|no(?![^\W_]|-\w|[ \t]+(?!{_CLAUSE})\w))")
_FINAL_ANSWER = re.compile(r"\bfinal answer\b[\s:*_]*(?:is\b)?[\s:*_\"']*(?=(?:yes|no)\b)")
_ANSWER_KEYS = ("answer", "final_answer", "final answer", "prediction", "result", "response", "output", "label")


# --- reasoning and answer


class _Marks(NamedTuple):
    """The marks of a kind of reasoning, as patterns, and what is written after the closing mark."""

    opening: re.Pattern[str]
    closing: re.Pattern[str]
    after: str


class Split(NamedTuple):
    """A reply in parts: reasoning, where the answer starts (None: cut off before it), and what a family writes before it."""

    reasoning: str | None
    start: int | None
    closed: str = ""  # the reply up to its answer, as the family closes it; "" without reasoning
