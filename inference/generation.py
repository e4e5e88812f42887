"""Generate and record: prompts in, replies out, one line of a JSONL log for each reply as it comes.

test.py, scripts/infer.py and the synthesis of reasoning chains use it. What a line says is the caller's choice, and so is how
a reply is scored.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from inference.answers import close_reasoning, read_items, split_reasoning
from inference.backends import TOO_LONG, Backend, Generation, Query
from inference.chat_lines import MAX_USELESS, is_useful, useless_replies
from inference.dialects import is_whole, usage_of
from inference.prompts import THINK, PromptBuilder, Truncation, evaluation_mode, open_think_prefix, with_candidates
from inference.settings import InferenceSettings, PromptSettings
from mimiciv_dataset.index_files import index_paths, sample_id
from mimiciv_dataset.row_keys import row_keys
from mimiciv_dataset.tasks import ALL_TASKS, Task
from pipeline.cli import chunk_paths
from pipeline.errors import UserError
from pipeline.files import Line, read_jsonl, sha256

if TYPE_CHECKING:
    from inference.costs import Meter
    from mimiciv_dataset.mimiciv import MIMICIV
    from mimiciv_dataset.text import SampleText

END_OF_REASONING = 8  # tokens reserved where p(yes) is computed after the reasoning, which is closed anew
ID_COLUMNS = ("task", "subject_id", "period_begin", "period_end")  # identify a sample in index rows, lines and keys

# The score of an answer, from (task, label, answer, p(yes), candidates): `evaluation.metrics.sample_score`.
Scorer = Callable[[Task, Any, "str | None", "float | None", Sequence[str]], float]


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, how it is answered, and what its line says."""

    key: str  # identifies the sample, the prompt and the decoding; a prompt whose key is in the log is not run again
    text: str  # what the model reads; for the chat endpoint, messages as JSON
    line: Line = field(default_factory=dict)  # what the line says besides the reply
    truncation: Truncation | None = None  # what was dropped from the input; None if nothing was
    scored: bool = False  # the answer is p(yes) right after the prompt; nothing is generated
    scored_after_reasoning: bool = False  # p(yes) is computed after the reasoning of the reply
    space_after_reasoning: str | None = None  # white space that the model's family writes there; None: the usual one
    tokens: int = 0  # estimated length, for a limit of cost
    ids: Sequence[int] | None = None  # token ids of the text, if they are known
    num_replies: int = 1  # how many replies are sampled
    sample: int = 0  # which of them a query asks for
    choices: int | None = None  # choices that are still to come in a server's reply; None: one, which is not asked for

    @property
    def fits(self) -> bool:
        return self.truncation is None or self.truncation.fits

    @property
    def thinking_open(self) -> str:
        """The mark of reasoning that the prompt opens itself, as some chat templates do: the reply starts inside it."""
        return "" if self.scored else open_think_prefix(self.text).strip()


P = TypeVar("P", bound=Prompt)


@dataclass
class Tally:
    """Numbers of prompts: with a reply, too long even after truncation, truncated so that they fit, and by error."""

    answered: int = 0
    useful: int = 0  # replies of the chat endpoint with a whole choice
    too_long: int = 0
    truncated: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # errors that another request would get, too
    cut_off: Counter[str] = field(default_factory=Counter)  # choices that are not whole, by finish reason

    def add(self, is_truncated: bool, error: str | None, is_refused: bool = False) -> None:
        """Count a prompt by its `outcome`."""
        self.truncated += is_truncated
        self.too_long += error == TOO_LONG
        self.answered += error is None
        if error not in (None, TOO_LONG):
            (self.refused if is_refused else self.errors)[error] += 1


def generate_and_record(
    prompts: Iterable[P],
    backend: Backend,
    write: Callable[[Line], None],
    line_of: Callable[[P, Sequence[Generation]], Line | None],
    bar: Any,
    meter: Meter | None = None,
) -> Tally:
    """Answer prompts, which are drawn as the backend needs them, and record each one when its replies are there.

    If a server sends fewer choices than a prompt asks for, they are recorded, and the others are asked for.

    Args:
        write: appends a line to the log (`pipeline.files.append_jsonl`).
        line_of: makes the line of a prompt and its replies; None: none is written. A prompt that does not fit has one reply,
            with the error `TOO_LONG`.
        bar: a progress bar, which counts prompts.
        meter: counts tokens and cost, and stops the run at the limit.
    """
    tally, again, num_useless = Tally(), deque(), 0  # None: there was a useful reply
    for prompt, of_prompt in answered(prompts, backend, meter, again):
        line = line_of(prompt, of_prompt)
        if line is not None:
            write(line)
            tally.cut_off.update(str(reason) for reason in line.get("finish_reasons") or () if not is_whole(reason))
            if meter and line.get("finish_reasons"):
                tally.useful += is_useful(line)
                num_useless = None if tally.useful else num_useless + 1
                meter.problem = useless_replies(MAX_USELESS, line) if num_useless == MAX_USELESS else meter.problem
        error, missing = (line or {}).get("error"), missing_choices(prompt, of_prompt)
        if missing and not error:
            again.append(replace(prompt, choices=missing))
            continue
        tally.add(*outcome(prompt, of_prompt, line), is_refused=bool((line or {}).get("refused")))
        if meter:
            bar.set_postfix_str(meter.status(bar.total - bar.n - 1 if bar.total else 0), refresh=False)
        bar.update()
    if meter and meter.problem:
        raise UserError(meter.problem)
    return tally


def missing_choices(prompt: Prompt, replies: Sequence[Generation]) -> int:
    """How many of the choices that a prompt asks for its reply does not have."""
    response = replies[0].response
    return 0 if prompt.choices is None or response is None else max(0, prompt.choices - len(response.choices))


def outcome(prompt: Prompt, replies: Sequence[Generation], line: Line | None) -> tuple[bool, str | None]:
    """Whether the prompt was truncated so that it fits, and the error of its line or replies."""
    error = (line or {}).get("error") or next((reply.error for reply in replies if reply.error), None)
    return prompt.truncation is not None and prompt.fits, error


def answered(
    prompts: Iterable[P], backend: Backend, meter: Meter | None = None, again: deque[P] | None = None
) -> Iterator[tuple[P, Sequence[Generation]]]:
    """Yield each prompt with its replies when all are there; one that does not fit has one, with the error `TOO_LONG`.

    Prompts that the caller puts into `again` are answered next.
    """
    too_long: deque[P] = deque()

    def fitting() -> Iterator[P]:
        for prompt in prompts:
            if prompt.fits:
                yield from (replace(prompt, sample=sample) for sample in range(prompt.num_replies))
            else:
                too_long.append(prompt)

    def unfit() -> Iterator[tuple[P, Sequence[Generation]]]:
        while too_long:
            yield too_long.popleft(), [Generation("", TOO_LONG, error=TOO_LONG)]

    incomplete: dict[str, dict[int, Generation]] = defaultdict(dict)  # key of a prompt → its replies so far
    for prompt, reply in replies(fitting(), backend, meter, again):
        yield from unfit()
        incomplete[prompt.key][prompt.sample] = reply
        if len(incomplete[prompt.key]) == prompt.num_replies:
            of_prompt = incomplete.pop(prompt.key)
            yield prompt, [of_prompt[sample] for sample in range(prompt.num_replies)]
    yield from unfit()


def replies(
    prompts: Iterable[P], backend: Backend, meter: Meter | None = None, again: deque[P] | None = None
) -> Iterator[tuple[P, Generation]]:
    """Yield each prompt with its reply, as replies come; where p(yes) follows the reasoning, the reply has both.

    If the next prompt might exceed the limit of cost, replies in flight are awaited, as they mostly cost less than they
    could. If that is not enough, the run stops (`Meter.stopped`).
    """
    source, next_prompt = iter(prompts), None
    reasoned: deque[tuple[P, Generation, str]] = deque()
    sent: dict[int, tuple[P, Generation | None]] = {}

    def queries() -> Iterator[Query]:
        nonlocal next_prompt
        for position in range(1 << 62):
            if reasoned:
                prompt, reply, text = reasoned.popleft()
                sent[position] = prompt, reply
                yield Query(text, score=True, sample=prompt.sample)
                continue
            next_prompt = next_prompt or (again.popleft() if again else next(source, None))
            if next_prompt is None or (meter and not meter.affords(next_prompt.tokens)):
                return
            prompt, next_prompt = next_prompt, None
            if meter:
                meter.reserve(prompt.tokens)
            sent[position] = prompt, None
            yield Query(prompt.text, prompt.scored, sample=prompt.sample, ids=prompt.ids, choices=prompt.choices)

    while True:
        finished = False
        for position, reply in backend.answer(queries()):
            prompt, generated = sent.pop(position)
            finished = True
            if generated is not None:
                yield prompt, replace(generated, p_yes=reply.p_yes, yes_no_mass=reply.yes_no_mass, error=reply.error)
                continue
            if meter:
                meter.add(prompt.tokens, usage_of(reply.response), failed=bool(reply.error))
            is_rescored = prompt.scored_after_reasoning and backend.continues
            after = prompt.space_after_reasoning
            text = after_reasoning(prompt.text, reply.text, prompt.thinking_open, after) if is_rescored else None
            if text:
                reasoned.append((prompt, reply, text))
            else:
                yield prompt, reply
        if not reasoned and not (again and finished) and (next_prompt is None or not finished):
            if meter:
                meter.stopped = next_prompt is not None
            return


def after_reasoning(prompt: str, reply: str, thinking_open: bool | str = False, after: str | None = None) -> str | None:
    """The prompt and the closed reasoning of the reply, after which p(yes) is computed; None if it was never closed.

    The reasoning is closed as the family of its marks closes it (`answers.close_reasoning`).

    >>> after_reasoning("P", "<think>old</think> yes")
    'P<think>old</think>\\n\\n'
    """
    closed = close_reasoning(reply, thinking_open, after)
    return None if closed is None else prompt + closed


def finished_keys(path: Path, meter: Meter | None = None, name: str = "key", retry_refused: bool = False) -> set[str]:
    """The field `name` of each line that has a reply, in the logs of all chunks of `path`; a meter counts all lines' cost.

    A line that is `refused` counts as a reply unless `retry_refused`.
    """
    keys = set()
    for file in chunk_paths(path):
        for number, (_, line) in enumerate(read_jsonl(file), 1):
            if name not in line:
                raise UserError(f"{file}, line {number}: expected a field {name}, got none. Remove that line and run again.")
            if meter:
                meter.add_earlier(line)
            if line.get("error") in (None, TOO_LONG) or (line.get("refused") and not retry_refused):
                keys.add(line[name])
    return keys


# --- prompts and lines of samples


class DatasetRow(NamedTuple):
    """A sample, for which its row need not be read again.

    Attributes:
        index: its position in the dataset.
        sample_id: its identity, which is unique among the samples of a run.
        subject_id: its patient; None if its row does not say.
        length: events of its window; characters of its text if its row has it.
    """

    dataset: MIMICIV
    index: int
    sample_id: str
    subject_id: str | None
    length: int

    @property
    def row(self) -> Line:
        """The row, read from the file's table or line."""
        return self.dataset.row(self.index)


def read_samples(root_dir: Path, names: str, prompt: PromptSettings) -> list[DatasetRow]:
    """The samples of index files (comma-separated names), one of each task in turn.

    Tasks are in the order of the task registry, and the samples of a task in the order of the files. So the first N samples
    are balanced over tasks, and among the first N + 1. A row that appears several times is one sample.
    """
    from mimiciv_dataset.mimiciv import MIMICIV

    by_task: dict[str, dict[str, DatasetRow]] = {name: {} for name in ALL_TASKS}
    positions: dict[str, int | None] = {}  # sample_id → `idx` of its row
    for path in index_paths(names.split(",")):
        options = {"instructions": prompt.instructions, "as_known": prompt.as_known, "check": False}
        dataset = MIMICIV(root_dir, path, lazzy_mode=True, shuffle=False, **options)
        for index, key in enumerate(row_keys(dataset.rows)):
            identity = key.sample_id
            if not key.is_complete and positions.setdefault(identity, key.idx) != key.idx:
                identity = f"{identity}#{key.idx}"  # patient or window is unknown, and two rows read the same
            new = DatasetRow(dataset, index, identity, key.subject_id, key.length)
            sample = by_task[key.task].setdefault(identity, new)
            if sample is not new and not is_same_sample(sample.row, new.row):
                different = "another text or answer, or other candidates"
                got = f"the patient and window of {sample.dataset.where(sample.index)} with {different}"
                fix = "Remove one of them, or number the rows by a field idx"
                raise UserError(f"{dataset.where(index)}: expected a sample of its own, got {got}. {fix}.")
    turns = zip_longest(*(of_task.values() for of_task in by_task.values()))
    if not (samples := [sample for sample in chain.from_iterable(turns) if sample is not None]):
        raise UserError(f"{names}: expected samples, got none. Give an index file with rows.")
    return samples


def is_same_sample(row: Line, other: Line) -> bool:
    """Whether two rows of the same task, patient and window ask and offer the same, and have the same answer."""

    def content(row: Line) -> list[Any]:
        texts = map(row.get, ("target", "instruction", "input"))
        return [*texts, row.get("candidates") or None, row.get("task_info", {}).get("label")]

    return content(row) == content(other)


@dataclass(frozen=True)
class SamplePrompt(Prompt):
    """The prompt of a sample, its task and label, its mode, and the reasoning that was pre-filled (`prefix`)."""

    task: Task | None = None
    label: Any = None
    mode: str = ""
    prefix: str = ""


class Prompter:
    """Makes the prompts of a dataset, with the builder of a backend."""

    def __init__(self, dataset: MIMICIV, builder: PromptBuilder, settings: InferenceSettings) -> None:
        self.dataset, self.builder, self.settings = dataset, builder, settings
        self.reply_settings = reply_settings(settings)

    def __call__(self, index: int, identity: str | None = None) -> SamplePrompt:
        """The prompt of sample `index`; `identity` is its `DatasetRow.sample_id`, by default that of its row alone."""
        sample, text = self.dataset.with_text(index)
        info, flags = sample["task_info"], self.settings.prompt
        reasoning = info.get("reasoning") if flags.oracle_reasoning else ""
        if flags.oracle_reasoning and not reasoning:
            raise UserError("--oracle_reasoning: expected a column reasoning in the index, got a row without one.")
        task, instruction = ALL_TASKS[info["task"]], sample["instruction"]
        if flags.prompt:
            instruction = with_candidates(instruction, task, sample["candidates"])
        prompt = sample_prompt(text, instruction, task, self.builder, self.settings, reasoning)
        window = [info.get(name) for name in ID_COLUMNS]
        idx = sample["idx"] if window[1] is None else None
        hashes = {"input_sha256": sha256(sample["input"]), "prompt_sha256": sha256(prompt.text)}
        line = {
            "key": sha256(json.dumps([*window, idx, hashes["prompt_sha256"], self.reply_settings])),
            "sample_id": identity or sample_id(info | hashes),
            "task_info": {name: value for name, value in info.items() if name != "reasoning"},
            "candidates": sample["candidates"],
            "mode": prompt.mode,
            "input_sha256": hashes["input_sha256"],
            "prompt_chars": len(prompt.text),
            "prompt_sha256": hashes["prompt_sha256"],
            "template_sha256": self.builder.template_sha256,
            "thinking_open": bool(prompt.thinking_open),
            "opening_mark": prompt.thinking_open or None,
            "truncated": asdict(prompt.truncation) if prompt.truncation else None,
        }
        return replace(prompt, key=line["key"], line=line, label=info["label"])


def reply_settings(settings: InferenceSettings) -> Line:
    """What besides its prompt decides a reply; part of its key."""
    several = {"num_samples": settings.decoding.num_samples} if settings.decoding.num_samples > 1 else {}
    sampling = {"model_sampling": True} if settings.model.model_sampling else {}
    decoding = {
        "max_new_tokens": settings.decoding.max_new_tokens,
        "temperature": settings.decoding.temperature,
        "max_seq_len": settings.prompt.max_seq_len,
        "model": str(settings.model.model_name_or_path),
        "lora": str(settings.model.lora_path or ""),
        "chat": settings.server.chat,
    }
    return decoding | sampling | several


def sample_prompt(
    text: SampleText,
    instruction: str,
    task: Task | None,
    builder: PromptBuilder,
    settings: InferenceSettings,
    reasoning: str = "",
) -> SamplePrompt:
    """The prompt of a sample, truncated to leave room for the reply; key and line are the caller's.

    Without a task, the instruction is answered as that of a decision task. `reasoning` is pre-filled.
    """
    flags, is_risk = settings.prompt, task is not None and task.kind == "risk"
    mode = evaluation_mode(task.kind if task else "decision", flags.think_prompt, flags.direct_answer, flags.think_risk)
    mode, prefix = (THINK, builder.with_reasoning(reasoning)) if reasoning else (mode, "")
    reply_tokens = settings.decoding.max_new_tokens
    if is_risk:
        reply_tokens = reply_tokens + END_OF_REASONING if mode == THINK else 1
    prompt, truncation = builder.fit(text, instruction, mode, flags.max_seq_len - reply_tokens, prefix)
    reasons = mode == THINK and not prefix
    scored = {"scored": is_risk and not reasons, "scored_after_reasoning": is_risk and reasons}
    scored["num_replies"] = 1 if scored["scored"] else settings.decoding.num_samples  # p(yes) of a prompt is one number
    about = {"truncation": truncation, "ids": builder.ids(prompt), "task": task, "mode": mode, "prefix": prefix}
    about["space_after_reasoning"] = builder.family.space_after_reasoning
    return SamplePrompt("", prompt, **about, **scored)


def output_line(prompt: SamplePrompt, replies: Sequence[Generation], scorer: Scorer) -> Line | None:
    """The line of `outputs.jsonl` of a sample (docs/evaluation.md); None if the server did not send all replies."""
    if any(reply.error not in (None, TOO_LONG) for reply in replies):
        return None
    outputs, scores, candidates = [], [], prompt.line.get("candidates") or ()
    for reply in replies:
        reasoning, answer = split_reasoning(reply.text, prompt.thinking_open)
        output = {
            "response": reply.text,
            "reasoning": reasoning if prompt.mode == THINK and not prompt.prefix else None,
            "items": read_items(answer, candidates),
            "p_yes": reply.p_yes,
            "finish_reason": reply.finish_reason,
            "yes_no_mass": reply.yes_no_mass,
            "completion_tokens": reply.completion_tokens,
        }
        outputs.append(output)
        scores.append(scorer(prompt.task, prompt.label, answer, reply.p_yes, candidates))
    line = prompt.line | {"prompt_tokens": replies[0].prompt_tokens, "outputs": outputs, "score": fmean(scores)}
    return line | ({"error": replies[0].error} if replies[0].error else {})
