"""The section of scripts/reproduce/graph_ablation.sh: from the knowledge graph to the chains, and from these to the score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evaluation.comparisons import Comparison
from evaluation.pages.charts import chart, colour
from evaluation.pages.document import grid, table
from evaluation.report_comparison import forest
from evaluation.report_data import MODEL_STYLES, Report, Style, note, sizes_text, value_cell
from evaluation.report_figures import Dot, described, dot_plot, dot_rows
from evaluation.verdict import LEVEL
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import counted

ARMS = {"without_chains": "answers only", "without_graph": "chains without graph", "with_graph": "chains with graph"}
OPTIMUM = "a perfect model"
STYLES = dict(zip(ARMS.values(), MODEL_STYLES[2::-1], strict=True)) | {
    OPTIMUM: Style(colour("grey-1"), [1, 0], "triangle-down")
}
CITING = {  # key of an arm → who cites, and by what
    "chains": "chains that were kept\nby name and time",
    "answers": "held-out answers\nby name and time",
    "answers_by_content": "held-out answers\nby name and content",
}
MACRO = "mean of the tasks"
SCRIPT = (
    "A script wrote the chains, not a language model. It knows only what its prompt shows: with the graph it cites the events "
    "that the paths name, without it random ones. So this measures the pipeline, and what evidence can bring at most, not how "
    "well a language model reasons."
)


def read_ablation(path: Path) -> dict[str, Any]:
    """The result.json of scripts/graph_ablation.py."""
    result = read_json(require(path, "the result of an ablation", "run scripts/reproduce/graph_ablation.sh"))
    if not isinstance(result, dict) or "graph_ablation" not in result:
        fix = "Name the result.json in ROOT_DIR/graph_ablation of scripts/reproduce/graph_ablation.sh"
        raise UserError(f"{path}: expected the result of a graph ablation, got other JSON. {fix}.")
    return result


def ablation(report: Report) -> Markup | None:
    """Shares of true causes and F1 of the arms as figures and tables; None without an ablation."""
    if (result := report.ablation) is None:
        return None
    writer = SCRIPT if result["writer"] == "scripted-writer" else f"{result['writer']} wrote the chains."
    text = note(
        f"Stage 2 of training, three times from the same model: on {counted(result['trained_on'], 'row')} with answers only, "
        "and on the same rows with reasoning chains that were written without and with paths of the knowledge graph, all "
        "checked by filter_reasoning.py. Patients are synthetic: the condition behind each emergency visit is known, and so "
        f"are the events that it caused. {writer} Each F1 is the mean over {counted(result['seeds'], 'training seed')}; "
        "intervals are over patients."
    )
    return (
        text
        + grid([_causes_figure(result), _f1_figure(result), _differences_figure(result)], 420)
        + _chains_table(result)
        + _citations_table(result)
        + _scores_table(result)
    )


def _causes_figure(result: Mapping[str, Any]) -> Markup:
    dots = []
    for key, who in CITING.items():
        for arm, name in ARMS.items():
            values = result["arms"][arm].get(key, {})
            if values.get("share") is not None:
                number = f"{values['cited']:,} events of {counted(values['patients'], 'patient')}"
                dots.append(Dot(who, name, values["share"], values["share_ci"], number))
    words = (
        "Share of cited events that are true causes, with 95 % intervals. A citation names an event and its time; by content, "
        "an event of this name that says what the chain says, whatever its time. Dashed line: the share among all "
        f"events of the held-out windows ({result['any_event']['share']:.3f})."
    )
    plot = dot_plot(dots, STYLES, "share of true causes", reference=result["any_event"]["share"])
    return chart(plot, "Cited events that are true causes", described(words, dots), _columns("events"), dot_rows(dots))


def _f1_figure(result: Mapping[str, Any]) -> Markup:
    tasks = list(result["optimum"]["tasks"])
    dots = []
    for task in [*tasks, MACRO]:
        for name, values in _runs(result).items():
            of_task = values["macro"] if task == MACRO else values["tasks"][task]
            numbers = [each["n"] for each in values["tasks"].values()]
            number = sizes_text(sum(numbers) if task == MACRO else of_task["n"])
            dots.append(Dot(f"{task}\n{number}", name, of_task["f1"], of_task["f1_ci"], number))
    words = "Held-out F1 with 95 % intervals. A perfect model knows the condition of the visit and answers what scores best."
    return chart(dot_plot(dots, STYLES, "F1"), "Held-out F1", described(words, dots), _columns("samples"), dot_rows(dots))


def _columns(number: str) -> tuple[str, ...]:
    return "", "arm", "value", "95 % interval", number


def _differences_figure(result: Mapping[str, Any]) -> Markup:
    rows = {}
    for each in result["differences"]:
        comparison = Comparison(**each["macro"])
        rows[f"{ARMS[each['a']]}\n− {ARMS[each['b']]}"] = (comparison, comparison.p_holm)
    words = (
        "The mean F1 of an arm minus that of another one on the same samples, with 95 % intervals. Significant: p < "
        f"{LEVEL} after Holm's correction over the differences."
    )
    return chart(forest(rows), "Difference of mean F1", words)


def _chains_table(result: Mapping[str, Any]) -> Markup:
    rows = []
    for arm, chains in _citing(result, "chains"):
        rows.append([arm, *(chains[key] for key in ("rows", "chains", "passed", "kept"))])
    caption = "Rows for which chains were written, the chains, those accepted by the filter, and rows with an accepted one."
    return table(caption, ["arm", "rows", "chains", "accepted", "rows kept"], rows)


def _citations_table(result: Mapping[str, Any]) -> Markup:
    rows = []
    for key, who in CITING.items():
        for arm, of in _citing(result, key):
            rows.append([who.replace("\n", ", "), arm, of["cited"], of["in_record"], value_cell(of, "share")])
    caption = "Events that chains cite, those that the record has, and the share of true causes. 95 % intervals below."
    return table(caption, ["cited by", "arm", "events", "in the record", "true causes"], rows)


def _citing(result: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The arms with chains, by their name on the page, and the counts of those who cite."""
    return [(name, result["arms"][arm][key]) for arm, name in ARMS.items() if key in result["arms"][arm]]


def _scores_table(result: Mapping[str, Any]) -> Markup:
    tasks = list(result["optimum"]["tasks"])
    rows = []
    for name, values in _runs(result).items():
        scores = [value_cell(of, "f1") for of in (*(values["tasks"][task] for task in tasks), values["macro"])]
        gain = next((each["macro"] for each in result["differences"] if ARMS[each["a"]] == name), None)
        rows.append([name, *scores, value_cell({"d": gain["difference"], "d_ci": gain["ci"]}, "d") if gain else None])
    caption = "Held-out F1, and the difference to answers only on the same samples. 95 % intervals below."
    return table(caption, ["arm", *tasks, MACRO, "minus answers only"], rows)


def _runs(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of the arms and of a perfect model, by the name on the page."""
    return {name: result["arms"][arm] for arm, name in ARMS.items()} | {OPTIMUM: result["optimum"]}
