"""The page: which samples fit on it, and the file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evaluation.pages.charts import as_dict
from evaluation.pages.document import asset, document, environment, inline_json
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.patients import DATA_USE
from pipeline.progress import progress
from thinking_graph_preprocess.chains import REASONS
from viewer import charts
from viewer.events import TABLES
from viewer.runs import ModelRun
from viewer.samples import Benchmark, patient_group

HERE = Path(__file__).parent
SCRIPTS = ("list.js", "sample.js", "charts.js", "start.js")
MAX_BYTES = 5_000_000  # of a page
FRAME_BYTES = 1_100_000  # of a page without its samples, at most: mostly Vega
BANNER = (
    "This page shows records of patients. Keep it where their data may be kept, and do not share it. "
    "It loads nothing and sends nothing."
)


@dataclass(frozen=True)
class Page:
    """A page and what is on it: samples, their patients, and for each run how many prompts are not the recorded ones."""

    text: str
    samples: int
    patients: int
    changed: Mapping[str, int]


def make_page(
    benchmark: Benchmark, identities: Sequence[str], runs: Sequence[ModelRun], graphs: Mapping[str, str], selected: str | None
) -> Page:
    """The page of the samples `identities`, patient by patient, as many as fit into `MAX_BYTES`; the first patient always is.

    Args:
        graphs: see `samples.evidence_graphs`.
        selected: the sample that the page opens with; by default the first one.
    """
    by_patient: dict[str, list[str]] = {}
    for identity in identities:
        by_patient.setdefault(benchmark.patient(identity), []).append(identity)
    groups: list[str] = []
    listed: list[dict[str, Any]] = []
    changed = dict.fromkeys((run.name for run in runs), 0)
    free = MAX_BYTES - FRAME_BYTES
    for of_patient in progress(list(by_patient.values()), desc="view.py", unit="patient"):
        group = patient_group(benchmark, of_patient, runs, graphs)
        packed = pack(group)
        if groups and len(packed) > free:
            continue
        free -= len(packed)
        for identity, sample in group["samples"].items():
            listed.append(list_entry(benchmark, identity, sample, runs, len(groups)))
            for number, answer in sample["answers"].items():
                changed[runs[number].name] += answer.get("identical") is False
        groups.append(packed)
    order = {identity: place for place, identity in enumerate(identities)}
    listed.sort(key=lambda entry: order[entry["id"]])
    head = {
        "runs": [{"name": run.name, "note": run.note} for run in runs],
        "tables": [{"name": name, "title": EVENTS[name].title or name, "module": EVENTS[name].module} for name in TABLES],
        "samples": listed,
        "selected": selected or listed[0]["id"],
        "reasons": REASONS,
    }
    content = environment(HERE / "templates").get_template("viewer.html.j2").render(
        tasks=sorted({entry["task"] for entry in listed}),
        runs=head["runs"],
        head=inline_json(head),
        groups=inline_json(groups),
        timeline=inline_json(as_dict(charts.timeline())),
        graph=inline_json(as_dict(charts.thinking_graph())),
    )  # fmt: skip
    patients, total = len({entry["patient"] or entry["id"] for entry in listed}), len(benchmark.rows())
    of_patients = f"{patients:,} patient{'s' if patients > 1 else ''}"
    lead = f"{len(listed):,} of {total:,} samples, of {of_patients}. {DATA_USE}"
    if len(listed) < total:
        lead += " Other samples: --limit, --subject_id and --sample."
    styles, scripts = asset("viewer.css", HERE), "\n".join(asset(name, HERE) for name in SCRIPTS)
    title = f"Samples of {', '.join(Path(name).name for name in benchmark.names.split(','))}"
    text = document(title, lead, [("Samples", Markup(content))], banner=BANNER, styles=styles, scripts=scripts)
    return Page(text, len(listed), patients, changed)


def list_entry(
    benchmark: Benchmark, identity: str, sample: Mapping[str, Any], runs: Sequence[ModelRun], group: int
) -> dict[str, Any]:
    """A sample in the list of the page: what it is filtered and sorted by, and the group with the rest of it."""
    row = benchmark.rows()[identity]
    answers = [sample["answers"].get(number) for number in range(len(runs))]
    replies = [(answer or {}).get("replies") or [{}] for answer in answers]
    return {
        "id": identity,
        "task": row.dataset.task(row.row).name,
        "patient": str((row.row.get("task_info") or row.row).get("subject_id") or ""),
        "group": group,
        "scores": [answer and answer["score"] for answer in answers],
        "p_yes": [of_run[0].get("p_yes") for of_run in replies],
    }


def pack(value: Any) -> str:
    """A value as gzipped JSON in base64: a tenth of its size, and no text in it can end the script element."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
