"""OMOP CDM (5.3 or 5.4, CSV or parquet) → trajectories, train/test split and a table of the codes, for all later commands.

--site says which event the rows of each table become, by their concepts (docs/own_data.md). Each table is streamed once, and
its rows are distributed over buckets of patients; then the rows of a bucket are mapped together. rank.py and combination.py
order and combine the records, and split_patients.py splits the patients. An interrupted run resumes; processes started on the
same output, here (--num_workers) or elsewhere, share the files and the buckets.

Prints what was read of each table, the events, the shares of rows without a rule, and which tasks the data support; the others
are left out of the index.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.values import KINDS
from pipeline.cli import Parser, run
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.progress import Summary, counted, print_table
from pipeline.provenance import Provenance, Source, content_of
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess import omop_tables
from preprocess.omop_rows import coded_rows, columns_to_read, count_missing, distributed_rows, with_visits
from preprocess.omop_tables import END, OF_CONCEPT, PERSON, TABLES, VALUE, OmopTable
from preprocess.parts import bucket_order, write_buckets, write_records
from preprocess.raw_tables import ROW
from preprocess.site_import import BUCKET_ROWS, add_import_flags, add_up, complete, run_later_steps
from preprocess.site_records import Codes, Counts, map_rows
from preprocess.sites import CODE, DESCRIPTION, SPECIAL, VISIT, Site, check_name, read_site

if TYPE_CHECKING:
    import polars as pl

STEP, RULES = "preprocess/from_omop.py", 2
SEVERAL = "(several names)"
COUNTED = {  # what is counted of each table → the header of its column
    "rows": "rows",
    "unknown_person": "unknown\nperson",
    "unknown_visit": "unknown\nvisit",
    "without_concept": "no concept\n(0)",
    "unknown_concept": "unknown\nconcept",
    "dates": "date\nonly",
    "midnight": "at\n00:00:00",
}


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--omop_dir", type=Path, required=True, help="directory with the tables of the CDM")
    add_import_flags(cli, "scripts/sites/omop.yaml")
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("from_omop")
    site, tables = read_site(args.site), omop_tables.find_omop_tables(args.omop_dir)
    check_site(args.site, args.omop_dir, site, tables)
    output = args.root_dir / "patients"
    digests = FileDigests(output / DIGESTS_CACHE, args.verify)
    raw = [
        Source(path.relative_to(args.omop_dir).as_posix(), path, digests.of(path), is_ancestor=False, by="raw table")
        for table in tables.values()
        for path in table.files
    ]
    estimate = sum(table.rows for table in tables.values() if table.name in TABLES)
    settings = {"buckets": args.buckets or max(1, round(estimate / BUCKET_ROWS))}
    provenance = Provenance(
        output, STEP, [content_of("site", args.site), *raw], settings, RULES, cli.arguments, flag="--root_dir"
    )
    if provenance.begin(args.overwrite, args.verify):
        importer = Import(output, site, tables, settings["buckets"])
        importer.run(workers)
        read, mapped = importer.reports(importer.files), importer.reports(range(importer.buckets))
        print_tables(read, mapped)
        names: dict[str, str] = {}
        for code, name in [pair for report in mapped for pair in report["names"].items()]:
            names[code] = name if names.get(code, name) == name else SEVERAL
        shutil.rmtree(importer.scratch, ignore_errors=True)  # another process may do the same
        complete(provenance, site, Codes(site, names), add_up(mapped), raw, args.index_mapping, release_of(tables))
    patients, events = run_later_steps(
        args.root_dir,
        args.index_mapping,
        workers=workers.flags,
        rerun=[flag for flag, given in (("--overwrite", args.overwrite), ("--verify", args.verify)) if given],
        split=[],
    )
    summary.print(f"{counted(events, 'event')} of {counted(patients, 'patient')} in {args.root_dir}", events, "events")


# --- the site and the tables


def check_site(path: Path, omop_dir: Path, site: Site, tables: Mapping[str, OmopTable]) -> None:
    """Check that the tables have the columns that the site reads; and warn of missing tables that it has rules for."""
    tables[PERSON].require("person_id", "gender_concept_id", "year_of_birth")
    tables["visit_occurrence"].require(VISIT)
    for name, table in tables.items():
        if name in TABLES:
            table.require("person_id", TABLES[name].concepts[0])
            if not {f"{TABLES[name].start}_date", f"{TABLES[name].start}_datetime"} & {*table.columns}:
                table.require(f"{TABLES[name].start}_date")
    for table, columns in site.omop.codes.items():
        check_name(f"{path}: omop.codes", table, TABLES, "a table")
        if table in tables:
            for column in columns:
                check_column(f"{path}: omop.codes.{table}", column, [tables[table]])
    check_name(f"{path}: encounter", site.encounter or VISIT, [VISIT], "the visit of OMOP")
    check_column(f"{path}: omop.subject", site.omop.subject, [tables[PERSON]])
    check_column(f"{path}: omop.visit", site.omop.visit, [tables["visit_occurrence"]])
    for rule in site.events:
        named = [name for each in rule.rules for name in re.findall(r"([a-z_]+)//", each.code.pattern) if name in TABLES]
        present = [tables[name] for name in named or TABLES if name in tables]
        if not present:
            print(f"warning: {omop_dir}: expected {named[0]}, which {rule.where} reads, got no such table.")
        for where, column in rule.named_sources if present else ():
            if column not in SPECIAL:
                check_column(f"{path}: {where}", column, present)


def check_column(where: str, column: str, tables: Sequence[OmopTable]) -> None:
    """Check that one of some tables has a column, or what it is made of."""
    names = [name for table in tables for name in table.columns]
    of_concept = OF_CONCEPT.fullmatch(column)
    if not (column in names or column in (END, VALUE) or (of_concept and f"{of_concept[1]}_id" in names)):
        of_table = f"a column of {tables[0].name}" if len(tables) == 1 else "a column of a table"
        check_name(where, column, list(dict.fromkeys([*names, END, VALUE])), of_table)


def release_of(tables: Mapping[str, OmopTable]) -> str:
    """Name and version of the CDM of a data set."""
    about, columns = tables.get("cdm_source"), ("cdm_source_name", "cdm_version")
    for frame in omop_tables.read_groups(about.files[0], columns, lambda number: None) if about else ():
        for row in frame.head(1).iter_rows(named=True):
            return " ".join(row[name] for name in columns if row.get(name)) or "unknown"
    return "unknown"


# --- its rows


@dataclass(frozen=True)
class Import:
    """An import: the directory of the bucketed tables, the site, the tables of the CDM, and the number of buckets."""

    output: Path
    site: Site
    tables: Mapping[str, OmopTable]
    buckets: int

    @property
    def scratch(self) -> Path:
        """The directory of the rows that are distributed and not yet mapped, and of the concepts."""
        return self.output / ".omop"

    @property
    def files(self) -> dict[str, tuple[str, Path]]:
        """The table and the path of each file of rows, by a name for its report."""
        names = [PERSON, *TABLES]
        return {
            f"{name}-{number:05d}": (name, path)
            for name in names
            if name in self.tables
            for number, path in enumerate(self.tables[name].files)
        }

    def report(self, name: str | int) -> Path:
        """The file that says that a file or bucket is done, and what was counted."""
        return self.output / ".reports" / f"{name}.json"

    def reports(self, names: Sequence[str | int]) -> list[dict[str, Any]]:
        return [read_json(self.report(name)) for name in names]

    def run(self, workers: Workers) -> None:
        """Distribute the rows of all files over the buckets, select their concepts, and map the rows of each bucket."""
        share = partial(run_units, locks=self.output / ".locks", workers=workers)
        concepts = self.scratch / "concepts.arrow"
        buckets = [
            Unit(f"bucket-{number:05d}", self.report(number).exists, partial(self.map_bucket, number))
            for number in range(self.buckets)
        ]
        if all(unit.done() for unit in buckets):
            return
        files = [
            Unit(name, self.report(name).exists, partial(self.read, name, table, path))
            for name, (table, path) in self.files.items()
        ]
        total = sum(path.stat().st_size for _, path in self.files.values())
        share(files, total=total, desc="read tables", unit="B")
        share([Unit("concepts", concepts.exists, partial(self.select_concepts, concepts))], desc="read concepts", unit="file")
        share(buckets, desc="map rows", unit="bucket")

    @cached_property
    def persons(self) -> pl.DataFrame:
        """The id of each patient: person_id (Int64), subject_id (Int64).

        Raises:
            UserError: an id is missing or no whole number from 0, or two persons have the same.
        """
        import polars as pl

        table, subject = self.tables[PERSON], self.site.omop.subject
        groups = [
            g for path in table.files for g in omop_tables.read_groups(path, {"person_id", subject}, lambda number: None)
        ]
        frame = pl.concat(groups) if groups else pl.DataFrame(schema={"person_id": pl.Int64, subject: pl.String})
        texts = frame[subject].cast(pl.String)
        valid = texts.str.contains(KINDS["number"].pattern).fill_null(False)
        if not valid.all() or texts.n_unique() < len(texts) or frame["person_id"].n_unique() < len(texts):
            got = f"others in {counted(int((~valid).sum()), 'row')}" if not valid.all() else "some twice"
            expected = f"distinct whole numbers from 0, of at most 18 digits, in column {subject}"
            fix = "Name a column with such ids in the site file (omop.subject)"
            raise UserError(f"{table.files[0]}: expected {expected}, got {got}. {fix}.")
        return pl.DataFrame({"person_id": frame["person_id"], "subject_id": texts.cast(pl.Int64)})

    def read(self, name: str, table: str, path: Path, tick: Tick) -> None:
        """Distribute the rows of a file over the buckets; then write its report."""
        counts, concepts = Counter(rows=0, dates=0, midnight=0, unknown_person=0), set()
        for part, frame in enumerate(omop_tables.read_groups(path, columns_to_read(self.site, table), tick)):
            rows = distributed_rows(self.site, table, path, frame, counts)
            for column in rows.columns:
                if column.endswith("_concept_id"):
                    concepts.update(rows[column].drop_nulls().unique())
            known = rows.join(self.persons, on="person_id", maintain_order="left").drop("person_id")
            counts["unknown_person"] += len(rows) - len(known)
            if len(known):
                with atomic_path(self.scratch / table / f"{name}-{part:05d}.arrow") as temporary:
                    order, sizes = bucket_order(known["subject_id"], self.buckets)
                    write_buckets(temporary, known[order].to_arrow(), sizes)
        write_json(self.report(name), {"table": table, "concepts": sorted(concepts), **counts})

    def select_concepts(self, path: Path, tick: Tick) -> None:
        """Write the concepts that the rows have."""
        ids = {concept for report in self.reports(self.files) for concept in report["concepts"]} - {0}
        concepts = omop_tables.read_concepts(self.tables["concept"], sorted(ids))
        with atomic_path(path) as temporary:
            concepts.write_ipc(temporary)

    @cached_property
    def concepts(self) -> pl.DataFrame:
        import polars as pl

        return pl.read_ipc(self.scratch / "concepts.arrow")

    def map_bucket(self, number: int, tick: Tick) -> None:
        """Map the rows of a bucket, and write its part of each table; then the report."""
        import polars as pl

        counts, names, missing = Counts(), {}, {}
        frames = {name: frame for name in (PERSON, *TABLES) if (frame := self.read_bucket(name, number)) is not None}
        visits = frames.get("visit_occurrence")
        for name in [name for name in frames if name != PERSON]:
            missing[name] = count_missing(name, frames[name], visits, self.concepts)
            frames[name] = coded_rows(self.site, name, with_visits(frames[name], visits), self.concepts)
            names.update(names_of_codes(frames[name]))
        if frames:
            rows = pl.concat(frames.values(), how="diagonal").with_row_index(ROW).cast({ROW: pl.Int64})
            absent = [name for name in (*self.site.sources, DESCRIPTION) if name not in rows.columns]
            rows = rows.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
            for event, records in map_rows(self.site, rows, Codes(self.site, {}), counts).items():
                folder = self.output / EVENTS[event].module / event
                with atomic_path(folder / f"part-{number:05d}.arrow") as temporary:
                    write_records(temporary, EVENTS[event], records, self.buckets)
        write_json(self.report(number), vars(counts) | {"names": names, "missing": missing})

    def read_bucket(self, name: str, number: int) -> pl.DataFrame | None:
        """The rows of a table in a bucket; None if it has none."""
        import polars as pl
        import pyarrow as pa

        batches = []
        for part in sorted((self.scratch / name).glob("*.arrow")):
            with pa.memory_map(str(part)) as source:
                batches.append(pl.from_arrow(pa.Table.from_batches([pa.ipc.open_file(source).get_batch(number)])))
        frame = pl.concat(batches, how="diagonal") if batches else None
        return frame if frame is not None and len(frame) else None


def names_of_codes(rows: pl.DataFrame) -> dict[str, str]:
    """The name of each code; `SEVERAL` if it stands for several concepts."""
    import polars as pl

    name = pl.when(pl.col(DESCRIPTION).n_unique() > 1).then(pl.lit(SEVERAL)).otherwise(pl.col(DESCRIPTION).first())
    return dict(rows.drop_nulls(DESCRIPTION).group_by(CODE).agg(name).sort(CODE).iter_rows())


# --- the report


def print_tables(read: Sequence[Mapping[str, Any]], mapped: Sequence[Mapping[str, Any]]) -> None:
    """Print what was read of each table, and what is missing in its rows."""
    totals: dict[str, Counter[str]] = {}
    for report in read:
        counts = {key: number for key, number in report.items() if isinstance(number, int)}
        totals.setdefault(report["table"], Counter()).update(counts)
    for report in mapped:
        for name, counts in report["missing"].items():
            totals[name].update(counts)
    lines = [(name, *(total[key] for key in COUNTED)) for name, total in totals.items()]
    print_table(("table", *COUNTED.values()), lines)
    if lost := sum(total["unknown_person"] for total in totals.values()):
        print(f"warning: {counted(lost, 'row')} of persons that the table person does not have; left out.")
    rows, midnight = (sum(total[key] for name, total in totals.items() if name != PERSON) for key in ("rows", "midnight"))
    if midnight > rows / 2:
        got = f"{midnight:,} of {rows:,} rows are at 00:00:00"
        print(f"warning: {got}: the data have dates, and hardly any times of day. Windows and labels in hours mean days.")
    if dates := totals[PERSON]["dates"]:
        print(f"{counted(dates, 'person')} without month or day of birth: January, or the first day, counts.")


if __name__ == "__main__":
    run(main)
