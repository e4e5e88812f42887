"""What exists below --root_dir, what it was made from, whether it is up to date, and what to run next.

Every artefact of the pipeline, in order: from raw tables to trajectories, index, sampled sets, evidence and chains, models and
results. An artefact is stale if an input was made again or changed since, or if the rules of its step are newer. Directories
outside ROOT_DIR, such as those of models and results, are given as further arguments.

Exits with 1 if something is stale, changed or unfinished.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import importlib
import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mimiciv_dataset.events import DICTIONARY_TABLES
from mimiciv_dataset.lookups import find_table
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.sources import patients_source
from pipeline.cli import ROOT_DIR, Parser, run
from pipeline.digests import stamp_of
from pipeline.errors import UserError
from pipeline.files import sha256_file
from pipeline.progress import print_table
from pipeline.records import RECORD, Ancestor, command_of, digest_now, fault_of_files, origins, read_record, record_path
from preprocess.raw_tables import find_tables


@dataclass(frozen=True)
class Step:
    """A step of the pipeline.

    Attributes:
        script: the script, also the name of the step in records; or the directory of several ones, with `/` at its end.
        artefact: what it makes, for the reader.
        output: default output below the data directory; None if the user names it.
        needed: whether the artefact is missed if it does not exist.
        arguments: arguments of the command without which it does not run.
    """

    script: str
    artefact: str
    output: str | None = None
    needed: bool = True
    arguments: str = ""


_SET = "--data_config scripts/data_configs/risk_prediction.json --output_path {root}/ehr_bench/risk_prediction.csv"
_GRAPH = "thinking_graph_preprocess/"
STEPS = (
    Step("preprocess/merge_patient.py", "raw tables in buckets", "patients", needed=False),
    Step("preprocess/from_meds.py", "MEDS data in buckets", None, needed=False),
    Step("preprocess/from_omop.py", "OMOP tables in buckets", None, needed=False),
    Step("scripts/sites/", "own data in buckets", None, needed=False),  # all converters (docs/new_site.md)
    Step("preprocess/rank.py", "records in order", "patients_sorted", needed=False),
    Step("preprocess/combination.py", "trajectories", "patients_ehr"),
    Step("preprocess/to_meds.py", "MEDS data", None, needed=False),
    Step("preprocess/split_patients.py", "train/test split", "patient_data/patients.csv"),
    Step("preprocess/build_index_mapping.py", "dictionaries and code maps", "index_mapping"),
    Step("mimiciv_dataset/task_sample_info_gen.py", "task index", "task_index/all"),
    Step("mimiciv_dataset/similar_item_gen.py", "candidate answers", "cache"),
    Step("mimiciv_dataset/data_index_gen.py", "sampled set", None, arguments=_SET),
    Step(_GRAPH + "concept_extraction.py", "concepts", "evidence_datas/concepts", needed=False),
    Step(_GRAPH + "coexistence_concept.py", "co-occurrence", "evidence_datas/coexistence", needed=False),
    Step(_GRAPH + "build_umls_graph.py", "knowledge graph", "evidence_datas/graph", needed=False),
    Step(_GRAPH + "evidence_generation.py", "evidence", None, needed=False),
    Step(_GRAPH + "reasoning_generation.py", "reasoning chains", None, needed=False),
    Step(_GRAPH + "filter_reasoning.py", "kept chains", None, needed=False),
    Step("scripts/make_template_reasoning.py", "chains from a template", None, needed=False),
    Step("scripts/filter_prompts.py", "RL prompts by pass rate", None, needed=False),
    Step("sft.py", "model (SFT)", None, needed=False),
    Step("grpo.py", "model (GRPO)", None, needed=False),
    Step("test.py", "results", None, needed=False),
    Step("evaluation/baselines.py", "results of baselines", None, needed=False),
    Step("evaluation/synthetic_benchmark.py", "benchmark of known optimum", None, needed=False),
    Step("evaluation/health.py", "health of a benchmark", None, needed=False),
)
SKIPPED = "optional"  # state of an artefact that does not exist and need not


@dataclass
class Artefact:
    """An artefact that exists or is missing: what is wrong with it, if anything, and the command to run."""

    script: str
    output: Path
    record: Mapping[str, Any] = field(default_factory=dict)
    record_path: Path = Path()
    state: str = "up to date"
    fault: str = ""
    command: str = ""

    @property
    def inputs(self) -> dict[str, Ancestor]:
        return origins(self.record, "inputs", self.record_path.parent)


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("directories", nargs="*", type=Path, help="further directories with models and results")
    cli.add_argument("--verify", action="store_true", help="hash all files again, even if their size and times are the same")
    args = cli.parse_args(argv)
    if not args.root_dir.is_dir():
        raise UserError(f"{args.root_dir}: expected the data directory, got none. Set --root_dir, or begin as in README.md.")
    artefacts = [artefact for folder in (args.root_dir, *args.directories) for artefact in find_artefacts(folder)]
    artefacts += missing_artefacts(args.root_dir, {artefact.script for artefact in artefacts})
    order = {step: number for number, step in enumerate(STEPS)}
    artefacts.sort(key=lambda artefact: (order.get(step_of(artefact.script), len(order)), str(artefact.output)))
    faulty: set[Path] = set()
    for artefact in artefacts:
        check(artefact, faulty, args.verify)
        if artefact.fault:
            faulty.add(artefact.output.resolve())
    print_table(("artefact", "where", "made (UTC)", "made from", "state"), [row(each, args.root_dir) for each in artefacts])
    commands = [f"{a.command}{f'   # {a.fault}' if a.fault else ''}" for a in artefacts if a.command]
    for artefact in artefacts:
        if artefact.state == "damaged":
            print(f"error: {artefact.fault}")
    if commands:
        print("\nTo run, in this order:", *dict.fromkeys(commands), sep="\n  ")
    return 1 if faulty else 0


def step_of(script: str) -> Step | None:
    """The step of a script; None if it is no step of this version."""
    return next((step for step in STEPS if script == step.script or f"{Path(script).parent}/" == step.script), None)


def find_artefacts(folder: Path) -> Iterator[Artefact]:
    """The artefacts with a record below a directory, hidden directories aside."""
    visited: set[str] = set()  # a link can lead back to a directory above it
    for parent, directories, files in os.walk(folder, followlinks=True):
        directories[:] = [name for name in directories if not name.startswith(".")]
        if (real := os.path.realpath(parent)) in visited:
            directories.clear()
            continue
        visited.add(real)
        for name in files:
            if name.endswith("provenance.json") and not name.startswith("."):
                path = Path(parent) / name
                try:
                    record = read_record(path) or {}
                except UserError as error:
                    yield Artefact(name, path, state="damaged", fault=str(error))
                    continue
                stem = name.removesuffix("provenance.json").rstrip(".")  # empty for the record of a directory
                files_of_record = list(record.get("files") or ()) or [f"{stem}.csv"]
                output = path.with_name(files_of_record[0]) if stem else path.parent
                yield Artefact(record.get("step", "unknown"), output, record, path)


def missing_artefacts(root: Path, scripts: Collection[str]) -> Iterator[Artefact]:
    """What the steps that left no record would make; some of it exists nevertheless, without a record."""
    for step in STEPS:
        output = root / (step.output or "")
        if step.script in scripts or not (step.output or step.needed) or is_made_otherwise(step, output):
            continue
        if step.output and output.exists():
            artefact = Artefact(step.script, output, state="unknown origin")
            if step.output == "index_mapping":
                artefact.state = "present"
                if fault := dictionaries_changed(output, root / "mimiciv"):
                    artefact.state, artefact.fault = "stale", fault
                    artefact.command = f"{first_command(step, root)} --overwrite"
            yield artefact
        elif not step.needed and (not step.script.startswith("preprocess/") or "preprocess/combination.py" in scripts):
            yield Artefact(step.script, output, state=SKIPPED)
        else:
            yield Artefact(step.script, output, state="missing", command=first_command(step, root))


def is_made_otherwise(step: Step, output: Path) -> bool:
    """Whether another step made the output of this one, as from_meds.py and from_omop.py do with those of merge_patient.py."""
    return bool(step.output) and output.exists() and record_path(output).exists()


def first_command(step: Step, root: Path) -> str:
    """The command of a step with default settings."""
    where = () if root == Path(ROOT_DIR) else ("--root_dir", str(root))
    arguments = step.arguments.replace("{root}", shlex.quote(str(root)))
    return f"{shlex.join(['python', step.script, *where])} {arguments}".strip()


def check(artefact: Artefact, faulty: Collection[Path], verify: bool) -> None:
    """Set the state of an artefact with a record; `faulty` has the outputs before it that are not up to date."""
    record = artefact.record
    if not record:
        return
    command = command_of(record, artefact.record_path.parent)
    if not record.get("complete"):
        artefact.state, artefact.fault, artefact.command = "unfinished", "unfinished", command
    elif fault := stale_because(artefact, faulty, verify):
        artefact.state, artefact.fault, artefact.command = "stale", fault, f"{command} --overwrite"
    elif fault := fault_of_files(artefact.record_path, record, verify):
        artefact.state, artefact.fault, artefact.command = "changed", fault, f"{command} --overwrite"


def stale_because(artefact: Artefact, faulty: Collection[Path], verify: bool) -> str | None:
    """Why an artefact is not what its step would make now; None if it is."""
    if step_of(artefact.script) is None:
        return f"{artefact.script} is no step of this version"
    module = importlib.import_module(artefact.script.removesuffix(".py").replace("/", "."))
    if (rules := getattr(module, "RULES", artefact.record["rules"])) != artefact.record["rules"]:
        return f"made with rules {artefact.record['rules']}, now {rules}"
    first = not any(origin.path and origin.path.exists() for origin in artefact.inputs.values() if origin.by == RECORD)
    if "sources" in artefact.record and first and (fault := raw_tables_changed(artefact, verify)):
        return fault  # intermediates may have been removed: then the trajectories are compared with the raw tables
    for name, origin in artefact.inputs.items():
        if origin.path is not None and origin.path.resolve() in faulty:
            return f"{name} is not up to date ({origin.path})"
        current = patients_now(origin) if origin.by == "patients" else digest_now(origin)
        if None not in (current, origin.digest) and current != origin.digest:
            return f"{name} has changed ({origin.path})"
    return None


def raw_tables_changed(artefact: Artefact, verify: bool) -> str | None:
    """Which raw tables changed since they were read, or are new; None if there are none, or the raw tables are elsewhere."""
    recorded, folder = artefact.record.get("sources", {}), artefact.record_path.parent
    tables = {name: origin for name, origin in origins(artefact.record, "sources", folder).items() if origin.path.exists()}
    for name, origin in tables.items():
        if (verify or recorded[name]["stamp"] != stamp_of(origin.path)) and sha256_file(origin.path) != origin.digest:
            return f"{name} has changed"
    if tables and "site" not in artefact.record:
        mimic_dir = next(iter(tables.values())).path.parent.parent
        new = [table.file_name for table in find_tables(mimic_dir)[0] if table.file_name not in recorded]
        return f"{', '.join(new)} is new" if new else None
    return None


def dictionaries_changed(folder: Path, mimic_dir: Path) -> str | None:
    """Which dictionaries of MIMIC-IV are not those that were copied to `folder`; None if there are none."""
    for module, names in DICTIONARY_TABLES.items():
        for name in names:
            raw, copied = find_table(mimic_dir / module, name), find_table(folder / module, name)
            if raw and copied and (raw.stat().st_size != copied.stat().st_size or sha256_file(raw) != sha256_file(copied)):
                return f"{raw} has changed"
    return None


def patients_now(origin: Ancestor) -> str | None:
    """The digest of a list of patients; None if it is not there, or the patients are those of trajectories."""
    if origin.path is None or not origin.path.is_file():
        return None
    return patients_source(origin.path, read_subject_ids(origin.path)).digest


def row(artefact: Artefact, root: Path) -> tuple[str, ...]:
    """An artefact as a row of the printed table."""
    step = step_of(artefact.script)
    what = step.artefact if step else artefact.script
    made = artefact.record.get("made", "")[:16].replace("T", " ")
    inputs = artefact.inputs
    sources = ", ".join(inputs) if len(inputs) < 8 else f"{len(inputs)} files"
    where = artefact.output.relative_to(root) if artefact.output.is_relative_to(root) else artefact.output
    return what, str(where), made, sources, artefact.state


if __name__ == "__main__":
    run(main)
