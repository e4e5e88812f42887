"""Reads stored outputs (`outputs*.jsonl` in the directory of a run) as predictions, and checks every line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.tasks import ALL_TASKS, NO, YES
from pipeline.cli import chunk_paths
from pipeline.errors import UserError
from pipeline.files import Line, read_jsonl, require


@dataclass(frozen=True)
class Prediction:
    """A model's reply to a sample, and what scoring needs to know about the sample."""

    task: str
    labels: tuple[str, ...]  # the correct answers
    subject_id: str  # the patient; the key of the output in data without patients
    sample_id: str = ""  # identity of the sample, the same for every model
    response: str = ""  # the reply as generated
    p_yes: float | None = None  # P(yes) / (P(yes) + P(no)) at the answer position
    thinking_open: bool | str = False  # the mark of reasoning that the prompt opened; True: it opened one, unknown which
    candidates: tuple[str, ...] = ()  # the answers offered in the prompt
    error: str | None = None  # why there is no reply
    has_patient: bool = True  # whether the line has a subject_id
    further: tuple[Prediction, ...] = ()  # the other replies to the same prompt, if several were sampled
    yes_no_mass: float | None = None  # P(yes) + P(no), where p_yes was computed
    prompt_tokens: int | None = None  # of the prompt
    completion_tokens: int | None = None  # of the reply
    seconds: float | None = None  # of the run for this sample

    @property
    def answer(self) -> str | None:
        """The reply without its reasoning; None if there is no reply or it was cut off inside its reasoning."""
        from inference.answers import split_reasoning

        return None if self.error is not None else split_reasoning(self.response, self.thinking_open)[1]

    @cached_property
    def items(self) -> list[str]:
        """The items that the answer names; candidates and labels only decide what is part of a name (`read_items`)."""
        from inference.answers import read_items

        return read_items(self.answer, {*self.candidates, *self.labels})


def read_predictions(path: Path | str) -> dict[str, Prediction]:
    """The predictions of a directory by the key of their output; of several lines with the same key the last one counts."""
    predictions: dict[str, Prediction] = {}
    for key, prediction, _ in read_outputs(path):
        predictions.pop(key, None)
        predictions[key] = prediction
    return predictions


def read_outputs(path: Path | str) -> Iterator[tuple[str, Prediction, Line]]:
    """Yield (key, prediction, line) for every output line of a directory, files by name; a key can occur several times.

    A truncated last line is skipped; any other line that is not an output line is an error, and so are lines of runs on other
    data, with another model or other settings, and lines of a sample with different keys.
    """
    folder = require(path, "a directory with outputs of a run", "run test.py first")
    if not (files := chunk_paths(folder / "outputs.jsonl")):
        raise UserError(f"{folder}: expected outputs*.jsonl, got none. Run test.py first.")
    keys: dict[str, str] = {}
    made_from: str | None = None
    for file in files:
        for offset, line in read_jsonl(file):
            try:
                key, prediction = parse_output(line)
            except UserError as error:
                number = file.read_bytes()[:offset].count(b"\n") + 1
                raise UserError(f"{file}, line {number}: {error} Remove the line and resume the run.") from None
            made_from = made_from or line.get("made_from_sha256")
            is_other = line.get("made_from_sha256") not in (None, made_from)  # lines of older versions do not have it
            has_identity = bool(line.get("sample_id")) or prediction.subject_id != key  # old lines of rendered data have none
            if is_other or (has_identity and keys.setdefault(prediction.sample_id, key) != key):
                fix = "Evaluate each setting in a directory of its own, or start afresh with --overwrite"
                raise UserError(f"{folder}: expected outputs of one setting, got those of several. {fix}.")
            yield key, prediction, line


def parse_output(line: Mapping[str, Any]) -> tuple[str, Prediction]:
    """The key and the prediction of an output line; errors name the field and do not quote labels or replies."""
    info, error = line.get("task_info"), line.get("error")
    if not isinstance(info, dict):
        raise UserError("expected an object with task_info, got another one.")
    task = ALL_TASKS.get(info.get("task"))
    if task is None:
        raise UserError("task_info.task: expected the name of a task, got another value.")
    labels = info.get("label")
    labels = [labels] if isinstance(labels, str) else labels
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise UserError("task_info.label: expected a string or a list of strings, got something else.")
    if task.kind == "risk" and labels not in ([YES], [NO]):
        raise UserError(f"task_info.label: expected yes or no for {task.name}, got something else.")
    if "key" not in line:
        raise UserError("key: expected a string, got no such field.")
    outputs = line.get("outputs") or [{}]
    is_list = isinstance(outputs, list) and all(isinstance(output, dict) for output in outputs)
    if not is_list or not (line.get("outputs") or error):
        raise UserError("outputs: expected a list of objects, or a field error, got neither.")
    key, candidates, patient = str(line["key"]), line.get("candidates"), info.get("subject_id")
    candidates = tuple(map(str, candidates)) if isinstance(candidates, list) else ()
    sample = task.name, tuple(labels), key if patient is None else str(patient), sample_id_of_output(line)
    thinking_open = str(line.get("opening_mark") or "") or bool(line.get("thinking_open"))
    replies = [
        Prediction(*sample, *_reply(output), thinking_open, candidates, error, patient is not None,
                   yes_no_mass=output.get("yes_no_mass"), completion_tokens=output.get("completion_tokens"))
        for output in outputs
    ]  # fmt: skip
    counted = {"prompt_tokens": line.get("prompt_tokens"), "seconds": line.get("seconds")}
    return key, replace(replies[0], further=tuple(replies[1:]), **counted)


def _reply(output: Mapping[str, Any]) -> tuple[str, float | None]:
    """The response and p(yes) of an entry of `outputs`."""
    response, p_yes = output.get("response") or "", output.get("p_yes")
    if not isinstance(response, str):
        raise UserError(f"response: expected a string, got {type(response).__name__}.")
    if p_yes is not None and not (isinstance(p_yes, (int, float)) and 0 <= p_yes <= 1):
        raise UserError("p_yes: expected a number from 0 to 1 or null, got another value.")
    return response, p_yes


def sample_id_of_output(line: Mapping[str, Any]) -> str:
    """The `sample_id` of an output line; computed for lines of older versions, which do not have the field."""
    # Data without patient, window and input has no other identity than the key.
    text = {"input_sha256": line.get("input_sha256"), "input": str(line["key"])}
    return line.get("sample_id") or sample_id(line["task_info"] | text)
