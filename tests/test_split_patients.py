"""The train/test split: stable, seeded, and no test patient of a release in the training set."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimiciv_dataset.patients import read_subject_ids
from pipeline.errors import UserError
from preprocess.split_patients import is_test, main


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
