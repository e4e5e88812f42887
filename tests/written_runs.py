"""Writes finished runs of made-up models, as test.py leaves them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluation.score import score_dir
from mimiciv_dataset.tasks import TASKS
from pipeline.files import write_json

SECRET = "Zebrafish extract"
"""Part of every answer and reply: text about patients, which must not be on a page."""


def write_run(
    folder: Path, model: str = "tiny", skill: float = 0.5, tasks: Iterable[str] = tuple(TASKS), n: int = 60,
    words_only: bool = False, **result: Any,
) -> Path:  # fmt: skip
    """Write a run whose model knows the answer with probability `skill`, on the same samples for every model.

    Args:
        words_only: leave out p_yes.
        result: further keys of result.json, such as instructions_sha256; `arguments` are added to those of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {"model_name_or_path": model, "max_seq_len": 2048} | result.pop("arguments", {})
    lines = []
    for name in tasks:
        task = TASKS[name]
        for number in range(n):
            chance = random.Random(f"{model} {name} {number}")
            known, label = chance.random() < skill, _label(task.metric, number)
            response, p_yes = label if isinstance(label, str) else "\n".join(label), None
            if task.kind == "risk":
                p_yes = min(1.0, max(0.0, chance.gauss(0.5 + skill * (0.3 if label == "yes" else -0.3), 0.15)))
                response, p_yes = "yes" if p_yes >= 0.5 else "no", None if words_only else p_yes
            elif not known:
                response = f"{SECRET} 0"
            info = {"task": name, "subject_id": f"{number // 2}", "period_begin": number, "period_end": number + 12,
                    "task_type": task.kind, "label": label}  # fmt: skip
            lines.append({
                "key": f"{model} {name} {number}", "task_info": info, "candidates": None, "mode": "plain",
                "input_sha256": f"record {number}", "prompt_chars": 900 + 40 * number,
                "prompt_sha256": f"{model} {number}", "template_sha256": "d" * 64,
                "truncated": {"events": 3} if number % 4 == 0 else None,
                "outputs": [{"response": response, "p_yes": p_yes, "finish_reason": "length" if number % 6 == 0 else "stop"}],
            })  # fmt: skip
    (folder / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    more = {"instructions_sha256": "a" * 64, "trajectories": "b" * 64} | result
    score_dir(folder, resamples=40, expected=len(lines), extra={"arguments": arguments, **more})
    return folder


def write_ablation(path: Path, with_intervals: bool = True) -> Path:
    """Write the result.json of a graph ablation."""

    def value(name: str, number: float, **more: Any) -> dict[str, Any]:
        return {name: number, f"{name}_ci": [number - 0.04, number + 0.05] if with_intervals else None, **more}

    def scores(number: float) -> dict[str, Any]:
        tasks = {task: value("f1", number, n=300, patients=280) for task in ("diagnosis", "diagnosis_ccs")}
        return {"tasks": tasks, "macro": value("f1", number + 0.01)}

    arms = {"without_chains": scores(0.61)}
    for arm, f1, share in (("without_graph", 0.55, 0.21), ("with_graph", 0.66, 0.87)):
        counts = {"rows": 2000, "chains": 4000, "passed": 3006, "kept": 1890, "in_record": 3000, "causes": 2000}
        of_answers = value("share", share - 0.1, cited=1100, patients=290, in_record=900)
        arms[arm] = scores(f1) | {"chains": counts | value("share", share, cited=3780, patients=900)}
        arms[arm] |= {"answers": of_answers, "answers_by_content": of_answers}
    differences = []
    for a, b, d in (("without_graph", "without_chains", -0.06), ("with_graph", "without_chains", 0.05),
                    ("with_graph", "without_graph", 0.11)):  # fmt: skip
        ci, p, few = ([d - 0.04, d + 0.04], 0.01, None) if with_intervals else (None, None, "9 patients of at least 30")
        differences.append({"a": a, "b": b, "macro": {"difference": d, "ci": ci, "p": p, "p_holm": p, "too_few": few}})
    result = {"graph_ablation": 1, "writer": "scripted-writer", "seeds": 3, "trained_on": 1880, "arms": arms,
              "any_event": value("share", 0.2), "optimum": scores(0.74), "differences": differences}  # fmt: skip
    write_json(path, result)
    return path


def _label(metric: str, number: int) -> Any:
    if metric == "auroc":
        return "yes" if number % 3 == 0 else "no"
    if metric == "accuracy":
        return "labevents"
    return f"{SECRET} and rest" if metric == "rouge1" else [f"{SECRET} {number + 1}", f"{SECRET} {number + 2}"]
