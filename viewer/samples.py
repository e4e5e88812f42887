"""What the page shows of the samples of a patient: window, prompt, answers of models, chains with citations, graph."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inference.answers import read_items
from inference.generation import DatasetRow, read_samples
from inference.settings import PromptSettings
from mimiciv_dataset.index_files import REQUIRED, sample_id
from mimiciv_dataset.index_tables import read_tables
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.text import is_shown
from mimiciv_dataset.timeline import Timeline
from pipeline.errors import UserError
from pipeline.files import Line
from thinking_graph_preprocess.chains import EXTRACTION, AnswerLimits, CitedEvents, checked_citations, faults
from thinking_graph_preprocess.evidence_generation import evidence_files
from thinking_graph_preprocess.evidence_rows import read_graph
from viewer.events import patient_line, patient_line_of_text
from viewer.graph import graph_layout
from viewer.prompt_parts import DROPPED, EVENT, TEMPLATE, Asked, Part, ShownPrompt, plain_prompt, shown_prompt
from viewer.runs import ModelRun

if TYPE_CHECKING:
    from mimiciv_dataset.records import Event

GAP = "\n\n"  # between events of a prompt


@dataclass
class Benchmark:
    """The samples of index files, in the wording and with the values that each run had."""

    root_dir: Path
    names: str  # of index files, comma-separated
    _rows: dict[tuple[Any, bool], dict[str, DatasetRow]] = field(default_factory=dict)

    def rows(self, settings: PromptSettings | None = None) -> dict[str, DatasetRow]:
        """All samples by `sample_id`, one of each task in turn; by default with this repository's instructions."""
        settings = settings or PromptSettings()
        key = settings.instructions, settings.as_known
        if key not in self._rows:
            self._rows[key] = {row.sample_id: row for row in read_samples(self.root_dir, self.names, settings)}
        return self._rows[key]

    def input(self, identity: str) -> str:
        """The input of a sample, without any truncation."""
        row = self.rows()[identity]
        return str(row.dataset.text(row.index))

    def patient(self, identity: str) -> str:
        """The patient of a sample, whose trajectory is read; the sample itself if its row has its text."""
        row = self.rows()[identity].row
        return identity if "input" in row else str(row["subject_id"])


def choose_samples(
    benchmark: Benchmark, runs: Sequence[ModelRun], subject_id: str | None, selected: str | None, limit: int
) -> list[str]:
    """The samples of a page: `selected` first, then those with outputs, one of each task in turn; at most `limit`.

    Raises:
        UserError: there is no such sample, or none of such a patient.
    """
    rows = benchmark.rows()
    if selected is not None and selected not in rows:
        got = f"{len(rows):,} samples without it. Give a sample_id as in outputs.jsonl: TASK/PATIENT/BEGIN-END"
        raise UserError(f"{benchmark.names}: expected the sample of --sample, got {got}.")

    def of_patient(identity: str) -> bool:
        row = rows[identity].row
        return str((row.get("task_info") or row).get("subject_id")) == subject_id

    identities = [identity for identity in rows if subject_id is None or of_patient(identity)]
    if not identities:
        raise UserError(f"{benchmark.names}: expected samples of the patient of --subject_id, got none. Give another patient.")
    if selected is not None and selected not in identities:
        raise UserError("--sample: expected a sample of the patient of --subject_id, got another one. Leave out one of them.")
    identities.sort(key=lambda identity: (identity != selected, not any(identity in run.lines for run in runs)))
    return identities[:limit]


class View(NamedTuple):
    """A sample as a run sees it: its input, which events of the patient the parts of the input are, and what is asked."""

    asked: Asked
    positions: Sequence[int | None]  # of the parts: patient, last discharge note, admission, then the window
    sample: Line


def patient_group(
    benchmark: Benchmark, identities: Sequence[str], runs: Sequence[ModelRun], graphs: Mapping[str, str]
) -> Line:
    """The samples of one patient as a line of the page: `patient` (see `events.py`) and `samples` by `sample_id`."""
    first = benchmark.rows()[identities[0]]
    rendered = "input" in first.row
    events = [] if rendered else first.dataset.trajectories.trajectory(first.row["subject_id"])
    views = {identity: view(benchmark.rows()[identity], events) for identity in identities}
    if rendered:
        patient = patient_line_of_text(views[identities[0]].asked.text)
    else:
        described = {p for each in views.values() for p in each.positions if p is not None}
        described |= {position for each in views.values() if (position := target_event(each, len(events))) is not None}
        patient = patient_line(events, described, first.dataset.lookups)
    texts = {position: event["text"] for position, event in patient["events"].items()}
    samples = {}
    for identity, each in views.items():
        row = each.sample["task_info"]
        line = sample_line(each, events)
        prompts: dict[str, Line] = {}
        for number, run in enumerate(runs):
            if identity in run.lines:
                answer = answer_line(run.lines[identity], each)
                prompt = run_prompt(benchmark, identity, run, events)
                if prompt:
                    encoded = encode_prompt(prompt, each.positions, texts)
                    key = json.dumps(encoded)
                    prompts.setdefault(key, encoded)
                    answer |= {"prompt": list(prompts).index(key), "identical": prompt.identical}
                line["answers"][number] = answer
        line["prompts"] = list(prompts.values()) or [encode_prompt(plain_prompt(each.asked), each.positions, texts)]
        if reasoning := row.get("reasoning"):
            line["chain"] = chain_line(reasoning, "stop", each)
        if graph := graph_layout(read_graph(row.get("graph") or graphs.get(identity))):
            line["graph"] = graph
        samples[identity] = line
    return {"patient": patient, "samples": samples}


def view(row: DatasetRow, events: Sequence[Event]) -> View:
    """A sample with its text and the events of its parts; `events` is the trajectory, empty for rows that have their text."""
    sample, text = row.dataset.with_text(row.index)
    info, task = sample["task_info"], row.dataset.task(row.row)
    asked = Asked(text, sample["instruction"], task, sample["candidates"], info.get("reasoning"))
    if not events:
        return View(asked, range(3 + len(text.window)), sample)
    begin, end = info["period_begin"], info["period_end"]
    shown = [position for position in range(begin, end) if is_shown(task, events[position].file_name)]
    earlier = [p if p is not None and p < end else None for p in (info["last_discharge_id"], info["admissions_id"])]
    return View(asked, [0, *earlier, *shown], sample)


def target_event(shown: View, length: int) -> int | None:
    """The position of the event that a decision or generation task asks for; None for risk tasks."""
    end = shown.sample["task_info"]["period_end"]
    return end if shown.asked.task.kind != "risk" and end < length else None


def sample_line(shown: View, events: Sequence[Event]) -> Line:
    """A sample without prompts and answers."""
    info, task = shown.sample["task_info"], shown.asked.task
    line: Line = {
        "labels": label_list(info["label"]),
        "candidates": shown.asked.candidates,
        "question": shown.asked.instruction,
        "audit": [flag for flag in (info.get("audit") or "").split(";") if flag],
        "admission": info.get("hadm_id"),
        "when": task.when,
        "answers": {},
    }
    if events:
        begin, end = info["period_begin"], info["period_end"]
        line["window"] = [begin, end]
        line["predicted_at"] = Timeline(events[begin:end]).prediction_time(0, end - begin)
        line["target"] = target_event(shown, len(events))
    return line


def run_prompt(benchmark: Benchmark, identity: str, run: ModelRun, events: Sequence[Event]) -> ShownPrompt | None:
    """The prompt of a run, rendered again; None for runs without prompts, such as baselines."""
    line = run.lines[identity]
    if run.settings is None or not line.get("prompt_sha256"):
        return None
    asked = view(benchmark.rows(run.settings.prompt)[identity], events).asked
    return shown_prompt(asked, line, run.settings, run.builder)


def encode_prompt(prompt: ShownPrompt, positions: Sequence[int | None], texts: Mapping[int, str]) -> Line:
    """A prompt for the page: an event whose text is that of the patient's is only its position, negative if it was dropped.

    Other parts are objects: `kind`, `event` (position), `text`, and `gap` if more than line ends follows.
    """

    def plain(text: str) -> str:
        return json.loads(f'"{text}"') if prompt.escaped else text

    def encode(part: Part) -> int | Line:
        position = None if part.number is None else positions[part.number]
        text = part.text if part.kind in (TEMPLATE, DROPPED) else plain(part.text)
        gap, same = plain(part.gap), position is not None and texts.get(position) == text
        if same and position and (part.kind == DROPPED or (part.kind == EVENT and gap == GAP)):
            return position if part.kind == EVENT else -position
        line: Line = {"kind": part.kind} | ({} if position is None else {"event": position})
        line |= {} if same else {"text": text}
        return line | ({"gap": gap} if gap.strip() else {})

    return {"parts": [encode(part) for part in prompt.parts], "truncated": prompt.truncated}


def answer_line(line: Line, shown: View) -> Line:
    """What a run said: score and error, and of each reply its text, items (and whether they are right), p(yes) and chain."""
    labels = {label.strip().casefold() for label in label_list(shown.sample["task_info"]["label"])}
    replies = []
    for output in line.get("outputs") or []:
        reply: Line = {"response": output.get("response") or "", "finish": output.get("finish_reason")}
        items = output["items"] if "items" in output else read_items(output.get("response"))  # baselines store none
        reply["items"] = [[item, item.strip().casefold() in labels] for item in items]
        reply |= {name: output[name] for name in ("p_yes", "yes_no_mass") if output.get(name) is not None}
        if output.get("reasoning"):
            reply["chain"] = chain_line(output["reasoning"], output.get("finish_reason"), shown)
        replies.append(reply)
    return {"score": line.get("score"), "error": line.get("error"), "replies": replies}


def chain_line(chain: str, finish_reason: str | None, shown: View) -> Line:
    """A chain in pieces: text, and citations with the event they name and their faults; and the faults of the whole chain.

    The faults of the whole are those of `filter_reasoning.py`, for chains with its sections only.
    """
    chain, events = "\n".join(chain.splitlines()), CitedEvents(shown.asked.text)
    pieces: list[str | Line] = []
    end = 0
    for citation in checked_citations(chain, events):
        pieces.append(chain[end : citation.start])
        end = citation.end
        numbers = events.parts(citation.name, citation.time)
        cited = [shown.positions[number] for number in numbers]
        reasons = [fault._asdict() for fault in citation.faults]
        pieces.append({"text": chain[citation.start : end], "event": cited[0] if cited else None, "faults": reasons})
    pieces.append(chain[end:])
    line: Line = {"pieces": [piece for piece in pieces if piece]}
    if EXTRACTION in chain:
        labels = label_list(shown.sample["task_info"]["label"])
        of_chain = faults(chain, finish_reason, events, labels, AnswerLimits())
        line["faults"] = [fault._asdict() for fault in dict.fromkeys(of_chain)]
    return line


def evidence_graphs(folder: Path, identities: Collection[str]) -> dict[str, str]:
    """The column `graph` of the rows of evidence files that are samples in `identities`."""
    import pyarrow.compute as pc

    graphs: dict[str, str] = {}
    for path in evidence_files(folder):
        for table in read_tables(path, REQUIRED):
            if "graph" in table.column_names:
                table = table.filter(pc.is_valid(table["graph"]))
                rows = table.select(["task", "subject_id", "period_begin", "period_end"]).to_pylist()
                wanted = {i: name for i, row in enumerate(rows) if (name := sample_id(row)) in identities}
                graphs |= {name: table["graph"][i].as_py() for i, name in wanted.items()}
    return graphs
