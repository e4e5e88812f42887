"""The scripts for SLURM under `sbatch`, on a cluster of two nodes that this module starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPO, command
from slurm_cluster import Cluster, slurm_cluster
from test_evaluation_cli import flags, lines, same
from test_pipeline import ALL, WORK, done_units, logged
from test_resume import STEPS, digests, whole  # noqa: F401  a fixture
from test_training_cli import losses, words
from test_training_samples import index_of

from pipeline.files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

ARRAY, TEST, TRAIN, RAY = (REPO / f"scripts/slurm/{name}.slurm" for name in ("array", "test_array", "train", "ray"))


WELL = {"PENDING", "RUNNING", "COMPLETING", "COMPLETED"}  # states of jobs


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "work").mkdir()
    with slurm_cluster(folder, folder / "work") as running:
        yield running


def wait_for(happened: Callable[[], bool], cluster: Cluster, job: str, timeout: float = 600) -> None:
    """Wait until something has happened while a job is running."""
    end = time.monotonic() + timeout
    while not happened():
        states = {task["JobState"] for task in cluster.tasks(job)}
        assert states <= WELL and time.monotonic() < end, f"{states}\n{cluster.logs()}"
        time.sleep(0.05)


def test_data_steps_as_arrays(cluster: Cluster, whole: Path, tmp_path: Path) -> None:  # noqa: F811
    """Two array tasks on two nodes share each step; the next step waits for them. The bytes are those of one process."""
    (tmp_path / "mimiciv").symlink_to(whole / "mimiciv")
    jobs: list[str] = []
    for script, (_, more) in STEPS.items():
        after = [f"--dependency=afterok:{jobs[-1]}"] if jobs else []
        size = ["--array=0-1", "--cpus-per-task=1"]
        jobs.append(cluster.submit(*after, *size, ARRAY, script, "--root_dir", tmp_path, *more))
    for job, (output, _) in zip(jobs, STEPS.values(), strict=True):
        assert cluster.complete(job) == {"n1", "n2"}
        assert digests(tmp_path / output) == digests(whole / output)


def test_a_data_step_under_ray_on_an_allocation(cluster: Cluster, whole: Path, tmp_path: Path) -> None:  # noqa: F811
    """Ray on both nodes of a job, brought up and stopped by the script; the job ends as its command does, with its output."""
    pytest.importorskip("ray")
    (tmp_path / "mimiciv").symlink_to(whole / "mimiciv")
    script, one_cpu = "preprocess/merge_patient.py", "--cpus-per-task=1"
    done = cluster.submit(one_cpu, RAY, script, "--root_dir", tmp_path, *STEPS[script][1])
    failed = cluster.submit("--nodes=1", one_cpu, RAY, "preprocess/rank.py", "--root_dir", tmp_path / "none")
    assert cluster.complete(done) == {"n[1-2]"}
    log = (cluster.work / f"ehr-ray-{done}-n2.log").read_text()
    assert "Ray runtime started" in log
    assert digests(tmp_path / STEPS[script][0]) == digests(whole / STEPS[script][0])
    (task,) = cluster.wait(failed)
    assert task["ExitCode"] == "2:0", "that of the command"
    (line,) = (cluster.work / f"ehr-ray-{failed}.log").read_text().splitlines()
    assert line.startswith(f"error: {tmp_path}/none/patients: expected the finished output of preprocess/merge_patient.py")


def test_wrong_submissions_are_one_line(cluster: Cluster, tmp_path: Path) -> None:
    jobs = {
        cluster.submit("--array=0", ARRAY): "error: expected a script of the repository and its flags, got none.",
        cluster.submit("--array=0", ARRAY, "preprocess/rank.py", "--root", "x"): "error: unknown flag --root. Did you mean",
        cluster.submit(RAY, "preprocess/no.py"): f"error: {REPO}/preprocess/no.py: expected a script of the repository, got",
    }
    for job, message in jobs.items():
        assert {task["ExitCode"] for task in cluster.wait(job)} == {"2:0"}
        (log,) = cluster.work.glob(f"*-{job}*.log")
        (line,) = log.read_text().splitlines()
        assert line.startswith(message)


def test_an_evaluation_array_with_a_killed_task(cluster: Cluster, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    def given(output: Path) -> list[object]:
        return flags(small_root, tiny_model, output, "--batch", 1, "--max_new_tokens", 32)

    output = tmp_path / "out"
    job = cluster.submit("--array=0-1", TEST, *given(output))
    killed = output / "outputs-1-of-2.jsonl"
    wait_for(lambda: killed.exists() and killed.stat().st_size > 0, cluster, job)
    cluster.run("scancel", f"{job}_1")
    states = {task["ArrayTaskId"]: task["JobState"] for task in cluster.wait(job)}
    assert states == {"0": "COMPLETED", "1": "CANCELLED"}, cluster.logs()
    before = len(lines(output))
    job = cluster.submit("--array=0-1", TEST, *given(output), "--resume")
    score = f"{REPO}/.venv/bin/python -m evaluation.score {output}"
    scored = cluster.submit(
        f"--dependency=afterok:{job}", f"--chdir={REPO}", f"--output={cluster.work}/score.log", "--wrap", score
    )
    assert cluster.complete(job) == {"n1", "n2"}
    cluster.complete(scored)
    command("test.py", *given(tmp_path / "once"))
    expected = lines(tmp_path / "once")
    assert before < len(expected)
    same(lines(output), expected)
    results, others = read_json(output / "result.json"), read_json(tmp_path / "once/result.json")
    assert results["missing"] == 0 and results["tasks"]["emar"]["f1"] == others["tasks"]["emar"]["f1"]


def test_training_on_two_nodes_resumes(cluster: Cluster, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    """One process a node under ZeRO-3, cancelled after a checkpoint and submitted again: the losses of one process."""
    data = index_of(small_root, tmp_path, "labevents", "LengthOfStay_3day", rows=12)

    def given(output: Path, batch: int) -> list[str]:
        steps = ("--max_steps", 24, "--save_strategy", "steps", "--save_steps", 4)
        return words(small_root, tiny_model, data, output, "--per_device_train_batch_size", batch, *steps)

    output, size = tmp_path / "out", ("--nodes=2", "--gpus-per-node=1")
    env = {"DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    job = cluster.submit(*size, TRAIN, "sft.py", *given(output, 4), **env)
    wait_for(lambda: (output / "checkpoint-4/trainer_state.json").exists(), cluster, job)
    cluster.run("scancel", job)
    assert [task["JobState"] for task in cluster.wait(job)] == ["CANCELLED"]
    assert not (output / "model.safetensors").exists()
    job = cluster.submit(*size, TRAIN, "sft.py", *given(output, 4), **env)
    assert cluster.complete(job) == {"n[1-2]"}
    log = (cluster.work / f"ehr-train-{job}.log").read_text()
    assert "24 steps of 8 samples" in log, log[-3000:]
    command("sft.py", *given(tmp_path / "once", 8), **env)
    assert losses(output) == pytest.approx(losses(tmp_path / "once"), rel=1e-3)


def test_a_node_that_crashes_under_ray(cluster: Cluster, tmp_path: Path) -> None:
    """The other node does its units, and the job ends well; the last test, because the node does not come back."""
    pytest.importorskip("ray")
    (tmp_path / "work.py").write_text(WORK.replace("*sys.argv[4:]", "sys.argv[-1]"))  # after --engine
    output = tmp_path / "out"
    output.mkdir()
    for number in ALL:
        (output / f"event-{number}").write_text("slow")
    soon = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
    words = ("--cpus-per-task=1", RAY, "-m", "work", output, 2, 0)
    job = cluster.submit(*words, PYTHONPATH=str(tmp_path), **soon)
    wait_for(lambda: (output / "log").exists() and len(logged(output)) >= 4, cluster, job)
    cluster.crash(2)
    wait_for(lambda: cluster.tasks(job)[0]["JobState"] in ("COMPLETING", "COMPLETED"), cluster, job)
    assert cluster.tasks(job)[0]["ExitCode"] == "0:0", cluster.logs()
    assert done_units(output) == set(ALL)
    assert len(logged(output)) <= 13, "no unit is done again but that of the node"
    printed = (cluster.work / f"ehr-ray-{job}.log").read_text()
    assert "warning: n2: this machine has left the Ray cluster. Others do its unfinished units.\n" in printed
    assert "raylet" not in printed, "nor any log of Ray"
