"""Compare runs with the published results: `python -m evaluation.published DIR [DIR …]` prints the differences.

The published results are macro F1 over the decision-making tasks and macro AUROC over the risk prediction tasks of all
samples of EHR-Bench (Liao et al., "EHR-R1: A Reasoning-Enhanced Foundational Language Model for Electronic Health Record
Analysis", 2025, arXiv:2510.25628). Of the paper's other tables and figures the values are not available here: `--experiment`
prints ours, those of the main table that apply to the same setting, and where to look up the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from evaluation.score import MACRO, TOO_FEW, main_metric
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import format_table


class Published(NamedTuple):
    """Macro averages of a model as fractions; None if not published."""

    decision_f1: float
    risk_auroc: float | None


PUBLISHED_TASKS = (24, 18)  # numbers of decision-making and risk prediction tasks that are averaged
PUBLISHED = {
    "Llama3.3-70B": Published(0.2758, 0.8251),
    "GPT-4o": Published(0.3155, None),
    "Qwen2.5-72B": Published(0.3535, 0.8234),
    "OpenBioLLM-70B": Published(0.1621, 0.7737),
    "Baichuan-M2-32B": Published(0.2108, 0.5689),
    "MedGemma-27B": Published(0.3157, 0.8061),
    "GPT-OSS-120B": Published(0.2365, 0.7516),
    "DeepSeek-R1": Published(0.2974, None),
    "Qwen3-235B": Published(0.3418, 0.8316),
    "EHR-R1-1.7B": Published(0.5528, 0.8860),
    "EHR-R1-8B": Published(0.6006, 0.9188),
    "EHR-R1-72B": Published(0.6744, 0.9328),
}


NOT_AVAILABLE = "not available"
TRAINED = {"Qwen3-1.7B": "EHR-R1-1.7B", "Qwen3-8B": "EHR-R1-8B", "Qwen2.5-72B": "EHR-R1-72B"}  # recipe → model of the paper


class Measured(NamedTuple):
    """A metric of a run: value, 95 % interval, and numbers of tasks, samples and, for risk tasks, samples with yes."""

    value: float | None = None
    interval: Sequence[float] | None = None
    tasks: int | None = None
    samples: int | None = None
    positives: int | None = None


def macro_average(result: Mapping[str, Any], suite: str, kind: str) -> Measured:
    """The macro average over the tasks of a suite and kind, from the content of result.json."""
    macro, metric = result["macro"].get(suite, {}), MACRO[kind]
    if metric not in macro:
        return Measured()
    positives = macro.get("risk_positives") if kind == "risk" else None
    return Measured(macro[metric], macro[f"{metric}_ci"], macro[f"{kind}_tasks"], macro.get(f"{kind}_n"), positives)


def task_metric(result: Mapping[str, Any], task: str) -> Measured:
    """The main metric of a task, from the content of result.json."""
    if task not in result["tasks"]:
        return Measured()
    values, metric = result["tasks"][task], main_metric(task)
    return Measured(values[metric], values[f"{metric}_ci"], 1, values["n"])


METRICS: dict[str, Callable[[Mapping[str, Any]], Measured]] = {
    "decision_f1": partial(macro_average, suite="paper", kind="decision"),
    "risk_auroc": partial(macro_average, suite="paper", kind="risk"),
    "ehrshot_auroc": partial(macro_average, suite="ehrshot", kind="risk"),
    "cdm_pathology accuracy": partial(task_metric, task="cdm_pathology"),
    "cdm_diagnoses f1": partial(task_metric, task="cdm_diagnoses"),
}
EHR_BENCH = ("decision_f1", "risk_auroc")
TASKS_OF = dict(zip(EHR_BENCH, PUBLISHED_TASKS, strict=True))


class Experiment(NamedTuple):
    """A table or figure of the paper.

    Attributes:
        metrics: what it compares, names in METRICS.
        comparable: metric → end of the names of the runs whose setting is that of the main table, so that `PUBLISHED` applies.
        look_up: which values are not available here, and where the paper has them.
    """

    metrics: Sequence[str]
    comparable: Mapping[str, str]
    look_up: str = ""


EXPERIMENTS = {
    "main": Experiment(EHR_BENCH, dict.fromkeys(EHR_BENCH, "")),
    "stages": Experiment(EHR_BENCH, dict.fromkeys(EHR_BENCH, "-stage3"), "the ablation of the training stages"),
    "reasoning": Experiment(
        EHR_BENCH, {"decision_f1": "-reasoning", "risk_auroc": "-direct"}, "the comparison of reasoning with direct answers"
    ),
    "ehrshot": Experiment(
        ["ehrshot_auroc"], {}, 'the results on EHRSHOT (the abstract: "a 10% higher zero-shot AUROC on EHRSHOT")'
    ),
    "cdm": Experiment(["cdm_pathology accuracy", "cdm_diagnoses f1"], {}, "the results on MIMIC-IV-CDM"),
}


def published_name(model: str) -> str | None:
    """The name of a model in the paper; None if the paper does not have it.

    >>> published_name("meta-llama/Llama-3.3-70B-Instruct"), published_name("./models/ehr-r1-1.7b"), published_name("gpt2")
    ('Llama3.3-70B', 'EHR-R1-1.7B', None)
    """
    normalised = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in (model, *PUBLISHED)}
    return max((name for name in PUBLISHED if normalised[name] in normalised[model]), key=len, default=None)


def compare_with_published(results: Mapping[str, Mapping[str, Any]], experiment: str = "main") -> str:
    """A table of the runs of an experiment of `EXPERIMENTS`, from directory → content of result.json.

    A row has the value of a metric with its interval, the published value and, if the run has all tasks that the published
    value is a mean of, the difference. Values that the paper has but that are not available here are listed below the table.
    """
    about, rows = EXPERIMENTS[experiment], []
    folders = {path: Path(path).absolute().name for path in results}
    repeated = {name for name, number in Counter(folders.values()).items() if number > 1}
    for path, result in results.items():
        folder = folders[path]
        model = result.get("arguments", {}).get("model_name_or_path", folder)
        name = published_name(model) or published_name(folder)
        if experiment == "stages":
            name = TRAINED.get(folder.rpartition("-")[0])
        for metric in about.metrics:
            measured = METRICS[metric](result)
            comparable = name is not None and metric in about.comparable and folder.endswith(about.comparable[metric])
            published = getattr(PUBLISHED[name], metric) if comparable else None
            label = run_label(path if folder in repeated else folder, name, experiment)
            rows.append([label, metric, *compared(measured, published, TASKS_OF.get(metric), about)])
    headers = ("run", "metric", "value", "95 % interval", "published", "difference", "tasks", "n", "yes")
    table = format_table(headers, rows)
    if any(published not in (None, NOT_AVAILABLE) and not difference for *_, published, difference, _, _, _ in rows):
        table += "\nno difference: the published value is a mean over more tasks"
    if about.look_up:
        table += f"\n{NOT_AVAILABLE}: {about.look_up}. Look them up in the paper: https://arxiv.org/abs/2510.25628"
    return table


def run_label(folder: str, name: str | None, experiment: str) -> str:
    """How a run is called: its directory, and the name of its model in the paper."""
    if name is None:
        return f"{folder} (not in the paper)" if experiment == "main" else folder
    return f"{folder} ({name})"


def compared(measured: Measured, published: float | None, of_tasks: int | None, about: Experiment) -> list[str | int | None]:
    """The cells of a metric of a run: value, interval, published value, difference and sizes.

    A mean over fewer than the `of_tasks` tasks of a published mean has no difference: tasks differ by more than models.
    """
    value, ci, tasks, *sizes = measured
    interval = None if value is None else f"[{ci[0]:.4f}, {ci[1]:.4f}]" if ci else TOO_FEW
    is_complete = of_tasks is None or tasks == of_tasks
    difference = f"{value - published:+.4f}" if None not in (value, published) and is_complete else None
    missing = NOT_AVAILABLE if about.look_up else None
    cells = (
        None if value is None else f"{value:.4f}",
        interval,
        missing if published is None else f"{published:.4f}",
        difference,
    )
    return [*cells, tasks if of_tasks is None or tasks is None else f"{tasks} of {of_tasks}", *sizes]


def read_result(path: Path) -> dict[str, Any]:
    """The content of a result.json, or an error if it is another file."""
    result = read_json(path)
    if not isinstance(result, dict) or not {"tasks", "macro"} <= result.keys():
        fix = f"Score the run: python -m evaluation.score {path.parent}"
        raise UserError(f"{path}: expected a result of evaluation.score, got other JSON. {fix}.")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="directory of a run, with result.json")
    help_text = "table of the paper: %(choices)s (main)"
    cli.add_argument("--experiment", default="main", choices=tuple(EXPERIMENTS), metavar="NAME", help=help_text)
    args = cli.parse_args(argv)
    fix = "run test.py, or python -m evaluation.score, on it first"
    results = {str(path): read_result(require(path / "result.json", "a result", fix)) for path in args.dirs}
    print(compare_with_published(results, args.experiment))


if __name__ == "__main__":
    run(main)
