"""Subgroups, decision curves, operating points and recalibration against independent implementations, and their laws."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import command
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score, roc_auc_score, roc_curve
from test_report import report
from written_runs import write_run

from evaluation.attributes import ATTRIBUTES, NOT_ADMITTED, UNKNOWN, group_sample, read_attributes, write_attributes
from evaluation.clinical import THRESHOLDS, net_benefit, operating_point, subgroup_metrics, subgroups, treat_all, wald_p
from evaluation.comparisons import Scores
from evaluation.finished_runs import read_runs
from evaluation.metrics import auroc, brier, calibration, resample_patients
from evaluation.recalibration import apply_platt, ece, fit_isotonic, fit_platt, logit
from evaluation.score import main as score
from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.records import Event, Records
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.files import read_json, write_json

REFERENCE = json.loads(Path(__file__).with_name("dcurves_reference.json").read_text(encoding="utf-8"))
RISK = ("ICU_Stay_7day", "ED_Hospitalization")
TENTHS = st.integers(0, 10).map(lambda k: k / 10)


@st.composite
def risks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both kinds, p(yes) with ties, and whole weights of the samples, some of them 0."""
    rows = draw(st.lists(st.tuples(st.booleans(), TENTHS, st.integers(0, 3)), min_size=2, max_size=12))
    labels, p, weights = map(np.array, zip(*rows, strict=True))
    labels[:2], weights[:2] = (True, False), (1, 2)
    return labels, p, weights


def repeated(labels: np.ndarray, p: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The samples as often as their weights say."""
    return np.repeat(labels, weights), np.repeat(p, weights)


# --- decision curves and operating points


def test_net_benefit_is_that_of_dcurves() -> None:
    labels, p, thresholds = (np.array(REFERENCE[name]) for name in ("labels", "p", "thresholds"))
    expected = REFERENCE["net_benefit"]
    assert net_benefit(labels, p, thresholds)[0] == pytest.approx(expected["p"], abs=1e-9)
    assert treat_all(labels, thresholds)[0] == pytest.approx(expected["all"], abs=1e-9)
    assert net_benefit(labels, np.zeros(len(p)), thresholds)[0] == pytest.approx(expected["none"], abs=1e-9)


@given(risks(), st.sampled_from(THRESHOLDS))
def test_net_benefit_is_what_a_count_of_patients_gives(risk: tuple[np.ndarray, ...], threshold: float) -> None:
    labels, p, weights = risk
    true = false = 0
    for label, probability in zip(*repeated(*risk), strict=True):
        if probability >= threshold:
            true, false = true + label, false + (not label)
    expected = true / weights.sum() - false / weights.sum() * threshold / (1 - threshold)
    assert net_benefit(labels, p, [threshold], weights)[0, 0] == pytest.approx(expected, abs=1e-12)
    assert expected <= labels @ weights / weights.sum() + 1e-12, "at most the share of yes"


@given(risks(), st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]))
def test_the_point_at_a_specificity_has_the_best_sensitivity_of_the_roc_curve(
    risk: tuple[np.ndarray, ...], level: float
) -> None:
    labels, p, weights = risk
    false, true, _ = roc_curve(labels, p, sample_weight=weights, drop_intermediate=False)
    point = {name: value[0] for name, value in operating_point(labels, p, level, "specificity", weights).items()}
    assert point["sensitivity"] == pytest.approx(true[false <= 1 - level + 1e-9].max())
    alerts = np.where(np.isinf(point["threshold"]), False, p >= point["threshold"])
    assert point["sensitivity"] == pytest.approx(recall_score(labels, alerts, sample_weight=weights))
    assert point["alerts_per_100"] == pytest.approx(100 * alerts @ weights / weights.sum())
    if alerts @ weights:
        assert point["ppv"] == pytest.approx(precision_score(labels, alerts, sample_weight=weights))
    else:
        assert math.isnan(point["ppv"])


@given(risks(), st.sampled_from([0, 5, 20, 50, 100]))
def test_a_budget_of_alerts_is_kept_and_used(risk: tuple[np.ndarray, ...], budget: float) -> None:
    labels, p, weights = risk
    point = {name: value[0] for name, value in operating_point(labels, p, budget, "alerts_per_100", weights).items()}
    shares = [100 * (p >= threshold) @ weights / weights.sum() for threshold in [*p, math.inf]]
    assert point["alerts_per_100"] == pytest.approx(max(share for share in shares if share <= budget + 1e-9))


# --- subgroups


def grouped(n: int = 240, seed: int = 0) -> tuple[Scores, list[int], list[dict[str, str]]]:
    """A risk task of two samples to a patient; p(yes) is worse in the smaller sex."""
    rng = np.random.default_rng(seed)
    patients, labels = (np.arange(n) // 2).tolist(), rng.random(n) < 0.4
    male = rng.random(n // 2)[np.array(patients)] < 0.35
    p = np.clip(rng.normal(0.4 + np.where(male, 0.05, 0.4) * labels, 0.2), 0, 1)
    groups = [dict.fromkeys(ATTRIBUTES, "all") | {"sex": "male" if is_male else "female"} for is_male in male]
    return Scores(p, labels), patients, groups


def test_subgroups_are_those_of_naive_loops() -> None:
    scores, patients, groups = grouped()
    resampling = resample_patients(patients, 200, 0)
    found = subgroups(subgroup_metrics("ICU_Stay_7day", scores, 0.4), scores.labels, patients, groups, resampling)
    assert list(found) == ["sex"] and found["sex"]["reference"] == "female", "attributes of one group are left out"
    sex = np.array([of_sample["sex"] for of_sample in groups])
    draws: dict[str, list[np.ndarray]] = {}
    for name, group in found["sex"]["groups"].items():
        labels, p = scores.labels[sex == name], scores.values[sex == name]
        assert (group["n"], group["positives"], group["too_few"]) == (len(p), labels.sum(), None)
        assert group["auroc"] == pytest.approx(roc_auc_score(labels, p))
        assert group["calibration_in_the_large"] == pytest.approx(np.mean(p) - np.mean(labels))
        benefit = ((p >= 0.4) & labels).mean() - ((p >= 0.4) & ~labels).mean() * 0.4 / 0.6
        assert group["net_benefit"] == pytest.approx(benefit)
        draws[name] = []
        for counts in resampling.counts:  # drawing a patient twice is having the samples twice
            rows = np.repeat(np.arange(len(sex)), counts[[resampling.position[patient] for patient in patients]])
            rows = rows[sex[rows] == name]
            draws[name].append(roc_auc_score(scores.labels[rows], scores.values[rows]))
        assert group["auroc_ci"] == pytest.approx(np.quantile(draws[name], [0.025, 0.975]).tolist())
    male, difference = found["sex"]["groups"]["male"], np.subtract(draws["male"], draws["female"])
    assert male["auroc_difference"] == pytest.approx(male["auroc"] - found["sex"]["groups"]["female"]["auroc"])
    assert male["auroc_difference_ci"] == pytest.approx(np.quantile(difference, [0.025, 0.975]).tolist())
    z = male["auroc_difference"] / difference.std(ddof=1)
    assert (
        male["auroc_p"] == pytest.approx(2 * (1 - 0.5 * (1 + math.erf(abs(z) / 2**0.5))), abs=1e-9) and male["auroc_p"] < 0.01
    )
    assert male["auroc_p_holm"] == pytest.approx(3 * male["auroc_p"]), "the smallest of three tests"


def test_a_group_of_few_patients_has_values_but_neither_interval_nor_p() -> None:
    scores, patients, groups = grouped()
    for of_sample in groups[:10]:
        of_sample["race"] = "other"
    found = subgroups(subgroup_metrics("ICU_Stay_7day", scores, 0.4), scores.labels, patients, groups,
                      resample_patients(patients, 50, 0))  # fmt: skip
    few = found["race"]["groups"]["other"]
    assert few["too_few"] == "5 patients of at least 30" and few["calibration_in_the_large"] is not None
    assert few["net_benefit_ci"] is few["net_benefit_p"] is few["net_benefit_p_holm"] is few["auroc_difference_ci"] is None


@pytest.mark.parametrize("size", [25, 60])
def test_equally_good_groups_rarely_differ(size: int) -> None:
    """Two groups with `size` patients of each label; p < 0.05 in about 5 % of 300 studies."""
    rng, significant = np.random.default_rng(0), []
    labels = np.tile([True, False], size)
    resampling = resample_patients(range(2 * size), 300, 0)
    for _ in range(300):
        groups = [Scores(rng.normal(labels, 1), labels) for _ in range(2)]
        draws = [resampling.apply(list(range(2 * size)), scores.metric)[rng.permutation(300)] for scores in groups]
        difference = (groups[0].metric() - groups[1].metric())[0]
        significant.append(wald_p(difference, draws[0] - draws[1]) < 0.05)
    assert 0.02 <= np.mean(significant) <= 0.08


def test_groups_of_samples() -> None:
    patient = Records.of([{"gender": "M", "anchor_age": "88", "anchor_year": "2150", "anchor_year_group": "2008 - 2010"}])
    admission = Records.of([{"admission_type": "EW EMER.", "insurance": "Medicare", "race": "BLACK/CAPE VERDEAN"}])
    window = [Event("labevents", f"{year}-05-01 00:00:00", None, None, "[]", ()) for year in (2149, 2150)]
    assert group_sample(patient, admission, window) == {
        "sex": "male", "age": "80+", "race": "Black", "admission_type": "emergency", "insurance": "Medicare",
        "anchor_year_group": "2008 - 2010",
    }  # fmt: skip
    unknown = group_sample(Records.of([{"anchor_age": "nan"}]), None, [Event("omr", None, None, None, "[]", ())])
    assert unknown == dict.fromkeys(ATTRIBUTES, UNKNOWN) | {"admission_type": NOT_ADMITTED}
    for raw, coarse in {
        "UNABLE TO OBTAIN": UNKNOWN,
        "AMERICAN INDIAN/ALASKA NATIVE": "other",
        "WHITE - RUSSIAN": "White",
    }.items():
        assert group_sample(patient, Records.of([{"race": raw}]), window)["race"] == coarse


# --- recalibration


def test_platt_and_isotonic_are_those_of_scikit_learn() -> None:
    labels, p = (np.array(REFERENCE[name]) for name in ("labels", "p"))
    x = logit(p)[:, None]
    identity = LogisticRegression()  # whose decision function is its input
    identity.classes_, identity.coef_, identity.intercept_, identity.n_features_in_ = (
        np.array([0, 1]),
        np.ones((1, 1)),
        np.zeros(1),
        1,
    )
    for method, mine in (("sigmoid", apply_platt(p, *fit_platt(labels, p))), ("isotonic", fit_isotonic(labels, p)(p))):
        if method == "sigmoid":
            expected = CalibratedClassifierCV(FrozenEstimator(identity), method=method).fit(x, labels).predict_proba(x)[:, 1]
        else:
            expected = IsotonicRegression(out_of_bounds="clip").fit(p, labels).predict(p)
        assert mine == pytest.approx(expected, abs=2e-4)
        assert brier(labels, mine)[0] <= brier(labels, p)[0]
    assert ece(labels, p, np.ones((1, len(p))))[0] == pytest.approx(calibration(labels, p)[1])


@given(risks())
@settings(deadline=None, max_examples=40)
def test_platt_keeps_the_ranks_and_isotonic_the_order(risk: tuple[np.ndarray, ...]) -> None:
    labels, p, _ = risk
    intercept, slope = fit_platt(labels, p)
    ranked = auroc(labels, p)[0] if slope > 0 else 1 - auroc(labels, p)[0]
    if abs(slope) > 1e-3:
        assert auroc(labels, apply_platt(p, intercept, slope))[0] == pytest.approx(ranked)
    after = fit_isotonic(labels, p)(p)
    assert (np.diff(after[np.argsort(p, kind="stable")]) >= -1e-12).all()
    assert after.mean() == pytest.approx(labels.mean()), "calibrated in the large where it was fitted"
    assert brier(labels, after)[0] <= brier(labels, p)[0] + 1e-12


# --- directories


def with_record(folder: Path, model: str = "m") -> Path:
    """Give a run the record of test.py."""
    write_json(
        folder / "provenance.json",
        {"step": "test.py", "settings": {"samples": 480, "dtype": "x"}, "inputs": {"model": {"digest": model}}},
    )
    return folder


def other_patients(folder: Path) -> Path:
    """Give the samples of a run to other patients."""
    path = folder / "outputs.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"subject_id": "', '"subject_id": "9'), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with attributes, and one on other patients to fit recalibration on."""
    folder = tmp_path_factory.mktemp("runs")
    run, fitted_on = (with_record(write_run(folder / name, tasks=(*RISK, "emar"), n=160)) for name in ("run", "calibration"))
    other_patients(fitted_on)
    lines = [json.loads(line) for line in (run / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    samples = [(f"{info['task']}/{info['subject_id']}/{info['period_begin']}-{info['period_end']}", int(info["subject_id"]))
               for info in (line["task_info"] for line in lines)]  # fmt: skip
    with (run / "attributes.csv").open("w", encoding="utf-8", newline="") as file:
        groups = (("female", "male"), ("45–64",), ("White",), ("elective",), ("Other",), ("2008 - 2010", "2011 - 2013"))
        rows = [[sample, *(of[number % len(of)] for of in groups)] for sample, number in samples]
        csv.writer(file).writerows([["sample_id", *ATTRIBUTES], *rows])
    score([str(run), "--calibration_results", str(fitted_on), "--resamples", "40"])
    return run, fitted_on


def test_result_json_has_the_keys_and_keeps_them(runs: tuple[Path, Path]) -> None:
    run, _ = runs
    result = read_json(run / "result.json")
    assert set(result["clinical"]) == {*RISK, "emar"} and set(result["recalibration"]) == set(RISK)
    of_task = result["clinical"][RISK[0]]
    assert set(of_task) == {"threshold", "decision_curve", "operating_points", "subgroups"}
    assert set(of_task["subgroups"]) == {"sex", "anchor_year_group"}
    assert set(result["clinical"]["emar"]) == {"subgroups"}
    assert of_task["decision_curve"]["useful"][0] < of_task["decision_curve"]["useful"][1]
    for values in result["recalibration"].values():
        assert values["n"] == 160 and values["platt"]["slope"] > 0
        assert values["platt"]["auroc"] == pytest.approx(values["before"]["auroc"])
        assert values["platt"]["brier"] < values["before"]["brier"] and values["isotonic"]["brier_ci"] is not None
    score([str(run), "--resamples", "40"])
    again = read_json(run / "result.json")
    assert {key: again[key] for key in ("clinical", "recalibration")} == {
        key: result[key] for key in ("clinical", "recalibration")
    }


def test_figures_of_earlier_outputs_do_not_stay(runs: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    run, fitted_on = tmp_path / "run", tmp_path / "fitted_on"
    for source, copy in zip(runs, (run, fitted_on), strict=True):
        copy.mkdir()
        for path in source.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    score([str(run), "--calibration_results", str(fitted_on), "--resamples", "40"])
    before = read_json(run / "result.json")
    lines = [json.loads(line) for line in (run / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["outputs"][0]["p_yes"] is not None:
            line["outputs"][0]["p_yes"] = 1 - line["outputs"][0]["p_yes"]
    (run / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    score([str(run), "--resamples", "40"])
    after = read_json(run / "result.json")
    assert after["clinical"][RISK[0]] != before["clinical"][RISK[0]]
    assert after["recalibration"][RISK[0]]["before"]["auroc"] == pytest.approx(
        1 - before["recalibration"][RISK[0]]["before"]["auroc"]
    )
    (run / "attributes.csv").unlink()
    for path in fitted_on.iterdir():
        path.unlink()
    fitted_on.rmdir()
    capsys.readouterr()
    score([str(run), "--resamples", "40"])
    after = read_json(run / "result.json")
    assert "recalibration" not in after and "subgroups" not in after["clinical"][RISK[0]] and "emar" not in after["clinical"]
    assert capsys.readouterr().err.startswith(f"warning: {fitted_on}: expected the run that recalibration")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("patients", "expected other patients than in .*, got 80 in common"),
        ("model", "expected a run of the model and settings of .*, got another one"),
        ("record", "got one without provenance.json"),
        ("missing", "expected the result of a finished run, got no such file"),
    ],
)
def test_recalibration_is_fitted_on_other_patients_of_the_same_model(
    runs: tuple[Path, Path], tmp_path: Path, wrong: str, error: str
) -> None:
    run, fitted_on = runs[0], tmp_path / "calibration"
    fitted_on.mkdir()
    for path in (runs[0] if wrong == "patients" else runs[1]).iterdir():
        (fitted_on / path.name).write_bytes(path.read_bytes())
    if wrong == "model":
        with_record(fitted_on, "other")
    elif wrong in ("record", "missing"):
        (fitted_on / {"record": "provenance.json", "missing": "result.json"}[wrong]).unlink()
    before = (run / "result.json").read_bytes()
    with pytest.raises(UserError, match=error):
        score([str(run), "--calibration_results", str(fitted_on), "--resamples", "40"])
    assert (run / "result.json").read_bytes() == before


def test_too_few_patients_to_fit_on(runs: tuple[Path, Path], tmp_path: Path) -> None:
    fitted_on = with_record(other_patients(write_run(tmp_path / "calibration", tasks=RISK, n=40)))
    run = tmp_path / "run"
    run.mkdir()
    for name in ("outputs.jsonl", "provenance.json"):
        (run / name).write_bytes((runs[0] / name).read_bytes())
    score([str(run), "--calibration_results", str(fitted_on), "--resamples", "40"])
    found = read_json(run / "result.json")["recalibration"][RISK[0]]
    assert found == {"n": 40, "positives": 14, "too_few": "20 patients of at least 30"}


def test_parts_of_a_run_together_have_the_figures_of_the_whole(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run, parts = runs[0], []
    for number, tasks in enumerate([RISK[:1], (*RISK[1:], "emar")]):
        parts.append(write_run(tmp_path / str(number), tasks=tasks, n=160))
        (parts[-1] / "attributes.csv").write_bytes((run / "attributes.csv").read_bytes())
    for folder in parts:
        score([str(folder), "--resamples", "40"])
    (merged,) = read_runs(parts)
    assert merged.result["clinical"] == read_json(run / "result.json")["clinical"]


def test_the_report_has_them(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", "other", 0.8, (*RISK, "emar"), n=160)
    found, result = report(runs[0], other), read_json(runs[0] / "result.json")
    values = result["clinical"][RISK[0]]
    low, high = values["decision_curve"]["useful"]
    assert f"{low:.2f}–{high:.2f}" in found.text and "share in the hospital" in found.text
    point = next(point for point in values["operating_points"] if (point["by"], point["level"]) == ("specificity", 0.9))
    sensitivities = [row[2].split()[0] for row in found.rows if row[0].strip() == "specificity ≥ 0.90"]
    assert f"{point['sensitivity']:.3f}" in sensitivities
    female = values["subgroups"]["sex"]["groups"]["female"]
    rows = [row for row in found.rows if row[0].strip() == "sex: female"]
    assert [str(female["n"]), str(female["positives"])] in [[row[1].strip(), row[3].strip()] for row in rows]
    assert any(row[4].split()[0] == f"{female['auroc']:.3f}" for row in rows if len(row) > 4)
    brier = result["recalibration"][RISK[0]]["platt"]["brier"]
    assert any(f"{brier:.3f}" in cell for row in found.rows for cell in row)
    assert f"python -m evaluation.score {other} --subgroups" in found.text, "what is missing"
    assert "other: no sex, age, race, admission type, insurance or period of its samples is stored" in found.text


def test_attributes_of_a_run_come_from_its_trajectories(synthetic_root: Path, tmp_path: Path, capsys: Any) -> None:
    index = synthetic_root / "task_index/all"
    with (index / "LengthOfStay_3day.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:60]
    copied = {
        name: name.replace("context", "period") for name in ("subject_id", "context_begin", "context_end", "admissions_id")
    }
    run, lines = tmp_path / "run", []
    run.mkdir()
    for row in rows:
        info = {"task": row["task"], "label": json.loads(row["target"])} | {new: row[old] for old, new in copied.items()}
        key = f"{row['subject_id']} {row['context_begin']}"
        lines.append({"key": key, "task_info": info, "candidates": None, "outputs": [{"response": "no", "p_yes": 0.4}]})
    (run / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    score([str(run), "--root_dir", str(synthetic_root), "--subgroups"])
    with gzip.open(synthetic_root / "mimiciv/hosp/patients.csv.gz", "rt", encoding="utf-8") as file:
        patients = {row["subject_id"]: row for row in csv.DictReader(file)}
    groups = read_attributes(run)
    assert len(groups) == len({sample_id(line["task_info"]) for line in lines})
    for sample, of_sample in groups.items():
        patient = patients[sample.split("/")[1]]
        assert of_sample["sex"] == {"F": "female", "M": "male"}[patient["gender"]]
        assert of_sample["anchor_year_group"] == patient["anchor_year_group"]
    assert {of_sample["admission_type"] for of_sample in groups.values()} <= {"emergency", "elective", "observation"}
    clinical = read_json(run / "result.json")["clinical"]["LengthOfStay_3day"]
    assert sum(group["n"] for group in clinical["subgroups"]["sex"]["groups"].values()) == len(groups)
    assert not {"Medicare", "White", "female"} & set(capsys.readouterr().out.split()), "no attribute is logged"
    write_json(run / "provenance.json", {"step": "test.py", "inputs": {"trajectories": {"digest": "other"}}, "settings": {}})
    with pytest.raises(UserError, match="expected the trajectories of .*, got others"):
        write_attributes(run, Trajectories(synthetic_root / "patients_ehr"))


def test_samples_without_a_window_have_no_subgroups(synthetic_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    info = {"task": "emar", "label": ["x"], "subject_id": "1"}
    line = {"key": "1", "task_info": info, "candidates": None, "outputs": [{"response": "x"}]}
    (run / "outputs.jsonl").write_text(json.dumps(line | {"sample_id": "s"}) + "\n", encoding="utf-8")
    done = command("evaluation/score.py", run, "--root_dir", synthetic_root, "--subgroups", check=False)
    assert done.returncode == 2 and "expected samples with patient and window" in done.stderr.splitlines()[-1]
