"""The page of a report: its sections, in order, and what is above them."""

from __future__ import annotations

from evaluation.pages import document
from evaluation.report_ablation import ablation
from evaluation.report_clinical import CLINICAL_SECTIONS
from evaluation.report_comparison import comparison
from evaluation.report_curves import calibration, roc
from evaluation.report_data import Report, Section
from evaluation.report_samples import lengths, outcomes, score_by_length
from evaluation.report_tables import all_metrics, groups, overview, scores, settings
from evaluation.verdict import verdict
from pipeline.progress import counted

SECTIONS = (
    Section("Overview", overview),
    Section("From graph to score", ablation),
    Section("Tasks", scores),
    Section("Groups of tasks", groups),
    Section("Comparison", comparison),
    Section("ROC", roc),
    Section("Calibration", calibration),
    *CLINICAL_SECTIONS,
    Section("Outcomes", outcomes),
    Section("Score by length of the record", score_by_length),
    Section("Lengths and truncation", lengths),
    Section("All metrics", all_metrics),
    Section("Settings", settings),
)


def build(report: Report) -> str:
    """The page as HTML."""
    title = "Evaluation: " + ", ".join(run.name for run in report.models)
    patients = {output.prediction.subject_id for run in report.models for output in run.outputs.values()}
    lead = (
        f"{counted(len(report.models), 'run')} and {counted(len(report.runs) - len(report.models), 'baseline')}, "
        f"{counted(len(report.tasks), 'task')}, {counted(len(patients), 'patient')}. All figures are fractions; intervals are "
        f"95 % bootstrap intervals over patients. A click on the header of a table's column sorts it."
    )
    sections = [(section.heading, section.content(report)) for section in SECTIONS]
    judged = report.models[0]
    conclusion = verdict(judged, [comparison for comparison in report.comparisons if comparison.a is judged])
    return document.document(
        title, lead, [(heading, content) for heading, content in sections if content], verdict=document.verdict(*conclusion)
    )
