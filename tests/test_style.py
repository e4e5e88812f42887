"""How the repository is written: standard terms, formatter output as it is, arguments parsed in `main` only."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
from conftest import REPO

PHRASES = {
    r"\bwanted\b[^.]{0,200}\bfound\b": "expected X, got Y. Do Z.",
    r":\s+wanted\b": "expected",
    r"\b(?:goes|go|going|gone) on (?:where|with)\b": "resumes",
    r"a file stands where\b": "a file exists where a directory is expected",
    r"\bso many (?:chunks|samples|processes|patients|rows|events)\b": "N chunks",
    r"\bwith commas between\b": "comma-separated",
    r"\bwh(?:at|o) trains and wh(?:at|o) tests\b": "the train/test split",
    r"\bpacked or not\b": "gzipped or not",
    r"\bas good as random\b": "pseudorandom",
    r"\bwhoever comes first\b": "the first process to finish",
    r"\bmark that ends a turn\b": "end-of-turn token",
    r"\bpatience\b": "timeout",
    r"\bmend(?:s|ed)?\b": "fix, repair",
    r"\btorn\b": "truncated",
    r"\bruns? dry\b": "idles",
    r"\bnot to be had\b": "unavailable",
    r"\bsure of the wrong (?:label|answer)\b": "assigned the worst-case probability",
    r"\blaid beside each other\b": "aligned",
    r"\bnot told apart\b": "no significant difference",
    r"\bfor the meeting\b": "rendezvous",
    r"\bthe whole road\b": "the end-to-end pipeline",
    r"\bof one make\b": "from the same build",
    r"\bfigures only\b": "metrics only",
    r"\bsecond reader\b": "verifier model",
    r"\bletter by letter\b": "verbatim",
}
"""Phrases that a reader would have to learn, and what the field says."""

MAX_FORMATTER_EXCEPTIONS = 60
"""`# fmt: skip` outside tests, for tables of data."""


def tracked(*patterns: str) -> list[Path]:
    """The tracked files that match, but for this one."""
    names = subprocess.run(["git", "ls-files", *patterns], cwd=REPO, capture_output=True, text=True, check=True).stdout.split()
    return [REPO / name for name in names if (REPO / name).exists() and REPO / name != Path(__file__)]


@pytest.mark.parametrize("phrase", PHRASES)
def test_standard_terms(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE | re.DOTALL)
    found = []
    for path in tracked("*.py", "*.md", "*.sh", "*.slurm", "*.yaml", "*.toml"):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(REPO)}:{text.count(chr(10), 0, m.start()) + 1}" for m in pattern.finditer(text)]
    assert not found, f"write '{PHRASES[phrase]}' in {', '.join(found)}"


def test_formatter_output_as_it_is() -> None:
    counts = {p: p.read_text(encoding="utf-8").count("fmt: skip") for p in tracked("*.py") if "tests" not in p.parts}
    assert sum(counts.values()) <= MAX_FORMATTER_EXCEPTIONS, {str(p): n for p, n in counts.items() if n}


def test_arguments_are_parsed_in_main_only() -> None:
    """No function but `main` takes an argparse.Namespace: libraries take small dataclasses."""
    found = []
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name != "main":
                annotations = [a.annotation for a in (*node.args.args, *node.args.kwonlyargs) if a.annotation]
                if any("Namespace" in ast.unparse(annotation) for annotation in annotations):
                    found.append(f"{path.relative_to(REPO)}:{node.lineno} {node.name}")
    assert not found, found
