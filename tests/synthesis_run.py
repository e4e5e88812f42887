"""Runs of the synthesis of chains, and of their filter, against a scripted server: for tests of how servers behave."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_evidence import chain, prompt_of, read_chains, write_evidence

from pipeline.errors import UserError
from pipeline.files import read_json
from thinking_graph_preprocess import filter_reasoning, reasoning_generation

ROWS = 6
Body = dict[str, Any]
TEXT = {"content": chain()}


def write_marked(root: Path, folder: Path) -> Path:
    """Evidence whose prompts name the row: the path of its graph ends in the patient's number."""
    path = write_evidence(root, folder / "emar.csv", rows=ROWS)
    first, *rows = path.read_text(encoding="utf-8").splitlines()
    rows = [row.replace("Finding", f"patient {row.split(',')[0]}") for row in rows]
    path.write_text("\n".join([first, *rows]) + "\n", encoding="utf-8")
    return path


class Run:
    """Runs of the two commands on the rows of `write_marked`."""

    def __init__(self, root: Path, evidence: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.output, self.capsys = output, capsys
        self.inputs = ["--root_dir", root, "--data_index_dir", evidence]
        self.messages = ""

    def generate(self, url: str, *flags: object) -> int | str:
        """The exit code of reasoning_generation.py, or the error that ended it."""
        words = [*self.inputs, "--output_path", self.output, "--model", "m", "--base_url", url, "--num_worker", 1, *flags]
        try:
            return reasoning_generation.main(list(map(str, words)))
        except UserError as error:
            return str(error)
        finally:
            out, err = self.capsys.readouterr()
            self.messages = out + err

    def kept(self, *flags: object) -> int:
        """The number of rows with a chain that the filter keeps."""
        output = self.output / "kept.csv"
        words = [*self.inputs, "--reasoning_path", self.output, "--output_path", output, *flags]
        filter_reasoning.main(list(map(str, words)))
        return read_json(output.with_suffix(".reasons.json"))["all"]["kept"]

    @property
    def chains(self) -> Counter[str]:
        """The number of chains of each patient."""
        counts: Counter[str] = Counter()
        for line in read_chains(self.output):
            counts[line["subject_id"]] += len(line["choices"])
        return counts

    def errors(self) -> list[str]:
        return [line["error"] for line in read_chains(self.output) if line["error"]]


def patient_of(body: Body) -> str:
    return re.search(r"patient (\d+)", prompt_of(body))[1]


def good(body: Body) -> dict[str, Any]:
    return {"text": chain()}


def choices(*messages: dict[str, Any], reason: Any = "stop", **fields: Any) -> dict[str, Any]:
    """A reply with these messages as choices."""
    listed = [{"index": i, "finish_reason": reason, "message": {"role": "assistant"} | m} for i, m in enumerate(messages)]
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": listed, "usage": usage} | fields
    return {"body": json.dumps(reply).encode()}


def each(message: dict[str, Any], reason: Any = "stop", **fields: Any) -> Callable[[Body], dict[str, Any]]:
    """A script that sends a message as each choice that is asked for."""
    return lambda body: choices(*[message] * (body.get("n") or 1), reason=reason, **fields)
