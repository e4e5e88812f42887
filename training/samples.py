"""Training samples: index rows → prompt and completion by the shared chat builder → token ids and labels.

Two forms: for SFT token ids with labels on the answer only, for RL the prompt with what the rewards need. Both are made
when they are asked for, in the dataloader's workers (`lazzy`), or all ahead into a cached Arrow dataset (`direct`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.prompts import NO_THINK, THINK, PromptBuilder, completion, completion_after, instructions_sha256, training_mode
from mimiciv_dataset.index_files import MISSING_CELLS, clean_id, clean_position, window_columns
from mimiciv_dataset.mimiciv import MIMICIV
from pipeline.errors import UserError
from pipeline.files import sha256

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of tokens that no loss is taken on."""

CHECKED = 5000
"""Rows of a file that are looked at before a run."""

PROBED = 8
"""Rows that are made anew before a cache is trusted: code that makes other samples finds no old ones."""

DOMAIN, REASONING = "domain", "reasoning"


def chain_of(row: dict[str, Any]) -> str | None:
    """The reasoning chain of a row; None where there is none, however a table spells that.

    >>> [chain_of({"reasoning": value}) for value in ("nan", "", None, float("nan"), " so ")], chain_of({})
    ([None, None, None, None, ' so '], None)
    """
    chain = row.get("reasoning")
    return chain if isinstance(chain, str) and chain.strip() not in MISSING_CELLS else None


@dataclass(frozen=True)
class Rendered:
    """One sample's text: `prompt`, `completion` (with the mark that ends the turn), `fits`: both are short enough together."""

    prompt: str
    completion: str
    mode: str
    task: str
    label: list[str] | str
    fits: bool


class Source:
    """The rows of one or more index files, as training text.

    Args:
        root_dir: data folder.
        files: index files; the second one's rows follow the first one's.
        tokenizer: the model's.
        max_tokens: of prompt and completion together; or of the prompt alone if `prompt_tokens`.
        stage: `domain` or `reasoning`; None: reasoning if a file has chains, and for RL.
        instructions: JSON, task → sentence, in place of ours.
        prompt_tokens: RL: the completion is generated, so only the prompt must fit. In the stage `reasoning`, where no file
            has chains, decision tasks reason and risk tasks do not.

    Raises:
        UserError: a file is missing or broken, or the model has no chat template.
    """

    def __init__(
        self, root_dir: Path | str, files: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int,
        stage: str | None = None, instructions: Path | str | None = None, prompt_tokens: bool = False,
    ) -> None:  # fmt: skip
        self.root_dir, self.files, self.instructions = str(root_dir), [str(file) for file in files], instructions
        self.tokenizer, self.max_tokens, self.prompt_tokens = tokenizer, max_tokens, prompt_tokens
        self.has_chains = any(map(_has_chains, self.datasets))
        self.stage = stage or (REASONING if self.has_chains or prompt_tokens else DOMAIN)
        self.kind_decides = prompt_tokens and self.stage == REASONING and not self.has_chains  # who reasons, in RL

    def __getstate__(self) -> dict[str, Any]:
        # What names the source, nothing opened: small to hash and to send to a worker that was spawned.
        return {name: value for name, value in self.__dict__.items() if name not in ("datasets", "builder", "end_of_turn")}

    @cached_property
    def datasets(self) -> list[MIMICIV]:
        return [
            MIMICIV(self.root_dir, file, lazzy_mode=True, shuffle=False, instructions=self.instructions) for file in self.files
        ]

    @cached_property
    def builder(self) -> PromptBuilder:
        return PromptBuilder(self.tokenizer)

    @cached_property
    def end_of_turn(self) -> str:
        return end_of_turn(self.tokenizer)

    @property
    def sizes(self) -> list[int]:
        return [len(dataset) for dataset in self.datasets]

    def __len__(self) -> int:
        return sum(self.sizes)

    def place(self, index: int) -> tuple[MIMICIV, int]:
        """The dataset that row `index` of all files is in, and its position there."""
        for dataset in self.datasets:
            if index < len(dataset):
                return dataset, index
            index -= len(dataset)
        raise IndexError(index)

    def lengths(self) -> list[int]:
        """A guess of each row's length, without rendering it: events of its window, or characters of its text."""
        found: list[int] = []
        for dataset in self.datasets:
            columns = dataset.rows.columns
            if columns:
                begins, ends = map(dataset.rows.column, window_columns(dataset.rows.path, columns, required=()))
                found += [clean_position(end) - clean_position(begin) for begin, end in zip(begins, ends, strict=True)]
            else:
                rows = (dataset.row(index) for index in range(len(dataset)))
                found += [len(row["input"]) if "input" in row else row["period_end"] - row["period_begin"] for row in rows]
        return found

    def patients(self) -> set[str]:
        """The subject_id of every row."""
        found: set[str] = set()
        for dataset in self.datasets:
            if dataset.rows.columns:
                found.update(map(clean_id, dataset.rows.column("subject_id")))
            else:
                rows = map(dataset.row, range(len(dataset)))
                found.update(clean_id(row.get("subject_id") or row.get("task_info", {}).get("subject_id")) for row in rows)
        return {patient for patient in found if patient}

    def check(self) -> None:
        """Look at `CHECKED` rows of each file, evenly spread, for what would stop a run in the middle.

        Raises:
            UserError: a file without rows, an empty target, a row beyond its patient's trajectory: names file and row.
        """
        for file, dataset in zip(self.files, self.datasets, strict=True):
            if not len(dataset):
                raise UserError(f"{file}: wanted rows to train on, found none")
            for index in range(0, len(dataset), max(1, len(dataset) // CHECKED)):
                fault = self._fault(dataset, index)
                if fault:
                    raise UserError(f"{file}, row {index + 1}: {fault}")

    def _fault(self, dataset: MIMICIV, index: int) -> str | None:
        row = dataset.row(index)
        task = dataset.task(row)
        if "input" not in row:
            patient, begin, end = row["subject_id"], row["period_begin"], row["period_end"]
            events = dataset.trajectories.length(patient) if dataset.trajectories.has(patient) else 0
            last = end if task.kind != "risk" else end - 1
            if not 0 < begin <= last < events:
                return (f"wanted a window in patient {patient}'s {events:,} events, found {begin} to {end}; index and "
                        "trajectories belong to different builds (mimiciv_dataset/validate_index.py shows all)")  # fmt: skip
        answer = row["output"] if "input" in row else row.get("target", "made from the trajectory")
        if not answer or (isinstance(answer, list) and not any(name.strip() for name in answer)):
            return "wanted an answer to train on, found an empty one"
        return None

    def render(self, index: int) -> Rendered:
        """Prompt and completion of row `index`; a long record has lost whole events (docs/data.md)."""
        dataset, at = self.place(index)
        sample, text = dataset.with_text(at)
        info = sample["task_info"]
        chain = chain_of(info)
        if self.kind_decides:
            mode = NO_THINK if info["task_type"] == "risk" else THINK
        else:
            mode = training_mode(self.stage, chain)
        turn = completion(mode, sample["output"], chain) + self.end_of_turn
        answer = completion_after(self.builder.prompt("", "", mode), turn)
        room = self.max_tokens - (0 if self.prompt_tokens else self.builder.tokens(answer))
        prompt, dropped = self.builder.fit(text, sample["instruction"], mode, room)
        return Rendered(prompt, answer, mode, info["task"], info["label"], dropped is None or dropped.fits)

    def about(self) -> dict[str, Any]:
        """What names this data: files with rows and hashes, stage, instruction and template hashes, trajectory digest."""
        return {
            "files": [[Path(file).name, size, _file_sha256(file)] for file, size in zip(self.files, self.sizes, strict=True)],
            "stage": self.stage,
            "max_tokens": self.max_tokens,
            "instructions_sha256": instructions_sha256(self.datasets[0].instructions),
            "template_sha256": self.builder.template_sha256,
            "tokenizer_sha256": sha256(self.tokenizer.backend_tokenizer.to_str()),
            "trajectories": [None if dataset.rendered else dataset.trajectories.digest for dataset in self.datasets],
        }


def _file_sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_chains(dataset: MIMICIV) -> bool:
    """Whether any row has a chain: a file may begin with thousands of risk rows, which have none."""
    rows = map(dataset.row, dataset.rows.having("reasoning"))
    return any(chain_of(row.get("task_info", row)) or chain_of(row) for row in rows)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes after an assistant's words, as far as the end token: what a model must learn to stop with.

    Raises:
        UserError: the template ends a turn without the tokenizer's end token.
    """
    marker = "THE-ANSWER"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
    after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(marker)[2]
    before, found, _ = after.partition(tokenizer.eos_token or "\0")
    if not found:
        raise UserError(
            f"{tokenizer.name_or_path}: wanted a chat template that ends the assistant's turn with the end token "
            f"{tokenizer.eos_token!r}, found {after[:40]!r}; set --eos_token to the mark that ends a turn"
        )
    return before + found


# --- for the trainers


class TokenSamples:
    """Rows as token ids and labels: a transform for `datasets`, which the dataloader's workers call.

    A row that does not fit becomes one token without a label, so that it trains nothing and the order of all others stays
    as it is; `left_out` has a 1 for each of them, whichever worker met it.

    Args:
        source: the rows.
        loss_on_prompt: labels on the prompt too.
    """

    def __init__(self, source: Source, loss_on_prompt: bool = False) -> None:
        import torch

        self.source, self.loss_on_prompt = source, loss_on_prompt
        self.left_out = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        made = [self.sample(index) for index in batch["index"]]
        return {name: [one[name] for one in made] for name in ("input_ids", "labels")}

    def sample(self, index: int) -> dict[str, list[int]]:
        """`input_ids` of prompt and completion, `labels`: the same, but `IGNORED` for the prompt."""
        rendered = self.source.render(index)
        tokenizer = self.source.tokenizer
        if not rendered.fits:
            self.left_out[index] = 1
            return {"input_ids": [tokenizer.eos_token_id], "labels": [IGNORED]}
        # Apart, as at inference: there the prompt's tokens are given and the answer's follow.
        prompt = self.source.builder.ids(rendered.prompt)  # counted just now, to fit
        answer = tokenizer(rendered.completion, add_special_tokens=False)["input_ids"]
        labels = prompt + answer if self.loss_on_prompt else [IGNORED] * len(prompt) + answer
        return {"input_ids": prompt + answer, "labels": labels}

    def describe(self, index: int, show: bool = False) -> str:
        """Lengths and mask of a sample, for the log; its text only with `show`."""
        rendered, made = self.source.render(index), self.sample(index)
        first = next((i for i, label in enumerate(made["labels"]) if label != IGNORED), len(made["labels"]))
        said = (
            f"{self.source.stage} stage; first sample: task {rendered.task}, mode {rendered.mode}, "
            f"{len(made['input_ids']):,} tokens, loss on tokens {first:,} to {len(made['input_ids']):,}"
        )
        return f"{said}\n{rendered.prompt}«loss begins»{rendered.completion}" if show else said

    def check_prefix(self, index: int) -> None:
        """Tokenised together, prompt and completion must begin with the prompt's tokens, or training and inference differ.

        Raises:
            UserError: they do not.
        """
        rendered, tokenizer = self.source.render(index), self.source.tokenizer
        prompt = tokenizer(rendered.prompt, add_special_tokens=False)["input_ids"]
        together = tokenizer(rendered.prompt + rendered.completion, add_special_tokens=False)["input_ids"]
        if together[: len(prompt)] != prompt:
            raise UserError(f"{tokenizer.name_or_path}: wanted the prompt's tokens to begin those of prompt and answer "
                            "together, found that its tokenizer joins them")  # fmt: skip


class PromptSamples:
    """Rows as RL prompts, with the columns that the rewards read: a transform for `datasets`.

    A row that does not fit, or has no label, becomes a prompt without its record and without a label, which no reward
    scores, so that it teaches nothing; `left_out` has a 1 for it. (TRL logs prompts that no reward scores: they must not
    hold a record.)
    """

    def __init__(self, source: Source) -> None:
        import torch

        self.source = source
        self.left_out = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = [self.sample(index) for index in batch["index"]]
        return {name: [one[name] for one in made] for name in ("prompt", "task", "label", "mode")}

    def sample(self, index: int) -> dict[str, Any]:
        """The prompt, the mode it was made in, the task, and the label as JSON."""
        rendered = self.source.render(index)
        prompt, label = rendered.prompt, rendered.label
        if not (rendered.fits and label):
            self.left_out[index] = 1
            prompt, label = self.source.builder.prompt("", "", rendered.mode), []
        return {
            "prompt": prompt, "task": rendered.task, "label": json.dumps(label, ensure_ascii=False), "mode": rendered.mode,
        }  # fmt: skip


def lazy(samples: TokenSamples | PromptSamples, rows: Sequence[int] | None = None) -> Dataset:
    """A `datasets` dataset that makes its samples when they are asked for."""
    from datasets import Dataset

    rows = list(range(len(samples.source))) if rows is None else list(rows)
    return Dataset.from_dict({"index": rows}).with_transform(samples)


def direct(samples: TokenSamples, cache_dir: Path, processes: int | None) -> Dataset:
    """All samples tokenised ahead, into an Arrow file in `cache_dir` that the same data and settings find again."""
    import pyarrow.compute as pc
    import torch
    from datasets import Dataset

    size = len(samples.source)
    probe = [samples.sample(index) for index in range(0, size, max(1, size // PROBED))]
    about = samples.source.about() | {"loss_on_prompt": samples.loss_on_prompt, "probe": probe}
    name = sha256(json.dumps(about, sort_keys=True))[:24]
    cache_dir.mkdir(parents=True, exist_ok=True)
    rows = Dataset.from_dict({"index": list(range(size))})
    made = rows.map(
        samples, batched=True, batch_size=64, num_proc=processes if processes and processes > 1 else None,
        remove_columns=["index"], cache_file_name=str(cache_dir / f"{name}.arrow"), load_from_cache_file=True,
        desc="tokenising", new_fingerprint=name,
    )  # fmt: skip
    samples.left_out.copy_(torch.tensor(pc.list_value_length(made.data["labels"]).to_numpy() == 1))
    return made
