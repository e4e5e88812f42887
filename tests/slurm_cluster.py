"""A SLURM cluster of two nodes on this machine, for tests: Debian's slurm-wlm, with nodes that are namespaces of Linux.

Each node has its own host name, address, processes, /tmp/ray and /dev/shm, as machines have, and shares the rest of the disk
with the other. The cluster is in namespaces too, so that it needs no free port, and programs on it see none of this machine's
processes (`ray stop` stops all that it sees). Its first process ends when the input that it reads ends, and the kernel then
stops all others, also if the tests were killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPO

NAMESPACES = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", *NAMESPACES[:1])
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

CONTROLLER = """
set -e
cd {folder}
hostname controller
mount --bind hosts /etc/hosts
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/munge
(umask 077 && head -c 128 /dev/urandom > /run/munge/key)
munged --force --key-file=/run/munge/key --log-file=/run/munge/log --seed-file=/run/munge/seed
ip link set lo up
ip link add bridge type bridge
ip address add 198.18.0.254/24 dev bridge
ip link set bridge up
for number in {{0..7}}; do mknod gpu$number c 1 3; done
slurmctld
for number in 1 2; do
  ip netns add n$number
  ip link add n$number type veth peer name eth0 netns n$number
  ip link set n$number master bridge up
  nsenter --net=/run/netns/n$number unshare --uts --mount --pid --fork --mount-proc bash node.sh $number &
done
cat
"""
NODE = """
set -e
hostname n$1
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
ip address add 198.18.0.$1/24 dev eth0
ip link set eth0 up
slurmd -D -N n$1 &
wait
"""
HOSTS = "127.0.0.1 localhost\n198.18.0.254 controller\n198.18.0.1 n1\n198.18.0.2 n2\n"
# The nodes claim to be large, so that the scripts run with the resources that their headers ask for.
CONFIGURATION = """
ClusterName=test
SlurmctldHost=controller
AuthType=auth/munge
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU,CR_LLN
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
GresTypes=gpu
MpiDefault=none
KillWait=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/controller.pid
SlurmctldLogFile={folder}/controller.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool/%n
SlurmdLogFile={folder}/%n.log
NodeName=n[1-2] CPUs=64 RealMemory=1000000 Gres=gpu:8 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""
DEVICES = "Name=gpu File={folder}/gpu[0-7]\n"


@dataclass(frozen=True)
class Cluster:
    """A running cluster; jobs are submitted from the directory `work`, where their logs are."""

    pid: int  # of a process in its namespaces
    folder: Path
    work: Path

    def run(self, *words: object, check: bool = True, **env: str) -> str:
        """The output of a command on the controller."""
        line = ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", f"--wd={self.work}", *map(str, words)]
        settings = {"SLURM_CONF": str(self.folder / "slurm.conf"), "EHR_REPO": str(REPO), "OMP_NUM_THREADS": "1"}
        env = {**os.environ, **settings, **env}
        done = subprocess.run(line, env=env, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *words: object, **env: str) -> str:
        """Submit a job, `words` as given to sbatch; return its id."""
        return self.run("sbatch", "--parsable", *words, **env).strip()

    def tasks(self, job: str) -> list[dict[str, str]]:
        """What SLURM says of a job, or of each task of a job array."""
        text = self.run("scontrol", "show", "job", "-o", job)
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line]

    def wait(self, job: str, timeout: float = 900) -> list[dict[str, str]]:
        """Wait until all tasks of a job have ended; return what SLURM says of them."""
        end = time.monotonic() + timeout
        while any(task["JobState"] not in ENDED for task in self.tasks(job)):
            assert time.monotonic() < end, f"{self.tasks(job)}\n{self.logs()}"
            time.sleep(0.2)
        return self.tasks(job)

    def complete(self, job: str) -> set[str]:
        """Wait for a job, which must succeed; return the nodes it ran on."""
        tasks = self.wait(job)
        assert all(task["JobState"] == "COMPLETED" for task in tasks), f"{tasks}\n{self.logs()}"
        return {task["NodeList"] for task in tasks}

    def crash(self, node: int) -> None:
        """End all processes of a node at once. It does not come back."""
        command = f"bash\0node.sh\0{node}\0".encode()  # its first process: the kernel stops the others
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # a process that ends meanwhile
                if (path / "cmdline").read_bytes() == command and (path / "cwd").readlink() == self.folder:
                    os.kill(int(path.name), signal.SIGKILL)

    def logs(self) -> str:
        """The ends of the logs of all jobs."""
        paths = sorted(self.work.glob("*.log"), key=os.path.getmtime)
        # Ray pads the titles of its processes, which it logs.
        texts = {path.name: re.sub('(?:"" )+', "", path.read_text(errors="replace")) for path in paths}
        return "\n".join(f"== {name}\n{text[-3000:]}" for name, text in texts.items())


def missing(commands: Sequence[str] = PROGRAMS) -> str:
    """Why there can be no cluster on this machine; nothing if there can be."""
    absent = [name for name in commands if not shutil.which(name)]
    if absent:
        return f"no {', '.join(absent)}: install slurm-wlm, munge and iproute2"
    if os.getuid() or subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "no SLURM nodes without the rights of root to make namespaces"
    return ""


@contextlib.contextmanager
def slurm_cluster(folder: Path, work: Path) -> Iterator[Cluster]:
    """A cluster whose files are in `folder` and whose jobs start in `work`; skips the test where there can be none."""
    if reason := missing():
        pytest.skip(reason)
    for name, text in {"hosts": HOSTS, "node.sh": NODE, "slurm.conf": CONFIGURATION, "gres.conf": DEVICES}.items():
        (folder / name).write_text(text.format(folder=folder) if name.endswith(".conf") else text)
    for name in ("state", "spool/n1", "spool/n2"):
        (folder / name).mkdir(parents=True)
    with (folder / "start.log").open("w") as log:
        line = [*NAMESPACES, "bash", "-c", CONTROLLER.format(folder=folder)]
        env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)
    try:
        cluster, end = Cluster(process.pid, folder, work), time.monotonic() + 30
        while cluster.run("sinfo", "--noheader", "--format=%T %D", check=False) != "idle 2\n":
            assert process.poll() is None and time.monotonic() < end, (folder / "start.log").read_text()
            time.sleep(0.2)
        yield cluster
    finally:
        process.stdin.close()
        process.wait()
