"""The documentation builds as a site, and links in the pages outside it lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parent.parent


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr
    pages = {path.stem for path in (REPO / "docs").glob("*.md")} - {"index"}
    assert {path.parent.name for path in (tmp_path / "site").glob("*/index.html")} >= pages


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"[\w-]+\.md", (REPO / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in (REPO / "docs").glob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_of_the_repository(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)", (REPO / page).read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (REPO / target).exists()] == []


def test_citation_names_software_and_paper() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    version = re.search(r'^version = "(.+)"', (REPO / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation["version"] == version[1]
    assert citation["preferred-citation"]["url"].endswith("2510.25628")
