"""Dictionaries and code maps → index_mapping/, which gives codes the names that text and tasks use.

The d_* dictionaries and radiology_detail are copied from MIMIC-IV. Three maps are not MIMIC files. They are built from
public sources that you download, or copied from a directory that contains them (--maps_from):

  d_ccs_diagnoses, d_ccs_procedures   AHRQ HCUP's Clinical Classifications Software, single level, for ICD-9 and ICD-10:
      --ccs_dir DIR, the output of scripts/download_code_maps.py, or each file:
      --ccs_dx9 '$dxref 2015.csv'   --ccs_dx10 ccs_dx_icd10cm_2019_1.csv   (hcup-us.ahrq.gov/toolssoftware/ccs, ccs10)
      --ccs_pr9 '$prref 2015.csv'   --ccs_pr10 ccs_pr_icd10pcs_2020_1.csv
      (not CCSR, whose category names differ)
  d_atc_prescriptions                 RxNorm's full monthly release: NDC → ingredient → ATC level 4
      --rxnorm_dir rrf/             (nlm.nih.gov/research/umls/rxnorm)

Tasks that need a missing map have no rows; the others are not affected. Existing files are kept: one that would change is
refused without --overwrite. Everything made with the dictionaries has to be made again after a change.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mimiciv_dataset.csv_checks import read_raw_header
from mimiciv_dataset.events import DICTIONARY_TABLES, EVENTS
from mimiciv_dataset.lookups import DICTIONARIES, find_table, ndc_key, read_dictionary
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.values import canonical_or_same
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, sha256_file, write_json
from pipeline.progress import Summary, print_table
from preprocess.atc import atc_rows, rxnorm_files
from preprocess.ccs import ccs_rows, read_ccs
from preprocess.raw_tables import read_batches

MAPS = ("d_ccs_diagnoses", "d_ccs_procedures", "d_atc_prescriptions")
CCS_FILES = {
    "ccs_dx9": "$dxref *.csv",
    "ccs_dx10": "ccs_dx_icd10cm_*.csv",
    "ccs_pr9": "$prref *.csv",
    "ccs_pr10": "ccs_pr_icd10pcs_*.csv",
}
CCS_SOURCES = {"d_ccs_diagnoses": ("ccs_dx9", "ccs_dx10"), "d_ccs_procedures": ("ccs_pr9", "ccs_pr10")}

CODED = {  # raw tables with codes, and the maps that name the codes
    "hosp/diagnoses_icd": ("d_icd_diagnoses", "d_ccs_diagnoses"),
    "ed/diagnosis": ("d_ccs_diagnoses",),
    "hosp/procedures_icd": ("d_icd_procedures", "d_ccs_procedures"),
    "hosp/prescriptions": ("d_atc_prescriptions",),
    "ed/medrecon": ("d_atc_prescriptions",),
}


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--mimic_dir", default="mimiciv", help="raw MIMIC-IV with hosp/, icu/, note/")
    cli.add_path("--output_path", "--index_mapping", default="index_mapping", help="directory for the dictionaries")
    cli.add_argument("--ccs_dir", type=Path, help="directory with the four AHRQ CCS files below")
    cli.add_argument("--ccs_dx9", type=Path, metavar="FILE", help="AHRQ CCS file '$dxref 2015.csv'")
    cli.add_argument("--ccs_dx10", type=Path, metavar="FILE", help="AHRQ CCS file ccs_dx_icd10cm_*.csv")
    cli.add_argument("--ccs_pr9", type=Path, metavar="FILE", help="AHRQ CCS file '$prref 2015.csv'")
    cli.add_argument("--ccs_pr10", type=Path, metavar="FILE", help="AHRQ CCS file ccs_pr_icd10pcs_*.csv")
    cli.add_argument("--rxnorm_dir", type=Path, help="directory with RXNCONSO.RRF, RXNREL.RRF and RXNSAT.RRF")
    cli.add_argument("--maps_from", type=Path, help="directory with finished maps, such as those of the synthetic data")
    cli.add_argument("--overwrite", action="store_true", help="replace existing files that differ")
    args = cli.parse_args(argv)
    summary = Summary("build_index_mapping")

    files = {name: (path, [path]) for name, path in find_dictionaries(args.mimic_dir)}
    files |= {name: (path, [path]) for name, path in find_maps(args.maps_from)} if args.maps_from else {}
    for name, (path, _) in files.items():
        check_dictionary(Path(name).name, path)
    with tempfile.TemporaryDirectory() as folder:
        for name, flags in CCS_SOURCES.items():
            given, ccs_dir = vars(args), args.ccs_dir
            sources = [given[flag] or (ccs_dir and find_ccs(ccs_dir, CCS_FILES[flag])) for flag in flags]
            if any(sources):
                files[f"hosp/{name}"] = build_ccs(name, *sources, Path(folder)), sources
        if args.rxnorm_dir:
            files["hosp/d_atc_prescriptions"] = build_atc(args.rxnorm_dir, Path(folder)), rxnorm_files(args.rxnorm_dir)
        changed = install({name: path for name, (path, _) in files.items()}, args.output_path, args.overwrite)
    print_missing(args.output_path)
    if changed:
        record = args.output_path / "sources.json"
        known = read_json(record) if record.exists() else {}
        new = {Path(name).name: [describe(path) for path in files[name][1]] for name in changed}
        write_json(record, dict(sorted((known | new).items())))
    else:
        print(f"build_index_mapping: {args.output_path} is up to date")
        return
    print_coverage(args.mimic_dir, args.output_path)
    maps = sum(find_table(args.output_path / "hosp", name) is not None for name in MAPS)
    summary.print(f"{len(changed)} new files, {maps} of {len(MAPS)} code maps → {args.output_path}")


def check_dictionary(name: str, path: Path) -> None:
    """Check that a dictionary or code map can be read and has rows; of a large table of notes, the header only."""
    if name not in DICTIONARIES:
        read_raw_header(path)
    elif not read_dictionary(path, name)[0]:
        raise UserError(f"{path}: expected rows, got a header only. Download or make it again.")


def install(files: Mapping[str, Path], output: Path, overwrite: bool) -> list[str]:
    """Copy files to `output`, given by their names there without suffix; return the names that were new or had other content.

    Raises:
        UserError: a file exists with another content, and `overwrite` is false; nothing was copied then.
    """
    new, replaced = {}, []
    for name, path in files.items():
        existing = find_table((output / name).parent, Path(name).name)
        if existing is None or existing.suffix != path.suffix or sha256_file(existing) != sha256_file(path):
            new[name] = output / f"{name}{'.csv.gz' if path.suffix == '.gz' else '.csv'}"
            replaced += [existing] if existing else []
    if replaced and not overwrite:
        names = ", ".join(path.name for path in replaced)
        fix = "Add --overwrite to replace them, and then make again what was made with them"
        raise UserError(f"{output}: expected the same dictionaries as those there, got other versions of {names}. {fix}.")
    for name, target in new.items():
        with atomic_path(target) as temporary:
            shutil.copyfile(files[name], temporary)
    for path in set(replaced) - set(new.values()):
        path.unlink()  # the .csv of a .csv.gz, or the reverse
    return list(new)


def find_dictionaries(mimic_dir: Path) -> list[tuple[str, Path]]:
    """The dictionaries of MIMIC-IV, as (name in the output without suffix, path)."""
    require(mimic_dir, "raw MIMIC-IV (hosp/, icu/, note/)", "download it from PhysioNet, or run preprocess/synthetic_mimic.py")
    pairs = [(module, find_table(mimic_dir / module, name)) for module, names in DICTIONARY_TABLES.items() for name in names]
    sources = [(module, source) for module, source in pairs if source is not None]
    if not sources:
        fix = "Set --mimic_dir to the directory that contains hosp/ and icu/"
        raise UserError(f"{mimic_dir}: expected dictionaries of MIMIC-IV such as hosp/d_labitems.csv[.gz], got none. {fix}.")
    return [(f"{module}/{source.name.partition('.')[0]}", source) for module, source in sources]


def find_maps(folder: Path) -> list[tuple[str, Path]]:
    """The finished maps of a directory or its hosp/, as `find_dictionaries` returns them."""
    require(folder, "a directory with code maps", "check --maps_from")
    paths = {name: find_table(folder / "hosp", name) or find_table(folder, name) for name in MAPS}
    maps = [(f"hosp/{name}", path) for name, path in paths.items() if path is not None]
    if not maps:
        raise UserError(f"{folder}: expected {', '.join(MAPS)} as .csv[.gz], here or in hosp/, got none. Check --maps_from.")
    return maps


def describe(path: Path) -> dict[str, Any]:
    """The entry of an input file in `sources.json`."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def write_map(path: Path, columns: tuple[str, ...], rows: Iterable[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path


def find_ccs(folder: Path, pattern: str) -> Path:
    """The one file of a directory that matches `pattern`."""
    require(folder, "a directory with the CCS files of AHRQ", "run scripts/download_code_maps.py")
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        got = "several" if paths else "none"
        raise UserError(f"{folder}: expected one file {pattern}, got {got}. Run scripts/download_code_maps.py.")
    return paths[0]


def build_ccs(name: str, icd9: Path | None, icd10: Path | None, folder: Path) -> Path:
    """Write a CCS map."""
    if icd9 is None or icd10 is None:
        flags = ", ".join(f"--{flag}" for flag in CCS_SOURCES[name])
        raise UserError(f"{flags}: expected both files (MIMIC-IV has ICD-9 and ICD-10 codes), got one. Set both.")
    rows = ccs_rows(read_ccs(icd9, "9"), read_ccs(icd10, "10"))
    print(f"{name}: {len(rows):,} codes, {len({row[2] for row in rows}):,} categories")
    return write_map(folder / f"{name}.csv", ("icd_code", "icd_version", "long_title"), rows)


def build_atc(rxnorm_dir: Path, folder: Path) -> Path:
    """Write the map from NDC to ATC level 4."""
    rows, codes = atc_rows(rxnorm_dir)
    print(f"d_atc_prescriptions: {len(rows):,} of {codes:,} NDCs have one of {len({name for _, name in rows}):,} classes")
    return write_map(folder / "d_atc_prescriptions.csv", ("ndc_code", "atc_name"), rows)


# --- what is missing, and what the maps cover


def empty_tasks(name: str) -> list[str]:
    """The tasks whose answers all come from one dictionary, so that they have no rows without it.

    >>> empty_tasks("d_atc_prescriptions"), empty_tasks("d_ccs_procedures")
    (['prescriptions_atc', 'medrecon_atc'], ['procedures_ccs'])
    """
    tasks = []
    for task in TASKS.values():
        lookups = [EVENTS[task.event].lookup(key) for key in task.target] if task.event else []
        if lookups and all(lookup is not None and lookup.source == name for lookup in lookups):
            tasks.append(task.name)
    return tasks


def print_missing(output: Path) -> None:
    """Print a line for each dictionary or map that does not exist, with the tasks that will have no rows."""
    modules = {name: module for module, names in DICTIONARY_TABLES.items() for name in names} | dict.fromkeys(MAPS, "hosp")
    for name, module in modules.items():
        tasks = empty_tasks(name)
        if find_table(output / module, name) is None and tasks:
            fix = "Give its sources (see --help) or --maps_from" if name in MAPS else f"Add it to {module}/ of MIMIC-IV"
            print(f"warning: {name}.csv does not exist: these tasks will have no rows: {', '.join(tasks)}. {fix}.")


def count_codes(path: Path, columns: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    """Count the rows of a raw table by code. The table is streamed, as it may be larger than memory."""
    import pyarrow as pa

    counts: Counter[tuple[str, ...]] = Counter()
    for batch in read_batches(path, columns):
        table = pa.Table.from_batches([batch]).group_by(list(columns)).aggregate([([], "count_all")])
        *keys, numbers = (table[name].to_pylist() for name in (*columns, "count_all"))
        for *code, rows in zip(*keys, numbers, strict=True):
            key = (canonical_or_same(column, value or "") for column, value in zip(columns, code, strict=True))
            counts[tuple(key)] += rows
    return counts


def coverage(counts: Counter[tuple[str, ...]], names: dict[Any, str]) -> tuple[int, int, int, int]:
    """How many codes and rows get a name: codes with a name, codes, rows with a name, rows with a code.

    Rows without a code (an empty field, or NDC 0) are not counted.

    >>> coverage(Counter({("4019", "9"): 8, ("X", "10"): 2, ("", ""): 5}), {("4019", "9"): "Essential hypertension"})
    (1, 2, 8, 10)
    >>> coverage(Counter({("2143361.0",): 3, ("0",): 9}), {"00002143361": "Glucagon"})
    (1, 1, 3, 3)
    """
    by_key: Counter[Any] = Counter()
    for code, rows in counts.items():
        by_key[ndc_key(code[0]) if len(code) == 1 else code if code[0] else ""] += rows
    by_key.pop("", None)
    named = {key: rows for key, rows in by_key.items() if key in names}
    return len(named), len(by_key), sum(named.values()), sum(by_key.values())


def print_coverage(mimic_dir: Path, output: Path) -> None:
    """Print the share of the codes and rows of each raw table that get a name from each map."""
    from mimiciv_dataset.lookups import Lookups

    lookups = Lookups(output)
    lines = []
    for table, maps in CODED.items():
        path = find_table((mimic_dir / table).parent, (mimic_dir / table).name)
        existing = [name for name in maps if lookups.path(name) is not None]
        if path is not None and existing:
            counts = count_codes(path, ("ndc",) if "d_atc_prescriptions" in maps else ("icd_code", "icd_version"))
        for name in maps:
            if path is None or name not in existing:
                lines.append((table, name, "no table" if path is None else "no map", ""))
            else:
                codes, all_codes, rows, all_rows = coverage(counts, lookups.dictionary(name))
                lines.append((table, name, share(codes, all_codes), share(rows, all_rows)))
    print_table(["table", "map", "codes named", "rows named"], lines)
    for warning in lookups.warnings():
        print(f"warning: {warning}")


def share(part: int, whole: int) -> str:
    """A share as text.

    >>> share(1, 3), share(0, 0)
    ('1 / 3 (33.3%)', '0 / 0')
    """
    return f"{part:,} / {whole:,}" + (f" ({part / whole:.1%})" if whole else "")


if __name__ == "__main__":
    run(main)
