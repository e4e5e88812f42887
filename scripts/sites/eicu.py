"""eICU (CSV files) → trajectories, for all later commands: a converter to copy (docs/new_site.md).

A patient here is one hospital stay, because eICU does not say in which order the hospital stays of a person were; training and
test set have different persons. eICU has no dates, only minutes from the admission to a unit: every hospital stay begins on
2100-01-01, at the hour of its admission. Hospital stays whose outcome is unknown are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the packages of this checkout

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mimiciv_dataset.lookups import find_table
from pipeline.cli import Parser, between, run
from pipeline.files import require
from pipeline.work import Workers
from preprocess.record_tables import Converter, add_converter_flags, collect, write_trajectories
from preprocess.sites import Site
from preprocess.split_patients import is_test

if TYPE_CHECKING:
    import polars as pl

STEP, RULES = "scripts/sites/eicu.py", 1
FILES = ("patient", "lab", "medication", "diagnosis", "treatment", "physicalExam")
FIRST_DAY = datetime(2100, 1, 1)
SITE = Site(
    name="eICU",
    events=(),
    data_use="Made from eICU: the terms of its license or data use agreement apply.",
    left_out={"ICU_Readmission": "a move from one ICU to the next is a unit stay of its own"},
)


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--eicu_dir", type=Path, required=True, help="directory of patient.csv[.gz], lab.csv[.gz], …")
    cli.add_argument("--test_ratio", type=between(0, 1), default=0.1, help="share of persons in the test set (0.1)")
    add_converter_flags(cli)
    args = cli.parse_args(argv)
    folder, fix = args.eicu_dir, "set --eicu_dir to the directory of the CSV files"
    files = {name: require(find_table(folder, name) or folder / f"{name}.csv", "a file of eICU", fix) for name in FILES}
    stays = read_stays(files["patient"])
    persons = stays.select("subject_id", "uniquepid").unique().iter_rows()
    test = {subject for subject, person in persons if is_test(person, 42, args.test_ratio)}
    converter = Converter(STEP, RULES, SITE, files, make_tables(files, stays), test)
    workers, rerun = Workers(args.num_workers, args.engine), {"overwrite": args.overwrite, "verify": args.verify}
    write_trajectories(converter, args.root_dir, args.index_mapping, arguments=cli.arguments, workers=workers, **rerun)


def scan(path: Path) -> pl.LazyFrame:
    """A file, all text but for offsets, which are minutes."""
    import polars as pl

    return pl.scan_csv(path, infer_schema=False).with_columns(pl.col("^.*offset$").cast(pl.Int64))


def read_stays(path: Path) -> pl.DataFrame:
    """The unit stays; `zero` is the time of the admission to the unit, from which offsets count."""
    import polars as pl

    admitted = pl.lit(FIRST_DAY) + pl.col("hospitaladmittime24").str.to_time("%H:%M:%S").cast(pl.Duration)
    zero = admitted - pl.duration(minutes=pl.col("hospitaladmitoffset"))
    hospital_stay = pl.col("patienthealthsystemstayid")
    stays = scan(path).filter(pl.col("hospitaldischargestatus").is_not_null())
    return collect(path.name, stays.with_columns(zero=zero, subject_id=hospital_stay, hadm_id=hospital_stay))


def make_tables(files: Mapping[str, Path], stays: pl.DataFrame) -> dict[str, pl.LazyFrame]:
    """The records of each event, with the columns of `mimiciv_dataset/events.py`."""
    import polars as pl

    stay_id = {"patientunitstayid": "stay_id"}

    def at(offset: str) -> pl.Expr:
        return pl.col("zero") + pl.duration(minutes=pl.col(offset))

    def with_stay(name: str) -> pl.LazyFrame:
        keys = stays.lazy().select("subject_id", "hadm_id", "zero", "patientunitstayid")
        return scan(files[name]).join(keys, on="patientunitstayid", maintain_order="left").rename(stay_id)

    def words(column: str) -> pl.Expr:
        """A path of terms; `|` separates the columns of records in the text of an event."""
        return pl.col(column).str.replace_all("|", " / ", literal=True)

    units = stays.lazy()
    hospital = units.unique("hadm_id", keep="first", maintain_order=True)
    icu = units.filter(pl.col("unitstaytype") != "stepdown/other").rename(stay_id)
    died = pl.col("hospitaldischargestatus") == "Expired"
    discharge, unit_discharge = at("hospitaldischargeoffset"), at("unitdischargeoffset")
    ids = ("subject_id", "hadm_id")
    # An order can be entered after its start: nobody knew of it earlier.
    known = pl.max_horizontal(at("drugorderoffset"), at("drugstartoffset"))
    # A finding is a path such as …/Neurologic/GCS/Eyes Score/4, with the text 4.
    prefix, value = "notes/Progress Notes/Physical Exam/Physical Exam/", pl.col("physicalexamtext")
    finding = pl.col("physicalexampath").str.strip_prefix(prefix).str.strip_suffix("/" + value)
    return {
        "patients": hospital.select(
            "subject_id",
            gender=pl.col("gender").str.slice(0, 1),
            anchor_age=pl.col("age").replace("> 89", "90"),
            dod=pl.when(died).then(discharge),  # deaths in hospital: later ones are not in the data
        ),
        "admissions": hospital.select(
            *ids, admittime=at("hospitaladmitoffset"), dischtime=discharge, admission_location="hospitaladmitsource",
            hospital_expire_flag=died.cast(pl.Int8),
        ),
        "transfers": units.select(
            *ids, intime="zero", outtime=unit_discharge, careunit="unittype", eventtype="unitstaytype"
        ),
        "icustays": icu.select(*ids, "stay_id", intime="zero", outtime=unit_discharge, first_careunit="unittype"),
        "labevents": with_stay("lab").select(
            *ids, charttime=at("labresultoffset"), storetime=at("labresultrevisedoffset"), item_name="labname",
            valuenum="labresult", valueuom="labmeasurenamesystem",
            comments=pl.when(pl.col("labresult").is_null()).then("labresulttext"),
        ),
        "prescriptions": with_stay("medication").filter(pl.col("drugname").is_not_null()).select(
            *ids, starttime=known, drug="drugname", dose_val_rx="dosage", route="routeadmin"
        ),
        # as MIMIC-IV's, diagnoses at discharge have no time: they follow the other records of the hospital stay
        "diagnoses_icd": with_stay("diagnosis").filter(pl.col("activeupondischarge") == "True").select(
            *ids, diagnoses=words("diagnosisstring")
        ).unique(maintain_order=True),
        "procedureevents": with_stay("treatment").select(
            *ids, "stay_id", starttime=at("treatmentoffset"), item_name=words("treatmentstring")
        ),
        "chartevents": with_stay("physicalExam").select(
            *ids, "stay_id", charttime=at("physicalexamoffset"), item_name=finding, valuenum=value
        ),
    }  # fmt: skip


if __name__ == "__main__":
    run(main)
