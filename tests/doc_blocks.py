"""The fenced blocks of the documentation, the commands in them, and copies of the repository to run them in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import REPO


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, text, and the number of its first line."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    start, lines = None, (REPO / page).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if start is None:
                start = number
            else:
                language = lines[start - 1].removeprefix("```")
                found.append(Block(page, start + 1, language, "\n".join(lines[start : number - 1])))
                start = None
    assert start is None, f"{page}, line {start}: the block is not closed"
    return found


@dataclass(frozen=True)
class Command:
    """A command of a block with its continuation lines, and the comment on it."""

    text: str
    comment: str


def commands(block: Block) -> list[Command]:
    """The commands of a bash block. A comment of its own line is about the next command only."""
    result, above = [], ""
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        if line.startswith("#"):
            above = line
        elif line.strip():
            text, _, comment = re.sub(r"\s+# ", "\0", line, count=1).partition("\0")
            result.append(Command(text.strip(), f"{above} {comment}"))
            above = ""
    return result


def copy_repository(folder: Path) -> Path:
    """A copy of the files under version control, with this environment as its .venv and without data."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True
    )
    for name in names.stdout.splitlines():
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def apply_diff(block: Block, folder: Path) -> None:
    """Apply a block in the language `diff` to a copy of the repository."""
    command = ["git", "apply", "-"]
    done = subprocess.run(command, input=block.text + "\n", cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.page}, line {block.line}: the diff does not apply:\n{done.stderr}"
