"""Training samples: index rows are rendered with the prompts of evaluation, then tokenized.

`TokenSamples` makes token ids for SFT, with labels on the completion only; `PromptSamples` makes prompts for RL, with the
columns that rewards need. Samples are made by the dataloader's workers when needed (`lazy_dataset`), or all before training,
into a cached Arrow file (`tokenized_dataset`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from inference import templates
from inference.prompts import NO_THINK, THINK, PromptBuilder, completion, completion_after, instructions_sha256, training_mode
from mimiciv_dataset.cells import MISSING_CELLS
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.tasks import ALL_TASKS, Task
from pipeline.digests import content_digest, stamp_of
from pipeline.errors import UserError
from pipeline.files import sha256, sha256_file

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PADDING = -1  # number of a row that is none
IGNORE_INDEX = -100  # label of tokens without loss
MAX_CHECKED_ROWS = 5000  # about how many rows of a file are checked before a run
CACHE_PROBES = 8  # about how many samples are part of a cache's name, so that changed code does not find stale samples
DOMAIN, REASONING = "domain", "reasoning"  # values of `--stage`


def chain_of(row: dict[str, Any]) -> str | None:
    """The reasoning chain of a row; None if it is missing, however the file spells that.

    >>> [chain_of({"reasoning": value}) for value in ("nan", "", None, float("nan"), " so ")], chain_of({})
    ([None, None, None, None, ' so '], None)
    """
    chain = row.get("reasoning")
    return chain if isinstance(chain, str) and chain.strip() not in MISSING_CELLS else None


@dataclass(frozen=True)
class RenderedSample:
    """The text of a training sample: a prompt in one of the modes of `inference.prompts`, and its completion.

    The completion includes the end-of-turn token. `label` is what rewards compare a generated completion with; it is empty if
    the sample has none. `fits` says whether the sample is within the limit on tokens.
    """

    prompt: str
    completion: str
    mode: str
    task: str
    label: list[str] | str
    fits: bool
    candidates: tuple[str, ...] = ()  # the answers that an evaluation offers


@dataclass(eq=False)
class TrainingData:
    """The rows of one or more index files, which it renders as training samples.

    Args:
        files: index files; rows are numbered through all of them.
        max_tokens: limit on the tokens of prompt and completion, or of the prompt alone if `for_rl`.
        stage: `domain` or `reasoning`; None: `reasoning` if a file has reasoning chains or `for_rl`, else `domain`.
        instructions: JSON file, task → instruction, to use instead of the built-in wording.
        for_rl: completions are generated. In the stage `reasoning`, if no file has chains, prompts of decision tasks ask for
            reasoning and those of risk tasks do not.
        as_known: hide values that were stored after the prediction time.

    Raises:
        UserError: a file is missing or broken, or the model has no chat template.
    """

    root_dir: Path | str
    files: Sequence[Path | str]
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    stage: str | None = None
    instructions: Path | str | None = None
    for_rl: bool = False
    as_known: bool = False

    def __post_init__(self) -> None:
        self.end_of_turn = end_of_turn(self.builder.tokenizer)
        # All rows are searched for chains: the first ones may all be risk rows, which have none.
        rows = (dataset.row(index) for dataset in self.datasets for index in dataset.rows.having("reasoning"))
        self.has_chains = any(chain_of(row.get("task_info", row)) or chain_of(row) for row in rows)
        self.stage = self.stage or (REASONING if self.has_chains or self.for_rl else DOMAIN)
        self.mode_by_task = self.for_rl and self.stage == REASONING and not self.has_chains

    def __getstate__(self) -> dict[str, Any]:
        # Workers open files themselves; the rest is small to hash and to pickle.
        return {name: value for name, value in self.__dict__.items() if name not in ("datasets", "builder")}

    @cached_property
    def datasets(self) -> list[MIMICIV]:
        options = {"instructions": self.instructions, "as_known": self.as_known}
        return [MIMICIV(self.root_dir, file, lazzy_mode=True, shuffle=False, **options) for file in self.files]

    @cached_property
    def builder(self) -> PromptBuilder:
        return PromptBuilder(self.tokenizer)

    @property
    def sizes(self) -> list[int]:
        """Number of rows in each file."""
        return [len(dataset) for dataset in self.datasets]

    def __len__(self) -> int:
        return sum(self.sizes)

    def approximate_lengths(self) -> list[int]:
        """A measure of each row's length that needs no rendering: events in its window, or characters of its text."""
        lengths: list[int] = []
        for rows in (dataset.rows for dataset in self.datasets):
            if rows.columns:
                windows = zip(rows.column("period_begin"), rows.column("period_end"), strict=True)
                lengths += [end - begin for begin, end in windows]
            else:
                lengths += [len(row["input"]) if "input" in row else row["period_end"] - row["period_begin"] for row in rows]
        return lengths

    def patients(self) -> set[str]:
        """The subject_ids of all rows."""
        return {subject_id for dataset in self.datasets for subject_id in dataset.rows.subject_ids()} - {None}

    def kinds(self) -> set[str]:
        """The kinds of the tasks of all rows."""
        return {dataset.task(row).kind for dataset in self.datasets for row in dataset.rows}

    def row(self, index: int) -> tuple[MIMICIV, int]:
        """The dataset of row `index`, and its position there."""
        for dataset in self.datasets:
            if index < len(dataset):
                break
            index -= len(dataset)
        return dataset, index

    def task(self, index: int) -> Task:
        """The task of row `index`."""
        dataset, position = self.row(index)
        return dataset.task(dataset.row(position))

    def check(self) -> None:
        """Check about `MAX_CHECKED_ROWS` rows of each file for answers and windows that would stop a run later."""
        for file, dataset in zip(self.files, self.datasets, strict=True):
            if not len(dataset):
                raise UserError(f"{file}: expected rows to train on, got none. Choose another --dataset_name.")
            for index in range(0, len(dataset), max(1, len(dataset) // MAX_CHECKED_ROWS)):
                with dataset.located(index):
                    _check_row(dataset, index)

    def render(self, index: int) -> RenderedSample:
        """Prompt and completion of row `index`; an input over the limit loses its oldest events (docs/data.md)."""
        dataset, position = self.row(index)
        sample, text = dataset.with_text(position)
        info = sample["task_info"]
        chain = chain_of(info)
        if self.mode_by_task:
            mode = NO_THINK if ALL_TASKS[info["task"]].kind == "risk" else THINK
        else:
            mode = training_mode(self.stage, chain)
        turn = completion(mode, sample["output"], chain) + self.end_of_turn
        answer = completion_after(self.builder.prompt("", "", mode), turn)
        max_prompt_tokens = self.max_tokens - (0 if self.for_rl else self.builder.tokens(answer))
        prompt, truncation = self.builder.fit(text, sample["instruction"], mode, max_prompt_tokens)
        fits, candidates = truncation is None or truncation.fits, tuple(sample["candidates"] or ())
        return RenderedSample(prompt, answer, mode, info["task"], info["label"], fits, candidates)

    @property
    def rendered(self) -> bool:
        """Whether all rows already have their text, so that neither trajectories nor code maps are read."""
        return all(dataset.rendered for dataset in self.datasets)

    def settings(self) -> dict[str, Any]:
        """What decides the samples of given rows, as JSON values."""
        return {
            "stage": self.stage,
            "max_tokens": self.max_tokens,
            "instructions_sha256": instructions_sha256(self.datasets[0].instructions),
            "as_known": self.as_known,
            "template_sha256": self.builder.template_sha256,
            "tokenizer_sha256": tokenizer_sha256(self.tokenizer),
        }

    def fingerprint(self) -> dict[str, Any]:
        """What decides the samples: settings, files as (name, rows, SHA-256), and digests of what they are rendered from."""
        files = [[Path(file).name, size, sha256_file(file)] for file, size in zip(self.files, self.sizes, strict=True)]
        fingerprint = {"files": files, **self.settings()}
        if not self.rendered:
            trajectories = next(dataset.trajectories for dataset in self.datasets if not dataset.rendered)
            fingerprint["trajectories"] = trajectories.digest or _stamps(trajectories.folder)
            fingerprint["index_mapping"] = content_digest(Path(self.root_dir) / "index_mapping")
        return fingerprint


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of a tokenizer's content: of its Rust backend, or of one in Python its class, vocabulary files and tokens."""
    if tokenizer.is_fast:
        return sha256(tokenizer.backend_tokenizer.to_str())
    with TemporaryDirectory() as folder:
        files = [Path(name) for name in tokenizer.save_vocabulary(folder) if name]
        content = [[file.name, sha256_file(file)] for file in files]
    tokens = {str(index): repr(token) for index, token in sorted(tokenizer.added_tokens_decoder.items())}
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return sha256(json.dumps([type(tokenizer).__name__, len(tokenizer), content, tokens, named], sort_keys=True))


def _stamps(folder: Path) -> str:
    """A digest of sizes and dates of the files of a directory, such as released trajectories, which have no record."""
    return sha256(json.dumps([[path.name, *stamp_of(path)] for path in sorted(folder.iterdir())]))


def _check_row(dataset: MIMICIV, index: int) -> None:
    """Raise an error about what would stop a run at a row."""
    row = dataset.row(index)
    task = dataset.task(row)
    if "input" not in row:
        patient, begin, end = row["subject_id"], row["period_begin"], row["period_end"]
        events = dataset.trajectories.length(patient) if dataset.trajectories.has(patient) else 0
        last = end if task.kind != "risk" else end - 1
        if not 0 < begin <= last < events:
            window = f"expected a window in the patient's {events:,} events, got {begin} to {end}"
            fix = "Index and trajectories are from different builds: see mimiciv_dataset/validate_index.py"
            raise UserError(f"{window}. {fix}.")
    answer = row["output"] if "input" in row else row.get("target", "made from the trajectory")
    if not answer or (isinstance(answer, list) and not any(name.strip() for name in answer)):
        raise UserError("expected an answer to train on, got an empty one. Remove the row.")


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a model is trained to write after an answer: the text of the chat template up to the tokenizer's end token.

    A model must learn to write the token, or it will not stop. Where the template does not write it, it follows the answer.
    """
    before, token = templates.end_of_turn(tokenizer)
    return before + token if token == tokenizer.eos_token else tokenizer.eos_token


# --- datasets of the trainers


class SampleTransform:
    """A transform of `datasets` from row numbers to columns of samples, called in the dataloader's workers.

    A row that cannot be trained becomes a sample that trains nothing, so that the order of the other rows stays.

    Attributes:
        skipped: uint8 tensor (rows,) shared by the workers; 1 marks such a row.
    """

    def __init__(self, data: TrainingData) -> None:
        import torch

        self.data = data
        self.skipped = torch.zeros(len(data), dtype=torch.uint8).share_memory_()

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        samples = [self.sample(index) for index in batch["index"]]
        return {name: [sample[name] for sample in samples] for name in samples[0]}

    def sample(self, index: int) -> dict[str, Any]:
        """The sample of row `index`."""
        raise NotImplementedError


class TokenSamples(SampleTransform):
    """Token ids and labels; a row that does not fit becomes one token without a label. `loss_on_prompt` labels prompts too."""

    def __init__(self, data: TrainingData, loss_on_prompt: bool = False) -> None:
        super().__init__(data)
        self.loss_on_prompt = loss_on_prompt

    def sample(self, index: int) -> dict[str, list[int]]:
        """`input_ids` of prompt and completion, and `labels`: the same ids, with `IGNORE_INDEX` for the prompt."""
        tokenizer = self.data.tokenizer
        nothing = {"input_ids": [tokenizer.eos_token_id], "labels": [IGNORE_INDEX]}
        if index == PADDING:
            return nothing
        rendered = self.data.render(index)
        if not rendered.fits:
            self.skipped[index] = 1
            return nothing
        # Tokenized separately, because at inference the completion follows the token ids of the prompt.
        prompt = self.data.builder.ids(rendered.prompt)
        answer = tokenizer(rendered.completion, add_special_tokens=False)["input_ids"]
        labels = prompt + answer if self.loss_on_prompt else [IGNORE_INDEX] * len(prompt) + answer
        return {"input_ids": prompt + answer, "labels": labels}

    def describe(self, index: int, show_text: bool = False) -> str:
        """Lengths and mask of a sample, for the log; its text only if `show_text`."""
        rendered, sample = self.data.render(index), self.sample(index)
        tokens = len(sample["labels"])
        first = next((i for i, label in enumerate(sample["labels"]) if label != IGNORE_INDEX), tokens)
        mask = f"{tokens:,} tokens, loss on tokens {first:,} to {tokens:,}"
        line = f"{self.data.stage} stage; first sample: task {rendered.task}, mode {rendered.mode}, {mask}"
        return f"{line}\n{rendered.prompt}«loss begins»{rendered.completion}" if show_text else line

    def check_prefix(self, index: int) -> None:
        """Check that prompt and completion, tokenized together, begin with the prompt's token ids, as at inference."""
        rendered, tokenizer = self.data.render(index), self.data.tokenizer
        prompt = tokenizer(rendered.prompt, add_special_tokens=False)["input_ids"]
        together = tokenizer(rendered.prompt + rendered.completion, add_special_tokens=False)["input_ids"]
        if together[: len(prompt)] != prompt:
            wrong = "expected token ids of the prompt at the start of those of the whole, got others"
            raise UserError(f"{tokenizer.name_or_path}: {wrong}. Choose a model whose tokenizer does not merge the two.")


class PromptSamples(SampleTransform):
    """RL prompts, with the columns that rewards need: task, label as JSON, and mode.

    A row that does not fit or has no label becomes a prompt without the input and an empty label, which no reward scores. (TRL
    logs such prompts, so they must not hold patient text.)
    """

    def sample(self, index: int) -> dict[str, str]:
        rendered = self.data.render(index)
        prompt, label = rendered.prompt, rendered.label
        if not (rendered.fits and label):
            self.skipped[index] = 1
            prompt, label = self.data.builder.prompt("", "", rendered.mode), []
        text = json.dumps(label, ensure_ascii=False)
        return {"prompt": prompt, "task": rendered.task, "label": text, "mode": rendered.mode}


def lazy_dataset(samples: SampleTransform) -> Dataset:
    """A dataset that makes each sample when it is needed."""
    from datasets import Dataset

    return Dataset.from_dict({"index": list(range(len(samples.data)))}).with_transform(samples)


def evaluation_dataset(samples: TokenSamples, batch: int) -> Dataset:
    """A dataset of held-out samples, the longest first, so that a batch too large for the memory fails at once.

    Samples without labels are added up to a multiple of `batch`, the samples in a batch of all processes together; otherwise
    accelerate would repeat other samples, which would count twice.
    """
    from datasets import Dataset

    order = np.argsort(-np.asarray(samples.data.approximate_lengths()), kind="stable").tolist()
    order += [PADDING] * (-len(order) % batch)
    return Dataset.from_dict({"index": order}).with_transform(samples)


def tokenized_dataset(samples: TokenSamples, cache_dir: Path, processes: int | None) -> Dataset:
    """All samples, tokenized into an Arrow file in `cache_dir`, which the same data and settings use again."""
    import pyarrow.compute as pc
    import torch
    from datasets import Dataset

    size = len(samples.data)
    probes = [samples.sample(index) for index in range(0, size, max(1, size // CACHE_PROBES))]
    fingerprint = samples.data.fingerprint() | {"loss_on_prompt": samples.loss_on_prompt, "probe": probes}
    name = sha256(json.dumps(fingerprint, sort_keys=True))[:24]
    cache_dir.mkdir(parents=True, exist_ok=True)
    cache = {"cache_file_name": str(cache_dir / f"{name}.arrow"), "new_fingerprint": name, "load_from_cache_file": True}
    options = {"batched": True, "batch_size": 64, "num_proc": processes if processes and processes > 1 else None}
    rows = Dataset.from_dict({"index": list(range(size))})
    dataset = rows.map(samples, remove_columns=["index"], desc="tokenizing", **options, **cache)
    samples.skipped.copy_(torch.tensor(pc.list_value_length(dataset.data["labels"]).to_numpy() == 1))
    return dataset
