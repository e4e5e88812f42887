"""The report: the content of its page, for one run and several, and the errors of wrong use."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from written_runs import SECRET, write_run

from evaluation.finished_runs import Output, compare_runs, read_run
from evaluation.predictions import Prediction
from evaluation.published import PUBLISHED
from evaluation.report import main
from evaluation.report_curves import patients_of_bins, roc_points, wilson
from evaluation.report_samples import length_dots, outcome
from evaluation.score import main_scores
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import read_json

RISK = ("ICU_Stay_7day", "ED_Hospitalization")
PAPER = {kind: [name for name, task in TASKS.items() if task.paper and task.kind == kind] for kind in ("decision", "risk")}
SOME = ("emar", "labevents", "next_event", "discharge", "ICU_Stay_7day", "ED_Hospitalization")
VOID = {"meta", "link", "br"}


class Reader(HTMLParser):
    """Checks that elements are closed in order; collects what a reader sees, and the addresses.

    Attributes:
        rows: the cells of all tables' rows, but those of figures.
        bold: (first cell of the row, number of the cell) of those cells that hold something bold.
        notices: the warnings.
        figures: the Vega-Lite specification of each figure by its heading.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.bold: list[tuple[str, int]] = []
        self.notices: list[str] = []
        self.raw = text
        specs = re.findall(
            r'<figure class="chart"><h3>(.*?)</h3>.*?<script type="application/json">(.*?)</script>', text, re.DOTALL
        )
        self.figures = {heading: json.loads(spec) for heading, spec in specs}
        self._skip = self._notice = False
        self.feed(text)
        assert not self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        about = dict(attributes)
        self.addresses += [about[key] or "" for key in ("src", "href", "action") if key in about]
        if name == "ul":
            self._notice = about.get("class") == "notices"
        self._skip = "figure" in self.open
        if name == "li" and self._notice:
            self.notices.append("")
        if name == "tr" and not self._skip:
            self.rows.append([])
        if name in ("td", "th") and not self._skip:
            self.rows[-1].append("")
        if name == "b" and {"td", "th"} & set(self.open) and not self._skip:
            self.bold.append((self.rows[-1][0].strip(), len(self.rows[-1]) - 1))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)
        if {"td", "th"} & set(self.open) and not self._skip:
            self.rows[-1][-1] += data + " "
        if "li" in self.open and self._notice:
            self.notices[-1] += data

    @property
    def bold_values(self) -> list[tuple[str, int]]:
        """Those of `bold` that are figures: the first column of the settings is bold where runs differ."""
        return [(first, column) for first, column in self.bold if column]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def cells(self, first: str) -> list[str]:
        """The cells of the first row that begins with `first`."""
        return next([cell.strip() for cell in row] for row in self.rows if row[0].strip() == first)


def report(*folders: Path, flags: tuple[str, ...] = ()) -> Reader:
    target = folders[0] / "report.html"
    assert main([*map(str, folders), "--resamples", "60", *flags]) == 0
    return Reader(target.read_text(encoding="utf-8"))


def test_one_run_through_the_command_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    done = command("evaluation/report.py", folder, "--resamples", 50)
    assert str(folder / "report.html") in done.stdout and done.stdout.startswith("report: 1 model")
    found, result = Reader((folder / "report.html").read_text(encoding="utf-8")), read_json(folder / "result.json")
    for task in TASKS:
        cells, value = found.cells(task), result["tasks"][task][TASKS[task].metric]
        sizes = ["60", "20"] if TASKS[task].kind == "risk" else ["60"]
        assert cells[1 : 1 + len(sizes)] == sizes and cells[-1].startswith(f"{value:.3f} [")
    macro = result["macro"]["paper"]
    assert found.cells("tiny")[1] == f"{macro['decision_f1']:.3f} [{macro['decision_f1_ci'][0]:.3f}, " \
                                     f"{macro['decision_f1_ci'][1]:.3f}] n = {24 * 60:,}"  # fmt: skip
    for name, published in PUBLISHED.items():
        assert found.cells(f"{name}, published")[1] == f"{published.decision_f1:.3f}"
    assert f"python -m evaluation.baselines {folder}" in found.text
    assert "nothing to compare" in found.text
    assert "a" * 12 in found.cells("instructions_sha256") and "d" * 12 in found.cells("template_sha256")


def test_nothing_is_fetched_and_no_patient_text_is_shown(tmp_path: Path) -> None:
    found = report(write_run(tmp_path / "a", "A"), write_run(tmp_path / "b", "B"))
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    text = (tmp_path / "a/report.html").read_text(encoding="utf-8")
    assert SECRET not in text and SECRET.casefold() not in text.casefold()


def test_several_runs_are_shown_side_by_side(tmp_path: Path) -> None:
    good, bad = write_run(tmp_path / "good", "good", 0.9, SOME), write_run(tmp_path / "bad", "bad", 0.2, SOME)
    found = report(good, bad)
    good_tasks, bad_tasks = read_json(good / "result.json")["tasks"], read_json(bad / "result.json")["tasks"]
    for task in SOME:
        metric = TASKS[task].metric
        assert good_tasks[task][metric] > bad_tasks[task][metric]
        assert [cell.split()[0] for cell in found.cells(task)[-2:]] == [
            f"{tasks[task][metric]:.3f}" for tasks in (good_tasks, bad_tasks)
        ]
        last = len(found.cells(task)) - 1
        assert (task, last - 1) in found.bold and (task, last) not in found.bold
    pair = found.cells("good − bad")
    f1 = [
        sum(tasks[task][TASKS[task].metric] for task in ("emar", "labevents", "next_event")) / 3
        for tasks in (good_tasks, bad_tasks)
    ]
    assert pair[1].startswith(f"{f1[0] - f1[1]:.3f} [")
    assert pair[5:7] == [str(60 * len(SOME)), "40"]


def test_a_comparison_is_the_difference_of_the_figures(tmp_path: Path) -> None:
    a, b = (read_run(write_run(tmp_path / name, name, skill, SOME), False) for name, skill in (("a", 0.8), ("b", 0.3)))
    compared = compare_runs(a, b, 200)
    for task, found in compared.tasks.items():
        metric = TASKS[task].metric
        assert found.difference == pytest.approx(a.tasks[task][metric] - b.tasks[task][metric])
        assert found.ci[0] <= found.difference <= found.ci[1] and compared.sizes(task)[0] == 60
    for kind, key in (("decision", "decision_f1"), ("risk", "risk_auroc")):
        difference = a.result["macro"]["released"][key] - b.result["macro"]["released"][key]
        assert compared.macros[kind].difference == pytest.approx(difference)
    same = compare_runs(a, a, 200)
    assert all((found.difference, found.ci, found.p_holm) == (0, [0, 0], 1) for found in same.tasks.values())


def test_only_common_samples_are_compared(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", "a", n=24, tasks=SOME), write_run(tmp_path / "b", "b", n=12, tasks=SOME[:3])
    found = report(a, b)
    assert found.cells("a − b")[5] == "36"
    assert any("The runs have different samples: a 144, b 36; 36 in common" in notice for notice in found.notices)


def test_differences_between_runs_are_reported(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", "org/EHR-R1-8B", tasks=SOME)
    b = write_run(tmp_path / "b", "b", tasks=SOME, words_only=True, instructions_sha256="c" * 64)
    (b / "outputs.jsonl").write_text((b / "outputs.jsonl").read_text().replace("record 1", "record X"))
    for folder in (a, b):
        result = read_json(folder / "result.json")
        (folder / "result.json").write_text(json.dumps(result | {"missing": 2 if folder == b else 0}))
    found = report(a, b)
    notices = "\n".join(found.notices)
    assert len(found.notices) == 6
    for text in ("different instruction wording", "b: 2 samples not answered yet", "EHR-R1-8B: published EHR-R1 checkpoints",
                  "b: p(yes) is missing, in part or whole, in ED_Hospitalization, ICU_Stay_7day",
                  "samples in common whose records read differently", "No baselines are here"):  # fmt: skip
        assert text in notices, text
    assert found.cells("ICU_Stay_7day")[5] == "–"
    for name in "cd":
        write_run(tmp_path / name / "baselines/majority", "majority", tasks=SOME)
    assert report(*(write_run(tmp_path / name, name, tasks=SOME) for name in "cd")).notices == []


@pytest.mark.parametrize(
    ("tasks", "words_only"),
    [
        (("emar",), False),
        (("ICU_Stay_7day",), False),
        (("ICU_Stay_7day",), True),
        (("discharge",), False),
        (("next_event",), False),
    ],
)
def test_runs_of_one_kind(tmp_path: Path, tasks: tuple[str, ...], words_only: bool) -> None:
    folders = [write_run(tmp_path / name, name, tasks=tasks, words_only=words_only) for name in "ab"]
    found = report(*folders, flags=("--markdown",))
    assert found.cells(tasks[0])[1] == "60" and ("#roc" in found.addresses) == (tasks[0] in RISK and not words_only)


def test_baselines_below_the_runs_are_shown_once(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, name, tasks=SOME) for name in "ab"]
    write_run(folders[1] / "baselines/majority", "majority", 0.1, SOME)
    shutil.copytree(folders[1] / "baselines", folders[0] / "baselines")
    write_run(folders[1] / "baselines/copy_last", "copy_last", 0.1, SOME[:2])
    found = report(*folders, folders[0])
    assert "2 runs and 2 baselines" in found.text and found.notices == []
    pairs = {row[0].strip() for row in found.rows if row and " − " in row[0]}
    assert pairs == {"a − b", "a − majority", "a − copy_last", "b − majority", "b − copy_last"}


def test_names_of_models_are_escaped_and_unique(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>&\"'"
    folders = [write_run(tmp_path / name, bad, tasks=SOME[:1]) for name in ("a", "b", "x/a")]
    report(*folders, flags=("--markdown",))
    text = (folders[0] / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "script&gt;&amp;&#34;&#39; (b)" in text and f"in {tmp_path / 'x'}" in text


def test_tables_for_a_paper(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "a|b", tasks=PAPER["decision"])
    assert main([str(folder), "--markdown", "--png", "--output_path", str(tmp_path / "page/all.html")]) == 0
    text, result = (tmp_path / "page/all.md").read_text(encoding="utf-8"), read_json(folder / "result.json")
    emar = result["tasks"]["emar"]
    assert f"| emar | 60 | f1 | {emar['f1']:.3f} [{emar['f1_ci'][0]:.3f}, {emar['f1_ci'][1]:.3f}] |" in text
    assert "| EHR-R1-8B, published | 0.601 | 24 | – | – |" in text and "| GPT-4o, published | 0.316 | 24 | – | – |" in text
    (row,) = [line.split(" | ") for line in text.splitlines() if line.startswith("| a\\|b |")]
    assert [row[2], row[4]] == [str(result["macro"]["paper"][f"{kind}_tasks"]) for kind in ("decision", "risk")]
    assert (tmp_path / "page/all.png").read_bytes().startswith(b"\x89PNG") and SECRET not in text


REPLY = st.tuples(
    st.booleans(),  # the label
    st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])),  # p_yes
    st.sampled_from(["yes", "no", "", "<think>never closed", "perhaps"]),
    st.sampled_from([None, None, "does not fit"]),  # the error
)


@given(st.lists(REPLY, min_size=1, max_size=30))
def test_the_area_below_the_roc_curve_is_the_auroc(replies: list[tuple]) -> None:
    task = "ICU_Stay_7day"
    predictions = [
        Prediction(task, ("yes" if label else "no",), str(i), str(i), text, p_yes, error=error)
        for i, (label, p_yes, text, error) in enumerate(replies)
    ]
    scores = main_scores(task, predictions)
    if scores is None:
        return  # no p_yes at all: the report has no curve either
    points = roc_points(task, predictions)
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    auroc = scores.metric()[0]
    assert np.isnan(auroc) if not points else area == pytest.approx(auroc)


def test_the_figures_have_the_values_of_the_results(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "tiny", tasks=PAPER["risk"])
    found, result = report(folder), read_json(folder / "result.json")
    layers = found.figures["Risk prediction: macro AUROC"]["layer"]
    values = [each for layer in layers for each in layer["data"]["values"]]
    (tiny,) = {json.dumps(each) for each in values if each.get("series") == "tiny"}
    macro = result["macro"]["paper"]
    assert [json.loads(tiny)[key] for key in ("value", "low", "high")] == [macro["risk_auroc"], *macro["risk_auroc_ci"]]
    assert json.loads(tiny)["row"] == "tiny\nn = 1,080, 360 yes"
    assert {each["value"] for each in values if each.get("series") == "published"} == {
        published.risk_auroc for published in PUBLISHED.values() if published.risk_auroc
    }


def test_the_main_figure_has_the_kinds_of_task_with_values(tmp_path: Path) -> None:
    risk, notes = (write_run(tmp_path / name, name, tasks=tasks, n=10) for name, tasks in (("r", RISK), ("n", ["discharge"])))
    assert main([str(risk), "--figure", str(tmp_path / "figure.svg")]) == 0
    text = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert "macro AUROC" in text and "macro F1" not in text
    with pytest.raises(UserError, match="expected a value of F1 or AUROC for the figure, got none"):
        main([str(notes), "--figure", str(tmp_path / "figure.svg")])


def test_published_values_are_shown_beside_runs_of_all_tasks_only(tmp_path: Path) -> None:
    folder, figure = write_run(tmp_path / "run", "tiny", tasks=PAPER["risk"][1:]), tmp_path / "figure.svg"
    found = report(folder, "--markdown", "--figure", figure)
    assert "Published values are not shown where no model has all tasks: 24 decision-making tasks and 18 risk" in found.text
    texts = found.raw, (folder / "report.md").read_text(encoding="utf-8"), figure.read_text(encoding="utf-8")
    assert not [text for text in texts if "MedGemma" in text]


def test_reliability_diagrams_have_bins_of_enough_patients_only(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, name, tasks=RISK[:1], n=120) for name in ("a", "b", "c", "d", "e")]
    write_run(folders[0] / "baselines/logistic_regression", "logistic_regression", tasks=RISK[:1], n=120)
    found = report(*folders)
    above, below = found.figures[RISK[0]]["vconcat"]  # the last figure of this name
    drawn = [each for layer in above["layer"] for each in layer["data"]["values"] if "bin" in each]
    assert drawn and all(each["patients"] >= 10 for each in drawn)
    assert not [layer for layer in above["layer"][1:] if layer["mark"]["type"] == "line"]
    assert {each["run"] for each in below["data"]["values"]} == {"a", "b", "c", "d"}
    assert any(each["patients"] < 10 for each in below["data"]["values"]), "n of all bins stays"


def test_roc_and_calibration_have_n_and_intervals(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "tiny", tasks=RISK)
    text, result = report(folder).raw, read_json(folder / "result.json")["tasks"]["ICU_Stay_7day"]
    ci = result["auroc_ci"]
    assert f"{result['auroc']:.3f} [{ci[0]:.3f}, {ci[1]:.3f}] tiny" in text, "the legend of the curve"
    assert "ROC curves of ICU_Stay_7day: n = 60, 20 yes" in text
    patients = patients_of_bins("ICU_Stay_7day", read_run(folder, False).predictions["ICU_Stay_7day"])
    assert all(patients[round(each["low"] * 10)] <= each["n"] for each in result["calibration"])


@given(st.integers(1, 500), st.data())
def test_intervals_of_shares_are_those_of_wilson(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    assert wilson(hits / n, n) == pytest.approx(binomtest(hits, n).proportion_ci(method="wilson"), abs=1e-6)


@pytest.mark.parametrize(
    ("task", "label", "reply", "p_yes", "finish", "error", "expected"),
    [
        ("emar", ("a", "b"), "a\nb", None, "stop", None, "right"),
        ("emar", ("a", "b"), "a\nc", None, "stop", None, "partly right"),
        ("emar", ("a", "b"), "c", None, "stop", None, "wrong"),
        ("emar", ("a", "b"), "", None, "stop", None, "invalid"),
        ("emar", ("a", "b"), "<think> on and on", None, "length", None, "cut off"),
        ("emar", ("a", "b"), "a\nb", None, "length", None, "right"),
        ("emar", ("a", "b"), "", None, "stop", "does not fit", "too long"),
        ("ICU_Stay_7day", ("yes",), "no", 0.9, "stop", None, "right"),
        ("ICU_Stay_7day", ("yes",), "", 0.4, "stop", None, "wrong"),
        ("ICU_Stay_7day", ("yes",), "perhaps", None, "stop", None, "invalid"),
    ],
)
def test_outcomes(
    task: str, label: tuple[str, ...], reply: str, p_yes: float | None, finish: str, error: str | None, expected: str
) -> None:
    prediction = Prediction(
        task, label, "1", response=reply, p_yes=p_yes, error=error, thinking_open=reply.startswith("<think>")
    )
    assert outcome(Output(prediction, len(reply), finish, None, None, None, 100, None)) == expected


def test_score_by_length_divides_each_task_equally(tmp_path: Path) -> None:
    """The model answers short records only, so that the shortest fifth scores 1 and the longest 0."""
    folder = write_run(tmp_path / "run", tasks=("emar",), n=300, skill=1)
    run = read_run(folder, False)
    for key, output in run.outputs.items():
        if output.prompt_chars > 900 + 40 * 150:
            run.outputs[key] = replace(output, prediction=replace(output.prediction, response="other"))
    dots = list(length_dots(run, "decision"))
    assert [dot.number for dot in dots] == ["n = 60, of 1 task"] * 5
    assert [round(dot.value, 1) for dot in dots] == [1, 1, 0.5, 0, 0] and dots[0].interval == [1, 1]
    assert list(length_dots(read_run(write_run(tmp_path / "few", tasks=("emar",)), False), "decision")) == []


def test_only_what_is_better_than_chance_is_marked(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, name, 0, ("emar", "ICU_Stay_7day")) for name in "ab"]
    found = report(*folders)
    assert found.bold_values == [], "no F1 above 0, no AUROC whose interval lies above 0.5"


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_the_main_figure_for_a_paper(tmp_path: Path, suffix: str) -> None:
    folder, figure = write_run(tmp_path / "run", "tiny", tasks=TASKS, n=20), tmp_path / f"figure{suffix}"
    assert main([str(folder), "--resamples", "20", "--figure", str(figure)]) == 0
    assert figure.read_bytes()[:4] == {".svg": b"<svg", ".pdf": b"%PDF"}[suffix]
    if suffix == ".svg":
        text = figure.read_text(encoding="utf-8")
        assert all(name in text for name in ("tiny", "n = 480", *PUBLISHED, "macro F1", "macro AUROC")) and "var(" not in text
        assert float(re.search(r'<svg[^>]* width="([0-9.]+)"', text)[1]) <= 504, "7 inches"
    with pytest.raises(UserError, match="expected a name that ends with .png, .svg, .pdf"):
        main([str(folder), "--figure", str(tmp_path / "figure.gif")])


def test_errors_of_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="result.json: expected the result of a finished run.*test.py"):
        main([str(tmp_path / "no")])
    stale = write_run(tmp_path / "stale", tasks=SOME)
    with (stale / "outputs.jsonl").open("a", encoding="utf-8") as file:
        line = json.loads((stale / "outputs.jsonl").read_text(encoding="utf-8").splitlines()[0])
        line["task_info"]["subject_id"] = "new"
        file.write(json.dumps(line | {"key": "new"}) + "\n")
    with pytest.raises(UserError, match=r"361 outputs .* got 360. .*python -m evaluation.score"):
        main([str(stale)])
    old = write_run(tmp_path / "old", tasks=SOME)
    (old / "result.json").write_text(json.dumps(read_json(old / "result.json") | {"score_version": 0}))
    with pytest.raises(UserError, match="score version"):
        main([str(old)])
    half = write_run(tmp_path / "half", tasks=SOME)
    (half / "baselines/majority").mkdir(parents=True)
    with pytest.raises(UserError, match=f"python -m evaluation.baselines {half} to its end"):
        main([str(half)])
    done = command("evaluation/report.py", old, "--resamples", 0, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--resamples" in done.stderr and "at least 1" in done.stderr
