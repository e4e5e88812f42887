"""The data chain run a second time, after one input or setting changed: made again or refused, never silently kept.

docs/provenance.md has the table of what each change affects; a test here holds it to `CHANGES`.
"""

from __future__ import annotations

import gzip
import importlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import REPO

from pipeline.errors import UserError
from pipeline.files import read_json

# The chain: name of a step, its script, its output, and the files of it that are compared.
CHAIN = {
    "merge": ("preprocess/merge_patient.py", "patients"),
    "rank": ("preprocess/rank.py", "patients_sorted"),
    "combination": ("preprocess/combination.py", "patients_ehr"),
    "split": ("preprocess/split_patients.py", "patient_data"),
    "mapping": ("preprocess/build_index_mapping.py", "index_mapping"),
    "index": ("mimiciv_dataset/task_sample_info_gen.py", "task_index"),
    "candidates": ("mimiciv_dataset/similar_item_gen.py", "cache"),
    "set": ("mimiciv_dataset/data_index_gen.py", "sets"),
}
FLAGS = {
    "split": ["--test_ratio", "0.4"],
    "set": ["--data_config", str(REPO / "scripts/data_configs/decision_making.json"), "--force_task_num", "20"],
}


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace the first occurrence of a text in a file, gzipped or not."""

    def change(root: Path) -> None:
        (path,) = root.glob(name)
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode(), 1)
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)

    return change


def append(name: str, line: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (path,) = root.glob(name)
        data = gzip.decompress(path.read_bytes()) + line.encode()
        path.write_bytes(gzip.compress(data, mtime=0))

    return change


def truncate(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = sorted(root.glob(name))[0]
        path.write_bytes(path.read_bytes()[:-7])

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: sorted(root.glob(name))[0].unlink()


def nothing(root: Path) -> None:
    pass


def write_list(root: Path) -> None:
    ids = (root / "patient_data/patients.csv").read_text().splitlines()[:-1]
    (root / "mine.csv").write_text("\n".join(ids) + "\n")


@dataclass(frozen=True)
class Change:
    """What changes before the second run, and the steps that must be refused and made again."""

    affects: str  # names of steps, space-separated
    change: Callable[[Path], None] = nothing
    flags: dict[str, list[str]] = field(default_factory=dict)  # further flags of a step in the second run
    rules: str | None = None  # the step whose rules get another version


DATA = "merge rank combination index candidates set"
SETS = "index candidates set"
CHANGES = {
    "a raw value, of the same length": Change(DATA, edit("mimiciv/hosp/labevents.csv.gz", ",mg/dL,", ",mg/dl,")),
    "a raw row more": Change(DATA, append("mimiciv/hosp/omr.csv.gz", "10000311,2150-01-01,1,BMI (kg/m2),30\n")),
    "a raw patient more": Change(f"{DATA} split", append("mimiciv/hosp/patients.csv.gz", "19999999,F,50,2150,2017 - 2019,\n")),
    "a module less": Change(DATA, lambda root: shutil.rmtree(root / "mimiciv/ed")),
    "a raw dictionary's entry": Change(f"mapping {SETS}", edit("mimiciv/hosp/d_labitems.csv.gz", "Glucose", "Glucosa")),
    "a code map's entry": Change(SETS, edit("index_mapping/hosp/d_ccs_diagnoses.csv", "ension", "ENSION")),
    "a code map less": Change(SETS, remove("index_mapping/hosp/d_atc_prescriptions.csv")),
    "--buckets": Change("merge rank combination", flags={"merge": ["--buckets", "3"]}),
    "--layout": Change("combination", flags={"combination": ["--layout", "patient"]}),
    "a truncated part of a table": Change("merge", truncate("patients/hosp/labevents/part-*")),
    "a truncated bucket": Change("rank", truncate("patients_sorted/bucket-*")),
    "a truncated shard": Change("combination", truncate("patients_ehr/shard-*")),
    "a missing shard": Change("combination", remove("patients_ehr/shard-*")),
    "the seed of the split": Change("split candidates set", flags={"split": ["--seed", "1"]}),
    "--test_ratio": Change("split candidates set", flags={"split": ["--test_ratio", "0.5"]}),
    "a list of patients edited": Change("split", edit("patient_data/test.csv", "\n1", "\n2")),
    "another list of patients": Change(SETS, write_list, {"index": ["--patient_id", "{root}/mine.csv"]}),
    "--traj_len_max": Change(SETS, flags={"index": ["--traj_len_max", "300"]}),
    "--task": Change(SETS, flags={"index": ["--task", "omr", "emar", "labevents"]}),
    "--no-audit": Change(SETS, flags={"index": ["--no-audit"]}),
    "an index file edited": Change("index", edit("task_index/all/omr.csv", "omr,omr", "omr,omR")),
    "an index file missing": Change("index", remove("task_index/all/emar.csv")),
    "--top_k": Change("candidates", flags={"candidates": ["--top_k", "7"]}),
    "a truncated file of candidates": Change("candidates", truncate("cache/similar_item/*.csv")),
    "the seed of a draw": Change("set", flags={"set": ["--seed", "1"]}),
    "a count of a config": Change("set", flags={"set": ["--force_task_num", "19"]}),
    "a filter": Change("set", flags={"set": ["--min_window", "3"]}),
    "a sampled set edited": Change("set", edit("sets/set.csv", "next_event,", "next_evenT,")),
    "the rules of merge_patient.py": Change("merge rank combination", rules="merge"),
    "the rules of rank.py": Change("rank combination", rules="rank"),
    "the rules of combination.py": Change("combination", rules="combination"),
    "the rules of split_patients.py": Change("split", rules="split"),
    "the rules of task_sample_info_gen.py": Change(SETS, rules="index"),
    "the rules of similar_item_gen.py": Change("candidates", rules="candidates"),
    "the rules of data_index_gen.py": Change("set", rules="set"),
}  # fmt: skip


def run_chain(root: Path, flags: dict[str, list[str]] = {}) -> Iterator[str]:  # noqa: B006
    """Run the steps as a user who adds --overwrite where a step asks for it; yields the steps that were made again."""
    for name, (script, _) in CHAIN.items():
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        words = ["--root_dir", str(root), *FLAGS.get(name, [])]
        words += ["--output_path", f"{root}/sets/set.csv"] if name == "set" else []
        words += [flag.format(root=root) for flag in flags.get(name, [])]
        try:
            module.main(words)
        except UserError as error:
            assert "--overwrite" in str(error), error
            module.main([*words, "--overwrite"])
            yield name


def contents(root: Path) -> dict[str, bytes | str]:
    """All files of the outputs; of a record, the digest."""
    files = {}
    for _, output in CHAIN.values():
        for path in sorted((root / output).rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                files[str(name)] = read_json(path)["digest"] if path.name.endswith("provenance.json") else path.read_bytes()
    return files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from preprocess import synthetic_mimic

    root = tmp_path_factory.mktemp("second_run")
    synthetic_mimic.main(["--root_dir", str(root), "--patients", "12"])
    assert list(run_chain(root)) == []
    return root


def test_with_nothing_changed_nothing_is_written(made: Path) -> None:
    def stamps() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in made.rglob("*") if path.is_file()}

    before = stamps()
    assert list(run_chain(made)) == []
    assert stamps() == before


FAST = (
    "a raw value, of the same length",
    "a code map's entry",
    "a truncated shard",
    "the seed of the split",
    "the rules of rank.py",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in CHANGES])
def test_after_a_change(name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that the change affects refuse and are made again; the result is that of a first run."""
    change, root, fresh = CHANGES[name], tmp_path / "root", tmp_path / "fresh"
    shutil.copytree(made, root)
    if change.rules:
        module = importlib.import_module(CHAIN[change.rules][0].removesuffix(".py").replace("/", "."))
        monkeypatch.setattr(module, "RULES", module.RULES + 1)
    change.change(root)
    inputs = ["mimiciv", "index_mapping"] + ["mine.csv"] * (root / "mine.csv").exists()
    for source in inputs:
        copy = shutil.copytree if (root / source).is_dir() else shutil.copy
        fresh.mkdir(exist_ok=True)
        copy(root / source, fresh / source)
    assert sorted(run_chain(root, change.flags)) == sorted(change.affects.split())
    assert list(run_chain(root, change.flags)) == []
    if "mapping" in change.affects:
        for dictionary in (fresh / "index_mapping").rglob("d_labitems*"):
            dictionary.unlink()
    list(run_chain(fresh, change.flags))
    assert contents(root) == contents(fresh)


def test_the_docs_have_the_table() -> None:
    text = (REPO / "docs/provenance.md").read_text(encoding="utf-8")
    for name, change in CHANGES.items():
        assert f"| {name} | {', '.join(change.affects.split())} |" in text
