"""The leaderboard of docs/leaderboard.md: one JSON file for each entry, and the tables made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_json

if TYPE_CHECKING:
    from evaluation.regret import Truth

LEADERBOARD = "docs/leaderboard"
LOSSES = ("brier", "log_loss")  # of risk tasks
METRICS = {"auroc": "AUROC", "f1": "F1"}
FIELDS = {"model": str, "setting": str, "date": str, "benchmark": str, "digest": str, "tasks": dict, "mean": dict}


def write_entry(path: Path, model: str, setting: str, truth: Truth, result: Mapping[str, Any]) -> None:
    """Write the result of `regret.regrets` as an entry of today."""
    about = {"model": model, "setting": setting, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    write_json(path, about | {"benchmark": truth.benchmark, "digest": truth.digest} | dict(result))


def read_entries(folder: Path, benchmark: str, digest: str) -> list[dict[str, Any]]:
    """The entries of a directory: those that answer all risk tasks first, then by mean regret.

    Raises:
        UserError: an entry is not one of this benchmark.
    """
    entries = []
    for path in sorted(folder.glob("*.json")):
        entry = read_json(path)
        if not isinstance(entry, dict) or any(not isinstance(entry.get(name), kind) for name, kind in FIELDS.items()):
            fix = "Make it with evaluation.synthetic_benchmark score --entry"
            raise UserError(f"{path}: expected an entry with {', '.join(FIELDS)}, got other JSON. {fix}.")
        if (entry["benchmark"], entry["digest"]) != (benchmark, digest):
            raise UserError(f"{path}: expected an entry of {benchmark} ({digest[:12]}), got one of another. Score it again.")
        entries.append(entry)
    return sorted(entries, key=_rank)


def _rank(entry: Mapping[str, Any]) -> tuple[float, ...]:
    means = [entry["mean"][kind]["regret"] for kind in ("risk", "decision")]
    return *(float("inf") if mean is None else mean for mean in means), -len(entry["tasks"])


def summary_rows(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The header and a row for each entry: mean regrets, and what was answered."""
    rows = [("model", "setting", "mean regret of AUROC, risk tasks", "mean regret of F1, decision tasks", "date")]
    for entry in entries:
        means = [_mean(entry["mean"][kind]) for kind in ("risk", "decision")]
        rows.append((entry["model"], entry["setting"], *means, entry["date"]))
    return rows


def _mean(mean: Mapping[str, Any]) -> str:
    if mean["regret"] is None:
        return f"– ({mean['answered']} of {mean['tasks']} tasks answered)"
    return _regret(mean)


def task_rows(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The header and a row for each task: samples, metric, optimum, and the regret of each entry."""
    from evaluation.regret import decimal

    tasks: dict[str, Mapping[str, Any]] = {}
    for entry in sorted(entries, key=lambda entry: -len(entry["tasks"])):  # in the order of the most complete one
        tasks |= entry["tasks"]
    rows = [("task", "n", "metric", "optimum", *(entry["model"] for entry in entries))]
    for task, values in tasks.items():
        cells = [_cell(entry["tasks"].get(task)) for entry in entries]
        rows.append((task, f"{values['n']:,}", METRICS[values["metric"]], decimal(values["optimum"]) or "–", *cells))
    return rows


def loss_rows(entries: Sequence[Mapping[str, Any]], loss: str) -> list[tuple[str, ...]]:
    """The header and a row for each risk task: the optimum of a loss, and how much larger that of each entry is."""
    rows = [("task", "optimum", *(entry["model"] for entry in entries))]
    for task in dict.fromkeys(task for entry in entries for task in entry["tasks"]):
        of_entries = [entry["tasks"].get(task) for entry in entries]
        values = [each and each.get(loss, {"regret": None, "note": each.get("note")}) for each in of_entries]
        if optimum := next((value["optimum"] for value in values if value and "optimum" in value), None):
            rows.append((task, f"{optimum:.3f}", *map(_cell, values)))
    return rows


def _cell(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "not answered"
    return values.get("note", "–") if values["regret"] is None else _regret(values)


def _regret(values: Mapping[str, Any]) -> str:
    from evaluation.regret import decimal

    ci = values["regret_ci"]
    return f"{decimal(values['regret'])} ({f'{decimal(ci[0])} to {decimal(ci[1])}' if ci else 'too few'})"
