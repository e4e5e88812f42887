"""Commands on a Ray cluster of two nodes: the same bytes and lines as on one machine, whatever is killed."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPO, command
from test_evaluation_cli import flags as evaluation_flags
from test_evaluation_cli import lines, whole  # noqa: F401  a fixture
from test_evidence import built, flags  # noqa: F401  a fixture
from test_pipeline import ALL, WORK, done_units, is_alive, logged
from test_resume import STEPS, digests
from tiny_omop import tables, write_omop

from pipeline.errors import UserError
from pipeline.work import Workers

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")

pytestmark = pytest.mark.xdist_group("ray")  # one cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
RAY = ("--engine", "ray", "--num_workers", "2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A cluster of two nodes with a CPU each, whose address is in $RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise on or off with the token of another test in the home directory
        head = {**NODE, "include_dashboard": False, "_system_config": HEALTH}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**NODE)
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def work(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Starts the 12 units of `test_pipeline.WORK` on the cluster; returns the process."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "out").mkdir()

    def start() -> subprocess.Popen[str]:
        line = [sys.executable, tmp_path / "work.py", tmp_path / "out", "2", "11", "ray"]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(line, env=environment, start_new_session=True, **pipes)

    return start


def wait_for_units(folder: Path, number: int, process: subprocess.Popen[str]) -> set[int]:
    """Wait until a number of units has begun; the processes that did them."""
    deadline, log = time.monotonic() + 120, folder / "log"
    while not log.exists() or len(log.read_text().splitlines()) < number:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)
    return {int(line.split()[1]) for line in log.read_text().splitlines()}


@pytest.mark.slow
def test_every_step_writes_the_bytes_of_one_process(small_root: Path, cluster, tmp_path: Path) -> None:
    (tmp_path / "mimiciv").symlink_to(small_root / "mimiciv")
    (tmp_path / "one").mkdir()
    (tmp_path / "one/mimiciv").symlink_to(small_root / "mimiciv")
    for script, (output, options) in STEPS.items():
        command(script, "--root_dir", tmp_path / "one", *options)
        done = command(script, "--root_dir", tmp_path, *options, *RAY)
        assert digests(tmp_path / output) == digests(tmp_path / "one" / output)
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_concepts_and_evidence_have_the_bytes_of_one_process(
    synthetic_root: Path,
    built: Path,  # noqa: F811
    cluster,
    tmp_path: Path,
) -> None:
    place = "thinking_graph_preprocess"
    index = ("--data_index_dir", built / "by_patient")
    command(
        f"{place}/concept_extraction.py", "--root_dir", synthetic_root, "--output_path", tmp_path / "concepts", *index, *RAY
    )
    assert digests(tmp_path / "concepts") == digests(built / "concepts")
    for name, workers in (("one", ()), ("two", RAY)):
        command(f"{place}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / name / "out.csv", *workers))
    assert (tmp_path / "one/out.csv").read_bytes() == (tmp_path / "two/out.csv").read_bytes()


@pytest.mark.slow
def test_omop_has_the_bytes_of_one_process(cluster, tmp_path: Path) -> None:
    omop, site = write_omop(tmp_path / "omop", tables(6)), REPO / "scripts/sites/omop.yaml"
    for name, workers in (("one", ()), ("ray", RAY)):
        more = ("--site", site, "--buckets", 3, "--root_dir", tmp_path / name)
        done = command("preprocess/from_omop.py", "--omop_dir", omop, *more, *workers)
        assert "Traceback" not in done.stderr
    for output in ("patients", "patients_ehr", "index_mapping"):
        assert digests(tmp_path / "one" / output) == digests(tmp_path / "ray" / output) != {}


@pytest.mark.slow
def test_a_cluster_of_one_machine_has_the_cpus_that_the_command_may_use(tmp_path: Path) -> None:
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pipeline.ray_engine import connect, ray
connect()
from ray._common.usage.usage_lib import usage_stats_enabled
print(int(ray.cluster_resources()["CPU"]), usage_stats_enabled())
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED")}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=environment | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"], "and no usage statistics"


@pytest.mark.slow
def test_a_killed_node_is_not_noticed_in_the_output(cluster, tmp_path: Path, work) -> None:
    for number in ALL:
        (tmp_path / "out" / f"event-{number}").write_text("slow")
    process = work()
    wait_for_units(tmp_path / "out", 4, process)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    printed, log = process.communicate(timeout=120)
    cluster.add_node(**NODE)
    assert process.returncode == 0 and done_units(tmp_path / "out") == set(ALL), log
    assert printed == f"warning: {platform.node()}: this machine has left the Ray cluster. Others do its unfinished units.\n"
    assert len(logged(tmp_path / "out")) <= 13, "no unit is done again but that of the killed node"


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_units_end_with_the_command_and_the_next_run_resumes(stop: signal.Signals, cluster, tmp_path: Path, work) -> None:
    for number in (3, 4, 5):
        (tmp_path / "out" / f"event-{number}").write_text("wait")
    process = work()
    workers = wait_for_units(tmp_path / "out", 5, process)
    process.send_signal(stop)
    error = process.communicate()[1]
    assert process.returncode == (130 if stop is signal.SIGINT else -stop) and "Traceback" not in error
    deadline = time.monotonic() + 60
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, "a unit is still worked on"
        time.sleep(0.1)
    for number in (3, 4, 5):
        (tmp_path / "out" / f"event-{number}").unlink()
    process = work()
    assert process.communicate()[1] and process.returncode == 0 and done_units(tmp_path / "out") == set(ALL)
    assert len(logged(tmp_path / "out")) == 14, "only the two units that were interrupted are done again"


@pytest.mark.slow
def test_errors_are_those_of_one_machine(cluster, tmp_path: Path, work) -> None:
    for event, code, message in (
        ("user error", 2, "error: table.csv: expected 2 columns, got 1."),
        ("full disk", 1, "error: out: the disk is full. Free some space and run the same command again to resume."),
        ("bug", 1, "RuntimeError: a process of the Ray cluster failed"),
    ):
        (tmp_path / "out" / "event-3").write_text(event)
        process = work()
        log = process.communicate()[1]
        assert process.returncode == code and log.splitlines()[-1] == message, log
        assert ("ValueError: a bug" in log) == ("Traceback" in log) == (event == "bug"), "the traceback of a bug only"
    assert logged(tmp_path / "out").count(3) == 3, "an error is not tried again"
    for path in (tmp_path / "out").glob("unit-*"):
        path.unlink()  # a single unit that is left would be done by the command itself
    (tmp_path / "out" / "event-3").write_text("kill")  # once: the process, not the unit
    process = work()
    log = process.communicate()[1]
    assert process.returncode == 0 and done_units(tmp_path / "out") == set(ALL), log


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["nothing", "node", "command"])
def test_replicas_answer_as_one_process_does(
    killed: str,
    whole: Path,  # noqa: F811
    small_root: Path,
    tiny_model: Path,
    cluster,
    tmp_path: Path,
) -> None:
    words = evaluation_flags(small_root, tiny_model, tmp_path, "--engine", "ray", "--data_parallel_size", 2)
    script = [sys.executable, str(REPO / "test.py"), *map(str, words)]
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    outputs = tmp_path / "outputs.jsonl"
    while killed != "nothing" and (not outputs.exists() or len(outputs.read_text().splitlines()) < 4):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    if killed == "node":
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        cluster.add_node(**NODE)
    if killed == "command":
        process.kill()
        assert process.wait() == -signal.SIGKILL
        answered = len(lines(tmp_path))
        assert answered < 70, "the command had finished"
        resumed = command("test.py", *words, "--resume").stdout
        assert f"{70 - answered} samples answered, {answered} already finished" in resumed
    else:
        log = process.communicate(timeout=300)[0]
        assert process.returncode == 0 and "70 samples answered, 0 already finished" in log, log
    one, other = lines(whole), lines(tmp_path)
    assert set(one) == set(other) and list(tmp_path.glob("outputs*")) == [outputs]
    for key, line in one.items():
        probabilities = [line["outputs"][0].pop("p_yes"), other[key]["outputs"][0].pop("p_yes")]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-6)
        for volatile in ("seconds", "made_from_sha256"):
            line.pop(volatile), other[key].pop(volatile)
        masses = [line["outputs"][0].pop("yes_no_mass"), other[key]["outputs"][0].pop("yes_no_mass")]
        assert masses[0] == pytest.approx(masses[1], abs=1e-6)
        scores = [line.pop("score"), other[key].pop("score")]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6) and line == other[key]


def test_ray_that_is_missing_or_does_not_answer_is_one_line(work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    process = work()
    log = process.communicate()[1].splitlines()
    assert process.returncode == 2 and log[-1].startswith("error: RAY_ADDRESS: expected the address of a Ray cluster, got")
    monkeypatch.setattr("pipeline.work.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install -r requirements-ray.txt"):
        Workers(2, "ray")


def test_what_cannot_work_on_a_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference import ray_replicas
    from inference.settings import InferenceSettings, ModelSettings

    words = evaluation_flags(tmp_path, tmp_path, tmp_path, "--engine", "ray", "--chunk_num", 2)
    refused = command("test.py", *words, check=False)
    assert refused.returncode == 2 and "--engine ray: expected neither --chunk_num" in refused.stderr
    monkeypatch.setattr(ray_replicas, "gpus_of_cluster", lambda: [4, 1, 3])  # of each machine
    settings = InferenceSettings(ModelSettings("model", tensor_parallel_size=2))
    replica = ray_replicas.Replica(settings, tmp_path, "index.csv", num_workers=0, line_of=lambda prompt, replies: None)
    with pytest.raises(UserError, match="expected 4 times 2 GPUs, each on one machine of the Ray cluster, got room for 3"):
        ray_replicas.answer_on_ray([["a"], ["b"], ["c"], ["d"]], replica, write=print, bar=None)
