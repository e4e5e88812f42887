"""The filter of reasoning chains: keeps exactly the good ones of a hand-made set, says why of each other one."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path

import pytest
from conftest import command
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import ScriptedServer
from tiny_evidence import EXTRACTION, TARGET, chain, prompt_of, read_chains, write_evidence

from mimiciv_dataset.index_files import SAMPLE_COLUMNS
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.text import SampleText
from pipeline.errors import UserError
from pipeline.files import read_json
from thinking_graph_preprocess import filter_reasoning, reasoning_generation
from thinking_graph_preprocess.chains import (
    REASONS,
    AnswerLimits,
    CitedEvents,
    answer_faults,
    faults,
    mentions_given,
    normalised,
    split_sections,
)

SCRIPT = "thinking_graph_preprocess/filter_reasoning.py"

CUT_OFF = chain()[:200]
REJECTED = {
    "hallucinated event": (chain(EXTRACTION + "\n- **Chart Events [2150-01-01 12:00:00]**: a pulse"), ["unknown_event"]),
    "wrong time": (chain(EXTRACTION.replace("08:00:01", "09:00:00")), ["wrong_time"]),
    "wrong time in the reasoning": (chain(reasoning="So says **Triage [2150-01-02 08:00:01]**."), ["wrong_time"]),
    "wrong number": (chain(EXTRACTION.replace("pain 5", "pain 8")), ["wrong_number"]),
    "number of another event": (chain(EXTRACTION.replace("temperature 98", "temperature 3.5")), ["wrong_number"]),
    "leaked truth": (chain(reasoning="The provided answer lists fluids, so they follow."), ["told"]),
    "leaked graph": (chain(reasoning="According to the knowledge graph, aspirin treats pain."), ["told"]),
    "missing section": (chain().replace("## Reasoning", "## Thoughts"), ["sections"]),
    "sections out of order": (chain().replace("## Extraction", "## X").replace("## Reasoning", "## Extraction")
                              .replace("## X", "## Reasoning"), ["sections"]),
    "empty section": (chain(reasoning=""), ["sections"]),
    "wrong answer": (chain(final=[*TARGET, "Insulin"]), ["wrong_answer"]),
    "K in a word only": (chain(final=["Kalium", "Heparin K", "Aspirin", "0.9% Sodium Chloride"]), ["too_few", "wrong_answer"]),
    "too few": (chain(final=TARGET[:2]), ["too_few"]),
    "nothing cited": (chain("- The patient is in pain."), ["uncited"]),
    "one line uncited": (chain("- She had a stroke.\n" + EXTRACTION), ["uncited"]),
    "cut off": (CUT_OFF, ["unfinished"]),
    "never ends its thought": ("<think>I should write " + chain(), ["unfinished"]),
    "all at once": (chain("- **Triage [2150-01-01 08:00:00]**: pain 11", "As the ground truth says.", ["Insulin"]),
                    ["told", "wrong_time", "too_few", "wrong_answer"]),
}  # fmt: skip
"""Bad chains, each with the reasons to be found."""

KEPT = {
    "plain": chain(),
    "three of four answers": chain(final=TARGET[1:]),
    "other case and marks": chain(final=["**aspirin**", "K", "HEPARIN", "0.9% sodium chloride"]),
    "after its own thought": f"<think>Let me see: pain 11.</think>\n{chain()}",
    "numbered, indented": chain(
        "1. **Triage [2150-01-01 08:00:01]**:\n   - Pain: 5\n2. **Patient Demographics [None]**: age 70"
    ),
    "words before the first section": "Here is the reasoning.\n\n" + chain(),
    "in a code fence": f"```markdown\n{chain()}\n```\nI hope that this helps.",
    "headings of another level": chain().replace("## ", "### "),
    "bold headings with colons": re.sub(r"^## (.*)$", r"**\1:**", chain(), flags=re.MULTILINE),
    "numbered headings": chain().replace("## E", "## 1. E").replace("## R", "## 2. R").replace("## F", "## 3. F"),
    "line ends of Windows": chain().replace("\n", "\r\n"),
    "parts of names are no numbers": chain("- **Triage [2150-01-01 08:00:01]**: SpO2 and T4 not taken, 98 F at 08:00"),
}


def flags_for(root: Path, evidence: Path, folder: Path, *more: object) -> list[str]:
    return list(map(str, ["--root_dir", root, "--data_index_dir", evidence, "--reasoning_path", folder / "chains",
                          "--output_path", folder / "kept.csv", *more]))  # fmt: skip


def generate(root: Path, evidence: Path, folder: Path, choices: list[list[str]], *more: object) -> None:
    """Chains as a server wrote them, one list a row, in the order of the rows; a chain cut off ends for its length."""

    def script(body: dict, number: int) -> dict:
        texts = choices[number]
        return {"text": texts, "finish_reason": "length" if CUT_OFF in texts else "stop"}

    assert len({len(texts) for texts in choices}) == 1
    with ScriptedServer(script) as server:
        flags = ["--root_dir", root, "--data_index_dir", evidence, "--output_path", folder / "chains", "--model", "m", "--n",
                 len(choices[0]), "--base_url", server.url, "--num_worker", 1, *more]  # fmt: skip
        assert reasoning_generation.main(list(map(str, flags))) == 0


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_rejects(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "kept.rejects.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_closed_loop_keeps_exactly_the_good_chains(small_root: Path, tmp_path: Path) -> None:
    bad = [(text, reasons) for text, reasons in REJECTED.values()]
    choices = [[text] for text, _ in bad] + [[text] for text in KEPT.values()]
    # the hand-made patients are alike, so that any chain goes with any of them; several files, since there are twenty
    kept: list[dict[str, str]] = []
    for part in range(0, len(choices), 20):
        folder = tmp_path / str(part)
        evidence = write_evidence(small_root, folder / "evidence.csv", rows=len(choices[part : part + 20]))
        generate(small_root, evidence, folder, choices[part : part + 20])
        done = command(SCRIPT, *flags_for(small_root, evidence, folder))
        found = {int(line["subject_id"]): [fault["reason"] for fault in line["reasons"]] for line in read_rejects(folder)}
        expected = bad[part : part + 20]
        assert found == {2 + 100 * i: reasons for i, (_, reasons) in enumerate(expected)}
        kept += read_csv(folder / "kept.csv")
        for told_of in ("Triage", "Aspirin", "pain"):
            assert told_of not in done.stdout + done.stderr, "no word of a record or chain in the log"
    as_written = {
        "plain",
        "three of four answers",
        "other case and marks",
        "numbered, indented",
        "parts of names are no numbers",
    }
    expected = [text if name in as_written else chain() for name, text in KEPT.items()]
    assert [row["reasoning"] for row in kept] == expected


def test_what_comes_out_trains_as_it_is(small_root: Path, tmp_path: Path) -> None:
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=3)
    texts = [[chain()], [chain(final=["Insulin"])], [chain(reasoning='Of "pain", and\n\nof\nfluids.')]]
    generate(small_root, evidence, tmp_path, texts)
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path)) == 0
    rows = read_csv(tmp_path / "kept.csv")
    assert tuple(rows[0]) == (*SAMPLE_COLUMNS, "reasoning")
    of_evidence = MIMICIV(small_root, evidence, lazzy_mode=True, shuffle=False)
    trained = MIMICIV(small_root, tmp_path / "kept.csv", lazzy_mode=True, shuffle=False)
    assert len(trained) == 2
    for index, source in enumerate((0, 2)):
        sample, whole = trained[index], of_evidence[source]
        assert sample["task_info"].pop("reasoning") == texts[source][0]
        whole["task_info"].pop("graph")
        assert {**sample, "idx": 0} == {**whole, "idx": 0}


def test_the_best_chain_of_a_row(small_root: Path, tmp_path: Path) -> None:
    short = chain("- **Triage [2150-01-01 08:00:01]**: pain 5", reasoning="Pain.")
    long = chain(reasoning="Pain. " * 50)
    choices = [
        [chain(final=TARGET[1:]), short, chain(final=["Insulin"])],  # all answers before three of four
        [short, chain(), long],  # the most events cited, then the shortest
        [chain(final=["Insulin"])] * 3,
    ]
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=3)
    generate(small_root, evidence, tmp_path, choices)
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path)) == 0
    assert [row["reasoning"] for row in read_csv(tmp_path / "kept.csv")] == [short, chain()]
    counts = read_json(tmp_path / "kept.reasons.json")["tasks"]["emar"]
    assert (counts["rows"], counts["kept"], counts["chains"], counts["passed"], counts["wrong_answer"]) == (3, 2, 9, 5, 4)


def test_replies_of_earlier_settings_are_not_used(
    small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=3)
    generate(small_root, evidence, tmp_path, [[chain()]] * 3)
    generate(small_root, evidence, tmp_path, [[chain(final=TARGET[:3])]] * 3, "--temperature", 1)
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path)) == 0
    assert "3 replies of earlier inputs or settings are not used" in capsys.readouterr().out
    assert [row["reasoning"] for row in read_csv(tmp_path / "kept.csv")] == [chain(final=TARGET[:3])] * 3
    (tmp_path / "chains/provenance.json").unlink()  # as of version 0.1: all replies count
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path, "--overwrite")) == 0
    assert "its origin is unknown" in capsys.readouterr().out
    assert [row["reasoning"] for row in read_csv(tmp_path / "kept.csv")] == [chain()] * 3


def test_rows_without_a_reply(small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=4)
    answers = [{"text": chain()}, {"status": 400}, {"text": chain(final=["Insulin"])}]
    with ScriptedServer(lambda body, number: answers[number]) as server:
        flags = ["--root_dir", small_root, "--data_index_dir", evidence, "--output_path", tmp_path / "chains", "--model", "m",
                 "--base_url", server.url, "--num_worker", 1, "--limit", 3]  # fmt: skip
        assert reasoning_generation.main(list(map(str, flags))) == 1
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path)) == 0
    assert "1 of 4 rows have a chain" in capsys.readouterr().out
    counts = read_json(tmp_path / "kept.reasons.json")["all"]
    assert (counts["rows"], counts["answered"], counts["kept"]) == (4, 2, 1)


def test_nothing_kept_is_an_error_that_shows_why(small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=2)
    generate(small_root, evidence, tmp_path, [[chain(final=["Insulin"])]] * 2)
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path)) == 1
    assert "no chain passed" in capsys.readouterr().err and len(read_rejects(tmp_path)) == 2
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path)) == 1, "up to date, and as bad"
    flags = ("--min_right", 0, "--max_wrong", 1)
    with pytest.raises(UserError, match="expected the same min_right, max_wrong as when it was made"):
        filter_reasoning.main(flags_for(small_root, evidence, tmp_path, *flags))
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path, *flags, "--overwrite")) == 0


def test_chains_without_sections(small_root: Path, tmp_path: Path) -> None:
    """Those of --without_format are held to all that does not need the sections."""
    free = "She has pain (**Triage [2150-01-01 08:00:01]**).\n\n## Final Results\n" + "\n".join(TARGET)
    choices = [
        [free],
        [free.replace("08:00:01", "09:00:00")],
        [free.replace("Aspirin", "Insulin")],
        [free.replace("## Final Results\n", "")],
    ]
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=4)
    generate(small_root, evidence, tmp_path, choices, "--without_format")
    assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path)) == 0
    assert [row["reasoning"] for row in read_csv(tmp_path / "kept.csv")] == [free]
    assert [[fault["reason"] for fault in line["reasons"]] for line in read_rejects(tmp_path)] == [
        ["wrong_time"], ["wrong_answer"], ["sections"],
    ]  # fmt: skip


def test_chunks_together_are_one_filter(small_root: Path, tmp_path: Path) -> None:
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=5)
    generate(small_root, evidence, tmp_path, [[chain(reasoning=f"Pain, {i}.")] for i in range(5)])
    for index in (0, 1):
        filter_reasoning.main(flags_for(small_root, evidence, tmp_path, "--chunk_num", 2, "--chunk_idx", index))
    rows = [row for index in (0, 1) for row in read_csv(tmp_path / f"kept-{index}-of-2.csv")]
    assert sorted(row["subject_id"] for row in rows) == sorted(str(2 + 100 * i) for i in range(5))


def test_any_number_of_processes_writes_the_same(small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_reasoning, "ROWS_PER_PART", 2)
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=5)
    generate(small_root, evidence, tmp_path, [[chain(reasoning=f"Pain, {i}."), chain(final=["Insulin"])] for i in range(5)])
    written = []
    for number in (1, 2):
        assert filter_reasoning.main(flags_for(small_root, evidence, tmp_path, "--num_workers", number, "--overwrite")) == 0
        tables = read_json(tmp_path / "kept.reasons.json")
        files = [(tmp_path / name).read_bytes() for name in ("kept.csv", "kept.rejects.jsonl")]
        written.append((files, tables["tasks"], tables["all"]))
    assert written[0] == written[1] and len(read_rejects(tmp_path)) == 5
    record = read_json(tmp_path / "kept.provenance.json")
    assert record["complete"] and record["rows"] == record["kept"] == 5 and record["settings"]["min_right"] == 0.7
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_verifier_must_reach_the_answer(small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It sees record and reasoning, not the conclusion; it reads good chains only, each once; errors are asked again."""
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=5)
    choices = [[chain(reasoning=f"It is {name}.")] * 2 for name in ("clear", "unclear", "endless", "broken")]
    generate(small_root, evidence, tmp_path, [*choices, [chain(final=["Insulin"])] * 2])
    broken = True

    def script(body: dict, number: int) -> dict:
        prompt = prompt_of(body)
        assert "## Final Results" not in prompt and "Heparin" not in prompt and "# The right answer" not in prompt
        assert "## Patient Demographics [None]" in prompt and body["temperature"] == 0 and body["model"] == "reader"
        if "It is broken" in prompt and broken:
            return {"status": 400, "message": "not now"}
        answer = "\n".join(f"- {name}" for name in TARGET)
        return {
            "text": "none" if "unclear" in prompt else answer,
            "finish_reason": "length" if "endless" in prompt else "stop",
        }

    with ScriptedServer(script) as server:
        flags = flags_for(small_root, evidence, tmp_path, "--verifier_model", "reader", "--base_url", server.url)
        assert filter_reasoning.main(flags) == 1
        assert "no reply to 1 chains: HTTP 400: not now" in capsys.readouterr().err and len(server.asked) == 4
        assert not (tmp_path / "kept.csv").exists()
        broken = False
        assert filter_reasoning.main(flags) == 0
        assert len(server.asked) == 5
    kept = read_csv(tmp_path / "kept.csv")
    assert [re.search(r"It is (\w+)", row["reasoning"])[1] for row in kept] == ["clear", "broken"]
    reasons = [line["reasons"][0]["reason"] for line in read_rejects(tmp_path)]
    assert reasons == ["not_reached"] * 4 + ["too_few"] * 2
    assert len(read_chains(tmp_path / "chains", "verified")) == 5


def test_wrong_use_is_said(small_root: Path, tmp_path: Path) -> None:
    evidence = write_evidence(small_root, tmp_path / "evidence.csv", rows=2)
    with pytest.raises(UserError, match="chains: expected a directory of chains, got no such file"):
        filter_reasoning.main(flags_for(small_root, evidence, tmp_path))
    (tmp_path / "chains").mkdir()
    with pytest.raises(UserError, match=r"expected reasoning\.jsonl"):
        filter_reasoning.main(flags_for(small_root, evidence, tmp_path))
    (tmp_path / "chains" / "reasoning.jsonl").write_text('{"key": "1"}\n')
    with pytest.raises(UserError, match="expected lines of reasoning_generation.py"):
        filter_reasoning.main(flags_for(small_root, evidence, tmp_path))
    (tmp_path / "chains" / "reasoning.jsonl").write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1: expected a JSON object"):
        filter_reasoning.main(flags_for(small_root, evidence, tmp_path))
    for flags, message in (
        (["--min_right", 2], "--min_right: expected a number from 0 to 1"),
        (["--max_wrong", -1], "--max_wrong: expected a whole number"),
        (["--verifier_model", "m"], "There is no default"),
        (["--max_new_tokens", 0], "--max_new_tokens: expected a whole number"),
        (["--max_new_tokens", 16384], "--max_new_tokens 16384: expected fewer"),
    ):
        done = command(SCRIPT, *flags_for(small_root, evidence, tmp_path, *flags), check=False)
        assert done.returncode == 2 and message in done.stderr


# --- the checks by themselves


@pytest.mark.parametrize(
    "text",
    [
        "This agrees with the ground truth.", "as the GROUND-TRUTH shows", "the given answers", "matches the correct answer",
        "the answer is given as aspirin", "from the retrieved knowledge", "the provided paths link both", "the knowledge base",
        "Since the answer includes aspirin, pain is treated.", "based on the answer list", "the answer given above names it",
        "they were given to me", "the target list", "the knowledge says so",
        "UMLS relates the two", "as instructed", "the instructions ask for three sections", "from the prompt",
    ],
)  # fmt: skip
def test_talk_of_what_was_given_is_found(text: str) -> None:
    assert list(mentions_given(f"## Reasoning\n{text}\n"))


@pytest.mark.parametrize(
    "text",
    [
        "She answers questions appropriately.", "Given the fever, cultures are drawn.", "prompt treatment with fluids",
        "the patient was given aspirin and provided discharge instructions", "no known allergies", "correct the potassium",
        "a knowledge deficit about diabetes", "the target INR is reached", "in the right lung", "relations visited her",
        "the solution was given to her", "her answers are slow", "as the answer to the volume loss", "target lesion",
        "The true lumen is patent.", "reference range", "expected results of the culture",
    ],
)  # fmt: skip
def test_talk_of_the_patient_is_not_taken_for_it(text: str) -> None:
    assert not list(mentions_given(f"## Reasoning\n{text}\n"))


def with_headings(form: str) -> str:
    """A chain whose headings have another form: {0} stands for the name, {1} for its number."""
    numbers = iter(range(1, 9))
    return re.sub(r"^## (.*)$", lambda heading: form.format(heading[1], next(numbers)), chain(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "form",
    [
        "{0}",
        "{0}:",
        "{0}\n==========",
        "{0}\n---",
        "<h3>{0}</h3>",
        '<h2 class="x">{0}:</h2>',
        "({1}) {0}",
        "{1}. {0}",
        "{1}) {0}",
        "Step {1}: {0}",
        "### Step {1} - {0}",
        "II. {0}",
        "**{0}**",
        "**{0}:**",
        "**{0}**:",
        "**Step {1}: {0}**",
        "__{0}__",
        "# {0}",
        "#### {0} ####",
        "##\u00a0{0}",
        "\u200b## {0}\u200b",
        "##\u2009{0}",
        "## {0}：",
        "***\n## {0}",
    ],
)
def test_forms_of_headings_are_read(form: str) -> None:
    assert normalised(with_headings(form)) == chain()
    assert normalised(f"Here is the chain:\n\n{with_headings(form)}") == chain()
    assert normalised(f"Sure.\n```markdown\n{with_headings(form)}\n```\nI hope that it helps.") == chain()


def test_odd_spaces_and_bullets_are_read() -> None:
    assert normalised(chain().replace("\n- ", "\n• ").replace("## ", "## \u200b")) == chain()
    assert (
        normalised(with_headings("{0}").upper()).count("## ") == 3 and normalised(chain().replace("\n", "\u2028")) == chain()
    )


@pytest.mark.parametrize(
    "text",
    [
        chain().replace("## Reasoning", ""),
        "Reasoning\na\nExtraction\nb\nFinal Results\n- c",
        with_headings("{0}") + "\nReasoning\nb",
        "Extraction of events, reasoning and final results follow.\n- a",
        "Extraction\nReasoning\nb\nFinal Results\nc",
        "The extraction\nx\nMy reasoning\ny\nThe final results\nz",
        "Extraction is hard.\nReasoning is too.\nFinal Results vary.",
        "- Extraction\n- Reasoning\n- Final Results",
        "I did extraction: yes\nreasoning: yes\nfinal results: yes",
        "",
        "## Final Results\n- c",
        chain().replace("## Final", "## Summary\nPain.\n\n## Final"),
        chain() + "\n\n# Disclaimer\nNo advice.",
        re.sub(r"^## ", "> ## ", chain(), flags=re.MULTILINE),
        chain().replace("Extraction", "Extraktion").replace("Reasoning", "Begründung").replace("Final Results", "Ergebnis"),
        chain().replace("Final Results", "Final Answer"),
    ],
)
def test_what_lacks_a_section_is_still_rejected(text: str) -> None:
    assert split_sections(normalised(text)) is None


@pytest.mark.parametrize("remark", ["I hope that this helps!", "**Note:** ask a physician.\n\nThis is no advice."])
def test_remarks_after_the_items_are_removed(remark: str) -> None:
    assert normalised(f"{chain()}\n\n{remark}") == chain()


def test_items_without_a_mark_are_no_remark() -> None:
    assert normalised(f"{chain()}\nInsulin") == f"{chain()}\nInsulin"
    assert "wrong_answer" in {fault.reason for fault in answer_faults(f"- {TARGET[0]}\nInsulin", TARGET[:1], AnswerLimits())}


NAMES = st.lists(st.text("ABKab +%0.9,", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=1, max_size=6)


@given(NAMES, NAMES)
def test_items_count_whole(named: list[str], target: list[str]) -> None:
    from inference.answers import read_items

    items = {item.casefold() for item in read_items("\n".join(f"- {name}" for name in named))}
    true = {" ".join(name.split()).casefold() for name in target}
    folded = {" ".join(item.split()) for item in items}
    found = {fault.reason for fault in answer_faults("\n".join(f"- {name}" for name in named), target, AnswerLimits(1.0, 0))}
    assert ("too_few" in found) == bool(true - folded) and ("wrong_answer" in found) == bool(folded - true)


def records(test_data: Path) -> list[str]:
    import gzip

    with gzip.open(test_data / "golden" / "rendered.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["input"] for line in file]


def test_chains_of_real_records_pass_and_changed_ones_do_not(test_data: Path) -> None:
    """From demo records: any events with their own words pass; another time, name or number does not."""
    draw = random.Random(0)
    seen = 0
    for text in records(test_data):
        parts = SampleText.parse(text)
        events = [part for part in (parts.patient, parts.last_discharge, *parts.window) if part]
        chosen = draw.sample(events, min(3, len(events)))
        cited = [re.match(r"## (.+) \[(.+)\]\n?", event) for event in chosen]
        lines = [
            f"- **{found[1]} [{found[2]}]**: " + " ".join(event[found.end() :].replace("**", "").replace("|", " ").split())
            for found, event in zip(cited, chosen, strict=True)
        ]
        record = CitedEvents(parts)

        def reasons(extraction: str, record: CitedEvents = record) -> set[str]:
            made = chain(extraction, reasoning="So it follows.", final=["Aspirin"])
            return {fault.reason for fault in faults(made, "stop", record, ["Aspirin"], AnswerLimits())}

        assert reasons("\n".join(lines)) <= {"told"}
        line, time, name = lines[0], cited[0][2], cited[0][1]
        assert "wrong_time" in reasons(line.replace(f"[{time}]", "[2099-01-01 00:00:00]", 1))
        assert "unknown_event" in reasons(line.replace(name, name + "s", 1))
        assert "wrong_number" in reasons(f"{line} and 98765.43")
        assert "sections" in reasons("")
        seen += 1
    assert seen > 20


PIECES = st.lists(
    st.sampled_from(
        ["\n", "- ", "1. ", "**", "[", "]", "None", "70", ".", ",", "Patient Demographics", "## Reasoning", " ", ":"]
    )
).map("".join)


@settings(max_examples=300, deadline=None)
@given(PIECES, PIECES, PIECES)
def test_any_text_is_judged(extraction: str, reasoning: str, final: str) -> None:
    """Whatever a model writes, the checks end, and what they find has a name."""
    record = CitedEvents(SampleText("## Patient Demographics [None]\n- Anchor_Age: 70", "", "", ()))
    for text in (extraction, chain(extraction, reasoning, [final]), chain(extraction, "So.", ["Aspirin"])):
        for sections in (True, False):
            assert {fault.reason for fault in faults(text, "stop", record, ["Aspirin"], AnswerLimits(), sections)} <= set(
                REASONS
            )
