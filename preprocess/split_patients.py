"""Patients → the train/test split, patient_data/{patients,train,test}.csv.

The side of a patient depends only on the seed and on the patient's id, so that it stays the same when patients are added.
With --test_from, the patients of released test sets are always in the test set. The others are split by the hash, or all
go to the training set with --test_ratio 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import hashlib
from collections.abc import Iterable, Sequence

from mimiciv_dataset.index_files import HOW_TO_GET_INDEX, index_paths, read_rows
from mimiciv_dataset.lookups import find_table
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.sources import patients_source
from pipeline.cli import Parser, between, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, require
from pipeline.progress import Summary
from pipeline.provenance import Provenance, content_of

STEP, RULES = "preprocess/split_patients.py", 1


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    patients_from = cli.add_mutually_exclusive_group()
    trajectories = "trajectories whose patients to split (ROOT_DIR/patients_ehr)"
    patients_from.add_argument("--ehr_dir", "--patient_ehr_path", type=Path, help=trajectories)
    csv_file = "or a CSV with a column subject_id (ROOT_DIR/mimiciv/hosp/patients.csv[.gz], if there are no trajectories)"
    patients_from.add_argument("--patients", type=Path, help=csv_file)
    cli.add_path("--output_dir", "--output_path", default="patient_data", help="directory for the three files")
    cli.add_argument("--test_ratio", type=between(0, 1), default=0.1, help="share of patients in the test set (0.1)")
    cli.add_argument("--seed", type=int, default=42, help="seed of the split (42)")
    test_from = "index CSVs or JSONL whose patients belong in the test set, such as the released ehr_bench/*.csv"
    cli.add_argument("--test_from", type=Path, nargs="+", default=[], metavar="FILE", help=test_from)
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    summary = Summary("split_patients")
    source = args.ehr_dir or args.patients or default_source(args.root_dir)
    patients = read_patients(source)
    test_from = index_paths(args.test_from) if args.test_from else []
    sources = [patients_source(source, patients)]
    sources += [content_of(f"test_from/{path.name}", path) for path in test_from]
    settings = {"test_ratio": args.test_ratio, "seed": args.seed}
    files = {name: args.output_dir / f"{name}.csv" for name in ("patients", "train", "test")}
    provenance = Provenance(
        files["patients"], STEP, sources, settings, RULES, cli.arguments, is_file=True, flag="--output_dir"
    )
    if not provenance.begin(args.overwrite, args.verify, used=any(path.exists() for path in files.values()), keep=True):
        return
    always_test: set[str] = set()
    for path in test_from:
        ids = index_subjects(path)
        print(f"{path}: {len(ids):,} patients, {len(ids.intersection(patients)):,} of them in {source}")
        always_test |= ids
    test = [patient for patient in patients if patient in always_test or is_test(patient, args.seed, args.test_ratio)]
    in_test = set(test)
    train = [patient for patient in patients if patient not in in_test]
    provenance.claim()
    for name, ids in (("patients", patients), ("train", train), ("test", test)):
        write_ids(files[name], ids)
    provenance.complete(files=files.values(), patients=len(patients), train=len(train), test=len(test))
    from_files = f" ({len(always_test & in_test):,} from --test_from)" if args.test_from else ""
    summary.print(f"{len(patients):,} patients → {len(train):,} train, {len(test):,} test{from_files} → {args.output_dir}")


def is_test(subject_id: str, seed: int, ratio: float) -> bool:
    """Whether a patient is in the test set: the SHA-256 of seed and id, as a number in [0, 1), is below the ratio.

    >>> [is_test(str(n), 42, 0.1) for n in (10001217, 10039997)], is_test("1", 42, 0), is_test("1", 42, 1)
    ([False, False], False, True)
    """
    digest = hashlib.sha256(f"{seed}:{subject_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < ratio * 2**64


def ascending(source: Path, subject_ids: Iterable[str]) -> list[str]:
    """Distinct ids in numeric order.

    >>> ascending(Path("x.csv"), ["10", "9", "10"])
    ['9', '10']
    """
    ids = set(subject_ids)
    if not all(subject_id.isdecimal() for subject_id in ids):
        raise UserError(f"{source}: expected numbers in column subject_id, got another text. Fix the file.")
    if not ids:
        raise UserError(f"{source}: expected patients, got none. Choose another file.")
    return sorted(ids, key=int)


def default_source(root_dir: Path) -> Path:
    """The trajectories, because all later steps read them; before they are built, the raw table of patients."""
    trajectories, hosp = root_dir / "patients_ehr", root_dir / "mimiciv/hosp"
    return trajectories if trajectories.exists() else find_table(hosp, "patients") or hosp / "patients.csv"


def read_patients(path: Path) -> list[str]:
    """The distinct patients of a directory of trajectories, or of a CSV with a column subject_id, in numeric order."""
    fix = "make trajectories with preprocess/combination.py, or set --ehr_dir or --patients"
    require(path, "trajectories or a CSV with a column subject_id", fix)
    if path.is_dir():
        from mimiciv_dataset.trajectory import Trajectories

        return ascending(path, Trajectories(path).subject_ids())
    return ascending(path, read_subject_ids(path, fix))


def index_subjects(path: Path) -> set[str]:
    """The patients of a CSV with a column subject_id or of a JSONL, whose rows may have subject_id in their task_info."""
    if path.suffix not in (".jsonl", ".json"):
        return set(read_subject_ids(path, HOW_TO_GET_INDEX, may_repeat=True))
    rows = read_rows(path)
    subjects = rows.subject_ids()
    if None in subjects:
        where = rows.where(subjects.index(None))
        raise UserError(f"{where}: expected subject_id in the row or its task_info, got none. Fix the row.")
    return set(subjects)


def write_ids(path: Path, subject_ids: Sequence[str]) -> None:
    """Write a CSV with one column, subject_id."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["subject_id"], *([subject_id] for subject_id in subject_ids)])


if __name__ == "__main__":
    run(main)
