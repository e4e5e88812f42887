"""The task index by 1, 2 … workers of a Ray cluster, and by processes: time, speed-up, and whether the bytes are the same.

Starts a cluster of one node per worker on this machine, each with one CPU; start-up of Ray is part of the time of a command.
Needs trajectories and dictionaries below --root_dir. Unknown flags are passed to task_sample_info_gen.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.progress import print_table
from pipeline.work import Workers, usable_cpus

REPO = Path(__file__).resolve().parent.parent
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--workers", type=at_least(1), nargs="+", default=[1, 2], help="numbers of workers (1 2)")
    args, flags = cli.parse_known_args(argv)
    runs = [Workers(number, engine) for engine in ("processes", "ray") for number in args.workers]
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    for _ in range(max(args.workers) - 1):
        cluster.add_node(**NODE)
    rows, first = [], {}
    try:
        for workers in runs:
            seconds, digest = measure(["--root_dir", str(args.root_dir), *flags], workers, cluster.address)
            base, expected = first.setdefault(workers.engine, seconds), first.setdefault("digest", digest)
            same = "yes" if digest == expected else "no"
            rows.append([workers.engine, workers.number, f"{seconds:.0f}", f"{base / seconds:.2f}", same])
    finally:
        cluster.shutdown()
    print(f"{usable_cpus()} cores")
    print_table(["--engine", "--num_workers", "seconds", "speed-up", "same bytes"], rows)


def measure(flags: Sequence[str], workers: Workers, address: str) -> tuple[float, str]:
    """Seconds of the command, and a digest of the index."""
    with tempfile.TemporaryDirectory() as folder:
        script = REPO / "mimiciv_dataset/task_sample_info_gen.py"
        line = [sys.executable, script, *flags, "--output_path", folder, *workers.flags]
        start = time.monotonic()
        done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "RAY_ADDRESS": address})
        if done.returncode:
            raise UserError(f"{script}: expected exit code 0, got {done.returncode}: {done.stderr.splitlines()[-1]}")
        seconds, digest = time.monotonic() - start, hashlib.sha256()
        for path in sorted(Path(folder).glob("*.csv")):
            digest.update(path.read_bytes())
        return seconds, digest.hexdigest()


if __name__ == "__main__":
    run(main)
