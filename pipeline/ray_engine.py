"""Units of work as tasks of a Ray cluster (`--engine ray`); see `pipeline.work`.

The machines of the cluster share the checkout, its Python environment and all data under the same paths. Through Ray pass the
units, which say what to do, and counts for the progress bar: records go from file to file, as with processes of one machine.
A task takes the lock of its unit and checks again that it is not done. Ray runs a task again if its machine or process dies,
not if it fails: errors end the command as they do on one machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.work import POLL_SECONDS, Unit, do_unit, usable_cpus

# What Ray prints for a command, read when Ray is imported: what units print, as it is, but not pages of its own logs when a
# machine dies, of which a warning tells here.
os.environ["RAY_DISABLE_WORKER_LOG_PREFIX"] = "1"
os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "^(Raylet is terminated|The node with node id|Task _do failed|The autoscaler failed)"

import ray
from ray.exceptions import RayError, RayTaskError

REPOSITORY = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"(?P<host>[^/]+):(?P<port>\d+)")
CONNECT_SECONDS = 10
RETRIES = 3  # of a unit whose machine or process died
STORE_BYTES = 200 << 20  # object store of a cluster that is started here: it holds no records
SEEN_SECONDS = 90  # NFS clients cache for up to a minute that a file does not exist


def connect() -> None:
    """Connect this process to the cluster of $RAY_ADDRESS, or to one of this machine that ends with the process."""
    if ray.is_initialized():
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = os.environ.get("RAY_ADDRESS")
    # Workers import this checkout, and use the one processor that Ray counts for them.
    variables = {"PYTHONPATH": str(REPOSITORY), "POLARS_MAX_THREADS": os.environ.get("POLARS_MAX_THREADS", "1")}
    local = {"num_cpus": usable_cpus(), "include_dashboard": False, "object_store_memory": STORE_BYTES} if not address else {}
    try:
        if port := ADDRESS.fullmatch(address or ""):
            socket.create_connection((port["host"], int(port["port"])), CONNECT_SECONDS).close()  # Ray would try for minutes
        ray.init(address or "local", runtime_env={"env_vars": variables}, logging_level=logging.ERROR, **local)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        if not address:
            raise
        got, fix = (
            f"{address}: {' '.join(str(error).split()).rstrip('.')}",
            "Start one (ray start --head), or unset RAY_ADDRESS",
        )
        raise UserError(f"RAY_ADDRESS: expected the address of a Ray cluster, got {got}. {fix}.") from None


def run_on_ray(units: Sequence[Unit], locks: Path, number: int | None, bar: Any) -> None:
    """Do units on the cluster, at most `number` at a time (None: one for each CPU); errors are those of `run_units`."""
    connect()
    # The units are stored once, not with each task: they may share an object with the identifiers of all patients.
    stored = ray.put((surroundings(), pickle.dumps((list(units), locks))))
    waiting, running, machines = deque(range(len(units))), {}, {}
    try:
        while waiting or running:
            machines = _machines(machines)
            limit = number or max(1, int(ray.cluster_resources().get("CPU", 1)))  # machines come and go
            while waiting and len(running) < limit:
                position = waiting.popleft()
                running[_do.remote([stored], position)] = position  # in a list, so that Ray passes the reference
            for task in ray.wait(list(running), timeout=POLL_SECONDS)[0]:
                ticks, position = ray.get(task), running.pop(task)
                if ticks is None:
                    waiting.append(position)
                else:
                    bar.update(ticks)
    except RayTaskError as error:
        raise explained(error) from RuntimeError(str(error))
    except RayError as error:
        got = f"one whose process died {RETRIES + 1} times ({type(error).__name__}; out of memory?)"
        fix = "Run the same command again with fewer of them at a time (--num_workers)"
        raise UserError(f"--engine ray: expected all units to be done, got {got}. {fix}.") from None
    finally:
        for task in running:
            # With `force`, Ray 2.60 can abort this process if a task ends at the same time, which would hide the error.
            ray.cancel(task, force=isinstance(sys.exception(), KeyboardInterrupt))
        ray.wait(list(running), num_returns=len(running), timeout=SEEN_SECONDS) if running else None
    _wait_for(units, locks)


def _machines(before: Mapping[str, str]) -> dict[str, str]:
    """The names of the machines of the cluster, by their ids; warns of each of those `before` that is not there now."""
    machines = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    for name in [name for node, name in before.items() if node not in machines]:
        print(f"warning: {name}: this machine has left the Ray cluster. Others do its unfinished units.", flush=True)
    return machines


def _wait_for(units: Sequence[Unit], locks: Path) -> None:
    """Wait until this machine sees all outputs, which the next steps read."""
    deadline = time.monotonic() + SEEN_SECONDS
    while not all(unit.done() for unit in units):
        if time.monotonic() > deadline:
            got = "outputs that this one does not see"
            raise UserError(f"{locks.parent}: expected storage that all machines of the Ray cluster share, got {got}.")
        time.sleep(POLL_SECONDS)


def surroundings() -> dict[str, Any]:
    """What unpickling and the units need of this process, as in worker processes of one machine."""
    names = ("sys_path", "sys_argv", "dir", "init_main_from_name", "init_main_from_path")  # without keys, and options of logs
    return {name: value for name, value in spawn.get_preparation_data("").items() if name in names}


def enter(home: dict[str, Any]) -> None:
    """Give a process of the cluster the `surroundings` of the command."""
    if not Path(home["dir"]).is_dir():
        got = f"none on {platform.node()}"
        raise UserError(f"{home['dir']}: expected a directory that all machines of the Ray cluster share, got {got}.")
    spawn.prepare(home)


def explained(error: RayTaskError) -> Exception:
    """The error of a task as a command raises it."""
    is_known = isinstance(error.cause, UserError | OSError | ImportError)  # those that `pipeline.cli.run` may explain
    return error.cause if is_known else RuntimeError("a process of the Ray cluster failed")


@lru_cache(maxsize=1)  # a process of the cluster does many units of the same list
def _load(stored: ray.ObjectRef) -> tuple[list[Unit], Path]:
    home, pickled = ray.get(stored)
    enter(home)
    return pickle.loads(pickled)  # noqa: S301  written by `run_on_ray`


@ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
def _do(stored: list[ray.ObjectRef], position: int) -> int | None:
    """Do a unit; returns how far it advanced the progress bar, or None if another command is doing it."""
    units, locks = _load(stored[0])
    ticks: list[int] = []
    return sum(ticks) if do_unit(units[position], locks, ticks.append, POLL_SECONDS) else None
