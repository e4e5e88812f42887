"""The viewer's data: prompts are those that were run, byte for byte, and every part of them leads to its event."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.viewer import CHAT, SUBJECT, write_root
from inference.backends import Generation, load_builder
from inference.generation import Prompter, output_line, read_samples
from inference.prompts import drop_oldest
from inference.settings import InferenceSettings
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.text import Renderer, SampleText
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.files import sha256
from scripts.infer import read_input
from scripts.view import main
from thinking_graph_preprocess.chains import CitedEvents, checked_citations
from viewer.prompt_parts import DROPPED, EVENT, Asked, shown_prompt
from viewer.runs import read_run
from viewer.samples import Benchmark, patient_group, run_prompt

EVENTS, SAMPLES = 450, 24
SETTINGS = InferenceSettings.from_flags(CHAT)
BUILDER = load_builder(SETTINGS)
HOSTILE = '</script><script>document.title = "stolen"</script><img src=x onerror="document.title = \'stolen\'">'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    write_root(folder, EVENTS, SAMPLES)
    return folder


def view(root: Path, *words: object) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Run the command: the head of the page, its groups, and the page."""
    page = root / "view.html"
    main([*map(str, ("--root_dir", root, "--output_path", page, *words))])
    text = page.read_text(encoding="utf-8")
    head, groups = (json.loads(re.search(f'id="{name}">(.*?)</script>', text, re.DOTALL)[1]) for name in ("head", "groups"))
    return head, [json.loads(gzip.decompress(base64.b64decode(group))) for group in groups], text


def plain(root: Path) -> tuple[object, ...]:
    return "--dataset_name", root / "index.csv", "--results", root / "results"


# --- prompts

times = st.sampled_from(["2150-01-01 00:00:00", "2150-01-02 00:00:00", "None"])
events = st.builds("## Triage [{}]\n{}".format, times, st.text('ab \n"\\<é|-', max_size=8)).map(lambda text: text.rstrip("\n"))


@given(
    st.lists(st.one_of(events, st.just("")), max_size=6), st.one_of(events, st.just("")), st.integers(0, 6), st.integers(0, 3),
    st.booleans(),
)  # fmt: skip
def test_parts_join_to_the_prompt(window: list[str], note: str, num_events: int, num_lines: int, reasons: bool) -> None:
    text = SampleText("## Patient Demographics [None]\n- Gender: F", note, "", tuple(window))
    kept, _ = drop_oldest(text, num_events, num_lines)
    prompt = BUILDER.prompt(str(kept), "What next?", "plain")
    asked = Asked(text, "What next?", TASKS["emar"], None)
    line = {"mode": "plain", "truncated": {"events": num_events, "lines": num_lines}, "prompt_sha256": sha256(prompt)}
    shown = shown_prompt(asked, line, SETTINGS, BUILDER)
    assert shown.text == prompt and shown.identical
    without_template = shown_prompt(asked, line, SETTINGS, None)
    assert without_template.text == f"{kept}\nWhat next?" and without_template.identical is None
    inputs = (text.patient, note, "", *window)
    for part in without_template.parts:
        if part.number not in (None, 1):
            assert part.text == inputs[part.number]
    numbers = [part.number for part in without_template.parts if part.kind in (EVENT, DROPPED) and part.number != 1]
    assert numbers == [number for number, part in enumerate(inputs) if part and number != 1], "each event once, in order"


def test_a_prompt_is_that_of_the_run_and_its_events_are_those_of_the_trajectory(
    root: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A tokenizer's template, truncation by its tokens, candidates in the prompt, values as known."""
    flags = {"model_name_or_path": str(tiny_model), "max_new_tokens": 8, "max_seq_len": 2500, "think_prompt": True}
    flags |= {"prompt": True, "as_known": True}
    settings = InferenceSettings.from_flags(flags)
    builder, prompts = load_builder(settings), {}
    lines = []
    for sample in read_samples(root, str(root / "index.csv"), settings.prompt):
        prompt = Prompter(sample.dataset, builder, settings)(sample.index, sample.sample_id)
        prompts[sample.sample_id] = prompt
        lines.append(json.dumps(output_line(prompt, [Generation("Aspirin", "stop", 0.5)], lambda *_: 0.0)))
    (tmp_path / "outputs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "result.json").write_text(json.dumps({"arguments": flags}), encoding="utf-8")
    assert sum(prompt.truncation is not None for prompt in prompts.values()) > 5

    run, benchmark = read_run(tmp_path), Benchmark(root, str(root / "index.csv"))
    events = Trajectories(root / "patients_ehr").trajectory(SUBJECT)
    for identity, prompt in prompts.items():
        shown = run_prompt(benchmark, identity, run, events)
        assert shown.text == prompt.text and sha256(shown.text) == prompt.line["prompt_sha256"] and shown.identical
        dropped = [part for part in shown.parts if part.kind == DROPPED and part.number != 1]
        assert len(dropped) == (prompt.truncation.events if prompt.truncation else 0)
    group = patient_group(benchmark, list(prompts), [run], {})
    renderer = Renderer(Lookups(root / "index_mapping"))
    for line in group["samples"].values():
        positions = [part for part in line["prompts"][0]["parts"] if isinstance(part, int)]
        assert positions
        for position in map(abs, positions):
            described = group["patient"]["events"][position]
            assert described["text"] == renderer.event(events[position]) and described["n"] == len(
                events[position].records().rows
            )
    assert all(answer["identical"] for line in group["samples"].values() for answer in line["answers"].values())


def test_a_prompt_of_other_data_is_reported(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in (root / "results/outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    lines[0]["prompt_sha256"] = "0" * 64
    (tmp_path / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "result.json").write_text((root / "results/result.json").read_text(encoding="utf-8"), encoding="utf-8")
    _, groups, _ = view(root, "--dataset_name", root / "index.csv", "--results", tmp_path)
    assert [answer["identical"] for _, line in samples_of(groups) for answer in line["answers"].values()].count(False) == 1
    assert capsys.readouterr().err.count("1 prompts are not those that were run") == 1


def samples_of(groups: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return ((group["patient"], sample) for group in groups for sample in group["samples"].values())


# --- the page


def test_events_have_their_times(root: Path) -> None:
    _, groups, _ = view(root, *plain(root))
    stored = 0
    for patient, sample in samples_of(groups):
        begin, end = sample["window"]
        assert sample["predicted_at"] >= max(patient["starts"][begin:end])
        for event in patient["events"].values():
            times = event.get("stored", [])
            assert not isinstance(times, list) or len(times) in (0, event["n"])
            stored += "stored" in event
    assert stored > 50
    assert len(groups) == 1 and len(groups[0]["patient"]["tables"]) == EVENTS


def test_the_page_is_small_and_its_list_has_scores(root: Path) -> None:
    head, groups, text = view(root, *plain(root))
    assert len(text.encode()) < 5e6 and len(head["samples"]) == SAMPLES == sum(len(group["samples"]) for group in groups)
    assert {entry["scores"][0] for entry in head["samples"]} >= {0.0, 1.0}
    assert any(entry["p_yes"][0] is not None for entry in head["samples"])


def test_limit_and_sample_choose_what_is_on_the_page(root: Path) -> None:
    identity = list(Benchmark(root, str(root / "index.csv")).rows())[-1]
    head, _, text = view(root, *plain(root), "--limit", 3, "--sample", identity)
    assert len(head["samples"]) == 3 and head["selected"] == head["samples"][0]["id"] == identity
    assert f"3 of {SAMPLES} samples, of 1 patient." in text
    head, _, _ = view(root, *plain(root), "--subject_id", SUBJECT)
    assert len(head["samples"]) == SAMPLES


def test_the_saved_input_is_that_of_the_sample(root: Path, tmp_path: Path) -> None:
    benchmark = Benchmark(root, str(root / "index.csv"))
    identity = next(iter(benchmark.rows()))
    view(root, *plain(root), "--limit", 1, "--sample", identity, "--save", tmp_path / "record.md")
    row = benchmark.rows()[identity]
    assert read_input(str(tmp_path / "record.md")) == row.dataset[row.index]["input"]


def test_citations_of_chains_lead_to_events(root: Path) -> None:
    _, groups, _ = view(root, *plain(root))
    cited = 0
    for patient, sample in samples_of(groups):
        for reply in sample["answers"].get("0", {"replies": []})["replies"]:
            for piece in reply.get("chain", {"pieces": []})["pieces"]:
                if isinstance(piece, dict) and piece["event"] is None:
                    assert [fault["reason"] for fault in piece["faults"]] == ["unknown_event"]
                elif isinstance(piece, dict):
                    heading = piece["text"].strip("*")
                    assert patient["events"][str(piece["event"])]["text"].startswith(f"## {heading}") and not piece["faults"]
                    cited += 1
    assert cited > 20


def test_numbers_are_checked_under_extraction_only() -> None:
    events = CitedEvents(SampleText("", "", "", ("## Triage [2150-01-01 08:00:00]\n- Pain: 5",)))
    cite = "**Triage [2150-01-01 08:00:00]**"
    chain = f"## Extraction\n- {cite}: pain 8\n- {cite}: pain 5\n## Reasoning\n{cite} is 9\n## Final Results\nx"
    citations = checked_citations(chain, events)
    assert [chain[each.start : each.end] for each in citations] == [cite] * 3
    assert [[fault.reason for fault in each.faults] for each in citations] == [["wrong_number"], [], []]
    assert checked_citations(chain.replace("\n", "\r\n"), events) == citations


def test_graphs_come_from_evidence_files(root: Path, tmp_path: Path) -> None:
    import csv

    with (root / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    graph = {"umls_graph": [["pain", "treated by", "Aspirin"]]}
    with (tmp_path / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "graph"])
        writer.writeheader()
        writer.writerows(row | {"graph": json.dumps(graph) if number == 0 else ""} for number, row in enumerate(rows))
    _, groups, _ = view(root, *plain(root), "--evidence", tmp_path)
    graphs = [sample["graph"] for _, sample in samples_of(groups) if "graph" in sample]
    assert [[node["term"] for node in each["nodes"]] for each in graphs] == [["pain", "Aspirin"]]
    _, groups, _ = view(root, "--dataset_name", tmp_path / "index.csv")
    assert sum("graph" in sample for _, sample in samples_of(groups)) == 1


def test_rows_with_their_own_text_need_no_trajectories(tmp_path: Path) -> None:
    first = "## Patient Demographics [None]\n- Gender: F\n\n\n\n\n\n## Triage [2150-01-01 08:00:00]\n- Chiefcomplaint: "
    row = {"idx": 0, "instruction": "Which drugs?", "input": first + HOSTILE, "output": "Aspirin", "candidates": ["Aspirin"]}
    row["task_info"] = {"task": "emar", "label": ["Aspirin"], "target": ["Aspirin"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    head, groups, text = view(tmp_path, "--dataset_name", tmp_path / "rows.jsonl")
    assert HOSTILE not in text and [event["text"] for event in groups[0]["patient"]["events"].values()] == first.split(
        6 * "\n"
    )[:1] + [first.split(6 * "\n")[1] + HOSTILE]
    assert [part for part in groups[0]["samples"][head["selected"]]["prompts"][0]["parts"] if isinstance(part, dict)]


# --- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sample", "emar/10000001/77-88"), "expected the sample of --sample, got 24 samples without it"),
        (("--subject_id", "77"), "expected samples of the patient of --subject_id, got none"),
        (("--save", "record.md"), "--save: expected --sample"),
        (("--results", "other"), "other: expected outputs of samples of .*index.csv, got outputs of 1 other samples"),
        (("--results", "missing"), "missing: expected a directory with outputs of a run, got no such"),
        (("--root_dir", "empty"), "expected trajectories .* got no such directory"),
        (("--evidence", "missing"), "missing: expected a task index"),
    ],
)
def test_bad_input_is_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line = json.loads((root / "results/outputs.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    line |= {"sample_id": "emar/5/6-7"}
    Path("other").mkdir()
    Path("other/outputs.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        main(["--root_dir", str(root), "--dataset_name", str(root / "index.csv"), *words])
    assert "\n" not in str(error.value) and SUBJECT not in str(error.value) and not Path("view.html").exists()


def test_a_run_without_its_settings_or_tokenizer_is_shown_with_a_note(root: Path, tmp_path: Path) -> None:
    outputs = (root / "results/outputs.jsonl").read_text(encoding="utf-8")
    elsewhere = {"model_name_or_path": str(tmp_path / "gone"), "max_new_tokens": 64}
    for name, result in (("settings", None), ("tokenizer", {"arguments": elsewhere})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "outputs.jsonl").write_text(outputs, encoding="utf-8")
        if result:
            (tmp_path / name / "result.json").write_text(json.dumps(result), encoding="utf-8")
    head, groups, _ = view(
        root, "--dataset_name", root / "index.csv", "--results", tmp_path / "settings", tmp_path / "tokenizer"
    )
    assert [run["note"][:20] for run in head["runs"]] == ["no settings in resul", "the tokenizer of the"]
    assert all("prompt" not in line["answers"]["0"] for _, line in samples_of(groups))
    assert all(line["answers"]["1"]["identical"] is None for _, line in samples_of(groups))
