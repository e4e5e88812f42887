"""Patients → patient_data/{patients,train,test}.csv: who trains and who tests.

A patient's side depends on the seed and the patient's own id only, so that it stays the same when patients are added.
With --test_from, patients of released test sets always test and never train; the others follow the hash, or all train
with --test_ratio 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import hashlib
from collections.abc import Iterable, Sequence

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, require
from pipeline.progress import Summary


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    source = cli.add_mutually_exclusive_group()
    source.add_argument("--patients", type=Path, help="CSV with a column subject_id (ROOT_DIR/mimiciv/hosp/patients.csv[.gz])")
    source.add_argument("--ehr_dir", "--patient_ehr_path", type=Path, help="take the patients of these trajectories")
    cli.add_path("--output_dir", "--output_path", default="patient_data", help="folder for the three files")
    cli.add_argument("--test_ratio", type=float, default=0.1, help="share of patients that test (0.1)")
    cli.add_argument("--seed", type=int, default=42, help="seed of the split (42)")
    cli.add_argument(
        "--test_from", type=Path, nargs="+", default=[], metavar="FILE",
        help="index CSVs or JSONL whose patients must test, such as the released ehr_bench/*.csv",
    )  # fmt: skip
    args = cli.parse_args(argv)
    summary = Summary("split_patients")
    if not 0 <= args.test_ratio <= 1:
        raise UserError(f"--test_ratio {args.test_ratio}: wanted a share from 0 to 1")
    if args.ehr_dir:
        from mimiciv_dataset.trajectory import Trajectories

        source, patients = args.ehr_dir, ascending(args.ehr_dir, Trajectories(args.ehr_dir).subject_ids())
    else:
        source = args.patients or default_patients(Path(args.root_dir) / "mimiciv/hosp")
        patients = read_patients(source)
    always_test: set[str] = set()
    for path in args.test_from:
        if path.name.endswith(".audit.csv"):
            continue  # the audit table beside a sampled set: `ehr_bench/*.csv` names it too
        ids = index_subjects(path)
        print(f"{path}: {len(ids):,} patients, {len(ids.intersection(patients)):,} of them in {source}")
        always_test |= ids
    test = [patient for patient in patients if patient in always_test or is_test(patient, args.seed, args.test_ratio)]
    in_test = set(test)
    train = [patient for patient in patients if patient not in in_test]
    for name, ids in (("patients", patients), ("train", train), ("test", test)):
        write_ids(args.output_dir / f"{name}.csv", ids)
    forced = f", {len(always_test & in_test):,} of them from --test_from" if args.test_from else ""
    summary.print(f"{len(patients):,} patients → {len(train):,} train, {len(test):,} test{forced} → {args.output_dir}")


def is_test(subject_id: str, seed: int, ratio: float) -> bool:
    """Whether a patient tests: the sha256 of seed and id, as a number in [0, 1), is below the ratio.

    >>> [is_test(str(n), 42, 0.1) for n in (10001217, 10039997)], is_test("1", 42, 0), is_test("1", 42, 1)
    ([False, False], False, True)
    """
    digest = hashlib.sha256(f"{seed}:{subject_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < ratio * 2**64


def ascending(source: Path, subject_ids: Iterable[str]) -> list[str]:
    """Distinct ids, ascending as numbers.

    >>> ascending(Path("x.csv"), ["10", "9", "10"])
    ['9', '10']

    Raises:
        UserError: an id is not a number, or there is none.
    """
    ids = set(subject_ids)
    wrong = next((subject_id for subject_id in ids if not subject_id.isdecimal()), None)
    if wrong is not None:
        raise UserError(f"{source}: wanted numbers as subject_id, found {wrong!r}")
    if not ids:
        raise UserError(f"{source}: wanted patients, found none")
    return sorted(ids, key=int)


def default_patients(folder: Path) -> Path:
    """MIMIC-IV's patients table, packed or not."""
    for name in ("patients.csv", "patients.csv.gz"):
        if (folder / name).exists():
            return folder / name
    raise UserError(
        f"{folder}: wanted patients.csv or patients.csv.gz, found neither; name the file with --patients, or the "
        "trajectories with --ehr_dir"
    )


def read_patients(path: Path) -> list[str]:
    """The distinct subject_id of a CSV or CSV.gz, ascending."""
    from mimiciv_dataset.lookups import read_text_csv

    require(path, "a CSV with a column subject_id", "name it with --patients, or the trajectories with --ehr_dir")
    ids = read_text_csv(path, ("subject_id",))["subject_id"].unique().to_pylist()
    return ascending(path, (subject_id for subject_id in ids if subject_id is not None))


def index_subjects(path: Path) -> set[str]:
    """The patients of an index CSV or JSONL. A released JSONL names them in its rows or in their task_info.

    Raises:
        UserError: the file, its subject_id column, or the subject_id of one of its rows is missing.
    """
    from mimiciv_dataset.index_files import clean_id, read_rows

    rows = read_rows(path)
    subjects = set()
    if "subject_id" in rows.columns and None not in (ids := set(map(clean_id, rows.column("subject_id")))):
        return ids
    for number, row in enumerate(rows, 1):
        info = row.get("task_info")
        subject_id = clean_id(row.get("subject_id") or (info.get("subject_id") if isinstance(info, dict) else None))
        if subject_id is None:
            raise UserError(f"{path}, row {number}: wanted subject_id, in the row or in its task_info, found none")
        subjects.add(subject_id)
    return subjects


def write_ids(path: Path, subject_ids: Sequence[str]) -> None:
    """One column, subject_id."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["subject_id"], *([subject_id] for subject_id in subject_ids)])


if __name__ == "__main__":
    run(main)
