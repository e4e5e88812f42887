"""Evidence files of the hand-made patients (tiny_mimic), and chains about them as a strong model would write them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from mimiciv_dataset.index_files import SAMPLE_COLUMNS

TARGET = ["0.9% Sodium Chloride", "K", "Heparin", "Aspirin"]
GRAPH = {"umls_graph": [["Hypertension", "may be treated by", "Aspirin"], ["Pain", "isa", "Finding"]]}

EXTRACTION = """\
- **Triage [2150-01-01 08:00:01]**: temperature 98 and pain 5
- **Labotary Test Events [2150-01-01 12:00:00]**: values of 7.0 and 3.50
- **Patient Demographics [None]**: a woman of 70"""
REASONING = "She is in pain (**Triage [2150-01-01 08:00:01]**), so fluids and an analgesic are to be expected."


def chain(extraction: str = EXTRACTION, reasoning: str = REASONING, final: list[str] | None = None) -> str:
    """A chain; by default one that is accepted for every row of `write_evidence`."""
    items = "\n".join(f"- {name}" for name in (TARGET if final is None else final))
    return f"## Extraction\n{extraction}\n\n## Reasoning\n{reasoning}\n\n## Final Results\n{items}"


def write_evidence(root: Path, path: Path, rows: int = 20, graphs: int | None = None) -> Path:
    """The first rows of the emar index, with four answers; the first `graphs` of them have a graph (all)."""
    with (root / "task_index/all/emar.csv").open(newline="", encoding="utf-8") as file:
        index = list(csv.DictReader(file))[:rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*SAMPLE_COLUMNS, "graph"], extrasaction="ignore")
        writer.writeheader()
        for number, row in enumerate(index):
            writer.writerow(row | {
                "period_begin": row["context_begin"], "period_end": row["context_end"], "target": json.dumps(TARGET),
                "graph": json.dumps(GRAPH) if graphs is None or number < graphs else "",
            })  # fmt: skip
    return path


def read_chains(folder: Path, name: str = "reasoning") -> list[dict[str, Any]]:
    """All lines of a folder's replies."""
    files = [*folder.glob(f"{name}.jsonl"), *folder.glob(f"{name}-*-of-*.jsonl")]
    return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]


def record_of(body: dict[str, Any]) -> str:
    """The record in a prompt."""
    return re.search(r"# The record\n\n(.*?)\n\n# The question\n", prompt_of(body), re.DOTALL)[1]


def answer_of(body: dict[str, Any]) -> list[str]:
    """The correct answers in a prompt."""
    lines = re.search(r"# The right answer, one item a line\n\n(.*?)\n\n# ", prompt_of(body), re.DOTALL)[1].splitlines()
    return [line.removeprefix("- ") for line in lines]
