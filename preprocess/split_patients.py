"""Patients → the train/test split, patient_data/{patients,train,test}.csv.

The side of a patient depends only on the seed and on the patient's id, so that it stays the same when patients are added.

  --stratify   the test set has the same share of the patients of each outcome (death), age band and sex, or of the groups
               that are named, the most important first: rounding can move the share of each combination, and that of each
               group of the first name, by one patient. The side of a patient then depends on the other patients, too
  --by time    the test set has the patients of the latest values of anchor_year_group, of which --test_ratio, to the nearest
               boundary, or --test_since decides the first one

With --test_from, the patients of released test sets are always in the test set. The others are split as above, or all go to
the training set with --test_ratio 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

from mimiciv_dataset.index_files import HOW_TO_GET_INDEX, index_paths
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.lookups import find_table
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.sources import patients_source, trajectories_source
from pipeline.cli import Parser, between, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, require
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance, Source, content_of
from preprocess.characteristics import BALANCED, COLUMNS, UNKNOWN, Characteristics, read_characteristics

STEP, RULES = "preprocess/split_patients.py", 1


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    patients_from = cli.add_mutually_exclusive_group()
    trajectories = "trajectories whose patients to split (ROOT_DIR/patients_ehr)"
    patients_from.add_argument("--ehr_dir", "--patient_ehr_path", type=Path, help=trajectories)
    csv_file = "or a CSV with a column subject_id (ROOT_DIR/mimiciv/hosp/patients.csv[.gz], if there are no trajectories)"
    patients_from.add_argument("--patients", type=Path, help=csv_file)
    cli.add_path("--output_dir", "--output_path", default="patient_data", help="directory for the three files")
    cli.add_argument("--by", choices=("hash", "time"), default="hash", help="what decides the side of a patient (hash)")
    size = cli.add_mutually_exclusive_group()
    size.add_argument("--test_ratio", type=between(0, 1), default=0.1, help="share of patients in the test set (0.1)")
    size.add_argument("--test_since", metavar="GROUP", help='--by time: first group of the test set, such as "2017 - 2019"')
    equal = f"equal shares of each group in the test set ({' '.join(BALANCED)})"
    cli.add_argument("--stratify", nargs="*", choices=COLUMNS, metavar="NAME", help=f"{equal}; names: {', '.join(COLUMNS)}")
    cli.add_argument("--seed", type=int, default=42, help="seed of the split by hash (42)")
    test_from = "index CSVs or JSONL whose patients belong in the test set, such as the released ehr_bench/*.csv"
    cli.add_argument("--test_from", type=Path, nargs="+", default=[], metavar="FILE", help=test_from)
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    by_time = args.by == "time"
    if by_time and args.stratify is not None:
        cli.error("--stratify: expected --by hash, got --by time")
    if args.test_since and not by_time:
        cli.error("--test_since: expected --by time, got --by hash")
    summary = Summary("split_patients")
    source = args.ehr_dir or args.patients or default_source(args.root_dir)
    patients = read_patients(source)
    test_from = index_paths(args.test_from) if args.test_from else []
    sources = [patients_source(source, patients)]
    sources += [content_of(f"test_from/{path.name}", path) for path in test_from]
    names = ("period",) if by_time else BALANCED if args.stratify == [] else tuple(dict.fromkeys(args.stratify or ()))
    settings = {"test_ratio": args.test_ratio, "seed": args.seed}
    if by_time:
        settings = {"by": "time"} | ({"test_since": args.test_since} if args.test_since else {"test_ratio": args.test_ratio})
    elif names:
        settings["stratify"] = names
    if names:
        sources.append(characteristics_source(source, args.verify))
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
    others = [patient for patient in patients if patient not in always_test]
    groups = read_characteristics(source, patients, names) if names else {}
    if by_time:
        periods = {patient: of_patient.period for patient, of_patient in groups.items()}
        since = args.test_since or nearest_period(list(periods.values()), args.test_ratio)
        check_period(source, since, set(periods.values()))
        in_test = {patient for patient in others if since and periods[patient] >= since}
        chosen = "as given" if args.test_since else f"the boundary nearest to --test_ratio {args.test_ratio:g}"
        print(f"by time: the test set begins with {since or 'no group'} ({chosen}): {len(in_test):,} patients")
    elif names:
        strata = {patient: tuple(getattr(groups[patient], name) for name in names) for patient in others}
        in_test = stratified(strata, args.seed, args.test_ratio)
    else:
        in_test = {patient for patient in others if is_test(patient, args.seed, args.test_ratio)}
    in_test |= always_test
    train, test = ([patient for patient in patients if (patient in in_test) == side] for side in (False, True))
    provenance.claim()
    for name, ids in (("patients", patients), ("train", train), ("test", test)):
        write_ids(files[name], ids)
    provenance.complete(files=files.values(), patients=len(patients), train=len(train), test=len(test))
    if names:
        print_shares(groups, in_test, dict.fromkeys((*names, *BALANCED)))
    from_files = f" ({len(always_test.intersection(patients)):,} from --test_from)" if args.test_from else ""
    summary.print(f"{len(patients):,} patients → {len(train):,} train, {len(test):,} test{from_files} → {args.output_dir}")


def is_test(subject_id: str, seed: int, ratio: float) -> bool:
    """Whether a patient is in the test set: the SHA-256 of seed and id, as a number in [0, 1), is below the ratio.

    >>> [is_test(str(n), 42, 0.1) for n in (10001217, 10039997)], is_test("1", 42, 0), is_test("1", 42, 1)
    ([False, False], False, True)
    """
    return hash_of(subject_id, seed) < ratio * 2**64


def hash_of(subject_id: str, seed: int) -> int:
    """The first 64 bits of the SHA-256 of seed and id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{subject_id}".encode()).digest()[:8], "big")


def stratified(strata: Mapping[str, Hashable], seed: int, ratio: float) -> set[str]:
    """The patients of the test set: of each stratum the share `ratio`, within one patient; those with the lowest hashes.

    Strata follow each other in order, and after each of them the size of the test set is the rounded share of the patients so
    far, so that rounding does not add up over strata that follow each other, such as those that share the first value.

    >>> len(stratified({str(n): n % 3 for n in range(10)}, 42, 0.5))
    5
    """
    members: dict[Hashable, list[str]] = defaultdict(list)
    for patient, stratum in strata.items():
        members[stratum].append(patient)
    in_test: set[str] = set()
    seen = 0
    for stratum in sorted(members):
        seen += len(members[stratum])
        number = int(ratio * seen + 0.5) - len(in_test)
        in_test.update(sorted(members[stratum], key=lambda patient: (hash_of(patient, seed), patient))[:number])
    return in_test


def nearest_period(periods: Sequence[str], ratio: float) -> str | None:
    """The first period of the test set, so that its share of the patients is nearest to `ratio`; of two, the larger test set.

    Both sets have patients, unless the ratio is 0 (None: no period) or 1.

    >>> periods = ["2008 - 2010"] * 6 + ["2011 - 2013"] * 3 + ["2014 - 2016"]
    >>> [nearest_period(periods, ratio) for ratio in (0, 0.01, 0.3, 0.9, 1)]
    [None, '2014 - 2016', '2011 - 2013', '2011 - 2013', '2008 - 2010']
    """
    counts = Counter(periods)
    starts = sorted(counts)
    if ratio in (0, 1):
        return starts[0] if ratio else None
    shares = {start: sum(counts[period] for period in starts if period >= start) / len(periods) for start in starts[1:]}
    return min(shares, key=lambda start: abs(shares[start] - ratio), default=None)


def check_period(source: Path, since: str | None, periods: Collection[str]) -> None:
    """Check that the test set can begin with this period."""
    if len(periods) < 2:
        got = f"got {', '.join(periods)} only"
        raise UserError(f"{source}: expected patients of several values of anchor_year_group, {got}. Use --by hash.")
    if since is not None and since not in periods:
        known = ", ".join(sorted(periods))
        raise UserError(f"--test_since: expected an anchor_year_group of {source} ({known}), got {since}. Choose one.")


def characteristics_source(source: Path, verify: bool) -> Source:
    """What the characteristics of patients are read from, as an input of the split."""
    return trajectories_source(source, verify) if source.is_dir() else content_of("characteristics", source, verify=verify)


def print_shares(groups: Mapping[str, Characteristics], in_test: Collection[str], names: Iterable[str]) -> None:
    """Print how many patients of each group are in the training and in the test set; not of what is unknown of all."""
    rows = []
    for name in names:
        counts = Counter((getattr(of_patient, name), patient in in_test) for patient, of_patient in groups.items())
        values = sorted({value for value, _ in counts})
        for value in values if values != [UNKNOWN] else ():
            train, test = counts[value, False], counts[value, True]
            rows.append((name, value, train, test, f"{test / (train + test):.1%}"))
    print_table(("", "group", "train", "test", "in test"), rows)


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
