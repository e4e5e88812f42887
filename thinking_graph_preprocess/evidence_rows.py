"""Rows of evidence files: the samples that chains are written for, their texts, questions and graphs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inference.generation import ID_COLUMNS
from inference.settings import Settings, flag
from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.sources import index_mapping_source, trajectories_source
from mimiciv_dataset.tasks import load_instructions
from pipeline.errors import UserError
from pipeline.files import sha256
from pipeline.provenance import Source

if TYPE_CHECKING:
    from mimiciv_dataset.mimiciv import MIMICIV
    from mimiciv_dataset.text import SampleText


@dataclass(frozen=True)
class EvidenceFileSettings(Settings):
    """Where evidence rows (`data_index_dir`, a CSV or a directory of CSVs) and trajectories (`ehr_dir`) are."""

    root_dir: Path
    data_index_dir: Path
    ehr_dir: Path
    instructions: Path | None = flag(None, help="JSON, task → question, instead of this repository's instructions", type=Path)


class EvidenceRow(NamedTuple):
    """A row of an evidence file: the file, and the position of the row in it."""

    path: Path
    index: int


Paths = tuple[tuple[str, ...], ...]  # of a graph: term, relation, term, …


class EvidenceFiles:
    """Evidence files, which are opened when they are needed, and by each worker process anew."""

    def __init__(self, settings: EvidenceFileSettings) -> None:
        self.settings = settings
        self._datasets: dict[Path, MIMICIV] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "_datasets": {}}

    def dataset(self, path: Path) -> MIMICIV:
        """An evidence CSV as a dataset."""
        if path not in self._datasets:
            from mimiciv_dataset.mimiciv import MIMICIV

            if path.suffix != ".csv":
                raise UserError(f"{path}: expected a CSV of evidence_generation.py, got another kind of file.")
            options = {"instructions": self.settings.instructions, "ehr_dir": self.settings.ehr_dir}
            self._datasets[path] = MIMICIV(self.settings.root_dir, path, lazzy_mode=True, shuffle=False, **options)
        return self._datasets[path]

    def rows(self, only_graph: bool = False) -> list[EvidenceRow]:
        """The rows that can have chains (`only_graph`: and have a graph), each sample once, in the order of the files."""
        from thinking_graph_preprocess.evidence_generation import evidence_files

        rows: dict[str, EvidenceRow] = {}
        for path in evidence_files(self.settings.data_index_dir):
            dataset = self.dataset(path)
            if only_graph and "graph" not in dataset.rows.columns:
                fix = "Make it with thinking_graph_preprocess/evidence_generation.py"
                got = ", ".join(dataset.rows.columns)
                raise UserError(f"{path}: expected a column graph for --filter_nograph, got {got}. {fix}.")
            for index in range(len(dataset)):
                columns = dataset.row(index)
                with dataset.located(index):
                    task, paths = dataset.task(columns), read_graph(columns.get("graph"))
                    if None in [columns[name] for name in ID_COLUMNS] or not columns.get("target"):
                        raise UserError("expected a patient, a window and a target, got a row without one of them.")
                if task.kind != "generation" and (paths or not only_graph):
                    rows.setdefault(sample_id(columns), EvidenceRow(path, index))
        return list(rows.values())

    def sources(self, verify: bool = False) -> list[Source]:
        """What the rows and their texts are made from."""
        from thinking_graph_preprocess.evidence_generation import evidence_sources

        settings = self.settings
        trajectories = trajectories_source(settings.ehr_dir, verify)
        index_mapping = index_mapping_source(settings.root_dir / "index_mapping", verify)
        return [*evidence_sources(settings.data_index_dir, verify), trajectories, index_mapping]

    @property
    def instructions(self) -> str:
        """A digest of the questions."""
        return sha256(json.dumps(load_instructions(self.settings.instructions), sort_keys=True))

    def columns(self, row: EvidenceRow) -> dict[str, Any]:
        return self.dataset(row.path).row(row.index)

    def text(self, row: EvidenceRow) -> SampleText:
        return self.dataset(row.path).text(row.index)

    def question(self, row: EvidenceRow) -> str:
        return self.dataset(row.path).instructions[self.columns(row)["task"]]


def read_graph(text: str | None) -> Paths:
    """The paths of a row's `graph`; none if it is empty.

    >>> read_graph('{"umls_graph": [["Pain", "may be treated by", "Aspirin"]]}'), read_graph(None)
    ((('Pain', 'may be treated by', 'Aspirin'),), ())
    >>> read_graph("[1]")
    Traceback (most recent call last):
    pipeline.errors.UserError: graph: expected {"umls_graph": [[term, relation, term, ...], ...]}, got something else.
    """
    if not text:
        return ()
    try:
        paths = json.loads(text)["umls_graph"]
    except (ValueError, KeyError, TypeError):
        paths = None
    if isinstance(paths, list) and all(isinstance(path, list) and all(isinstance(s, str) for s in path) for path in paths):
        return tuple(map(tuple, paths))
    raise UserError('graph: expected {"umls_graph": [[term, relation, term, ...], ...]}, got something else.')
