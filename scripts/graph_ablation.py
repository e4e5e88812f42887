"""The steps of scripts/reproduce/graph_ablation.sh that no other command has: rows, knowledge, arms and result.

    graph_ablation.py rows         OUTPUT_PATH/{train,test}.csv: ED stays; conditions.json: the hidden condition of each
    graph_ablation.py knowledge    OUTPUT_PATH/META: the medicine of the synthetic world in the format of UMLS
    graph_ablation.py arms         OUTPUT_PATH/arms: the training sets of the three arms, which have the same rows
    graph_ablation.py result       OUTPUT_PATH/result.json: how many cited events are true causes, and held-out F1

The arms: `without_chains` trains on answers, `without_graph` on chains that were written without the graph, `with_graph` on
chains that were written with it. Rows are of ED stays without an earlier discharge letter and without an admission in the
record, whose inputs are short enough for a small model. docs/synthetic.md says which events are true causes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from evaluation.score import TOO_FEW
from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance, Source, content_of, output_of

if TYPE_CHECKING:
    from evaluation.predictions import Prediction
    from mimiciv_dataset.mimiciv import MIMICIV
    from mimiciv_dataset.text import SampleText

STEP, RULES = "scripts/graph_ablation.py", 1
TASKS = ("diagnosis", "diagnosis_ccs")
WITHOUT_CHAINS, WITHOUT_GRAPH, WITH_GRAPH = ARMS = ("without_chains", "without_graph", "with_graph")
DIFFERENCES = ((WITHOUT_GRAPH, WITHOUT_CHAINS), (WITH_GRAPH, WITHOUT_CHAINS), (WITH_GRAPH, WITHOUT_GRAPH))
FILES = {"rows": ("train", "test"), "arms": tuple(f"arms/{arm}" for arm in ARMS)}  # CSVs of a step
SEMANTIC_TYPES = {"disease": "T047", "drug": "T121", "test": "T059", "category": "T033"}  # by kind of concept, for MRSTY
RESAMPLES = 2000

Row = dict[str, str]
Citations = list[tuple[str, bool, bool]]  # of each cited event: patient, whether the record has it, whether it is a cause


@dataclass(frozen=True)
class RowSettings:
    """Maximal numbers of training and test rows of each task."""

    train_rows: int
    test_rows: int


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("step", choices=("rows", "knowledge", "arms", "result"), help="what to do, in this order")
    cli.add_path("--output_path", default="graph_ablation", help="directory of the ablation")
    cli.add_argument("--train_rows", type=at_least(1), default=1000, help="rows: training rows of each task at most (1000)")
    cli.add_argument("--test_rows", type=at_least(1), default=300, help="rows: test rows of each task at most (300)")
    cli.add_argument("--seeds", type=at_least(1), default=1, help="result: number of training seeds (1)")
    cli.add_argument("--writer", default="scripted-writer", help="result: model that wrote the chains (scripted-writer)")
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    summary, root, output = Summary("graph_ablation"), args.root_dir, args.output_path

    def records(sources: Sequence[Source], **settings: int) -> list[Provenance]:
        """Of the CSVs of this step."""
        paths, step = [output / f"{name}.csv" for name in FILES[args.step]], f"{STEP} {args.step}"
        return [Provenance(path, step, sources, settings, RULES, cli.arguments, is_file=True) for path in paths]

    if args.step == "rows":
        settings = RowSettings(args.train_rows, args.test_rows)
        of_rows = records(row_sources(root, args.verify), **asdict(settings))
        done = recorded(of_rows, lambda: write_rows(root, output, settings), args.overwrite, args.verify)
    elif args.step == "knowledge":
        done = f"{write_knowledge(output / 'META'):,} statements"
    elif args.step == "arms":
        kept = [kept_source(output, arm, args.verify) for arm in ARMS[1:]]
        done = recorded(records(kept), lambda: write_arms(output), args.overwrite, args.verify)
    else:
        result = measure(root, output, args.seeds) | {"writer": args.writer}
        write_json(output / "result.json", result)
        print_result(result)
        done = "result.json"
    summary.print(f"{done} → {output}")


def recorded(records: Sequence[Provenance], write: Callable[[], dict[str, int]], overwrite: bool, verify: bool) -> str:
    """Write the CSVs of these records, unless all are up to date, and complete the records; says what was written.

    Args:
        write: writes all of them, and returns their names and numbers of rows.
        overwrite, verify: as of `Provenance.begin`.
    """
    begun = [record.begin(overwrite, verify) for record in records]  # each says whether it is up to date
    if not any(begun):
        return "nothing new"
    counts = write()
    for record, rows in zip(records, counts.values(), strict=True):
        record.complete(rows=rows)
    return " and ".join(f"{rows:,} {name} rows" for name, rows in counts.items())


# --- rows


def row_sources(root: Path, verify: bool = False) -> list[Source]:
    """What `write_rows` reads."""
    from mimiciv_dataset.sources import index_sources

    truth = [root / "mimiciv" / name for name in ("synthetic_truth.csv", "synthetic_causes.csv.gz")]
    contents = [content_of(path.name, path, verify=verify) for path in (*truth, root / "patient_data/test.csv")]
    return [*index_sources(root / "task_index/all", verify=verify), *contents]


def write_rows(root: Path, output: Path, settings: RowSettings) -> dict[str, int]:
    """Write train.csv, test.csv and conditions.json (sample_id → condition); returns the numbers of rows."""
    from evaluation.synthetic_truth import read_conditions, read_outcomes, rows_of, with_outcomes
    from mimiciv_dataset.index_files import sample_id
    from mimiciv_dataset.index_rows import normalise_row

    of_stay = read_conditions(root / "mimiciv")
    stays = read_outcomes(root / "mimiciv").get("ED_Hospitalization", {})
    test_patients = {row["subject_id"] for row in rows_of(root / "patient_data/test.csv")}  # none, of a few patients
    chosen: dict[str, list[Row]] = {"train": [], "test": []}
    conditions: dict[str, str] = {}
    for task in TASKS:
        rows: dict[str, list[Row]] = {"train": [], "test": []}
        for row, stay in with_outcomes(rows_of(root / f"task_index/all/{task}.csv"), stays):
            if stay is not None and not row["last_discharge_id"] and not row["admissions_id"]:
                rows["test" if row["subject_id"] in test_patients else "train"].append(row)
                conditions[sample_id(normalise_row(row))] = of_stay[stay.stay_id]
        chosen["train"] += evenly_spaced(rows["train"], settings.train_rows)
        chosen["test"] += evenly_spaced(rows["test"], settings.test_rows)
    if not all(chosen.values()):
        got = f"{len(chosen['train']):,} for training, {len(chosen['test']):,} for testing"
        raise UserError(
            f"{root}: expected rows of {' and '.join(TASKS)}, got {got}. Make more --patients in another directory."
        )
    for name, rows in chosen.items():
        write_csv(output / f"{name}.csv", rows)
    write_json(output / "conditions.json", conditions)
    return {name: len(rows) for name, rows in chosen.items()}


def evenly_spaced(rows: Sequence[Row], maximum: int) -> list[Row]:
    """At most `maximum` of the rows, evenly spaced."""
    step = max(1.0, len(rows) / maximum)
    return [rows[int(number * step)] for number in range(min(maximum, len(rows)))]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with the columns of the first."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# --- the medicine of the synthetic world


def write_knowledge(folder: Path) -> int:
    """Write MRCONSO, MRREL, MRSTY and MRDOC with the statements of `preprocess.synthetic.knowledge`; returns their number."""
    from preprocess.synthetic.knowledge import statements, synonyms
    from thinking_graph_preprocess.umls_files import COLUMNS

    facts = list(dict.fromkeys(statements()))
    concepts = list(dict.fromkeys(concept for fact in facts for concept in (fact.subject, fact.object)))
    cui = {concept: f"C{number:07}" for number, concept in enumerate(concepts, 1)}
    names = [(concept, concept.name) for concept in concepts]
    drugs = {concept.name: concept for concept in concepts if concept.kind == "drug"}
    names += [(drugs[name], label) for label, name in synonyms().items() if name in drugs]
    atoms = [
        {"CUI": cui[concept], "LAT": "ENG", "TS": "P" if name == concept.name else "S", "STT": "PF", "STR": name,
         "ISPREF": "Y", "SAB": "SYNTHETIC", "TTY": "PT", "LUI": f"L{number:07}", "SUI": f"S{number:07}",
         "AUI": f"A{number:07}", "CODE": cui[concept], "SRL": "0", "SUPPRESS": "N"}
        for number, (concept, name) in enumerate(names, 1)
    ]  # fmt: skip
    # a row (CUI1, RELA, CUI2) means "CUI2 RELA CUI1"
    relations = [
        {"CUI1": cui[fact.object], "CUI2": cui[fact.subject], "REL": "RO", "RELA": fact.relation, "SAB": "SYNTHETIC",
         "RUI": f"R{number:07}", "SUPPRESS": "N"}
        for number, fact in enumerate(facts, 1)
    ]  # fmt: skip
    types = [{"CUI": cui[concept], "TUI": SEMANTIC_TYPES[concept.kind], "STY": concept.kind} for concept in concepts]
    inverses = {"may_treat": "may_be_treated_by", "may_indicate": "may_be_indicated_by", "may_occur_with": "may_occur_with"}
    pairs = {**inverses, **{inverse: relation for relation, inverse in inverses.items()}, "isa": "inverse_isa"}
    docs = [{"DOCKEY": "RELA", "VALUE": name, "TYPE": "rela_inverse", "EXPL": other} for name, other in pairs.items()]
    for file, rows in {"MRCONSO": atoms, "MRREL": relations, "MRSTY": types, "MRDOC": docs}.items():
        with atomic_path(folder / f"{file}.RRF") as path, path.open("w", encoding="utf-8") as out:
            out.writelines("|".join([*(row.get(column, "") for column in COLUMNS[file]), "\n"]) for row in rows)
    return len(facts)


# --- arms


def kept_file(output: Path, arm: str) -> Path:
    """The chains of an arm that filter_reasoning.py kept."""
    return output / f"chains/{arm}/kept.csv"


def kept_source(output: Path, arm: str, verify: bool = False) -> Source:
    """The chains of an arm as an input."""
    path = require(kept_file(output, arm), "the chains that were kept", "run filter_reasoning.py")
    return output_of(f"kept/{arm}", path, "thinking_graph_preprocess/filter_reasoning.py", is_ancestor=False, verify=verify)


def write_arms(output: Path) -> dict[str, int]:
    """Write the training sets: the rows that have a chain in both arms with chains; returns the numbers of rows by arm."""
    from evaluation.synthetic_truth import rows_of
    from mimiciv_dataset.index_files import sample_id
    from mimiciv_dataset.index_rows import normalise_row

    kept = {arm: list(rows_of(kept_file(output, arm))) for arm in ARMS[1:]}
    by_id = {arm: {sample_id(normalise_row(row)): row for row in rows} for arm, rows in kept.items()}
    common = [identity for identity in by_id[WITHOUT_GRAPH] if identity in by_id[WITH_GRAPH]]
    for arm, rows in by_id.items():
        write_csv(output / f"arms/{arm}.csv", [rows[identity] for identity in common])
    plain = [{name: value for name, value in by_id[WITH_GRAPH][i].items() if name != "reasoning"} for i in common]
    write_csv(output / f"arms/{WITHOUT_CHAINS}.csv", plain)
    return dict.fromkeys(ARMS, len(common))


# --- result


def citations_of(
    dataset: MIMICIV, chains: Mapping[str, str], conditions: Mapping[str, str], by_content: bool = False
) -> Citations:
    """The events that the chains (by sample_id) of rows cite, each once in a chain.

    An event is cited by name and time, or with `by_content` by name and what the chain says of it, whatever the time.
    """
    from evaluation.synthetic_causes import true_causes
    from mimiciv_dataset.index_files import sample_id
    from thinking_graph_preprocess.chains import CitedEvents, citations

    cited: Citations = []
    for index in range(len(dataset)):
        row = dataset.row(index)
        if chain := chains.get(identity := sample_id(row)):
            text = dataset.text(index)
            events, causes = CitedEvents(text), true_causes(text, conditions[identity])
            parts = {}
            for each in citations(chain, events, with_numbers=False):
                if by_content:
                    statement = chain[each.end :].partition("\n")[0].strip(" :")
                    parts[each.name, statement] = events_that_say(text, each.name, statement)
                else:
                    parts[each.name, each.time] = events.parts(each.name, each.time)
            cited += [(row["subject_id"], bool(numbers), not causes.isdisjoint(numbers)) for numbers in parts.values()]
    return cited


def events_that_say(text: SampleText, name: str, statement: str) -> list[int]:
    """The events of a window with this name and a record that has the values of a statement, numbered as parts of the input.

    >>> from mimiciv_dataset.text import SampleText
    >>> text = SampleText("", "", "", ("## Pyxis [2150-01-01 08:00:00]\\n- Name: Aspirin 81mg TAB",))
    >>> events_that_say(text, "Pyxis", "Name: Aspirin 81mg TAB"), events_that_say(text, "Pyxis", "Name: Aspirin")
    ([3], [])
    """
    from evaluation.synthetic_causes import FIRST_EVENT, read_event
    from mimiciv_dataset.events import MISSING

    values, numbers = statement.rpartition(": ")[2], []
    for number, event in enumerate(text.window, FIRST_EVENT):
        if event.startswith(f"## {name} ["):
            records = (", ".join(value for value in record.values() if value != MISSING) for record in read_event(event)[1])
            if any(f", {values}, " in f", {record}, " for record in records):
                numbers.append(number)
    return numbers


def window_events(dataset: MIMICIV, conditions: Mapping[str, str]) -> Citations:
    """All events of the windows of rows, as if each was cited: the share of causes that random citations have."""
    from evaluation.synthetic_causes import FIRST_EVENT, true_causes
    from mimiciv_dataset.index_files import sample_id

    events: Citations = []
    for index in range(len(dataset)):
        row, text = dataset.row(index), dataset.text(index)
        causes = true_causes(text, conditions[sample_id(row)])
        shown = [FIRST_EVENT + number for number, event in enumerate(text.window) if event]
        events += [(row["subject_id"], True, number in causes) for number in shown]
    return events


def share_of_causes(cited: Citations) -> dict[str, Any]:
    """The share of cited events that are true causes, with a 95 % interval from resampled patients."""
    import numpy as np

    from evaluation.metrics import interval, mean, resample_patients, too_few

    if not cited:
        return {"cited": 0, "in_record": 0, "causes": 0, "share": None}
    patients = [patient for patient, _, _ in cited]
    values = np.array([is_cause for _, _, is_cause in cited], float)
    counts = {"cited": len(cited), "in_record": sum(known for _, known, _ in cited), "causes": int(values.sum())}
    reason = too_few(patients)
    resampling = None if reason else resample_patients(patients, RESAMPLES)
    ci = resampling and interval(resampling.apply(patients, lambda weights: mean(values, weights)))
    return {**counts, "patients": len(set(patients)), "share": float(values.mean()), "share_ci": ci, "too_few": reason}


def measure(root: Path, output: Path, seeds: int) -> dict[str, Any]:
    """The result of the ablation (docs/reproduce.md describes the fields)."""
    from evaluation.predictions import read_outputs
    from evaluation.synthetic_truth import rows_of
    from mimiciv_dataset.index_files import sample_id
    from mimiciv_dataset.index_rows import normalise_row
    from mimiciv_dataset.mimiciv import MIMICIV

    conditions = read_json(output / "conditions.json")
    runs = {arm: [output / f"results/{arm}-{seed}" for seed in range(seeds)] for arm in ARMS}
    predictions = {arm: of_several_seeds(folders) for arm, folders in runs.items()}
    train, test = (MIMICIV(root, output / f"{name}.csv", lazzy_mode=True, shuffle=False) for name in ("train", "test"))
    arms: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        arms[arm] = held_out(predictions[arm])
        if arm != WITHOUT_CHAINS:
            kept = list(rows_of(kept_file(output, arm)))
            chains = {sample_id(normalise_row(row)): row["reasoning"] for row in kept}
            counts = read_json(kept_file(output, arm).with_suffix(".reasons.json"))["all"]
            arms[arm]["chains"] = {name: counts[name] for name in ("rows", "chains", "passed", "kept")}
            arms[arm]["chains"] |= share_of_causes(citations_of(train, chains, conditions))
            replies = []
            for folder in runs[arm]:
                lines = ((prediction.sample_id, line) for _, prediction, line in read_outputs(folder))
                replies.append({i: (line.get("outputs") or [{}])[0].get("reasoning") or "" for i, line in lines})
            for name, by_content in (("answers", False), ("answers_by_content", True)):
                cited = [each for chains in replies for each in citations_of(test, chains, conditions, by_content)]
                arms[arm][name] = share_of_causes(cited)
    return {
        "graph_ablation": 1,
        "seeds": seeds,
        "trained_on": sum(1 for _ in rows_of(output / f"arms/{WITH_GRAPH}.csv")),
        "any_event": share_of_causes(window_events(test, conditions)),
        "arms": arms,
        "optimum": held_out(best_predictions(predictions[WITHOUT_CHAINS], conditions)),
        "differences": with_holm([difference(a, b, predictions) for a, b in DIFFERENCES]),
    }


def of_several_seeds(folders: Sequence[Path]) -> list[Prediction]:
    """The predictions of runs that differ in their training seed, as several replies to each sample."""
    from evaluation.predictions import read_predictions

    first, *others = ({p.sample_id: p for p in read_predictions(folder).values()} for folder in folders)
    return [replace(p, further=tuple(other[identity] for other in others)) for identity, p in first.items()]


def best_predictions(predictions: Sequence[Prediction], conditions: Mapping[str, str]) -> list[Prediction]:
    """What a perfect model, which knows the condition, answers to the samples of these predictions."""
    from evaluation.synthetic_causes import condition_named
    from evaluation.synthetic_truth import best_answer
    from preprocess.synthetic.emergency import diagnosis_sets

    best = cache(lambda condition, task: "\n".join(best_answer(diagnosis_sets(condition_named(condition), task))))
    return [replace(p, response=best(conditions[p.sample_id], p.task), thinking_open=False, further=()) for p in predictions]


def held_out(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """F1 by task, and their mean as `macro`, with intervals."""
    from evaluation.score import score_predictions

    scores = score_predictions(predictions, RESAMPLES)
    names = ("n", "patients", "f1", "f1_ci", "invalid", "too_few")
    tasks = {task: {name: values[name] for name in names} for task, values in scores["tasks"].items()}
    macro = scores["macro"]["paper"]
    return {"tasks": tasks, "macro": {"f1": macro["decision_f1"], "f1_ci": macro["decision_f1_ci"]}}


def difference(a: str, b: str, predictions: Mapping[str, Sequence[Prediction]]) -> dict[str, Any]:
    """The paired difference of F1 between two arms, a − b, by task and of the mean over tasks."""
    from evaluation.comparisons import Pair, compare
    from evaluation.score import main_scores

    pairs = {}
    for task in TASKS:
        of_a, of_b = ([p for p in predictions[arm] if p.task == task] for arm in (a, b))
        of_b = [{p.sample_id: p for p in of_b}[p.sample_id] for p in of_a]
        pairs[task] = Pair([p.subject_id for p in of_a], main_scores(task, of_a), main_scores(task, of_b))
    tasks, means = compare(pairs, {"macro": TASKS}, RESAMPLES)
    return {"a": a, "b": b} | {name: each._asdict() for name, each in {**tasks, **means}.items()}


def with_holm(differences: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The differences, with p_holm of their means corrected over all of them."""
    from evaluation.comparisons import holm

    corrected = holm([each["macro"]["p"] for each in differences])
    return [each | {"macro": each["macro"] | {"p_holm": p}} for each, p in zip(differences, corrected, strict=True)]


def print_result(result: Mapping[str, Any]) -> None:
    """Print a row for each arm."""
    rows = []
    for arm in ARMS:
        values = result["arms"][arm]
        chains = values.get("chains", {})
        to_none = next(
            (each["macro"] for each in result["differences"] if (each["a"], each["b"]) == (arm, WITHOUT_CHAINS)), {}
        )
        cells = [arm, *(chains.get(name) for name in ("chains", "passed", "kept", "cited"))]
        cells += [with_interval(chains, "share"), with_interval(values.get("answers_by_content", {}), "share")]
        cells += [with_interval(values["tasks"][task], "f1") for task in TASKS] + [with_interval(values["macro"], "f1")]
        rows.append([*cells, with_interval({"f1": to_none.get("difference"), "f1_ci": to_none.get("ci")}, "f1")])
    headers = [
        "arm",
        "chains",
        "passed",
        "rows kept",
        "cited",
        "true causes",
        "in answers, by content",
        *(f"F1 {task}" for task in TASKS),
    ]
    print_table([*headers, "F1, mean", "to answers only"], rows)
    any_event, optimum = result["any_event"], result["optimum"]["macro"]
    print(f"of all events of the held-out windows {with_interval(any_event, 'share')} are true causes", end="; ")
    print(f"a perfect model has a mean F1 of {with_interval(optimum, 'f1')}")


def with_interval(values: Mapping[str, Any], name: str) -> str:
    """A value with its interval, or `too few`."""
    if values.get(name) is None:
        return ""
    ci = values.get(f"{name}_ci")
    return f"{values[name]:.3f} " + (f"[{ci[0]:.3f}, {ci[1]:.3f}]" if ci else TOO_FEW)


if __name__ == "__main__":
    run(main)
