"""Trajectories → MEDS 0.4: events, codes, splits, and a site file with which from_meds.py makes the same trajectories again.

A record becomes one row: its time, a code of its table and item, its number and text, the ids of admission and stay, and all
other columns as a JSON object. Static rows have no time. A record without a time, such as a diagnosis, gets the time of
discharge, or that of the event before it. Each patient has a row MEDS_BIRTH (January 1) and, if dead, MEDS_DEATH (the day).
The training set is the split `train`, the test set `held_out`. An interrupted run resumes; processes started on the same
output, here (--num_workers) or elsewhere, share the patients.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.records import Event, Records
from mimiciv_dataset.sources import index_mapping_source, patients_source, trajectories_source
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.progress import Summary
from pipeline.provenance import Provenance
from pipeline.records import folder_record, read_record
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess.raw_tables import parse_times

if TYPE_CHECKING:
    import polars as pl

STEP, RULES = "preprocess/to_meds.py", 2
PART_EVENTS = 3_000  # events that are converted at a time
MEDS_COLUMNS = ("subject_id", "time", "code", "numeric_value", "text_value")
IDS, RECORD = (
    ("hadm_id", "stay_id"),
    "record",
)  # further columns; not a column for each of the record: meds-reader has 64 at most
BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
# What the code of a row has besides its table: those of these columns that the records have.
CODES = {
    "patients": ("gender",), "admissions": ("admission_type",), "transfers": ("eventtype", "careunit"),
    "services": ("curr_service",), "omr": ("result_name",), "labevents": ("itemid", "item_name", "valueuom"),
    "microbiologyevents": ("test_name",), "poe": ("order_type", "order_subtype"), "pharmacy": ("medication",),
    "prescriptions": ("drug",), "emar": ("medication", "event_txt"), "diagnoses_icd": ("icd_version", "icd_code"),
    "procedures_icd": ("icd_version", "icd_code"), "drgcodes": ("drg_type", "drg_code"), "hcpcsevents": ("hcpcs_cd",),
    "discharge": ("note_type",), "radiology": ("note_type",), "diagnosis": ("icd_version", "icd_code"), "medrecon": ("name",),
    "pyxis": ("name",), "icustays": ("first_careunit",),
    **dict.fromkeys(("chartevents", "datetimeevents", "ingredientevents", "inputevents", "outputevents", "procedureevents"),
                    ("itemid", "item_name")),
}  # fmt: skip
NUMBERS = {"labevents": "valuenum", "chartevents": "valuenum", "inputevents": "amount", "ingredientevents": "amount",
           "outputevents": "value", "procedureevents": "value"}  # fmt: skip
TEXTS = {"discharge": "text", "radiology": "text", "omr": "result_value", "labevents": "comments"}


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries, for the names of codes")
    cli.add_path("--patient_dir", default="patient_data", help="directory of train.csv and test.csv")
    cli.add_path("--output_path", default="meds", help="directory for data/ and metadata/")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("to_meds")
    trajectories = Trajectories(args.ehr_dir)
    check_trajectories(trajectories)
    files = {"train": args.patient_dir / "train.csv", "held_out": args.patient_dir / "test.csv"}
    splits = {split: read_subject_ids(path) for split, path in files.items() if path.exists()}
    sources = [trajectories_source(args.ehr_dir, args.verify), index_mapping_source(args.index_mapping, args.verify)]
    sources += [patients_source(files[split], subjects, split) for split, subjects in splits.items()]
    provenance = Provenance(args.output_path, STEP, sources, {}, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return
    split_of = {subject: split for split, subjects in splits.items() for subject in subjects}
    export = Export(args.output_path, trajectories, Lookups(args.index_mapping), split_of)
    groups = trajectories.groups()
    units = [Unit(name, export.report(name).exists, partial(export.write, name, group)) for name, group in groups.items()]
    total = sum(map(len, groups.values()))
    run_units(units, args.output_path / ".locks", workers=workers, total=total, desc="to_meds", unit="patient")
    reports = [read_json(export.report(name)) for name in groups]
    of_patients = {subject: split_of.get(subject, "train") for group in groups.values() for subject in group}
    write_metadata(args.output_path / "metadata", export.columns, of_patients, reports)
    rows = sum(report["rows"] for report in reports)
    data_use = (read_record(folder_record(args.ehr_dir)) or {}).get("data_use")
    provenance.complete(patients=total, rows=rows, data_use=data_use)
    summary.print(f"{rows:,} rows of {total:,} patients → {args.output_path}", rows, "rows")


def check_trajectories(trajectories: Trajectories) -> None:
    """Check that all records of a table have the same columns."""
    if not trajectories.sharded:
        expected = "trajectories in shards, whose records of a table have the same columns"
        fix = "Make them with --layout shards"
        raise UserError(f"{trajectories.folder}: expected {expected}, got one file per patient. {fix}.")


@dataclass(frozen=True)
class Export:
    """An export: the output, the trajectories, the names of codes, and the split of each patient (`train` by default)."""

    output: Path
    trajectories: Trajectories
    lookups: Lookups
    split_of: Mapping[str, str]

    @cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns of the records of each table that has any."""
        return {table: columns for table in EVENTS if (columns := self.trajectories.columns(table))}

    def report(self, group: str) -> Path:
        """The file that says that a group of patients was written, with its rows and the names of its codes."""
        return self.output / ".groups" / f"{group}.json"

    def write(self, group: str, subjects: Sequence[str], tick: Tick) -> None:
        """Write the shards of a group of patients, one for each split, and then the report."""
        rows, names = 0, {}
        of_split: dict[str, list[str]] = defaultdict(list)
        for subject in subjects:
            of_split[self.split_of.get(subject, "train")].append(subject)
        for split, of_group in of_split.items():
            with shard_writer(self.output / "data" / split / f"{group}.parquet") as write_rows:
                for patients in self.parts(of_group):
                    frame = self.rows(patients, names)
                    write_rows(frame)
                    rows += len(frame)
                    tick(len(patients))
        write_json(self.report(group), {"rows": rows, "names": names})

    def parts(self, subjects: Sequence[str]) -> Iterator[list[str]]:
        """Yield lists of consecutive patients that have about `PART_EVENTS` events."""
        part, events = [], 0
        for subject in subjects:
            part.append(subject)
            events += self.trajectories.length(subject)
            if events >= PART_EVENTS:
                yield part
                part, events = [], 0
        if part:
            yield part

    def rows(self, subjects: Sequence[str], names: dict[str, str | None]) -> pl.DataFrame:
        """The rows of some patients, each by time; the names of their codes are added to `names`."""
        import polars as pl

        of_table: dict[str, list[list[Any]]] = defaultdict(list)
        for order, subject in enumerate(subjects):
            for table, record in self.records(self.trajectories.trajectory(subject)):
                of_table[table].append([order, *record])
        frames = [self.table_rows(table, records, names) for table, records in of_table.items()]
        further = dict.fromkeys((*IDS, RECORD), pl.String)
        rows = pl.concat([pl.DataFrame(schema=further), *frames], how="diagonal").sort("_order", "time", "_position")
        return rows.select(*MEDS_COLUMNS, *further)

    def records(self, events: Sequence[Event]) -> Iterator[tuple[str, list[Any]]]:
        """Yield the table of each record, and its position, the time that it gets if it has none, and its values."""
        discharges: dict[str, str] = {}
        for event in events:
            if event.file_name == "admissions":
                of_event = event.records()
                discharges |= dict(zip(column_of(of_event, "hadm_id"), column_of(of_event, "dischtime"), strict=True))
        position, latest = 0, None
        for event in events:
            records = event.records()
            for hadm_id, row in zip(column_of(records, "hadm_id"), records.rows, strict=True):
                discharge = discharges.get(hadm_id, MISSING)
                yield event.file_name, [position, latest if discharge == MISSING else discharge, *row]
                position += 1
            latest = max(filter(None, (latest, event.endtime)), default=None)

    def table_rows(self, table: str, records: Sequence[Sequence[Any]], names: dict[str, str | None]) -> pl.DataFrame:
        """The rows of the records of a table, and birth and death of the patients if these are the records."""
        import polars as pl

        event, columns = EVENTS[table], self.columns[table]
        types = {"_order": pl.Int64, "_position": pl.Int64, "_otherwise": pl.String, **dict.fromkeys(columns, pl.String)}
        frame = pl.DataFrame(records, schema=types, orient="row").with_columns(pl.col(columns).replace(MISSING, None))
        own = (event.time, event.time_fallback, "charttime" if event.stay_time else None)
        times = [parse_times(frame[column]) for column in own if column in columns]
        if table != "patients":
            times.append(parse_times(frame["_otherwise"]))
        parts = [pl.col(column).fill_null("UNK") for column in CODES.get(table, ()) if column in columns]
        number, text = NUMBERS.get(table), TEXTS.get(table)
        others = [column for column in columns if column not in ("subject_id", *IDS, text)]
        none = pl.lit(None, pl.String)
        rows = frame.select(
            "_order",
            "_position",
            pl.col("subject_id").cast(pl.Int64),
            (pl.coalesce(times) if times else pl.lit(None, pl.Datetime)).cast(pl.Datetime("us")).alias("time"),
            pl.concat_str(pl.lit(table), *parts, separator="//").alias("code"),
            (pl.col(number) if number in columns else none).cast(pl.Float32, strict=False).alias("numeric_value"),
            (pl.col(text) if text in columns else none).alias("text_value"),
            *((pl.col(name) if name in columns else none).alias(name) for name in IDS),
            (pl.struct(others).struct.json_encode() if others else none).alias(RECORD),
        )
        self.add_names(table, frame, rows["code"], names)
        return pl.concat([rows, *births_and_deaths(frame)], how="diagonal") if table == "patients" else rows

    def add_names(self, table: str, records: pl.DataFrame, codes: pl.Series, names: dict[str, str | None]) -> None:
        """Add the names of the codes of the records of a table: what the first key that is looked up is called."""
        event, columns = EVENTS[table], self.columns[table]
        get = None
        if event.lookups and table != "radiology":  # a note has several names
            get = self.lookups.getter(event, event.lookups[0][0], columns)
        first = codes.is_first_distinct()
        for code, record in zip(codes.filter(first), records.filter(first).select(columns).iter_rows(), strict=True):
            names.setdefault(code, get and get(record))


def column_of(records: Records, column: str) -> list[str]:
    """A column of records; missing values if they lack it."""
    if column not in records.columns:
        return [MISSING] * len(records.rows)
    at = records.columns.index(column)
    return [row[at] or MISSING for row in records.rows]


def births_and_deaths(patients: pl.DataFrame) -> list[pl.DataFrame]:
    """Rows of birth (in the year in which the patient had anchor_age 0) and death, as far as the records tell them."""
    import polars as pl

    times = {}
    if {"anchor_year", "anchor_age"} <= {*patients.columns}:
        year, age = (patients[column].cast(pl.Int32, strict=False) for column in ("anchor_year", "anchor_age"))
        times[BIRTH] = pl.select(pl.datetime(year - age, 1, 1, time_unit="us")).to_series()
    if "dod" in patients.columns:
        times[DEATH] = parse_times(patients["dod"]).cast(pl.Datetime("us"))
    rows = patients.select("_order", "_position", pl.col("subject_id").cast(pl.Int64))
    return [
        rows.with_columns(time.alias("time"), pl.lit(code).alias("code")).filter(time.is_not_null())
        for code, time in times.items()
    ]


@contextlib.contextmanager
def shard_writer(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """A function that appends rows to a shard, after validation by the meds package."""
    import polars as pl
    import pyarrow.parquet as pq
    from meds import DataSchema

    writer: pq.ParquetWriter | None = None

    def write(rows: pl.DataFrame) -> None:
        nonlocal writer
        table = DataSchema.align(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
        writer.write_table(table)

    with atomic_path(path) as temporary:
        try:
            yield write
        finally:
            if writer:
                writer.close()


def write_metadata(
    folder: Path, columns: Mapping[str, Sequence[str]], splits: Mapping[str, str], reports: Iterable[Mapping[str, Any]]
) -> None:
    """Write codes.parquet, subject_splits.parquet, dataset.json, and site.yaml, with which from_meds.py reads the data."""
    import meds
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    names: dict[str, str | None] = {BIRTH: "Birth", DEATH: "Death"}
    for report in reports:
        names |= report["names"]
    ordered = sorted(names)
    codes = {"code": ordered, "description": [names[code] for code in ordered], "parent_codes": [None] * len(ordered)}
    of_patients = {"subject_id": [int(subject) for subject in splits], "split": list(splits.values())}
    for schema, values, name in (
        (meds.CodeMetadataSchema, codes, "codes.parquet"),
        (meds.SubjectSplitSchema, of_patients, "subject_splits.parquet"),
    ):
        types = {field.name: field.type for field in schema.schema()}
        table = schema.align(pa.table({key: pa.array(column, types[key]) for key, column in values.items()}))
        with atomic_path(folder / name) as temporary:
            pq.write_table(table, temporary)
    about = {
        "dataset_name": "EHR-R1 trajectories",
        "etl_name": STEP,
        "etl_version": str(RULES),
        "meds_version": meds.__version__,
    }
    write_json(folder / "dataset.json", about)
    with atomic_path(folder / "site.yaml") as temporary:
        text = yaml.safe_dump(site_of(columns), sort_keys=False, allow_unicode=True, width=1000)
        temporary.write_text(f"# Written by {STEP}: how from_meds.py reads these data.\n{text}", encoding="utf-8")


def site_of(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The content of a site file that makes records of these columns again."""
    events = []
    for table, names in columns.items():
        kept = [name for name in names if not (EVENTS[table].stay_time and name == "charttime")]
        own = {name: name for name in ("subject_id", *IDS)} | {TEXTS.get(table): "text_value"}
        sources = {name: own.get(name, f"{RECORD}.{name}") for name in kept}
        events.append({"event": table, "code": rf"(?s){table}(//.*)?", "columns": sources})
    return {"name": "EHR-R1 trajectories", "events": events, "ignored": [BIRTH, DEATH]}


if __name__ == "__main__":
    run(main)
