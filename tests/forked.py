"""Scripts in new processes that are forked from one which has imported torch, Transformers, TRL and vLLM already.

These imports take 5 to 12 CPU seconds, which the slow tests would otherwise spend hundreds of times. Our own modules are not
among them. What needs a process of its own from the start uses `conftest.command`: launchers, and variables that libraries
read while they are imported. The commands of the documentation are such processes as well.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from conftest import REPO

PRELOADED = [  # those that are not installed are passed over
    "transformers.models.qwen3.modeling_qwen3",
    "trl.trainer.sft_trainer",
    "trl.trainer.grpo_trainer",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.worker.gpu_model_runner",  # the CPU's as well
]
# torch.compile would spend 2 CPU seconds in each process of vLLM, on functions of its sampler.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}


def become(script: Path | str, args: Sequence[str], cwd: Path | str, env: Mapping[str, str], outputs: Sequence[Path]) -> None:
    """Make this process what `python script args` is, or `python -m script args` if it is no path, and run it."""
    for number, path in enumerate((os.devnull, *outputs)):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    gc.freeze()  # vLLM collects garbage several times: not among what was imported
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [str(script), *args]
    if isinstance(script, str):
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")


def start(
    script: Path | str, args: Sequence[object], cwd: Path | str, env: Mapping[str, str], stdout: Path, stderr: Path
) -> BaseProcess:
    """Start a script or a module; its output is appended to existing files."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    env = {**os.environ, **ENVIRONMENT, **env}
    process = context.Process(target=become, args=(script, [*map(str, args)], cwd, env, (stdout, stderr)))
    process.start()
    return process


def command(
    script: str, *args: object, check: bool = True, cwd: Path | str = "/", **env: str
) -> subprocess.CompletedProcess[str]:
    """As `conftest.command`, but forked."""
    with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
        process = start(REPO / script, args, cwd, env, Path(stdout.name), Path(stderr.name))
        process.join()
        done = subprocess.CompletedProcess([script, *args], process.exitcode, stdout.read(), stderr.read())
        process.close()
    if check and done.returncode:
        raise AssertionError(f"{script} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done
