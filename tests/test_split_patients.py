"""The train/test split: stable, seeded, and no test patient of a release in the training set."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimiciv_dataset.patients import read_subject_ids
from pipeline.errors import UserError
from preprocess.split_patients import is_test, main, stratified


def split(folder: Path, ids: list[int], *flags: str) -> dict[str, list[str]]:
    (folder / "p.csv").write_text("subject_id,gender\n" + "".join(f"{i},F\n" for i in ids))
    main(["--patients", str(folder / "p.csv"), "--output_dir", str(folder / "out"), "--overwrite", *flags])
    files = {name: folder / "out" / f"{name}.csv" for name in ("patients", "train", "test")}
    return {name: path.read_text().split()[1:] for name, path in files.items()}


def test_split(tmp_path: Path) -> None:
    ids = list(range(900, 1100))
    parts = split(tmp_path, [*reversed(ids), 950])
    assert parts["patients"] == [str(i) for i in ids]  # ascending as numbers, once each
    assert sorted(parts["train"] + parts["test"], key=int) == parts["patients"]
    assert parts["test"] == sorted(parts["test"], key=int) and 5 <= len(parts["test"]) <= 40
    assert split(tmp_path, ids)["test"] == parts["test"]
    assert split(tmp_path, ids, "--seed", "1")["test"] != parts["test"]
    assert split(tmp_path, ids, "--test_ratio", "0")["test"] == []
    larger = split(tmp_path, [*ids, *range(5000, 5100)])
    assert [i for i in larger["test"] if int(i) < 5000] == parts["test"]


@given(st.integers(1, 10**8), st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_test_patients(subject: int, seed: int, first: float, second: float) -> None:
    if is_test(str(subject), seed, min(first, second)):
        assert is_test(str(subject), seed, max(first, second))


def test_share() -> None:
    share = sum(is_test(str(i), 42, 0.1) for i in range(10_000_000, 10_020_000)) / 20_000
    assert abs(share - 0.1) < 0.01


def test_released_test_patients_test(tmp_path: Path) -> None:
    (tmp_path / "bench.csv").write_text('subject_id,task,period_begin,period_end,target\n3.0,omr,1,2,"[]"\n4,omr,1,2,"[]"\n')
    rows = [{"subject_id": "5", "input": "x"}, {"input": "x", "task_info": {"subject_id": 99}}]
    (tmp_path / "bench.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "bench.audit.csv").write_text("task,rows\n")  # also matches `bench*`
    flags = ["--test_from", *map(str, sorted(tmp_path.glob("bench*")))]
    parts = split(tmp_path, list(range(1, 21)), *flags, "--test_ratio", "0")
    assert parts["test"] == ["3", "4", "5"] and "99" not in parts["patients"]
    hashed = split(tmp_path, list(range(1, 21)), "--test_ratio", "0.3")["test"]
    parts = split(tmp_path, list(range(1, 21)), *flags, "--test_ratio", "0.3")
    assert set(parts["test"]) == {*hashed, "3", "4", "5"}
    (tmp_path / "no.jsonl").write_text('{"input": "x"}\n')
    with pytest.raises(UserError, match=r"no\.jsonl, line 1: .*subject_id"):
        split(tmp_path, [1], "--test_from", str(tmp_path / "no.jsonl"))


def test_defaults_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"hosp/patients\.csv: .*--patients"):
        main(["--root_dir", str(tmp_path)])
    hosp = tmp_path / "mimiciv/hosp"
    hosp.mkdir(parents=True)
    with gzip.open(hosp / "patients.csv.gz", "wt") as file:
        file.write("subject_id\n7\n")
    main(["--root_dir", str(tmp_path)])
    assert read_subject_ids(tmp_path / "patient_data/patients.csv") == ["7"]
    for text, message in (("id\n1\n", "columns? subject_id"), ("subject_id\nx1\n", "row 2, column subject_id"),
                          ("subject_id\n", "expected patients, got none")):  # fmt: skip
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            main(["--patients", str(tmp_path / "p.csv"), "--output_dir", str(tmp_path / "o")])
    with pytest.raises(SystemExit):
        main(["--root_dir", str(tmp_path), "--test_ratio", "10"])
    assert "--test_ratio" in capsys.readouterr().err


def test_the_default_is_the_trajectories(small_root: Path, tmp_path: Path) -> None:
    """Raw files may be elsewhere; without trajectories, the raw table of patients is read."""
    root = tmp_path / "datas"
    root.mkdir()
    with pytest.raises(UserError, match=r"expected trajectories or a CSV .* Make trajectories with"):
        main(["--root_dir", str(root)])
    patients = []
    for name in ("mimiciv", "patients_ehr"):
        (root / name).symlink_to(small_root / name)
        main(["--root_dir", str(root), "--output_dir", str(tmp_path / name)])
        patients.append((tmp_path / name / "patients.csv").read_text())
        (root / name).unlink()
    assert patients[0] == patients[1] and len(patients[0].splitlines()) == 41


# --- by stratum and by time

PERIODS = ("2008 - 2010", "2011 - 2013", "2014 - 2016")
STRATA = st.dictionaries(st.integers(1, 10**8).map(str), st.sampled_from(["F 18-44", "F 80+", "M 18-44"]), min_size=1)


@given(STRATA, st.integers(0, 99), st.floats(0, 1), st.randoms())
def test_stratified(strata: dict[str, str], seed: int, ratio: float, random) -> None:
    """Each stratum has its share within one patient; the order of patients does not matter, and the seed does."""
    test = stratified(strata, seed, ratio)
    assert test <= strata.keys()
    for stratum, number in Counter(strata.values()).items():
        assert abs(sum(strata[patient] == stratum for patient in test) - ratio * number) <= 1 + 1e-9
    assert abs(len(test) - ratio * len(strata)) <= 0.5 + 1e-9
    shuffled = random.sample(list(strata.items()), len(strata))
    assert stratified(dict(shuffled), seed, ratio) == test


@given(st.lists(st.tuples(*3 * [st.sampled_from("abcd")]), min_size=1, max_size=60), st.floats(0, 1))
def test_strata_of_one_patient_add_up(strata: list[tuple[str, ...]], ratio: float) -> None:
    """Groups of the first name have their share, however small the combinations are: deaths in a small cohort."""
    test = stratified({str(number): stratum for number, stratum in enumerate(strata)}, 42, ratio)
    for group, number in Counter(first for first, *_ in strata).items():
        assert abs(sum(strata[int(patient)][0] == group for patient in test) - ratio * number) <= 1 + 1e-9


def patients_table(folder: Path, number: int = 60, header: str = "subject_id,gender,anchor_age,anchor_year_group,dod") -> Path:
    """A patients table, in no order: half of the patients of the first period, a third of the second, a sixth of the last."""
    rows = []
    for i in sorted(range(number), key=lambda i: i * 7 % number):
        period = PERIODS[(i % 6 >= 3) + (i % 6 == 5)]
        row = {"subject_id": i + 1, "gender": "FM"[i % 2], "anchor_age": 20 + i, "anchor_year_group": period}
        row["dod"] = "2150-01-01" if i % 3 == 0 else ""
        rows.append(",".join(str(row[name]) for name in header.split(",")))
    (folder / "patients.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "patients.csv"


def sides(folder: Path, source: Path, *flags: str) -> tuple[set[str], set[str]]:
    flag = "--ehr_dir" if source.is_dir() else "--patients"
    main([flag, str(source), "--output_dir", str(folder / "out"), "--overwrite", *flags])
    patients, train, test = ((folder / f"out/{name}.csv").read_text().split()[1:] for name in ("patients", "train", "test"))
    assert sorted(train + test, key=int) == patients  # each patient in exactly one
    return set(train), set(test)


def test_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = patients_table(tmp_path)
    period = {str(i + 1): PERIODS[(i % 6 >= 3) + (i % 6 == 5)] for i in range(60)}
    for flags, first in ((["--test_ratio", "0.1"], 2), (["--test_ratio", "0.4"], 1), (["--test_since", PERIODS[1]], 1),
                         (["--test_ratio", "1"], 0), (["--test_ratio", "0"], 3)):  # fmt: skip
        _, test = sides(tmp_path, table, "--by", "time", *flags)
        assert test == {patient for patient, of_patient in period.items() if of_patient in PERIODS[first:]}
    assert "the boundary nearest to --test_ratio 0.4): 30 patients" in capsys.readouterr().out
    (tmp_path / "bench.csv").write_text('subject_id,task,period_begin,period_end,target\n1,omr,1,2,"[]"\n')
    _, test = sides(tmp_path, table, "--by", "time", "--test_from", str(tmp_path / "bench.csv"))
    assert period["1"] == PERIODS[0] and test == {"1", *(patient for patient in period if period[patient] == PERIODS[2])}


def test_stratify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = patients_table(tmp_path)
    _, test = sides(tmp_path, table, "--stratify", "death", "sex", "--test_ratio", "0.5")
    assert len(test) == 30
    for in_stratum in (lambda i: i % 2 == 0, lambda i: i % 3 == 0, lambda i: i % 6 == 0):
        assert abs(sum(in_stratum(int(patient) - 1) for patient in test) - sum(map(in_stratum, range(60))) / 2) <= 1
    assert "death  no" in capsys.readouterr().out
    assert sides(tmp_path, table, "--stratify") == sides(tmp_path, table, "--stratify", "death", "age", "sex")
    assert sides(tmp_path, table, "--stratify") != sides(tmp_path, table, "--stratify", "--seed", "7")
    hashed = sides(tmp_path, table)
    assert json.loads((tmp_path / "out/patients.provenance.json").read_text())["settings"] == {"test_ratio": 0.1, "seed": 42}
    assert hashed != sides(tmp_path, table, "--stratify")


def test_trajectories_and_raw_table_agree(synthetic_root: Path, tmp_path: Path) -> None:
    raw = next((synthetic_root / "mimiciv/hosp").glob("patients.csv*"))
    for flags in (["--by", "time"], ["--stratify"]):
        assert sides(tmp_path, raw, *flags) == sides(tmp_path, synthetic_root / "patients_ehr", *flags)
    inputs = json.loads((tmp_path / "out/patients.provenance.json").read_text())["inputs"]
    assert set(inputs) == {"patients", "trajectories"}  # another build of them makes the split stale


def test_missing_characteristics(tmp_path: Path, small_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = patients_table(tmp_path, header="subject_id,gender")
    with pytest.raises(UserError, match=r"expected the columns anchor_year_group .*, got no anchor_year_group\. Use traj"):
        sides(tmp_path, table, "--by", "time")
    with pytest.raises(UserError, match=r"got no anchor_age, dod\."):
        sides(tmp_path, table, "--stratify")
    with pytest.raises(UserError, match=r"expected the columns anchor_year_group|such as 2017 - 2019 for every patient"):
        sides(tmp_path, small_root / "patients_ehr", "--by", "time")  # of a table without it
    table = patients_table(tmp_path)
    table.write_text(table.read_text() + "99,F,30,,\n")
    with pytest.raises(UserError, match=r"such as 2017 - 2019 for every patient, got another value, or none, for 1\."):
        sides(tmp_path, table, "--by", "time")
    table.write_text("subject_id,anchor_year_group\n1,2008 - 2010\n2,2008 - 2010\n")
    with pytest.raises(UserError, match=r"several values of anchor_year_group, got 2008 - 2010 only"):
        sides(tmp_path, table, "--by", "time")
    table = patients_table(tmp_path)
    with pytest.raises(UserError, match=r"--test_since: expected an anchor_year_group of .* got 2017\."):
        sides(tmp_path, table, "--by", "time", "--test_since", "2017")
    for flags in (["--by", "time", "--stratify"], ["--test_since", PERIODS[1]]):
        with pytest.raises(SystemExit):
            sides(tmp_path, table, *flags)
    assert "expected --by" in capsys.readouterr().err
