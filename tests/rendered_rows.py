"""Rows that have their text, as a released JSONL has them, of a decision task and a risk task."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimiciv_dataset.tasks import TASKS

SECRET = "Zebrawood"  # stands for a patient's value, which no message may quote
RELEASED_KINDS = {"decision": "decision_making", "risk": "risk_prediction"}


def rendered_row(number: int, task: str = "emar", label: Any = ("Aspirin", "Heparin"), **info: Any) -> dict[str, Any]:
    """Row `number`; `info` are further fields of its task_info."""
    label = list(label) if isinstance(label, tuple) else label
    text = (
        f"## Patient Demographics [None]\n- Gender: F\n- Note: {SECRET}\n\n\n\n## OMR [2150-01-01 00:00:00]\n- Value: {number}"
    )
    return {
        "idx": number,
        "instruction": f"Question of {task}?",
        "input": text,
        "output": label if isinstance(label, str) else "\n".join(label),
        "candidates": ["yes", "no"] if TASKS[task].kind == "risk" else ["Aspirin", "Heparin", "Zinc"],
        "task_info": {"task": task, "metric": "f1", "task_type": RELEASED_KINDS[TASKS[task].kind], "label": label} | info,
    }


def rendered_rows(number: int = 6, decision: str = "emar", risk: str = "ICU_Mortality_7day") -> list[dict[str, Any]]:
    """`number` rows of each of the two tasks, in turn; patients have two rows each."""
    rows = []
    for i in range(number):
        rows.append(rendered_row(2 * i, decision, subject_id=i // 2, period_begin=i + 1, period_end=i + 9))
        label = "yes" if i % 2 else "no"
        rows.append(rendered_row(2 * i + 1, risk, label, subject_id=i // 2, period_begin=i + 1, period_end=i + 9))
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
