"""What a user of a benchmark should know, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation.health_checks.cues import notable_cues
from evaluation.health_checks.facts import FINDINGS
from pipeline.progress import counted

HIGH_COPY = 0.5  # score of copying the last answer from which on it is reported
SHOWN_NAMES = 6  # at most


def verdict(benchmark: Mapping[str, Any]) -> str:
    """The verdict on a benchmark in a sentence, from its entry in health.json."""
    rows, kept, tasks = benchmark["rows"], benchmark["kept"], benchmark["tasks"]
    leaking = [name for name, task in tasks.items() if task["cues"] and notable_cues(task["cues"])]
    sentence = f"{kept:,} of {counted(rows, 'row')} ({percent(kept, rows)}) of {counted(len(tasks), 'task')} are leak-free"
    if any(task["unchecked"] for task in tasks.values()):
        sentence += ", as far as could be checked"
    if lost := [name for name, task in tasks.items() if not task["kept"]]:
        sentence += f" (none of {listed(lost)})"
    if leaking:
        sentence += f"; the candidates help to guess the answer in {counted(len(leaking), 'task')}"
    return f"{benchmark['name']}: {sentence}."


def points(benchmark: Mapping[str, Any]) -> Iterator[str]:
    """The figures that the verdict rests on, a sentence for each kind of finding."""
    tasks = benchmark["tasks"]
    for finding, text in FINDINGS.items():
        of_tasks = {name: task["findings"][finding] for name, task in tasks.items() if task["findings"][finding]}
        if number := sum(entry["rows"] for entry in of_tasks.values()):
            checked = sum(entry["checked"] for entry in of_tasks.values())
            shares = {name: entry["rows"] / entry["checked"] for name, entry in of_tasks.items()}
            worst = max(shares, key=lambda name: shares[name])
            most = f", most in {worst} ({shares[worst]:.0%})" if len(shares) > 1 else ""
            yield f"{finding}: {text} in {number:,} of {counted(checked, 'row')} checked ({percent(number, checked)}){most}."
    if (more := benchmark["kept_as_known"] - benchmark["kept"]) > 0:
        yield f"{counted(more, 'row')} have no finding but not_yet_stored: test.py --as_known asks them without such values."
    if benchmark["contradicting"]:
        yield f"{counted(benchmark['contradicting'], 'repeated row')} have other answers than the first of them."
    high = {name: task["copy_last"] for name, task in tasks.items() if task["copy_last"]}
    if above := [name for name, estimate in high.items() if (estimate["ci"] or [0])[0] > HIGH_COPY]:
        of = f"{len(above)} of {counted(len(high), 'task')}"
        yield f"copying the patient's last answer scores above {HIGH_COPY} in {of}: {listed(above)}."
    cues = {name: notable_cues(task["cues"]) for name, task in tasks.items() if task["cues"]}
    for cue, text in (("position", "the place of the answer in the list of candidates"),
                      ("similarity", "the answer is the name most similar to the other candidates, which"),
                      ("majority", "that few other candidates are frequent answers")):  # fmt: skip
        if names := [name for name, notable in cues.items() if cue in notable]:
            yield f"{text} gives answers away in {listed(names)}."
    one_sided = [name for name, task in tasks.items() if task["labels"].get("yes") in (0, task["rows"])]
    if one_sided:
        yield f"all labels are the same in {listed(one_sided)}: no AUROC."


def not_checked(tasks: Mapping[str, Mapping[str, Any]], with_training: bool, with_trajectories: bool) -> list[str]:
    """What could not be computed, and what it takes."""
    texts = []
    lacking: dict[str, list[str]] = {}
    for name, task in tasks.items():
        for finding in task["unchecked"]:
            lacking.setdefault(finding, []).append(name)
    for finding, names in lacking.items():
        needed = "rows with patient and window, or a column audit"
        needed = needed if with_trajectories else f"{needed}, and trajectories (--ehr_dir)"
        texts.append(f"{finding}, in all or some rows of {listed(names)}: it takes {needed}")
    if copies := [name for name, task in tasks.items() if task["kind"] == "decision" and task["copy_last"] is None]:
        texts.append(f"copying the last answer, in {listed(copies)}: it takes trajectories (--ehr_dir)")
    if without := [name for name, task in tasks.items() if task["cues"] is None and task["kind"] == "decision"]:
        texts.append(f"candidates, in {listed(without)}: it takes rows with candidates, or answer vocabularies in cache/")
    if not with_training:
        texts.append("whether patients are in a training set: name it with --train")
    return texts


def percent(number: int, total: int) -> str:
    """A share in percent; a decimal where it would be rounded to 0 or 100 without being it.

    >>> percent(1, 1000), percent(1, 3), percent(0, 3)
    ('0.1%', '33%', '0%')
    """
    share = number / total if total else 0.0
    return f"{share:.1%}" if 0 < share < 0.01 or 0.99 < share < 1 else f"{share:.0%}"


def listed(names: Sequence[str]) -> str:
    """Names, comma-separated; the first of many.

    >>> listed(["a", "b"]), listed(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e, f and 2 more')
    """
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names) if rest <= 1 else f"{', '.join(names[:SHOWN_NAMES])} and {rest} more"
