"""Dictionaries and code maps → index_mapping/, where codes get the names that text and tasks use.

The d_* dictionaries and radiology_detail are copied from MIMIC-IV. Three maps are not MIMIC files; they are built from
public sources that you download, or copied from a folder that has them (--maps_from):

  d_ccs_diagnoses, d_ccs_procedures   AHRQ HCUP's Clinical Classifications Software, single level, for ICD-9 and ICD-10:
      --ccs_dx9 '$dxref 2015.csv'   --ccs_dx10 ccs_dx_icd10cm_2019_1.csv   (hcup-us.ahrq.gov/toolssoftware/ccs, ccs10)
      --ccs_pr9 '$prref 2015.csv'   --ccs_pr10 ccs_pr_icd10pcs_2020_1.csv
      (not CCSR, whose category names differ)
  d_atc_prescriptions                 RxNorm's full monthly release: NDC → ingredient → ATC level 4
      --rxnorm_dir rrf/             (nlm.nih.gov/research/umls/rxnorm)

Without a map the tasks that need it stay empty, and the rest works. Maps that are there already are kept unless their
sources are given.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import hashlib
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mimiciv_dataset.events import DICTIONARY_TABLES, EVENTS, MISSING_TEXTS
from mimiciv_dataset.lookups import ndc_key
from mimiciv_dataset.tasks import TASKS
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary

SUFFIXES = (".csv", ".csv.gz")
MAPS = ("d_ccs_diagnoses", "d_ccs_procedures", "d_atc_prescriptions")
CCS_SOURCES = {"d_ccs_diagnoses": ("ccs_dx9", "ccs_dx10"), "d_ccs_procedures": ("ccs_pr9", "ccs_pr10")}

COVERAGE = (
    ("hosp/diagnoses_icd", "d_icd_diagnoses"),
    ("hosp/diagnoses_icd", "d_ccs_diagnoses"),
    ("ed/diagnosis", "d_ccs_diagnoses"),
    ("hosp/procedures_icd", "d_icd_procedures"),
    ("hosp/procedures_icd", "d_ccs_procedures"),
    ("hosp/prescriptions", "d_atc_prescriptions"),
    ("ed/medrecon", "d_atc_prescriptions"),
)
"""Raw tables and the maps that name their codes."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--mimic_dir", default="mimiciv", help="raw MIMIC-IV, with hosp/, icu/, note/ below it")
    cli.add_path("--output_path", "--index_mapping", default="index_mapping", help="folder for the dictionaries")
    for flag, what in (
        ("--ccs_dx9", "'$dxref 2015.csv'"), ("--ccs_dx10", "ccs_dx_icd10cm_*.csv"),
        ("--ccs_pr9", "'$prref 2015.csv'"), ("--ccs_pr10", "ccs_pr_icd10pcs_*.csv"),
    ):  # fmt: skip
        cli.add_argument(flag, type=Path, help=f"AHRQ CCS file {what}")
    cli.add_argument("--rxnorm_dir", type=Path, help="folder with RXNCONSO.RRF, RXNREL.RRF and RXNSAT.RRF")
    cli.add_argument("--maps_from", type=Path, help="folder with ready-made maps, such as the synthetic data's")
    args = cli.parse_args(argv)
    summary = Summary("build_index_mapping")

    copied = copy_dictionaries(args.mimic_dir, args.output_path)
    sources = copy_maps(args) if args.maps_from else {}
    for name, flags in CCS_SOURCES.items():
        if any(getattr(args, flag) for flag in flags):
            sources[name] = build_ccs(name, *(getattr(args, flag) for flag in flags), args.output_path)
    if args.rxnorm_dir:
        sources["d_atc_prescriptions"] = build_atc(args.rxnorm_dir, args.output_path)
    record_sources(args.output_path, sources)
    say_what_is_missing(args.output_path)
    print_coverage(args.mimic_dir, args.output_path)
    maps = sum(find(args.output_path / "hosp", name) is not None for name in MAPS)
    summary.print(f"{copied} dictionaries, {maps} of {len(MAPS)} code maps → {args.output_path}")


def find(folder: Path, name: str) -> Path | None:
    """`folder/name.csv` or `.csv.gz`, whichever is there."""
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").exists()), None)


def replace_spellings(path: Path) -> None:
    """Remove the other spelling (.csv or .csv.gz) of a file just written: a reader must not find the old one."""
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    for suffix in SUFFIXES:
        other = path.with_name(name + suffix)
        if other != path and other.exists():
            other.unlink()
            print(f"{other}: removed, {path.name} replaces it")


def copy(source: Path, target: Path) -> None:
    """Copy a file, unless the very same one (size and time) is there."""
    if target.exists():
        old, new = target.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    with atomic_path(target) as temporary:
        shutil.copy2(source, temporary)
    replace_spellings(target)


def copy_dictionaries(mimic_dir: Path, output: Path) -> int:
    """Copy MIMIC-IV's own dictionaries, as they are; return how many there are.

    Raises:
        UserError: there is no MIMIC-IV folder, or no dictionary in it.
    """
    require(mimic_dir, "raw MIMIC-IV (hosp/, icu/, note/)", "download it from PhysioNet, or run synthetic_mimic.py")
    found = 0
    for module, names in DICTIONARY_TABLES.items():
        for name in names:
            if (source := find(mimic_dir / module, name)) is not None:
                copy(source, output / module / source.name)
                found += 1
    if not found:
        raise UserError(
            f"{mimic_dir}: wanted MIMIC-IV dictionaries such as hosp/d_labitems.csv[.gz], found none; "
            "give the folder that holds hosp/ and icu/ with --mimic_dir"
        )
    return found


def copy_maps(args: Any) -> dict[str, Any]:
    """Copy ready-made maps; those whose own sources are given as well are left to be built.

    Raises:
        UserError: the folder has none of the maps.
    """
    folder = require(args.maps_from, "a folder with ready-made code maps", "check --maps_from")
    sources = {}
    for name in MAPS:
        path = find(folder / "hosp", name) or find(folder, name)
        if path is not None:
            copy(path, args.output_path / "hosp" / path.name)
            sources[name] = [describe(path)]
    if not sources:
        raise UserError(f"{folder}: wanted {', '.join(MAPS)} as .csv or .csv.gz, here or in hosp/, found none")
    return sources


def describe(path: Path) -> dict[str, Any]:
    """What `sources.json` records of an input file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def record_sources(output: Path, sources: dict[str, Any]) -> None:
    """Add to `sources.json` what the maps written now were made from."""
    path = output / "sources.json"
    known = read_json(path) if path.exists() else {}
    if sources:
        write_json(path, dict(sorted((known | sources).items())))


def write_map(path: Path, columns: tuple[str, ...], rows: Iterable[Sequence[str]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    replace_spellings(path)


# --- CCS

# A field of a CCS file: 'single-quoted', where the text may hold apostrophes and commas, "double-quoted", or plain.
_FIELD = re.compile(r"""\s*(?:'(.*?)'\s*(?=,\s*['"\d]|,?\s*$)|"((?:[^"]|"")*)"\s*(?=,|$)|([^,]*))(?:,|$)""")


def split_ccs_line(line: str) -> list[str]:
    '''The fields of a line of a CCS file, without their quotes and padding.

    >>> split_ccs_line("""'4019 ','98   ','HTN','HYPERTENSION NOS',' ',' '""")
    ['4019', '98', 'HTN', 'HYPERTENSION NOS', '', '']
    >>> split_ccs_line("""'K5000','144','Crohn's disease, small intestine',"Regional enteritis, colitis" """)
    ['K5000', '144', "Crohn's disease, small intestine", 'Regional enteritis, colitis']
    '''
    line = line.strip()
    fields, at = [], 0
    while at < len(line):
        match = _FIELD.match(line, at)
        fields.append(next((group for group in match.groups() if group is not None), "").strip(" '\""))
        at = match.end()
    return fields


def read_ccs(path: Path, version: str) -> Iterator[tuple[str, str, str]]:
    """(ICD code, category number, category name) of every line of a single-level CCS file.

    Lines above the header (titles, comments) and the lines without a code below it are skipped.

    Raises:
        UserError: it is no single-level CCS file for this ICD version.
    """
    require(path, f"AHRQ's single-level CCS file for ICD-{version}", "download it from hcup-us.ahrq.gov")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = path.read_text(encoding="cp1252", errors="replace").splitlines()
    body = iter(lines)
    for line in body:
        header = [name.upper() for name in split_ccs_line(line)]
        if "CCS CATEGORY" in header and "CCS CATEGORY DESCRIPTION" in header:
            break
    else:
        hint = ", found CCSR, whose names differ" if "CCSR" in "".join(lines[:3]).upper() else ", found no such line"
        raise UserError(
            f"{path}: wanted a header line with 'CCS CATEGORY' and 'CCS CATEGORY DESCRIPTION'{hint}; "
            "download the single-level CCS file (not CCSR, not multi-level) from hcup-us.ahrq.gov"
        )
    code_at = next((i for i, name in enumerate(header) if re.fullmatch(rf"ICD-{version}-(CM|PCS) CODE", name)), None)
    if code_at is None:
        raise UserError(f"{path}: wanted a column ICD-{version}-... CODE, found {', '.join(header)}; mixed up two files?")
    category_at, name_at = header.index("CCS CATEGORY"), header.index("CCS CATEGORY DESCRIPTION")
    for line in body:
        fields = split_ccs_line(line)
        if len(fields) > max(code_at, category_at, name_at) and fields[code_at] and fields[name_at]:
            yield fields[code_at].replace(".", ""), fields[category_at], fields[name_at]


def ccs_rows(icd9: Iterable[tuple[str, str, str]], icd10: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Rows of a CCS map: (code, version, category name).

    The ICD-9 file abbreviates ("HTN"). A category has one number in both files, so an ICD-9 code takes the full name
    from the ICD-10 file, and one vocabulary serves both; a category that ICD-10 does not use keeps its short name.

    >>> ccs_rows([("4019", "98", "HTN"), ("7706", "224", "Oth perint")], [("I10", "98", "Essential hypertension")])
    [('4019', '9', 'Essential hypertension'), ('7706', '9', 'Oth perint'), ('I10', '10', 'Essential hypertension')]
    """
    icd10 = list(icd10)
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for _, category, name in icd10:
        names[category][name] += 1
    full = {category: min(counts, key=lambda name: (-counts[name], name)) for category, counts in names.items()}
    rows = {(code, "9"): full.get(category, name) for code, category, name in icd9}
    rows |= {(code, "10"): name for code, _, name in icd10}
    return [
        (code, version, name) for (code, version), name in sorted(rows.items(), key=lambda row: (int(row[0][1]), row[0][0]))
    ]


def build_ccs(name: str, icd9: Path | None, icd10: Path | None, output: Path) -> list[dict[str, Any]]:
    """Write one CCS map; return its sources."""
    if icd9 is None or icd10 is None:
        flag9, flag10 = (f"--{flag}" for flag in CCS_SOURCES[name])
        raise UserError(f"{name}: wanted both {flag9} and {flag10} (MIMIC-IV codes both ways), found one of them")
    rows = ccs_rows(read_ccs(icd9, "9"), read_ccs(icd10, "10"))
    write_map(output / "hosp" / f"{name}.csv", ("icd_code", "icd_version", "long_title"), rows)
    print(f"{name}: {len(rows):,} codes, {len({row[2] for row in rows}):,} categories")
    return [describe(icd9), describe(icd10)]


# --- ATC


def ndc11(text: str) -> str | None:
    """A National Drug Code as 11 digits; None where that is not certain.

    The package writes ten digits in three parts, one of which lacks its leading zero (4-4-2, 5-3-2, 5-4-1); the form
    of 11 digits pads them to 5-4-2. Twelve digits (the VA's 6-4-2) carry one more zero in front. Ten digits without
    dashes can be read in three ways: None.

    >>> [ndc11(code) for code in ("0002-1433-61", "00021-433-61", "00021-4336-1", "00002143361", "000002143361")]
    ['00002143361', '00021043361', '00021433601', '00002143361', '00002143361']
    >>> ndc11("0002143361"), ndc11("no code"), ndc11("1-2-3-4")
    (None, None, None)
    """
    parts = text.strip().replace("*", "0").split("-")
    if not all(part.isdecimal() for part in parts):
        return None
    if len(parts) == 3:
        lengths = tuple(map(len, parts))
        if lengths in ((4, 4, 2), (5, 3, 2), (5, 4, 1), (5, 4, 2)):
            return parts[0].zfill(5) + parts[1].zfill(4) + parts[2].zfill(2)
        return (parts[0][1:] + parts[1] + parts[2]) if lengths == (6, 4, 2) and parts[0][0] == "0" else None
    if len(parts) != 1:
        return None
    if len(text.strip()) == 12 and parts[0][0] == "0":
        return parts[0][1:]
    return parts[0] if len(parts[0]) == 11 else None


def read_rrf(path: Path, columns: tuple[int, ...]) -> Iterator[list[str]]:
    """Some columns of a Rich Release Format file: values between bars, one row a line, no quotes.

    Raises:
        UserError: there is no such file, or a line has too few columns.
    """
    require(path, "an RxNorm file", "download RxNorm's full monthly release and give its rrf/ folder with --rxnorm_dir")
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\r\n").split("|")
            if len(fields) <= max(columns):
                raise UserError(f"{path}, line {number}: wanted {max(columns) + 1} columns between |, found {len(fields)}")
            yield [fields[i] for i in columns]


# Columns of RXNCONSO, RXNREL and RXNSAT (RxNorm technical documentation, section 12).
_CONSO = (0, 11, 12, 13, 14)  # RXCUI, SAB, TTY, CODE, STR
_REL = (0, 4, 7, 10)  # RXCUI1, RXCUI2, RELA, SAB
_SAT = (0, 8, 9, 10)  # RXCUI, ATN, SAB, ATV

# Relations that lead from a drug or pack towards its ingredients. A row of RXNREL reads "RXCUI2 is RELA to RXCUI1".
TOWARDS_INGREDIENT = frozenset(
    ("contains", "consists_of", "tradename_of", "quantified_form_of", "has_ingredients", "has_ingredient",
     "has_precise_ingredient", "form_of", "has_part")
)  # fmt: skip

# A drug's combination as a whole first, then its precise ingredients (salts), then its plain ones.
SPECIFIC_FIRST = ("MIN", "PIN", "IN")


def read_atc(conso: Iterable[Sequence[str]]) -> tuple[dict[str, str], dict[str, set[str]], dict[str, str]]:
    """From RXNCONSO: ATC level-4 names by code; level-4 codes by RXCUI of the substance; RxNorm's type of each RXCUI.

    An ATC code of 5 characters is a class of level 4, one of 7 a substance of level 5, which begins with its class's.
    """
    names: dict[str, tuple[bool, str]] = {}
    classes: dict[str, set[str]] = defaultdict(set)
    types: dict[str, str] = {}
    for rxcui, source, kind, code, text in conso:
        if source == "RXNORM" and kind in (*SPECIFIC_FIRST, "BN"):
            types[rxcui] = kind
        elif source == "ATC" and len(code) == 5:
            # PT is ATC's own name; RxNorm adds atoms of other types with names of its own.
            names[code] = min(names.get(code, (True, text)), (kind != "PT", text))
        elif source == "ATC" and len(code) == 7:
            classes[rxcui].add(code[:5])
    return {code: name for code, (_, name) in names.items()}, classes, types


def find_class(rxcui: str, edges: dict[str, list[str]], classes: dict[str, set[str]], types: dict[str, str]) -> str | None:
    """The ATC level-4 code of a drug: the first, by code, of its combination, else its salts, else its ingredients.

    A substance may have several classes (aspirin: A01AD, B01AC, N02BA), by use; RxNorm does not say which one a product
    is for. The first by code is what the released data has for them.

    A branded tablet (SBD) of a generic one (SCD) whose component (SCDC) has the ingredient (IN) aspirin:

    >>> edges = {"SBD": ["SCD"], "SCD": ["SCDC"], "SCDC": ["1191"]}
    >>> find_class("SBD", edges, {"1191": {"N02BA", "A01AD", "B01AC"}}, {"1191": "IN"})
    'A01AD'
    """
    found: dict[str, set[str]] = defaultdict(set)
    seen, todo = {rxcui}, [rxcui]
    while todo:
        concept = todo.pop()
        if types.get(concept) == "BN":  # a brand covers many products: its ingredients are not this drug's
            continue
        found[types.get(concept, "")] |= classes.get(concept, set())
        new = [other for other in edges.get(concept, ()) if other not in seen]
        seen.update(new)
        todo += new
    return next((min(found[kind]) for kind in SPECIFIC_FIRST if found[kind]), None)


def build_atc(folder: Path, output: Path) -> list[dict[str, Any]]:
    """Write the NDC → ATC level-4 map; return its sources.

    RxNorm's own NDC attributes come first; those of its other sources add codes that RxNorm has dropped as obsolete.

    Raises:
        UserError: a file is missing, or has no ATC, which is in the full release only.
    """
    conso, rel, sat = (folder / f"RXN{name}.RRF" for name in ("CONSO", "REL", "SAT"))
    names, classes, types = read_atc(read_rrf(conso, _CONSO))
    if not names or not classes:
        raise UserError(f"{conso}: wanted ATC (SAB=ATC), found none; the prescribable subset lacks it, take the full release")
    edges: dict[str, list[str]] = defaultdict(list)
    for first, second, relation, source in read_rrf(rel, _REL):
        if source == "RXNORM" and relation in TOWARDS_INGREDIENT and first and second:
            edges[second].append(first)
    drugs: dict[str, dict[bool, set[str]]] = defaultdict(lambda: defaultdict(set))
    for rxcui, attribute, source, value in read_rrf(sat, _SAT):
        if attribute == "NDC" and (ndc := ndc11(value)) is not None:
            drugs[ndc][source == "RXNORM"].add(rxcui)
    known: dict[str, str | None] = {}
    rows = []
    for ndc, by_source in sorted(drugs.items()):
        for own in (True, False):
            for rxcui in by_source[own] - known.keys():
                known[rxcui] = find_class(rxcui, edges, classes, types)
            codes = {known[rxcui] for rxcui in by_source[own]} & names.keys()
            if codes:
                rows.append((ndc, names[min(codes)]))
                break
    write_map(output / "hosp/d_atc_prescriptions.csv", ("ndc_code", "atc_name"), rows)
    distinct = len({name for _, name in rows})
    print(f"d_atc_prescriptions: {len(rows):,} of {len(drugs):,} NDCs have one of {distinct:,} classes")
    return [describe(path) for path in (conso, rel, sat)]


# --- what is there


def empty_tasks(name: str) -> list[str]:
    """The tasks whose answers all come from one dictionary, so that they are empty without it.

    >>> empty_tasks("d_atc_prescriptions"), empty_tasks("d_ccs_procedures")
    (['prescriptions_atc', 'medrecon_atc'], ['procedures_ccs'])
    """
    found = []
    for task in TASKS.values():
        lookups = [EVENTS[task.event].lookup(key) for key in task.target] if task.event else []
        if lookups and all(lookup is not None and lookup.source == name for lookup in lookups):
            found.append(task.name)
    return found


def say_what_is_missing(output: Path) -> None:
    """One line for every dictionary or map that is not there, with the tasks that will be empty."""
    modules = {name: module for module, names in DICTIONARY_TABLES.items() for name in names} | dict.fromkeys(MAPS, "hosp")
    for name, module in modules.items():
        tasks = empty_tasks(name)
        if find(output / module, name) is None and tasks:
            fix = "give its sources (see --help) or --maps_from" if name in MAPS else f"it belongs in {module}/ of MIMIC-IV"
            print(f"missing: {name}.csv; without it these tasks are empty: {', '.join(tasks)}; {fix}")


def count_codes(path: Path, columns: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    """How many rows of a raw table have each code. Streams: the table may be larger than memory."""
    import pyarrow as pa
    import pyarrow.csv as pc

    counts: Counter[tuple[str, ...]] = Counter()
    try:
        reader = pc.open_csv(
            path,
            read_options=pc.ReadOptions(block_size=16 << 20),
            parse_options=pc.ParseOptions(newlines_in_values=True),
            convert_options=pc.ConvertOptions(
                include_columns=list(columns),
                column_types={column: pa.string() for column in columns},
                null_values=list(MISSING_TEXTS),
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            table = pa.Table.from_batches([batch]).group_by(list(columns)).aggregate([([], "count_all")])
            *keys, numbers = (table[name].to_pylist() for name in (*columns, "count_all"))
            for *code, rows in zip(*keys, numbers, strict=True):
                counts[tuple((value or "").strip() for value in code)] += rows
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path}: wanted a CSV with columns {', '.join(columns)}, found: {reason}") from None
    return counts


def coverage(counts: Counter[tuple[str, ...]], names: dict[Any, str]) -> tuple[int, int, int, int]:
    """(codes with a name, codes, rows with a name, rows with a code).

    A row without a code does not count: an empty field, or NDC 0.

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
    """Which share of the codes and rows of each raw table gets a name from each map."""
    from mimiciv_dataset.lookups import Lookups

    lookups = Lookups(output)
    counted: dict[str, Counter[tuple[str, ...]]] = {}
    print(f"{'table':<22}{'map':<22}{'codes named':>24}{'rows named':>30}")
    for table, name in COVERAGE:
        module, file_name = table.split("/")
        path = find(mimic_dir / module, file_name)
        if path is None or lookups.path(name) is None:
            print(f"{table:<22}{name:<22}{'(no table)' if path is None else '(no map)':>24}")
            continue
        if table not in counted:
            columns = ("ndc",) if name == "d_atc_prescriptions" else ("icd_code", "icd_version")
            counted[table] = count_codes(path, columns)
        codes, all_codes, rows, all_rows = coverage(counted[table], lookups.dictionary(name))
        print(f"{table:<22}{name:<22}{share(codes, all_codes):>24}{share(rows, all_rows):>30}")


def share(part: int, whole: int) -> str:
    """
    >>> share(1, 3), share(0, 0)
    ('1 / 3 (33.3 %)', '0 / 0')
    """
    return f"{part:,} / {whole:,}" + (f" ({part / whole:.1%})".replace("%", " %") if whole else "")


if __name__ == "__main__":
    run(main)
