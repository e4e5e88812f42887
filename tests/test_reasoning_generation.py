"""Synthesis of reasoning chains against a scripted server: nothing lost or sent twice, no text in logs; and a real server."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import REPO, command
from scripted_server import ScriptedServer
from tiny_evidence import GRAPH, TARGET, chain, prompt_of, read_chains, record_of, write_evidence

from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.mimiciv import MIMICIV
from pipeline.errors import UserError
from pipeline.files import append_jsonl, read_jsonl
from thinking_graph_preprocess.chain_prompts import SLOTS, read_prompt
from thinking_graph_preprocess.reasoning_generation import main

SCRIPT = "thinking_graph_preprocess/reasoning_generation.py"


def words(root: Path, evidence: Path, output: Path, *more: object) -> list[object]:
    return ["--root_dir", root, "--data_index_dir", evidence, "--output_path", output, "--model", "teacher", *more]


def here(*args: object) -> int:
    """The command in this process, which is quicker than one of its own."""
    return main(list(map(str, args)))


def good(body: dict, number: int) -> dict:
    return {"text": chain()}


def patient_of(body: dict) -> str:
    """The prompts of the hand-made patients differ in nothing else than what the test puts into them."""
    return re.search(r"patient (\d+)", prompt_of(body))[1]


@pytest.fixture
def evidence(small_root: Path, tmp_path: Path) -> Path:
    return write_evidence(small_root, tmp_path / "evidence" / "emar.csv", graphs=12)


@pytest.fixture
def marked(small_root: Path, tmp_path: Path) -> Path:
    """Evidence whose prompts name the row: the path of its graph ends in the patient's number."""
    path = write_evidence(small_root, tmp_path / "marked" / "emar.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    marks = [line.replace("Finding", f"patient {line.split(',')[0]}") for line in lines[1:]]
    path.write_text("\n".join([lines[0], *marks]) + "\n", encoding="utf-8")
    return path


def test_a_row_is_a_line_and_says_what_is_promised(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    with ScriptedServer(good) as server:
        done = command(SCRIPT, *words(small_root, evidence, tmp_path / "out", "--base_url", server.url, "--num_worker", 4),
                       OPENAI_API_KEY="sk-very-secret")  # fmt: skip
    lines = read_chains(tmp_path / "out")
    assert len(lines) == len({line["key"] for line in lines}) == len(server.asked) == 20
    for line in lines:
        assert {"key", "subject_id", "task", "period_begin", "period_end", "model", "choices", "finish_reasons", "usage",
                "error"} <= set(line)  # fmt: skip
        assert line["choices"] == [chain()] * 3 and line["finish_reasons"] == ["stop"] * 3 and line["error"] is None
        assert line["usage"] == {"prompt_tokens": 10, "completion_tokens": 2} and line["model"] == "teacher"
    assert Counter(line["prompt"] for line in lines) == {"with_knowledge": 12, "without_knowledge": 8}
    for _, path, body in server.asked:
        assert path.endswith("/chat/completions") and body["n"] == 3 and body["temperature"] == 0.5
    assert "20 rows answered" in done.stdout and "requests/min" in done.stderr + done.stdout
    # neither the key nor a word of a record where others may read it
    written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "sk-very-secret" not in written + done.stdout + done.stderr
    for text in ("Anchor_Age", "Triage", "Sodium Chloride", "98.0"):
        assert text not in done.stdout + done.stderr


def test_the_prompt_holds_record_question_answer_and_paths(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    dataset = MIMICIV(small_root, evidence, lazzy_mode=True, shuffle=False)
    with ScriptedServer(good) as server:
        url = ("--base_url", server.url)
        here(*words(small_root, evidence, tmp_path / "a", *url, "--filter_nograph", "--limit", 1))
        here(*words(small_root, evidence, tmp_path / "b", *url, "--without_knowledge", "--limit", 1))
        here(*words(small_root, evidence, tmp_path / "c", *url, "--without_format", "--limit", 1))
    shown, hidden, free = [body for _, _, body in server.asked]
    for body in (shown, hidden, free):
        assert record_of(body) == dataset[0]["input"] and dataset[0]["instruction"] in prompt_of(body)
        assert "\n".join(f"- {name}" for name in TARGET) in prompt_of(body)
    path = " → ".join(GRAPH["umls_graph"][0])
    assert [path in prompt_of(body) for body in (shown, hidden, free)] == [True, False, True]
    assert ["## Extraction" in prompt_of(body) for body in (shown, hidden, free)] == [True, True, False]


def test_dry_run_prints_the_first_prompt_and_asks_nobody(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    done = command(SCRIPT, *words(small_root, evidence, tmp_path / "out", "--dry_run"))
    dataset = MIMICIV(small_root, evidence, lazzy_mode=True, shuffle=False)
    assert dataset[0]["input"] in done.stdout and "Hypertension → may be treated by → Aspirin" in done.stdout
    assert not (tmp_path / "out").exists() and "Triage" not in done.stderr


def test_trouble_costs_no_row_and_no_row_is_asked_for_twice(small_root: Path, marked: Path, tmp_path: Path) -> None:
    """Each row's first request meets some trouble; what is not fixed by retries is fixed by the next run."""
    passing = [{"status": 429, "headers": {"Retry-After": "0.2"}}, {"status": 500}, {"drop": True}, {"delay": 8},
               {"body": b'{"id": "x", "choi'}, {"body": b'{"choices": []}'}]  # fmt: skip
    lasting = [{"status": 400, "message": "too long"}, {"text": ""}, {"body": b'{"choices": [{"index": 0}, "x"]}'},
               {"body": b'{"choices": [{"message": {"content": [1]}}]}'}]  # fmt: skip
    trouble: dict[str, dict] = {}
    seen: Counter[str] = Counter()

    def script(body: dict, number: int) -> dict:
        patient = patient_of(body)
        seen[patient] += 1
        kinds = [*passing, *lasting]
        return trouble.setdefault(patient, kinds[len(trouble) % len(kinds)]) if seen[patient] == 1 else {"text": chain()}

    with ScriptedServer(script) as server:
        flags = words(small_root, marked, tmp_path / "out", "--base_url", server.url, "--timeout", 2)
        first = command(SCRIPT, *flags, check=False)
        assert first.returncode == 1 and "12 rows answered" in first.stdout
        assert "no reply to 2 rows: HTTP 400: too long; the same command sends them again" in first.stderr
        lines = read_chains(tmp_path / "out")
        failed = [line for line in lines if line["error"]]
        assert len(lines) == 20 and len(failed) == 8 and all(line["choices"] == [] for line in failed)
        second = command(SCRIPT, *flags)
        assert "8 rows answered, 12 already finished" in second.stdout
        third = command(SCRIPT, *flags)
        assert "out is up to date" in third.stdout
    assert set(seen.values()) == {2} and len(seen) == 20
    answered = Counter(line["key"] for line in read_chains(tmp_path / "out") if not line["error"])
    assert len(answered) == 20 and set(answered.values()) == {1}


def test_cut_off_and_missing_choices_are_kept_as_they_came(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    def script(body: dict, number: int) -> dict:
        return {"text": ["## Extraction\n- **Tri", "", chain()], "finish_reason": "length"}

    with ScriptedServer(script) as server:
        here(*words(small_root, evidence, tmp_path / "out", "--base_url", server.url, "--limit", 2))
    for line in read_chains(tmp_path / "out"):
        assert line["choices"] == ["## Extraction\n- **Tri", "", chain()] and line["finish_reasons"] == ["length"] * 3


def test_killed_at_any_moment_and_run_again(small_root: Path, marked: Path, tmp_path: Path) -> None:
    output, workers, moments = tmp_path / "out" / "reasoning.jsonl", 3, random.Random(os.environ.get("KILL_SEED", "0"))
    seen: Counter[str] = Counter()

    def script(body: dict, number: int) -> dict:
        seen[patient_of(body)] += 1
        return {"text": chain(), "delay": 0.15}

    with ScriptedServer(script) as server:
        flags = words(small_root, marked, tmp_path / "out", "--base_url", server.url, "--num_worker", workers)
        for _ in range(3):
            size = output.stat().st_size if output.exists() else 0
            process = subprocess.Popen([sys.executable, str(REPO / SCRIPT), *map(str, flags)], cwd="/",
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            while not (output.exists() and output.stat().st_size > size):
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with output.open("ab") as file:  # and a line truncated in the middle
            file.write('{"key": "cut, with half an ä'.encode()[:-1])
        command(SCRIPT, *flags)
    lines = read_chains(tmp_path / "out")
    assert len(lines) == len({line["key"] for line in lines}) == 20 and not any(line["error"] for line in lines)
    assert set(seen) == {line["subject_id"] for line in lines}
    assert seen.total() <= 20 + 3 * workers, "at most what was in flight is asked for again"


def test_a_log_truncated_anywhere_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "reasoning.jsonl"
    with append_jsonl(path) as write:
        for number in range(3):
            write({"key": str(number), "text": "ä\u2028\n"})
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = [line for _, line in read_jsonl(path)]
        with append_jsonl(path) as write:
            write({"key": "new"})
        assert [line["key"] for _, line in read_jsonl(path)] == [*(line["key"] for line in whole), "new"]
        assert len(whole) - data[:cut].count(b"\n") in (0, 1), "1: the last line lacks its line end only"


def test_one_process_writes_to_a_file(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    with ScriptedServer(good) as server, append_jsonl(tmp_path / "out" / "reasoning.jsonl"):
        done = command(SCRIPT, *words(small_root, evidence, tmp_path / "out", "--base_url", server.url), check=False)
    assert done.returncode == 2 and "reasoning.jsonl: expected no other process" in done.stderr and not server.asked


def test_chunks_together_are_one_run(
    small_root: Path, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(good) as server:
        for chunk in (0, 1, 2):
            flags = ("--base_url", server.url, "--chunk_num", 3, "--chunk_idx", chunk)
            assert here(*words(small_root, evidence, tmp_path / "out", *flags)) == 0
        here(*words(small_root, evidence, tmp_path / "out", "--base_url", server.url))
    assert "out is up to date" in capsys.readouterr().out and len(server.asked) == 20
    assert {line["subject_id"] for line in read_chains(tmp_path / "out")} == {str(2 + 100 * i) for i in range(20)}


def test_what_decides_the_reply_decides_what_is_asked_again(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    write_evidence(small_root, evidence.parent / "again.csv", graphs=12)  # the same rows in a second file: asked for once
    with ScriptedServer(good) as server:

        def asked(*more: object) -> int:
            before = len(server.asked)
            here(*words(small_root, evidence.parent, tmp_path / "out", "--base_url", server.url, *more))
            return len(server.asked) - before

        assert asked() == 20 and asked() == 0
        assert asked("--num_worker", 2, "--max_rpm", 100000) == 0, "how it is asked does not matter"
        assert asked("--temperature", 0.7) == 20 and asked("--n", 2) == 20
        assert asked("--without_knowledge") == 12, "eight rows have no graph, and had this prompt before"
        instructions = tmp_path / "instructions.json"
        instructions.write_text(json.dumps({"emar": "And now?"}))
        assert asked("--instructions", instructions, "--filter_nograph") == 12


def test_replies_are_kept_whatever_changes(
    small_root: Path, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only rows that changed are asked again; replies to what they were before stay in the log, even with --overwrite."""
    out, record = tmp_path / "out", tmp_path / "out/provenance.json"
    with ScriptedServer(good) as server:

        def asked(*more: object) -> int:
            before = len(server.asked)
            assert here(*words(small_root, evidence, out, "--base_url", server.url, *more)) == 0
            return len(server.asked) - before

        assert asked() == 20
        recorded = json.loads(record.read_text())
        assert recorded["complete"] and {"evidence", "trajectories", "index_mapping"} <= recorded["inputs"].keys()
        evidence.write_text(evidence.read_text(encoding="utf-8").replace("Finding", "Sign", 3), encoding="utf-8")
        capsys.readouterr()
        assert asked() == 3 and "3 replies of earlier inputs or settings are not used" in capsys.readouterr().out
        assert asked("--overwrite") == 0 and len(read_chains(out)) == 23
        assert json.loads(record.read_text())["complete"]
        log = out / "reasoning.jsonl"
        log.write_bytes(log.read_bytes()[:-1000])  # the last reply is truncated
        with pytest.raises(UserError, match=r"got reasoning\.jsonl with .* bytes instead of .*--overwrite"):
            asked()
        assert asked("--overwrite") == 1 and len(read_chains(out)) == 23


def test_own_prompts(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in SLOTS:
        (folder / f"{name}.txt").write_text(" ".join(f"{{{slot}}}" for slot in sorted(SLOTS[name])), encoding="utf-8")
    done = command(SCRIPT, *words(small_root, evidence, tmp_path / "out", "--dry_run", "--prompts", folder))
    assert done.stdout.startswith("- 0.9% Sodium Chloride\n- K\n")
    (folder / "with_knowledge.txt").write_text("{record} {answers}", encoding="utf-8")
    with pytest.raises(UserError, match=r"expected the slots \{answer\}, \{knowledge\}, .* got \{answers\}, \{record\}"):
        read_prompt(folder, "with_knowledge")


def test_long_records_lose_their_oldest_events(
    small_root: Path, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = ("--max_new_tokens", 100, "--max_seq_len", 950, "--filter_nograph")
    with ScriptedServer(good) as server:
        here(*words(small_root, evidence, tmp_path / "out", "--base_url", server.url, *lengths))
        assert "12 rows answered, 0 already finished, 12 truncated" in capsys.readouterr().out
        short = ("--max_new_tokens", 100, "--max_seq_len", 300)
        here(*words(small_root, evidence, tmp_path / "out2", "--base_url", server.url, *short))
    assert len(server.asked) == 12 and "omitted 20 rows" in capsys.readouterr().err
    for _, _, body in server.asked:
        record = record_of(body)
        assert len(prompt_of(body).encode()) <= 3 * 850
        assert "Patient Demographics" in record and "## Admissions" in record and "Labotary" in record
        assert "## EDstays" not in record, "the oldest event of the window"


def test_cost_is_shown_and_limited(
    small_root: Path, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply costs 2 here and might cost 6."""
    prices = ("--price_in", 0, "--price_out", 1e6, "--max_new_tokens", 2)
    with ScriptedServer(good) as server:
        flags = words(small_root, evidence, tmp_path / "out", "--base_url", server.url, *prices)
        assert here(*flags, "--max_cost", 15) == 1
        output = capsys.readouterr()
        assert "stopped before --max_cost 15: 15 rows remain" in output.err
        assert "cost 10.00" in output.out and len(server.asked) == 5, "6 more could go beyond 15"
        assert here(*flags, "--max_cost", 15) == 1 and len(server.asked) == 5, "earlier runs count"
        assert here(*flags, "--max_cost", 100) == 0
    assert len(server.asked) == 20
    with pytest.raises(UserError, match="expected --price_in and --price_out"):
        here(*words(small_root, evidence, tmp_path / "x", "--base_url", server.url, "--max_cost", 1))


def test_no_server_by_default_and_no_remote_one_without_leave(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    flags = words(small_root, evidence, tmp_path / "out")
    done = command(SCRIPT, *flags, check=False)
    assert done.returncode == 2 and "There is no default" in done.stderr and "PhysioNet" in done.stderr
    done = command(SCRIPT, *flags, "--base_url", "https://1.1.1.1/v1", check=False, OPENAI_API_KEY="sk-very-secret")
    assert done.returncode == 2 and "--allow_remote" in done.stderr and "sk-very-secret" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_refused_key_stops_the_run(small_root: Path, evidence: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda body, number: {"status": 401}) as server:
        done = command(SCRIPT, *words(small_root, evidence, tmp_path / "out", "--base_url", server.url), check=False)
    assert done.returncode == 2 and "OPENAI_API_KEY" in done.stderr and read_chains(tmp_path / "out") == []


def test_a_server_that_answers_nothing_stops_the_run(small_root: Path, tmp_path: Path) -> None:
    evidence = small_root / "task_index/all/next_event.csv"  # an index without graphs will do
    with ScriptedServer(lambda body, number: {"status": 400, "message": "no such parameter"}) as server:
        flags = words(small_root, evidence, tmp_path / "out", "--base_url", server.url, "--num_worker", 4)
        with pytest.raises(UserError, match="got errors only, such as HTTP 400: no such parameter"):
            here(*flags)
    assert len(server.asked) < 30
    with ScriptedServer(good) as server:
        assert here(*words(small_root, evidence, tmp_path / "out", "--base_url", server.url)) == 0
    assert len(server.asked) == len(read_rows(evidence))


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (None, [], "expected a task index"),
        (lambda text: text.replace("umls_graph", "graf"), [], r"row 2: graph: expected \{"),
        (lambda text: text.replace(",graph", ",picture"), ["--filter_nograph"], "expected a column graph"),
        (lambda text: text.replace("emar", "email"), [], r"emar.csv, row 2: expected a task of .*--list_tasks"),
        (lambda text: text.replace(',"[""0.9', ',"[0.9'), [], "row 2, column target: expected a JSON string or list"),
        (lambda text: text.splitlines()[0] + "\n", [], "expected rows to write chains for, got none"),
        (lambda text: text, ["--max_seq_len", "4096"], "--max_new_tokens 4096: expected fewer"),
        (lambda text: text, ["--prompts", "/nowhere"], "/nowhere/with_knowledge.txt: expected a prompt"),
    ],
)
def test_bad_input_is_said(evidence: Path, small_root: Path, tmp_path: Path, change, flags: list[str], message: str) -> None:
    if change is None:
        evidence.unlink()
    else:
        evidence.write_text(change(evidence.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        here(*words(small_root, evidence, tmp_path / "out", "--dry_run", *flags))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.xdist_group("vllm")
def test_a_real_server(vllm_server: str, small_root: Path, evidence: Path, tiny_model: Path, tmp_path: Path) -> None:
    """vLLM with an untrained model: three chains a row, counted tokens; all of them nonsense, which the filter says."""
    flags = words(small_root, evidence, tmp_path / "out", "--base_url", vllm_server, "--tokenizer", tiny_model,
                  "--max_new_tokens", 16, "--max_seq_len", 4000, "--price_in", 1, "--price_out", 1)  # fmt: skip
    flags[flags.index("teacher")] = "tiny"
    command(SCRIPT, *flags)
    lines = read_chains(tmp_path / "out")
    assert len(lines) == 20 and all(len(line["choices"]) == 3 and not line["error"] for line in lines)
    for line in lines:
        assert set(line["finish_reasons"]) <= {"stop", "length"} and 0 < line["usage"]["completion_tokens"] <= 48
        assert line["usage"]["prompt_tokens"] > 100
    done = command("thinking_graph_preprocess/filter_reasoning.py", "--root_dir", small_root, "--data_index_dir", evidence,
                   "--reasoning_path", tmp_path / "out", "--output_path", tmp_path / "kept.csv", check=False)  # fmt: skip
    assert done.returncode == 1 and "0 of 20 rows have a chain" in done.stdout and "unfinished" in done.stdout
