"""Docs say what the code does."""

from __future__ import annotations

import re

from conftest import REPO, command

from mimiciv_dataset.tasks import task_table


def test_pages_made_from_code_are_up_to_date() -> None:
    command("scripts/make_docs.py", "--check")
    assert task_table() in (REPO / "docs/tasks.md").read_text(encoding="utf-8")


def test_the_task_table_is_printed() -> None:
    assert command("mimiciv_dataset/task_sample_info_gen.py", "--list_tasks").stdout.strip() == task_table()


def test_every_path_and_command_named_in_the_docs_exists() -> None:
    for page in (REPO / "README.md", *(REPO / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
        for script in re.findall(r"(?:python|bash) \.?/?([\w/]+\.(?:py|sh))", text):
            assert (REPO / script).exists(), f"{page.name} runs {script}"


def test_flags_in_readme_commands_are_accepted() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    helps: dict[str, str] = {}
    for script, rest in re.findall(r"^(?:python) \.?/?([\w/]+\.py)(.*)$", text, re.MULTILINE):
        if script not in helps:
            helps[script] = command(script, "--help").stdout
        for flag in re.findall(r"--\w+", rest.split("#")[0]):
            assert flag in helps[script], f"{script} {flag}"
