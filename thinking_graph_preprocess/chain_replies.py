"""A directory of replies to the prompts of reasoning chains, which are paid for: logs that only grow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from inference.chat_lines import is_useful
from inference.costs import Meter
from pipeline.cli import Chunk, chunk_paths
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import read_jsonl
from pipeline.provenance import Provenance, Source, check_sources, output_of, unknown_origin
from pipeline.records import differences, folder_record, read_record
from thinking_graph_preprocess.chain_prompts import ReplySettings

STEP = "thinking_graph_preprocess/reasoning_generation.py"
REPLIES = "reasoning.jsonl"


@dataclass
class Received:
    """What the logs have: the number of chains by key, and the keys of rows that were refused, or have a whole chain."""

    chains: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)

    def missing(self, key: str, number: int) -> int:
        """How many of this number of chains a row is still to get."""
        return 0 if key in self.refused else max(0, number - self.chains[key])


class RepliesDirectory:
    """A directory of replies: logs, which only grow because replies are paid for, and the record of the present requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / REPLIES

    def received(self, meter: Meter, retry_refused: bool = False) -> Received:
        """What the logs have; a meter counts the cost of all lines. With `retry_refused`, no row counts as refused."""
        received = Received()
        for path in chunk_paths(self.log):
            for number, (_, line) in enumerate(read_jsonl(path), 1):
                if "key" not in line:
                    fix = "Remove that line and run again"
                    raise UserError(f"{path}, line {number}: expected a field key, got none. {fix}.")
                meter.add_earlier(line)
                received.chains[line["key"]] += len(line["choices"])
                received.refused |= {line["key"]} if line.get("refused") and not retry_refused else set()
                received.whole |= {line["key"]} if is_useful(line) else set()
        return received

    def begin(self, provenance: Provenance, overwrite: bool, verify: bool) -> bool:
        """As `Provenance.begin`; but if the inputs have changed, or with --overwrite, replies are kept and compared anew."""
        check_sources(provenance.sources)
        record = read_record(provenance.path)
        if record and (overwrite or differences(record, provenance.made_from)):
            for path in (provenance.path, *self.folder.glob(".finished-*")):
                path.unlink(missing_ok=True)
        return provenance.begin(verify=verify, used=False)

    def complete(self, provenance: Provenance, chunk: Chunk) -> None:
        """Note that all rows of a chunk have replies, and complete the record if those of all chunks have."""
        finished = [self.folder / f".finished-{index}-of-{chunk.number}" for index in range(chunk.number)]
        finished[chunk.index].touch()
        if all(path.exists() for path in finished):
            provenance.complete(files=chunk_paths(self.log))

    @property
    def settings(self) -> ReplySettings | None:
        """The settings of the present requests; None without a record."""
        recorded = (read_record(folder_record(self.folder)) or {}).get("settings")
        names = [each.name for each in fields(ReplySettings)]
        return recorded and ReplySettings(**{name: recorded[name] for name in names if name in recorded})

    def source(self, verify: bool = False) -> Source:
        """The replies as an input, by the content of the logs; they can be unfinished."""
        digest = FileDigests(self.folder / DIGESTS_CACHE, verify).of_all(chunk_paths(self.log), self.folder)
        if (record := read_record(folder_record(self.folder))) is None:
            source = unknown_origin("chains", self.folder, is_ancestor=False)
        else:
            source = output_of("chains", self.folder, STEP, is_ancestor=False, verify=verify, unfinished=True)
            if not record.get("complete"):
                print(f"warning: {self.folder}: reasoning_generation.py has not finished, so some rows may have no chains.")
        return replace(source, digest=digest, by="replies")
