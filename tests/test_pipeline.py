"""The ground floor: how commands end, files that appear whole, records of outputs, shared work, and tables."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import run
from pipeline.digests import FileDigests, stamp_of
from pipeline.errors import UserError
from pipeline.files import append_jsonl, atomic_dir, atomic_path, read_json, read_jsonl, read_jsonl_line, sha256_file
from pipeline.progress import TABLE_WIDTH, format_table
from pipeline.provenance import Provenance, Source, content_of, output_of
from pipeline.records import command_of, digest_of, folder_record, read_record, recorded_command, require_complete
from pipeline.work import environment_of_workers, usable_cpus

# --- cli


def ending(error: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command that raises `error`."""

    def main() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    return ended.value.code, capsys.readouterr().err


def test_how_a_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(None, capsys) == (0, "")
    assert ending(UserError("x.csv: expected 2 columns, got 1."), capsys) == (2, "error: x.csv: expected 2 columns, got 1.\n")
    code, line = ending(KeyboardInterrupt(), capsys)
    assert code == 130 and line.count("\n") == 1 and "same command" in line
    code, line = ending(OSError(errno.ENOSPC, "No space left on device", "out"), capsys)
    assert code == 1 and line.startswith("error: out: the disk is full") and line.count("\n") == 1
    code, line = ending(ModuleNotFoundError("No module named 'polars.x'", name="polars.x"), capsys)
    assert code == 2 and "package polars is not installed" in line and line.count("\n") == 1
    for bug in (ValueError("a bug"), OSError(errno.EIO, "disk"), ModuleNotFoundError("", name="pipeline.no")):
        with pytest.raises(type(bug)):
            ending(bug, capsys)


# --- files


def test_atomic_outputs_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    for make in (atomic_path, atomic_dir):
        target = tmp_path / make.__name__
        with pytest.raises(RuntimeError), make(target) as temporary:
            (temporary / "x" if temporary.is_dir() else temporary).write_text("half")
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []
    (tmp_path / ".whole.tmp").mkdir()
    (tmp_path / ".whole.tmp" / "leftover").touch()
    with atomic_dir(tmp_path / "whole") as temporary:
        (temporary / "x").touch()
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["x"]


lines = st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5) | st.none(), max_size=3), max_size=4)


def objects(path: Path) -> list[dict]:
    return [line for _, line in read_jsonl(path)]


@settings(max_examples=12, deadline=None)
@given(written=lines, blank=st.booleans())
def test_a_log_that_was_cut_anywhere_is_recovered(tmp_path_factory, written: list[dict], blank: bool) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    with append_jsonl(path) as append:
        for line in written:
            append(line)
    data = (b"\n" if blank else b"") + path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = objects(path)
        assert whole == written[: len(whole)]
        assert len(whole) >= data[:size].count(b"\n") - blank, "only the truncated line is lost"
        with append_jsonl(path) as append:
            append({"new": 1})
        assert objects(path) == [*whole, {"new": 1}]
        assert [read_jsonl_line(path, offset) for offset, _ in read_jsonl(path)] == objects(path)


def test_a_broken_line_inside_a_log_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"SECRET\n{"a": 2}\n')
    with pytest.raises(UserError, match="line 2") as error:
        objects(path)
    assert "SECRET" not in str(error.value)


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with append_jsonl(path), pytest.raises(UserError, match="--chunk_num"), append_jsonl(path):
        pass
    with append_jsonl(tmp_path / "log.jsonl"):
        pass


# --- provenance


STEP = "preprocess/rank.py"


def provenance(folder: Path, rules: int = 1, **inputs: str) -> Provenance:
    sources = [Source(name, None, digest) for name, digest in inputs.items()]
    return Provenance(folder, STEP, sources, {"buckets": (1, 2), "path": Path("x")}, rules, ["--root_dir", "my data"])


def make(folder: Path, text: str = "text", **inputs: str) -> Provenance:
    """A finished output of one file."""
    made = provenance(folder, **inputs)
    assert made.begin()
    (folder / "part").write_text(text)
    made.complete(rows=3)
    return made


@pytest.mark.parametrize(
    ("root", "flag"), [("./datas", ""), ("datas/", ""), ("./datas/quickstart", " --root_dir datas/quickstart")]
)
def test_a_recorded_command_names_the_data_directory_if_it_is_not_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    record = recorded_command(STEP, ["--root_dir", root, "--seed", "1"], tmp_path / root / "patients")
    assert command_of(record, tmp_path / root / "patients") == f"python {STEP}{flag} --seed 1"


def test_begin_refuse_complete_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert digest_of(folder_record(output)) is None
    with pytest.raises(UserError, match=STEP):
        require_complete(folder_record(output), STEP)
    assert provenance(output, a="1").begin()
    assert provenance(output, a="2").begin(), "nothing was made yet from the other input"
    (output / "part").touch()
    with pytest.raises(UserError, match="unfinished"):
        output_of("ranked", output, STEP)
    assert provenance(output, a="2").begin()  # resumed
    others = (provenance(output, a="1"), "a"), (provenance(output, 2, a="2"), "rules"), (provenance(output), "a")
    for other, name in others:
        with pytest.raises(UserError, match=rf"the same {name} as .*--overwrite.*--output_path"):
            other.begin()
    provenance(output, a="2").complete(rows=3)
    record = require_complete(folder_record(output), STEP)
    assert record["rows"] == 3 and record["inputs"]["a"]["digest"] == "2" and record["settings"]["buckets"] == [1, 2]
    assert command_of(record, output) == "python preprocess/rank.py --root_dir 'my data'"
    capsys.readouterr()
    assert not provenance(output, a="2").begin()
    assert "up to date" in capsys.readouterr().out
    assert read_record(folder_record(output)) == record, "nothing is written for a finished output"
    for other, name in others:
        with pytest.raises(UserError, match=rf"the same {name} as .*--overwrite"):
            other.begin()
    assert provenance(output, a="1").begin(overwrite=True)
    assert not (output / "part").exists()


def test_recorded_commands_follow_their_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datas/out").mkdir(parents=True)
    words = ["--root_dir", "./datas", "--overwrite", "--files", "datas/a.csv,scripts/b.json", f"--path={tmp_path}/datas/c"]
    made = Provenance(tmp_path / "datas/out", STEP, arguments=words)
    made.complete()
    now = command_of(read_json(made.path), made.path.parent)
    assert now == f"python {STEP} --files datas/a.csv,scripts/b.json --path=datas/c"
    (tmp_path / "datas").rename(tmp_path / "my copy")
    moved = tmp_path / "my copy/out/provenance.json"
    rest = "--files 'my copy/a.csv,scripts/b.json' '--path=my copy/c'"
    assert command_of(read_json(moved), moved.parent) == f"python {STEP} --root_dir 'my copy' {rest}"


def test_hidden_parts_of_an_unfinished_output_are_not_mixed(tmp_path: Path) -> None:
    assert provenance(tmp_path, a="1").begin()
    (tmp_path / ".locks").mkdir()
    assert provenance(tmp_path, a="2").begin()
    (tmp_path / ".work").mkdir()
    with pytest.raises(UserError, match="the same a as"):
        provenance(tmp_path, a="1").begin()
    assert provenance(tmp_path, a="1").begin(overwrite=True) and not (tmp_path / ".work").exists()


def test_the_digest_names_inputs_settings_and_content(tmp_path: Path) -> None:
    def digest(name: str, text: str = "text", **inputs: str) -> str:
        make(tmp_path / name, text, **inputs)
        return digest_of(folder_record(tmp_path / name)) or ""

    assert digest("a", a="1") == digest("b", a="1")
    assert len({digest("c", a="1"), digest("d", a="2"), digest("e", "other", a="1")}) == 3


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    make(tmp_path / "out", a="1")
    part = tmp_path / "out/part"
    os.utime(part, ns=(1, 1))  # as after a copy: hashed once, then the new times are known
    assert output_of("ranked", tmp_path / "out", STEP).digest and not provenance(tmp_path / "out", a="1").begin()
    assert read_record(folder_record(tmp_path / "out"))["files"]["part"]["stamp"] == stamp_of(part)
    for change, fault in ((lambda: part.write_text("tex"), "3 bytes"), (lambda: part.write_text("tuxt"), "content")):
        change()
        with pytest.raises(UserError, match=f"{fault}.*rank.py.*--overwrite"):
            output_of("ranked", tmp_path / "out", STEP)
        with pytest.raises(UserError, match=fault):
            provenance(tmp_path / "out", a="1").begin()
    part.unlink()
    with pytest.raises(UserError, match="1 of 1 missing"):
        provenance(tmp_path / "out", a="1").begin()


def test_verify_hashes_files_again(tmp_path: Path) -> None:
    make(tmp_path / "out", a="1")
    record = read_json(folder_record(tmp_path / "out"))
    record["files"]["part"]["sha256"] = "damaged on disk, with the same times"
    folder_record(tmp_path / "out").write_text(json.dumps(record))
    assert not provenance(tmp_path / "out", a="1").begin()
    with pytest.raises(UserError, match="another content"):
        provenance(tmp_path / "out", a="1").begin(verify=True)
    with pytest.raises(UserError, match="another content"):
        output_of("ranked", tmp_path / "out", STEP, verify=True)


def derive(output: Path, *sources: Source) -> Provenance:
    made = Provenance(output, "index.py", sources)
    if made.begin():
        (output / "file").touch()
        made.complete()
    return made


def test_everything_agrees_on_what_it_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trajectories, index, maps = tmp_path / "trajectories", tmp_path / "index", tmp_path / "maps"
    make(trajectories, a="1")
    maps.mkdir()
    (maps / "map.csv").write_text("1")

    def sources(*names: str) -> list[Source]:
        makers = {
            "trajectories": lambda: output_of("trajectories", trajectories, STEP),
            "maps": lambda: content_of("maps", maps, is_ancestor=True),
            "index": lambda: output_of("index", index, "index.py", is_ancestor=False),
        }
        return [makers[name]() for name in names]

    derive(index, *sources("trajectories", "maps"))
    derive(tmp_path / "set", *sources("index", "trajectories"))
    record = read_record(folder_record(tmp_path / "set"))
    assert set(record["lineage"]) == {"a", "trajectories", "maps"} and set(record["inputs"]) == {"index", "trajectories"}
    old = output_of("set", tmp_path / "set", "set.py", is_ancestor=False)
    (maps / "map.csv").write_text("2")
    with pytest.raises(UserError, match=r"index: expected to be made from .*maps \(maps\).*python index.py --overwrite"):
        sources("index")
    (maps / "map.csv").write_text("1")
    assert provenance(trajectories, a="2").begin(overwrite=True)
    (trajectories / "part").write_text("text")
    provenance(trajectories, a="2").complete()
    with pytest.raises(UserError, match=r"index: expected to be made from .*trajectories \(trajectories\)"):
        sources("index")
    with pytest.raises(UserError, match="set: expected to be made from .*trajectories"):
        derive(tmp_path / "new", old, *sources("trajectories"))
    moved = tmp_path / "moved"
    (tmp_path / "index").rename(moved)  # what it was made from is no longer beside it in the same way: nothing to compare
    trajectories.rename(tmp_path / "elsewhere")
    assert output_of("index", moved, "index.py").digest


def test_an_output_can_be_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk/large").mkdir(parents=True)
    (tmp_path / "datas").mkdir()
    (tmp_path / "datas/trajectories").symlink_to(tmp_path / "disk/large")
    make(tmp_path / "datas/ranked", a="1")
    sources = [output_of("ranked", tmp_path / "datas/ranked", STEP)]
    made = Provenance(tmp_path / "datas/trajectories", "preprocess/combination.py", sources)
    assert made.begin()
    made.complete()
    assert provenance(tmp_path / "datas/ranked", a="2").begin(overwrite=True)
    provenance(tmp_path / "datas/ranked", a="2").complete()
    with pytest.raises(UserError, match="an output of an older version"):
        output_of("trajectories", tmp_path / "datas/trajectories", "preprocess/combination.py")


def test_an_older_input_that_is_no_ancestor_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a", a="1")
    derive(tmp_path / "b", output_of("index", tmp_path / "a", STEP, is_ancestor=False))
    provenance(tmp_path / "a", a="2").begin(overwrite=True)
    provenance(tmp_path / "a", a="2").complete()
    output_of("set", tmp_path / "b", "index.py")
    assert "older version" in capsys.readouterr().out


def test_what_has_no_record_is_of_unknown_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = output_of("trajectories", tmp_path, STEP)
    assert source.digest is None and capsys.readouterr().out.count("warning:") == 1
    derive(tmp_path / "b", source)
    derive(tmp_path / "b", source)


def test_inputs_that_nothing_was_made_from_may_change(tmp_path: Path) -> None:
    provenance(tmp_path, a="1", b="1").begin()
    (tmp_path / "part").touch()
    with pytest.raises(UserError, match="the same a as"):
        provenance(tmp_path, a="2", b="2").begin(unread=["b"])
    provenance(tmp_path, a="1", b="2").begin(unread=["b"])
    assert read_json(folder_record(tmp_path))["inputs"]["b"]["digest"] == "2"
    provenance(tmp_path, a="1", b="2").complete()
    with pytest.raises(UserError, match="the same b as"):
        provenance(tmp_path, a="1", b="3").begin(unread=["b"])


def test_files_of_unknown_origin_are_not_mixed_with_outputs(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    provenance(tmp_path / "empty").begin()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="--output_path"):
            provenance(tmp_path / "used").begin(overwrite)
    path = tmp_path / "set.csv"
    record = Provenance(path, "sample.py", is_file=True)
    assert record.path.name == "set.provenance.json"
    path.touch()
    with pytest.raises(UserError, match="--overwrite"):
        record.begin()
    assert record.begin(overwrite=True) and not path.exists()
    path.touch()
    (tmp_path / "set.audit.csv").touch()
    record.complete(files=[path, tmp_path / "set.audit.csv"])
    assert not record.begin()
    (tmp_path / "set.audit.csv").unlink()
    with pytest.raises(UserError, match="set.audit.csv"):
        record.begin()


def test_overwrite_keeps_the_outputs_of_other_steps_inside(tmp_path: Path) -> None:
    make(tmp_path, a="1")
    make(tmp_path / "folder/inside", a="1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "set.csv").touch()
    (tmp_path / "set.audit.csv").touch()
    beside = Provenance(tmp_path / "set.csv", "sample.py", is_file=True)
    beside.complete(files=[tmp_path / "set.csv", tmp_path / "set.audit.csv"])
    assert provenance(tmp_path, a="1").begin(overwrite=True)
    assert not (tmp_path / "part").exists() and not (tmp_path / "empty").exists()
    assert (tmp_path / "folder/inside/part").exists() and not beside.begin()
    assert not provenance(tmp_path / "folder/inside", a="1").begin()


def test_overwrite_removes_nothing_that_another_step_or_person_made(tmp_path: Path) -> None:
    make(tmp_path, a="1")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"output of combination.py, got one of preprocess/rank.py. Choose another"):
            Provenance(tmp_path, "combination.py").begin(overwrite)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/thesis.tex").touch()
    with pytest.raises(UserError, match=r"1 other files \(notes/thesis.tex\). Move them"):
        provenance(tmp_path, a="2").begin(overwrite=True)
    assert (tmp_path / "part").exists() and (tmp_path / "notes/thesis.tex").exists()


def test_an_output_is_no_input_and_no_part_of_another_output(tmp_path: Path) -> None:
    made = make(tmp_path / "index", a="1")
    patients = tmp_path / "patients.csv"
    patients.touch()
    (tmp_path / "train.csv").touch()
    Provenance(patients, "split_patients.py", is_file=True).complete(files=[patients, tmp_path / "train.csv"])
    source = Source("patients", patients, "x", is_ancestor=False, by="patients")
    cases = (
        (tmp_path / "index", [], "a directory"),
        (tmp_path / "index/part", [], "a file of another output"),
        (tmp_path / "train.csv", [], "a file of another output"),
        (patients, [], "one of split_patients.py"),
        (patients, [source], "an input"),
    )
    for output, sources, got in cases:
        with pytest.raises(UserError, match=rf"output of sample.py, got {got}. Choose another"):
            Provenance(output, "sample.py", sources, is_file=True).begin(overwrite=True)
    assert patients.exists() and not made.begin()


def test_a_killed_overwrite_leaves_nothing_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, a="1")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.provenance._remove_output", killed)
        provenance(tmp_path, a="2").begin(overwrite=True)
    assert (tmp_path / "part").exists()
    assert provenance(tmp_path, a="2").begin() and not (tmp_path / "part").exists()


def test_records_of_version_0_1_are_another_step(tmp_path: Path) -> None:
    old = {"step": "rank", "rules": 1, "inputs": {"a": "1"}, "settings": {}, "complete": True, "digest": "x"}
    folder_record(tmp_path).write_text(json.dumps(old))
    with pytest.raises(UserError, match="step.*--overwrite"):
        provenance(tmp_path, a="1").begin()
    assert provenance(tmp_path, a="1").begin(overwrite=True)


def test_file_digests_are_those_of_the_content(tmp_path: Path) -> None:
    path, cache = tmp_path / "table.csv", tmp_path / "cache.json"
    path.write_text("abc")
    assert FileDigests(cache).of(path) == sha256_file(path)
    stamp = path.stat().st_mtime_ns
    path.write_text("abd")  # the same length
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert FileDigests(cache).of(path) == sha256_file(path)
    known = json.loads(cache.read_text())
    known[str(path.resolve())][-1] = "cached"
    cache.write_text(json.dumps(known))
    assert FileDigests(cache).of(path) == "cached", "an unchanged file is not read again"


# --- work

WORK = """
import functools, os, sys, time
from pathlib import Path
from pipeline.cli import run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.work import Unit, Workers, run_units

folder = Path(sys.argv[1])

def do(number, tick):
    with (folder / "log").open("a") as log:
        log.write(f"{number} {os.getpid()}\\n")
    event = folder / f"event-{number}"
    if event.exists():
        kind = event.read_text()
        if kind == "kill": event.unlink(); os.kill(os.getpid(), 9)
        if kind == "wait": time.sleep(60)
        if kind == "slow": time.sleep(1)
        if kind == "user error": raise UserError("table.csv: expected 2 columns, got 1.")
        if kind == "bug": raise ValueError("a bug")
        if kind == "full disk": raise OSError(28, "No space left on device", "out")
    time.sleep(0.02)
    with atomic_path(folder / f"unit-{number}") as path:
        path.write_text(str(number))
    tick(1)

def main():
    units = [Unit(f"{i}", (folder / f"unit-{i}").exists, functools.partial(do, i)) for i in range(12)]
    total = int(sys.argv[3]) or None
    workers = Workers(int(sys.argv[2]), *sys.argv[4:])
    run_units(units, folder / "locks", workers=workers, total=total, desc="work", unit="unit")

if __name__ == "__main__":
    run(main)
"""


@pytest.fixture
def work(tmp_path: Path):
    """Starts a command of 12 units in a directory; returns the process."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "out").mkdir()

    def start(num_workers: int, total: int = 0) -> subprocess.Popen[str]:
        line = [sys.executable, tmp_path / "work.py", tmp_path / "out", str(num_workers), str(total)]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)

    return start


def logged(folder: Path) -> list[int]:
    return sorted(int(line.split()[0]) for line in (folder / "log").read_text().splitlines())


def done_units(folder: Path) -> set[int]:
    return {int(path.read_text()) for path in folder.glob("unit-*")}


ALL = list(range(12))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_units_are_done_once(num_workers: int, tmp_path: Path, work) -> None:
    (tmp_path / "out" / "unit-5").write_text("5")
    process = work(num_workers, total=11)
    log = process.communicate()[1]
    assert process.returncode == 0, log
    assert done_units(tmp_path / "out") == set(ALL) and logged(tmp_path / "out") == [i for i in ALL if i != 5]
    assert "11.0/11.0" in log, "every worker advances the bar"
    assert work(num_workers).wait() == 0 and len(logged(tmp_path / "out")) == 11


def test_processes_share_units_and_take_over_those_of_a_killed_one(tmp_path: Path, work) -> None:
    (tmp_path / "out" / "event-3").write_text("kill")
    processes = [work(num_workers) for num_workers in (1, 1, 1)]
    assert sorted(process.wait() for process in processes) == [-signal.SIGKILL, 0, 0]
    assert logged(tmp_path / "out") == sorted([*ALL, 3]) and done_units(tmp_path / "out") == set(ALL)


def test_a_killed_worker_is_an_error_and_the_next_run_resumes(tmp_path: Path, work) -> None:
    (tmp_path / "out" / "event-3").write_text("kill")
    process = work(2)
    log = process.communicate()[1]
    assert process.returncode == 2 and "--num_workers" in log.splitlines()[-1] and "Traceback" not in log
    assert work(2).wait() == 0
    assert set(logged(tmp_path / "out")) == set(ALL) == done_units(tmp_path / "out")


@pytest.mark.parametrize(("event", "code"), [("kill", 2), ("user error", 2), ("bug", 1)])
def test_a_failure_ends_the_command_at_once(event: str, code: int, tmp_path: Path, work) -> None:
    (tmp_path / "out" / "event-0").write_text("wait")
    (tmp_path / "out" / "event-3").write_text(event)
    process, start = work(2), time.monotonic()
    assert process.wait() == code and time.monotonic() - start < 30, "no unit of another worker is waited for"


def test_a_full_disk_is_the_same_line_from_a_worker(tmp_path: Path, work) -> None:
    (tmp_path / "out" / "event-3").write_text("full disk")
    process = work(2)
    log = process.communicate()[1]
    assert process.returncode == 1 and "out: the disk is full" in log.splitlines()[-1] and "Traceback" not in log


@pytest.mark.parametrize("num_workers", [1, 2])
def test_errors_of_units(num_workers: int, tmp_path: Path, work) -> None:
    (tmp_path / "out" / "event-3").write_text("user error")
    process = work(num_workers)
    log = process.communicate()[1]
    assert process.returncode == 2 and log.splitlines()[-1] == "error: table.csv: expected 2 columns, got 1."
    assert "Traceback" not in log and 3 not in done_units(tmp_path / "out")
    (tmp_path / "out" / "event-3").write_text("bug")
    process = work(num_workers)
    log = process.communicate()[1]
    assert process.returncode == 1 and "in do" in log and "ValueError: a bug" in log, "the traceback of the worker"
    (tmp_path / "out" / "event-3").unlink()
    assert work(num_workers).wait() == 0 and done_units(tmp_path / "out") == set(ALL)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_command(stop: signal.Signals, tmp_path: Path, work) -> None:
    for number in ALL:
        (tmp_path / "out" / f"event-{number}").write_text("wait")
    process = work(2)
    log = tmp_path / "out" / "log"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
    assert len(workers) == 2 and process.pid not in workers
    if stop is signal.SIGINT:
        os.killpg(process.pid, stop)  # as a terminal sends Ctrl-C
    else:
        process.send_signal(stop)
    error = process.communicate()[1]
    assert process.returncode == (130 if stop is signal.SIGINT else -stop) and "Traceback" not in error
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, "a worker is still running"
        time.sleep(0.02)


MAP_LINES = """
import json, os, sys
from pathlib import Path
from pipeline.cli import run
from pipeline.errors import UserError
from pipeline.work import Workers, map_lines

def compute(part):
    if part == int(sys.argv[3]): raise UserError("part: expected another one.")
    for number in range(part):
        yield {"part": part, "text": "é\\u2028\\n", "number": number}

def main():
    workers = Workers(int(sys.argv[2]))
    for line in map_lines(range(5), compute, Path(sys.argv[1]), "map", workers=workers, desc="map", unit="part"):
        print(json.dumps(line))

if __name__ == "__main__":
    run(main)
"""


def test_workers_share_the_cpus_that_the_command_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its SLURM job, not all of the machine."""
    monkeypatch.delenv("POLARS_MAX_THREADS", raising=False)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cpus() == 1
        with environment_of_workers(1):
            assert os.environ["POLARS_MAX_THREADS"] == "1"
    finally:
        os.sched_setaffinity(0, allowed)
    assert "POLARS_MAX_THREADS" not in os.environ


def test_mapped_lines_come_in_the_order_of_the_parts(tmp_path: Path) -> None:
    (tmp_path / "map.py").write_text(MAP_LINES)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}

    def mapped(num_workers: int, bad_part: int) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, tmp_path / "map.py", tmp_path / "scratch", str(num_workers), str(bad_part)]
        return subprocess.run(line, capture_output=True, text=True, env=environment)

    expected = [{"part": part, "text": "é\u2028\n", "number": number} for part in range(5) for number in range(part)]
    left = tmp_path / "scratch/.parts-map/4.jsonl"
    left.parent.mkdir(parents=True)
    left.write_text('{"part": "of a run that was killed"}\n')
    for num_workers in (1, 2):
        assert list(map(json.loads, mapped(num_workers, -1).stdout.splitlines())) == expected
        failed = mapped(num_workers, 3)
        assert failed.returncode == 2 and failed.stderr.splitlines()[-1] == "error: part: expected another one."
        assert list((tmp_path / "scratch").iterdir()) == [], "the temporary directory is removed"


# --- progress

values = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.just(0.25) | st.text("ab 1.%", max_size=200)
rows = st.integers(1, 5).flatmap(lambda n: st.lists(st.tuples(*[values] * n, st.text("words and more", max_size=300))))


@given(rows)
def test_tables_fit_the_terminal(rows: list[tuple]) -> None:
    headers = ["", *(f"column_{i}" for i in range(len(rows[0]) - 1 if rows else 2))]
    table = format_table(headers, rows).split("\n")
    assert all(len(line) <= TABLE_WIDTH for line in table)
    assert len(table) >= 2 + len(rows) and table[0].split() == headers[1:]


def test_any_wide_column_is_wrapped() -> None:
    table = format_table(["path", "a " * 60, "note"], [["x" * 200, 12345, "y " * 90], ["z", None, "short"]])
    assert max(map(len, table.split("\n"))) <= TABLE_WIDTH and "12,345" in table
    assert (table.count("x"), table.count("y"), table.count("a")) == (200, 90, 61)
