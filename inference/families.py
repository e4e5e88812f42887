"""Families of models: what decides how a model is prompted and how its replies are read.

What is declared is in families.yaml; the rest is detected from tokenizer and chat template.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

FAMILIES_FILE = Path(__file__).with_suffix(".yaml")


@cache
def declarations() -> dict[str, dict[str, Any]]:
    """families.yaml: `switches` and `families`."""
    import yaml

    return yaml.safe_load(FAMILIES_FILE.read_text(encoding="utf-8"))


@cache
def reasoning_marks() -> tuple[tuple[str, str], ...]:
    """(opening, closing) marks of the reasoning of all families, without white space around them, each pair once."""
    pairs = (family["reasoning"] for family in declarations()["families"].values() if "reasoning" in family)
    return tuple(dict.fromkeys((opening.strip(), closing.strip()) for opening, closing in pairs))


@cache
def final_marks() -> tuple[str, ...]:
    """Marks and headings of all families in front of the final answer, besides closing marks of reasoning."""
    return tuple(dict.fromkeys(mark for family in declarations()["families"].values() for mark in family.get("final", ())))
