"""scripts/status.py: the state of each artefact, and the commands that repair it, in order."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import command
from tiny_mimic import many_patients, write_mimic

from mimiciv_dataset.trajectory import Trajectories


def status(root: Path, *flags: object) -> tuple[int, dict[str, str], list[str]]:
    """Exit code, state of each artefact by its name, and the commands."""
    done = command("scripts/status.py", "--root_dir", root, *flags, check=False)
    assert not done.stderr, done.stderr
    table, _, commands = done.stdout.partition("To run, in this order:")
    rows = [re.split(r"\s{2,}", line) for line in table.splitlines() if line and not line.startswith((" ", "-"))]
    return done.returncode, {row[0]: row[-1] for row in rows}, [line.strip() for line in commands.splitlines() if line.strip()]


def run_all(commands: list[str]) -> None:
    for line in commands:
        script, *words = shlex.split(line, comments=True)[1:]
        command(script, *words)


def test_a_newcomer_follows_the_commands(tmp_path: Path) -> None:
    root = tmp_path / "my datas"
    write_mimic(root / "mimiciv", many_patients(3))
    code, states, commands = status(root)
    assert code == 0 and states["trajectories"] == "missing" and len(commands) == 8
    run_all(commands[:3])
    shutil.rmtree(root / "patients")
    code, states, commands = status(root)
    assert states["trajectories"] == "up to date" and "preprocess/split_patients.py" in commands[0]


@pytest.fixture
def root(small_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_root, tmp_path / "root")
    return tmp_path / "root"


def test_stale_unfinished_changed(root: Path) -> None:
    code, states, _ = status(root)
    assert code == 0 and states["trajectories"] == states["task index"] == "up to date"
    labs = root / "mimiciv/hosp/labevents.csv"
    labs.write_text(labs.read_text().replace("3.50", "3.60", 1))
    code, states, commands = status(root)
    assert code == 1 and states["raw tables in buckets"] == states["task index"] == "stale"
    assert "# hosp/labevents.csv has changed" in commands[0] and "# merged is not up to date" in commands[1]
    repairs = [line for line in commands if "--overwrite" in line]
    assert [shlex.split(line)[1] for line in repairs] == [
        "preprocess/merge_patient.py", "preprocess/rank.py", "preprocess/combination.py",
        "mimiciv_dataset/task_sample_info_gen.py",
    ]  # fmt: skip
    run_all(repairs)
    assert status(root)[0] == 0
    run_all(commands[:1])
    (root / "patients_ehr/shard-00000.arrow").write_bytes(b"")
    code, states, commands = status(root)
    assert states["trajectories"] == "changed" and "bytes instead of" in commands[0]


def test_an_output_behind_a_link_is_found(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "patients_ehr", tmp_path / "large")
    (root / "patients_ehr").symlink_to(tmp_path / "large")
    (tmp_path / "large/back").symlink_to(root)
    assert status(root)[1]["trajectories"] == "up to date"


def test_without_intermediates_the_trajectories_are_compared_with_the_raw_tables(root: Path) -> None:
    shutil.rmtree(root / "patients")
    shutil.rmtree(root / "patients_sorted")
    assert status(root)[1]["trajectories"] == "up to date"
    labs = root / "mimiciv/hosp/labevents.csv"
    labs.write_text(labs.read_text().replace("3.50", "3.60", 1))
    code, states, _ = status(root)
    assert code == 1 and states["trajectories"] == states["task index"] == "stale"


def test_dictionaries_and_damaged_records(root: Path) -> None:
    for folder in ("mimiciv", "index_mapping"):
        (root / folder / "icu").mkdir(parents=True, exist_ok=True)
        (root / folder / "icu/d_items.csv").write_text("itemid,label\n1,a\n")
    assert status(root)[1]["dictionaries and code maps"] == "present"
    (root / "mimiciv/icu/d_items.csv").write_text("itemid,label\n1,b\n")
    code, states, commands = status(root)
    assert code == 1 and states["dictionaries and code maps"] == "stale"
    assert any("build_index_mapping.py" in line and "--overwrite" in line for line in commands)
    for text in ("", "{", '{"complete": true}', '{"step": "x", "inputs": [1]}'):
        (root / "task_index/all/provenance.json").write_text(text)
        done = command("scripts/status.py", "--root_dir", root, check=False)
        assert done.returncode == 1 and not done.stderr and "damaged" in done.stdout


def test_errors_are_one_line(tmp_path: Path) -> None:
    done = command("scripts/status.py", "--root_dir", tmp_path / "none", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_patients_that_the_index_omits_are_no_change(root: Path) -> None:
    command("preprocess/split_patients.py", "--root_dir", root, "--ehr_dir", root / "patients_ehr")
    lengths = Trajectories(root / "patients_ehr")
    longest = max(map(lengths.length, lengths.subject_ids()))
    words = ("--root_dir", root, "--output_path", root / "task_index/short", "--traj_len_max", longest - 1)
    done = command("mimiciv_dataset/task_sample_info_gen.py", *words)
    assert "and 0 with more" not in done.stdout
    assert "task_index/short" not in "".join(status(root)[2])
