"""A synthetic MIMIC-IV: all tables of hosp, icu, ed and note for so many made-up patients, to try everything without data.

The patients have structure to learn from: a condition drives each visit's records, and every risk outcome is drawn from
indicators that the records show. docs/synthetic.md describes them. The same seed gives the same bytes, and patient k is
the same however many patients are asked for. Writes

  OUTPUT_PATH/{hosp,icu,ed,note}/*.csv[.gz]   the tables and dictionaries, in MIMIC-IV 2.2's columns
  OUTPUT_PATH/synthetic_truth.csv             the probability each outcome was drawn with: what a perfect model would say
  INDEX_MAPPING/hosp/d_{ccs,atc}_*.csv        code maps, which MIMIC-IV itself does not have
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import contextlib
import csv
import gzip
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, atomic_path
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    import polars as pl

    from preprocess.synthetic.patients import Batch

TRUTH = ("subject_id", "hadm_id", "stay_id", "task", "probability", "outcome")
Rows = Iterable[Sequence[object]]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--output_path", default="mimiciv", help="folder for the tables; must be new or empty")
    cli.add_path("--index_mapping", default="index_mapping", help="folder for the code maps")
    cli.add_argument("--patients", type=int, default=200, help="number of patients, about 2,200 records each (200)")
    cli.add_argument("--seed", type=int, default=0, help="seed (0)")
    cli.add_argument("--gzip", action=argparse.BooleanOptionalAction, default=True, help="compress the tables (yes)")
    args = cli.parse_args(argv)
    summary = Summary("synthetic_mimic")
    check(args)
    with atomic_dir(args.output_path) as folder:
        rows = write_tables(folder, args.patients, args.seed, args.gzip)
        for name, header, entries in dictionaries():
            with open_table(folder / f"{name}.csv", args.gzip) as file:
                file.write(csv_text(header, entries).encode())
    for name, header, entries in code_maps():
        with atomic_path(args.index_mapping / f"hosp/{name}.csv") as path:
            path.write_text(csv_text(header, entries), encoding="utf-8", newline="")
    total = sum(rows.values())
    print("records per table: " + ", ".join(f"{name} {count:,}" for name, count in rows.items()))
    summary.print(f"{args.patients:,} patients, {total:,} records in {args.output_path}", total)


def check(args: argparse.Namespace) -> None:
    """Refuse what would overwrite something, or cannot be made."""
    from preprocess.synthetic.visits import MAX_PATIENTS

    if not 1 <= args.patients <= MAX_PATIENTS:
        raise UserError(f"--patients {args.patients}: wanted a number from 1 to {MAX_PATIENTS:,}, as ids have eight digits")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: wanted zero or a positive number")
    path = args.output_path
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: wanted a new or empty folder, found something there; give another --output_path")
    for name, header, entries in code_maps():
        there = args.index_mapping / f"hosp/{name}.csv"
        if there.exists() and there.read_text(encoding="utf-8") != csv_text(header, entries).replace("\r\n", "\n"):
            raise UserError(f"{there}: wanted no map or an earlier synthetic one, found another; give another --index_mapping")


# --- tables


def batch_tables(seed: int, index: int, keep: int) -> tuple[dict[str, pl.DataFrame], list[tuple]]:
    """The finished tables of a batch's first `keep` patients, and their rows of the truth."""
    from preprocess.synthetic import patients as patients
    from preprocess.synthetic.hospital import stay_tables
    from preprocess.synthetic.icu import icu_tables
    from preprocess.synthetic.notes_ed import ed_note_tables
    from preprocess.synthetic.orders import order_tables

    batch = patients.Batch(seed, index, patients.BATCH, keep)
    tables = stay_tables(batch) | order_tables(batch) | ed_note_tables(batch) | icu_tables(batch)
    return {name: batch.columns(name, table) for name, table in tables.items()}, list(truth_rows(batch))


def truth_rows(batch: Batch) -> Iterator[tuple]:
    """subject_id, hadm_id, stay_id, task, probability, outcome; only patients kept."""
    icu_stay = dict(zip(batch.icu[::-1].tolist(), batch.icu_stay[::-1].tolist(), strict=True))  # the first of a visit
    for task, kind, visits, chances, outcomes in batch.course.truth:
        for visit, chance, outcome in zip(visits.tolist(), chances.tolist(), outcomes.tolist(), strict=True):
            patient = batch.v["patient"][visit]
            if patient < batch.keep:
                stay = {"ed": batch.ed_stay[visit], "icu": icu_stay.get(visit), "adm": ""}[kind]
                hadm = batch.hadm[visit] if batch.hadm[visit] >= 0 else ""
                yield batch.subject[patient], hadm, stay, task, f"{chance:.6f}", int(outcome)


def write_tables(folder: Path, number: int, seed: int, zipped: bool) -> dict[str, int]:
    """Write all tables batch by batch, so that memory does not grow with the patients; records by table."""
    from preprocess.synthetic.patients import BATCH
    from preprocess.synthetic.vocab import DETAILS, TABLES

    modules = {name: table.module for name, table in TABLES.items()} | {name: d[0] for name, d in DETAILS.items()}
    rows = dict.fromkeys(TABLES, 0)
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(open_table(folder / module / f"{name}.csv", zipped)) for name, module in modules.items()
        }
        truth = csv.writer(stack.enter_context((folder / "synthetic_truth.csv").open("w", newline="", encoding="utf-8")))
        truth.writerow(TRUTH)
        bar = stack.enter_context(progress(total=number, desc="patients", unit="patient"))
        for index, first in enumerate(range(0, number, BATCH)):
            keep = min(BATCH, number - first)
            tables, truths = batch_tables(seed, index, keep)
            truth.writerows(truths)
            for name, table in tables.items():
                text = table.write_csv(include_header=index == 0, datetime_format="%Y-%m-%d %H:%M:%S")
                files[name].write(text.encode())
                if name in rows:
                    rows[name] += table.height
            bar.update(keep)
    return rows


@contextlib.contextmanager
def open_table(path: Path, zipped: bool) -> Iterator[IO[bytes]]:
    """A table to write to, `.gz` if zipped; without a time stamp, so that the bytes depend on the contents only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not zipped:
        with path.open("wb") as file:
            yield file
        return
    with (
        path.with_name(f"{path.name}.gz").open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed,
    ):
        yield packed


# --- dictionaries and maps


def csv_text(header: str, rows: Rows) -> str:
    """A small CSV as text, rows without repeats.

    >>> csv_text("a,b", [(1, "x, y"), (1, "x, y")])
    'a,b\\n1,"x, y"\\n'
    """
    import io

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header.split(","))
    writer.writerows(dict.fromkeys(tuple(row) for row in rows))
    return file.getvalue()


def dictionaries() -> list[tuple[str, str, Rows]]:
    """Path, header and rows of the d_* tables."""
    from preprocess.synthetic import vocab as vocab

    fluids = {"urine": ("Urine", "Hematology"), "gas": ("Blood", "Blood Gas"), "cbc": ("Blood", "Hematology"),
              "diff": ("Blood", "Hematology"), "coag": ("Blood", "Hematology")}  # fmt: skip
    items = [
        (i.itemid, i.label, i.label, "chartevents", i.category, i.unit, "Text" if i.values else "Numeric", "", "")
        for i in vocab.CHART_ITEMS
    ]
    for linked, entries, category in (
        ("datetimeevents", vocab.DATETIME_ITEMS, lambda e: e[2]),
        ("inputevents", vocab.INPUT_ITEMS, lambda e: "Medications" if "Drips" in e[2] else "Fluids/Intake"),
        ("ingredientevents", vocab.INGREDIENT_ITEMS, lambda e: "Ingredients - general (Not In Use)"),
        ("outputevents", vocab.OUTPUT_ITEMS, lambda e: "Output"),
        ("procedureevents", vocab.PROCEDURE_ITEMS, lambda e: e[2]),
    ):
        items += [(e[0], e[1], e[1], linked, category(e), "", "Solution", "", "") for e in entries]
    return [
        ("hosp/d_labitems", "itemid,label,fluid,category",
         [(lab.itemid, lab.label, *fluids.get(lab.panel, ("Blood", "Chemistry"))) for lab in vocab.LABS]),
        ("hosp/d_icd_diagnoses", "icd_code,icd_version,long_title", _codes(vocab.DIAGNOSES, "title")),
        ("hosp/d_icd_procedures", "icd_code,icd_version,long_title", _codes(vocab.PROCEDURES, "title")),
        ("hosp/d_hcpcs", "code,category,long_description,short_description",
         [(code, "", long, short) for code, short, long in vocab.HCPCS]),
        ("icu/d_items", "itemid,label,abbreviation,linksto,category,unitname,param_type,lownormalvalue,highnormalvalue",
         items),
    ]  # fmt: skip


def code_maps() -> list[tuple[str, str, Rows]]:
    """Name, header and rows of the three maps."""
    from preprocess.synthetic import vocab as vocab

    return [
        ("d_ccs_diagnoses", "icd_code,icd_version,long_title", _codes(vocab.DIAGNOSES, "ccs")),
        ("d_ccs_procedures", "icd_code,icd_version,long_title", _codes(vocab.PROCEDURES, "ccs")),
        ("d_atc_prescriptions", "ndc_code,atc_name", [(d.ndc, d.atc) for d in vocab.DRUGS if d.atc]),
    ]


def _codes(entries: list, field: str) -> list[tuple[str, int, str]]:
    return [(code, version, getattr(e, field)) for e in entries for code, version in ((e.icd9, 9), (e.icd10, 10))]


if __name__ == "__main__":
    run(main)
