"""What the results of a run show, in words: `python -m evaluation.verdict DIR [DIR …]` prints it.

The run of the first DIR is judged. It is compared with the other runs, and with the baselines below the directories, on the
samples that both have. A difference is called significant only if its p is below 0.05 after Holm's correction
(`evaluation.comparisons`): over all comparisons of the means over tasks, and for single tasks over the tasks of a pair.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from evaluation.finished_runs import FinishedRun, RunComparison, compare_pairs, read_runs
from evaluation.score import main_metric, mean_over_tasks
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.cli import Parser, at_least, run
from pipeline.progress import counted

LEVEL = 0.05  # a difference with a smaller p after Holm's correction is significant
CHANCE = 0.5  # AUROC of random answers
MAJORITY = "majority"  # directory of the baseline that always gives the most frequent answers
KINDS = {"risk": ("risk prediction", "AUROC"), "decision": ("decision-making", "F1")}  # of tasks: name, metric in words


class Verdict(NamedTuple):
    """The conclusion in a few sentences, and the figures that it rests on, as texts of one or two sentences each."""

    sentence: str
    points: list[str]


class MeanComparison(NamedTuple):
    """The judged run against another one, by the mean of a metric over the tasks of a kind that both have.

    Attributes:
        num_tasks: number of tasks in the means.
        a, b: the means of the judged run and of the other one.
        ci: interval of a − b; None if a task has too few samples, and so is `p`.
        p: after Holm's correction over all comparisons of means in a verdict.
    """

    other: FinishedRun
    kind: str
    num_tasks: int
    a: float
    b: float
    ci: list[float] | None
    p: float | None

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < LEVEL


def verdict(judged: FinishedRun, comparisons: Sequence[RunComparison]) -> Verdict:
    """The conclusion about a run from its comparisons with other runs, in each of which it is `a`."""
    means = mean_comparisons(comparisons)
    valued = {kind: [task for task, values in judged.tasks.items() if has_value(kind, task, values)] for kind in KINDS}
    enough = {kind: [task for task in tasks if not judged.tasks[task]["too_few"]] for kind, tasks in valued.items()}
    number, num_enough = (sum(map(len, tasks.values())) for tasks in (valued, enough))
    if num_enough:
        kinds = [kind for kind, tasks in enough.items() if tasks]
        sentences = [conclusion(judged, kind, valued[kind], enough[kind], means, comparisons) for kind in kinds]
    else:
        sentences = [f"The samples are too few to conclude anything about {judged.name}: {needed()}."]
    without = [task for task, values in judged.tasks.items() if ALL_TASKS[task].kind == "risk" and without_p_yes(values)]
    if without:
        has = "has" if len(without) == 1 else "have"
        sentences.append(f"{counted(len(without), 'risk prediction task')} {has} no AUROC, as the replies are without p(yes).")
    if not comparisons:
        sentences.append("There is no other run and no baseline to compare it with.")
    if missing := judged.result.get("missing"):
        not_answered = f"{counted(missing, 'sample')} of {judged.name} {'is' if missing == 1 else 'are'} not answered yet"
        sentences.append(f"{not_answered}, so its figures are not final.")
    points = [mean_text(judged, kind, tasks, means) for kind, tasks in valued.items() if tasks]
    points += [text for kind, tasks in enough.items() if tasks and (text := by_task_text(kind, comparisons))]
    if 0 < num_enough < number:
        points.append(f"Too few samples for intervals and tests in {number - num_enough} of {number} tasks: {needed()}.")
    if short := [each for each in comparisons if not each.can_be_significant]:
        least = 40 * max(each.num_tests for each in short)
        points.append(f"Differences by task are not tested: that takes --resamples {least} or more.")
    return Verdict(" ".join(sentences), points)


def has_value(kind: str, task: str, values: Mapping[str, Any]) -> bool:
    """Whether a task is of this kind and its main metric is defined."""
    return ALL_TASKS[task].kind == kind and values.get(main_metric(task)) is not None


def without_p_yes(values: Mapping[str, Any]) -> bool:
    """Whether a risk task has no AUROC because its outputs have no p(yes)."""
    return values["auroc"] is None and "p_yes" in values.get("note", "")


def mean_comparisons(comparisons: Sequence[RunComparison]) -> list[MeanComparison]:
    """The comparisons of means, with Holm's correction over all of them."""
    from evaluation.comparisons import holm

    tested = [
        (each, kind, result) for each in comparisons for kind, result in each.macros.items() if result.difference is not None
    ]
    corrected = holm([result.p for _, _, result in tested])
    means = []
    for (each, kind, result), p in zip(tested, corrected, strict=True):
        values = [
            each.values[task]
            for task, of_task in each.tasks.items()
            if ALL_TASKS[task].kind == kind and of_task.difference is not None
        ]
        a, b = map(fmean, zip(*values, strict=True))
        means.append(MeanComparison(each.b, kind, len(values), a, b, result.ci, p))
    return means


def rivals(means: Sequence[MeanComparison]) -> list[MeanComparison]:
    """The comparisons with the best other model and with the best baseline."""
    groups = [[mean for mean in means if mean.other.baseline == baseline] for baseline in (False, True)]
    return [min(group, key=lambda mean: mean.a - mean.b) for group in groups if group]


# --- sentences


def needed() -> str:
    """How many samples intervals and tests take."""
    from evaluation.metrics import MIN_PATIENTS, MIN_PER_LABEL

    of_risk = f"a risk task {MIN_PER_LABEL} with yes and {MIN_PER_LABEL} with no"
    return f"each task takes at least {MIN_PATIENTS} patients, and {of_risk}"


def p_text(p: float) -> str:
    """A p-value after Holm's correction in words; small ones are a bound, since p is never 0.

    >>> p_text(0.0004), p_text(0.04)
    ('p < 0.001', 'p = 0.040')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def conclusion(
    judged: FinishedRun,
    kind: str,
    tasks: Sequence[str],
    enough: Sequence[str],
    means: Sequence[MeanComparison],
    comparisons: Sequence[RunComparison],
) -> str:
    """What the tasks of a kind show, in one to three sentences; `enough` are the `tasks` with enough samples."""
    name, metric = KINDS[kind]
    of_kind = [mean for mean in means if mean.kind == kind]
    value = fmean(judged.tasks[task][main_metric(task)] for task in tasks)
    num_few = len(tasks) - len(enough)
    few = f" ({num_few} with too few samples for tests)" if num_few else ""
    over = f"over {counted(len(tasks), 'task')}{few}"
    text = f"{name.capitalize()}: {judged.name} has a mean {metric} of {value:.3f} {over}{place(of_kind)}."
    text += relations(rivals(of_kind), value)
    parts = []  # in how many tasks something holds
    if kind == "risk":
        above = sum(judged.tasks[task]["auroc_ci"][0] > CHANCE for task in enough)
        parts.append(f"above chance (95 % interval above {CHANCE}) {share_of_tasks(above, len(enough))}")
    for comparison in comparisons:
        is_rival = any(mean.other is comparison.b and not mean.other.baseline for mean in rivals(of_kind))
        is_majority = comparison.b.baseline and comparison.b.folder.name == MAJORITY
        better, _, tested = significant_tasks(comparison, kind)
        if tested and (is_rival or (kind == "decision" and is_majority)):
            parts.append(f"significantly above that of {comparison.b.name} {share_of_tasks(better, tested)}")
    return text + (f" Its {metric} is {listed(parts)}." if parts else "")


def share_of_tasks(number: int, total: int) -> str:
    """In how many of the tasks something holds.

    >>> share_of_tasks(0, 3), share_of_tasks(2, 3), share_of_tasks(3, 3), share_of_tasks(1, 1)
    ('in none of 3 tasks', 'in 2 of 3 tasks', 'in all 3 tasks', 'in 1 of 1 task')
    """
    words = {0: "none of", total: "all"} if total > 1 else {}
    return f"in {words.get(number, f'{number} of')} {counted(total, 'task')}"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence with commas, and "and" before the last one.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def place(of_kind: Sequence[MeanComparison]) -> str:
    """The place of the judged run among all runs, if all differences could be tested and it is the first one."""
    is_best = of_kind and all(mean.p is not None and mean.a > mean.b for mean in of_kind)
    return f", the highest of {len(of_kind) + 1} compared" if is_best else ""


def relations(of_kind: Sequence[MeanComparison], value: float) -> str:
    """How the judged run, whose mean over its tasks is `value`, compares with others by a mean over tasks, as a sentence.

    Both means are given where they are over other tasks or samples than `value`. Empty without comparisons.
    """
    groups = {
        "significantly above": [mean for mean in of_kind if mean.significant and mean.a > mean.b],
        "significantly below": [mean for mean in of_kind if mean.significant and mean.a < mean.b],
        "not significantly different from": [mean for mean in of_kind if mean.p is not None and not mean.significant],
        "not testable against": [mean for mean in of_kind if mean.p is None],
    }
    parts = [f"{how} {listed([other_text(mean, value) for mean in group])}" for how, group in groups.items() if group]
    return f" This is {listed(parts)}." if parts else ""


def other_text(mean: MeanComparison, value: float) -> str:
    """The name of another run, with its mean and p."""
    shown = f"{mean.b:.3f}"
    if f"{mean.a:.3f}" != f"{value:.3f}":
        shown += f" against {mean.a:.3f} on the samples of both"
    return f"{mean.other.name} ({shown}, {'too few samples' if mean.p is None else p_text(mean.p)})"


def significant_tasks(comparison: RunComparison, kind: str) -> tuple[int, int, int]:
    """The numbers of tasks of a kind in which a is significantly better, significantly worse, and tested at all.

    None counts as tested if the resamples are too few for any to be significant.
    """
    if not comparison.can_be_significant:
        return 0, 0, 0
    tested = [each for task, each in comparison.tasks.items() if ALL_TASKS[task].kind == kind and each.p_holm is not None]
    significant = [each.difference for each in tested if each.p_holm < LEVEL]
    return sum(difference > 0 for difference in significant), sum(difference < 0 for difference in significant), len(tested)


def mean_text(judged: FinishedRun, kind: str, tasks: Sequence[str], means: Sequence[MeanComparison]) -> str:
    """The mean of a metric over tasks of the judged run, its place among all runs, and how it compares with each."""
    name, metric = KINDS[kind]
    value, ci = mean_over_tasks(
        [judged.tasks[task][main_metric(task)] for task in tasks], [judged.replicates.get(task) for task in tasks]
    )
    interval = f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else ""
    of_kind = [mean for mean in means if mean.kind == kind]
    number = f"over {counted(len(tasks), 'task')}"
    return f"{name.capitalize()}: mean {metric} {value:.3f}{interval} {number}{place(of_kind)}.{relations(of_kind, value)}"


def by_task_text(kind: str, comparisons: Sequence[RunComparison]) -> str:
    """In how many tasks the judged run is significantly above and below each other run; empty without tests."""
    parts = []
    for comparison in comparisons:
        better, worse, tested = significant_tasks(comparison, kind)
        if tested:
            parts.append(f"{comparison.b.name} (better in {better}, worse in {worse} of {counted(tested, 'task')})")
    name, metric = KINDS[kind]
    return f"{name.capitalize()}, significant differences of {metric} by task, against {listed(parts)}." if parts else ""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="directories of finished runs of test.py")
    cli.add_argument("--points", action="store_true", help="also print the figures that the verdict rests on")
    cli.add_argument("--resamples", type=at_least(1), default=5000, help="bootstrap resamples of the comparisons (5000)")
    args = cli.parse_args(argv)
    judged, *others = read_runs(args.dirs)
    result = verdict(judged, compare_pairs(((judged, other) for other in others), args.resamples))
    print("\n".join([*(result.points if args.points else ()), result.sentence]))


if __name__ == "__main__":
    run(main)
