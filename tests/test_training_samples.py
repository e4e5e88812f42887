"""Training samples: the prompts of evaluation, loss on answers only, order, rewards."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import sample_score
from inference.backends import Generation, load_tokenizer
from inference.generation import Prompter, SamplePrompt, output_line
from inference.prompts import SYSTEM, PromptBuilder
from inference.settings import DecodingSettings, InferenceSettings, ModelSettings, PromptSettings
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from training.order import curriculum, grouped_by_length, second_source_count, shuffled, weighted
from training.rewards import REWARDS, for_trl
from training.samples import (
    DOMAIN,
    IGNORE_INDEX,
    REASONING,
    PromptSamples,
    TokenSamples,
    TrainingData,
    chain_of,
    lazy_dataset,
    tokenized_dataset,
)

CHAIN = "## Extraction\n- **Admissions [2150]**: urgent\n## Reasoning\nSo.\n## Final Results\nAspirin"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path):
    return load_tokenizer(str(tiny_model))


def index_of(root: Path, folder: Path, *tasks: str, rows: int = 3, short: bool = False, **columns: str) -> str:
    """An index of the first rows of some tasks (or of those with the shortest windows), with additional columns."""
    index_rows = []
    for task in tasks:
        with (root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as file:
            every = list(csv.DictReader(file))
        if short:
            every.sort(key=lambda row: int(row["context_end"]) - int(row["context_begin"]))
        index_rows += every[:rows]
    path = folder / "index.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(index_rows[0] | columns))
        writer.writeheader()
        writer.writerows(row | columns for row in index_rows)
    return str(path)


def all_tasks(root: Path) -> list[str]:
    """Tasks with rows in the index."""
    files = {task: root / f"task_index/all/{task}.csv" for task in TASKS}
    return [task for task, file in files.items() if file.exists() and len(file.read_bytes().splitlines()) > 1]


def prefixes_hold(source: TrainingData, rows: range) -> None:
    samples, tokenizer = TokenSamples(source), source.tokenizer
    for index in rows:
        rendered, made = source.render(index), samples.sample(index)
        if not rendered.fits:
            continue
        prompt = tokenizer(rendered.prompt, add_special_tokens=False)["input_ids"]
        together = tokenizer(rendered.prompt + rendered.completion, add_special_tokens=False)["input_ids"]
        assert made["input_ids"] == together and together[: len(prompt)] == prompt
        assert made["labels"] == [IGNORE_INDEX] * len(prompt) + together[len(prompt) :]
        assert SYSTEM in rendered.prompt and len(together) <= source.max_tokens


def test_prompt_ids_are_a_prefix_of_all_ids(small_root: Path, tokenizer) -> None:
    files = [str(small_root / f"task_index/all/{task}.csv") for task in all_tasks(small_root)]
    source = TrainingData(small_root, files, tokenizer, 4096)
    assert len(source) > 100
    prefixes_hold(source, range(len(source)))


def test_prompt_ids_are_a_prefix_on_real_records(demo: Path, tokenizer) -> None:
    """Every 200th sample of the demo; EHR_DEMO_EVERY=1 asks for all, which takes half an hour or more."""
    files = [str(demo / f"task_index/all/{task}.csv") for task in all_tasks(demo)]
    source = TrainingData(demo, files, tokenizer, 4096)
    prefixes_hold(source, range(0, len(source), int(os.environ.get("EHR_DEMO_EVERY", "200"))))


def test_a_long_input_loses_events_and_a_row_that_cannot_fit_trains_nothing(small_root: Path, tokenizer) -> None:
    file = str(small_root / "task_index/all/emar.csv")
    whole = TrainingData(small_root, [file], tokenizer, 4096)
    tokens = len(TokenSamples(whole).sample(0)["input_ids"])
    prefixes_hold(TrainingData(small_root, [file], tokenizer, tokens - 20), range(1))
    samples = TokenSamples(TrainingData(small_root, [file], tokenizer, 60))
    assert samples.sample(0)["labels"] == [IGNORE_INDEX] and int(samples.skipped.sum()) == 1


@pytest.mark.parametrize("chain", ["nan", "NaN", "", "None", "  "])
def test_a_missing_chain_is_not_trained(small_root: Path, tokenizer, tmp_path: Path, chain: str) -> None:
    file = index_of(small_root, tmp_path, "emar", reasoning=chain)
    rendered = TrainingData(small_root, [file], tokenizer, 4096, stage="reasoning").render(0)
    assert rendered.mode == "no_think" and rendered.prompt.endswith("<think>\n\n</think>\n\n")
    assert "think" not in rendered.completion and "nan" not in rendered.completion.lower().split()
    assert chain_of({"reasoning": float("nan")}) is None


@pytest.mark.parametrize("opening", ["<think>\n", "<think>"])
def test_a_think_block_that_the_template_opens_is_not_opened_again(
    small_root: Path, tiny_model: Path, tmp_path: Path, opening: str
):
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}\n<|im_end|>\n{% endfor %}"
        + f"{{% if add_generation_prompt %}}assistant: {{{{ {json.dumps(opening)} }}}}{{% endif %}}"
    )
    file = index_of(small_root, tmp_path, "emar", reasoning=CHAIN)
    rendered = TrainingData(small_root, [file], tokenizer, 4096).render(0)
    assert rendered.mode == "think" and rendered.prompt.endswith(f"assistant: {opening}")
    assert (rendered.prompt + rendered.completion).partition("assistant: ")[2].startswith(f"<think>\n{CHAIN}\n</think>\n\n")
    without = TrainingData(small_root, [file], tokenizer, 4096, stage="domain").render(0)
    assert without.prompt.endswith("assistant: <think>\n\n</think>\n\n") and "think" not in without.completion


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_chains_are_found_in_any_row(small_root: Path, tokenizer, tmp_path: Path, form: str) -> None:
    """A file of two stages may begin with thousands of risk rows, which have no chain."""
    rows = [{"subject_id": "1", "task": "ED_Hospitalization", "period_begin": 1, "period_end": 2, "target": '"yes"'}] * 6000
    path = tmp_path / f"index.{form}"

    def source(chain: str) -> TrainingData:
        made = [*rows, rows[0] | {"reasoning": chain}]
        if form == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        else:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(made[-1]))
                writer.writeheader()
                writer.writerows(made)
        return TrainingData(small_root, [str(path)], tokenizer, 4096)

    assert source(CHAIN).stage == REASONING
    assert source("nan").stage == DOMAIN


def test_prompts_are_those_of_evaluation(small_root: Path, tokenizer, tmp_path: Path) -> None:
    """Stage 1 and test.py; stages 2 and 3 and test.py --think_prompt: the same bytes for all tasks."""
    tasks = all_tasks(small_root)
    file = index_of(small_root, tmp_path, *tasks, reasoning=CHAIN)
    stage1 = TrainingData(small_root, [file], tokenizer, 4096, stage="domain")
    stage2 = TrainingData(small_root, [file], tokenizer, 4096, stage="reasoning")
    rl = TrainingData(small_root, [file], tokenizer, 4096, stage="reasoning", for_rl=True)

    def prompts(**flags: bool) -> list[str]:
        prompt = PromptSettings(think_risk=True, max_seq_len=5000, **flags)
        settings = InferenceSettings(ModelSettings("m"), prompt=prompt, decoding=DecodingSettings(max_new_tokens=100))
        dataset = MIMICIV(small_root, file, lazzy_mode=True, shuffle=False)
        prompter = Prompter(dataset, PromptBuilder(tokenizer), settings)
        return [prompter(index).text for index in range(len(dataset))]

    rows = range(len(stage1))
    assert {stage1.render(index).task for index in rows} == set(tasks)
    assert [stage1.render(index).prompt for index in rows] == prompts()
    assert [stage2.render(index).prompt for index in rows] == prompts(think_prompt=True)
    assert [rl.render(index).prompt for index in rows] == prompts(think_prompt=True)
    assert PromptSamples(rl)({"index": list(rows)})["prompt"] == prompts(think_prompt=True)
    assert all(stage2.render(index).completion.startswith(f"<think>\n{CHAIN}\n</think>\n\n") for index in rows)


def test_rl_on_rows_without_chains_reasons_on_decisions(small_root: Path, tokenizer, tmp_path: Path) -> None:
    file = index_of(small_root, tmp_path, "emar", "LengthOfStay_3day", rows=1)
    source = TrainingData(small_root, [file], tokenizer, 4096, for_rl=True)
    assert [source.render(index).mode for index in range(2)] == ["think", "no_think"]
    domain = TrainingData(small_root, [file], tokenizer, 4096, stage="domain", for_rl=True)
    assert [domain.render(index).mode for index in range(2)] == ["plain", "plain"]
    too_long = PromptSamples(TrainingData(small_root, [file], tokenizer, 40, for_rl=True))
    too_long({"index": [0, 0, 1, 1, 0]})
    assert too_long.skipped.tolist() == [1, 1], "a row once, however often it is drawn"


def test_the_kind_of_a_task_is_that_of_the_registry(small_root: Path, tokenizer, tmp_path: Path) -> None:
    """However a row spells it: released ones say `risk_prediction`."""
    path = tmp_path / "released.jsonl"
    kinds = {"emar": ("decision", "decision_making", ""), "ICU_Stay_7day": ("risk", "risk_prediction", "")}
    cases = [(task, label, kind) for task, label in (("emar", ["A"]), ("ICU_Stay_7day", "yes")) for kind in kinds[task]]
    rows = [
        {"idx": i, "instruction": "?", "input": "## Admissions [None]", "output": "yes", "candidates": ["yes", "no"],
         "task_info": {"task": task, "metric": "x", "task_type": kind, "label": label}}
        for i, (task, label, kind) in enumerate(cases)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    samples = PromptSamples(TrainingData(small_root, [str(path)], tokenizer, 4096, for_rl=True))
    assert [samples.sample(index)["mode"] for index in range(6)] == ["think"] * 3 + ["no_think"] * 3


def test_a_tokenizer_in_python_is_known_by_its_content(small_root: Path, tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    def saved(name: str, **options: int) -> str:
        tokenizer = ByT5Tokenizer(**options)
        tokenizer.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
        tokenizer.save_pretrained(tmp_path / name)
        return name

    file = index_of(small_root, tmp_path, "emar", rows=1)
    names = [saved("a"), saved("b"), saved("other", extra_ids=5)]
    data = [TrainingData(small_root, [file], load_tokenizer(str(tmp_path / name)), 20_000) for name in names]
    digests = [each.settings()["tokenizer_sha256"] for each in data]
    assert digests[0] == digests[1] != digests[2]
    samples = TokenSamples(data[0])
    samples.check_prefix(0)
    assert samples.sample(0)["input_ids"][-1] == data[0].tokenizer.eos_token_id


def test_a_fingerprint_names_everything_that_is_read(small_root: Path, tokenizer, tmp_path: Path) -> None:
    """Rows, code maps and trajectories, those of a release too, which have no record: so no cache of others is used."""
    root = tmp_path / "root"
    shutil.copytree(small_root, root)
    file = index_of(root, tmp_path, "emar", rows=2)

    def fingerprint() -> dict:
        return TrainingData(root, [file], tokenizer, 4096).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    (root / "index_mapping/hosp").mkdir(parents=True, exist_ok=True)
    (root / "index_mapping/hosp/ccs_dx.csv").write_text("code,label\n")
    assert [name for name, value in fingerprint().items() if value != first[name]] == ["index_mapping"]
    (root / "patients_ehr/provenance.json").unlink()
    released = fingerprint()
    assert released["trajectories"] not in (None, first["trajectories"])
    shard = next((root / "patients_ehr").glob("shard-*"))
    os.utime(shard, ns=(1, 1))
    assert fingerprint()["trajectories"] != released["trajectories"]


def test_lazy_is_tokenized_dataset(small_root: Path, tokenizer, tmp_path: Path) -> None:
    file = index_of(small_root, tmp_path, "emar", "labevents", "LengthOfStay_3day")
    samples = TokenSamples(TrainingData(small_root, [file], tokenizer, 4096))
    ahead, lazy = tokenized_dataset(samples, tmp_path / "cache", 1), lazy_dataset(samples)
    assert len(ahead) == len(lazy) > 4
    assert list(ahead) == list(lazy)
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 1
    other = TokenSamples(TrainingData(small_root, [file], tokenizer, 300))
    tokenized_dataset(other, tmp_path / "cache", 1)
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 2, "other settings, another file"
    render = samples.data.render
    samples.data.render = lambda index: replace(render(index), completion="no more")
    assert list(tokenized_dataset(samples, tmp_path / "cache", 1)) != list(ahead), "other code, another file"


def test_loss_is_taken_on_the_answer_only(small_root: Path, tiny_model: Path, tokenizer, tmp_path: Path) -> None:
    """The trainer's loss is the answer tokens' mean cross-entropy; what the prompt's labels would be does not matter."""
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    file = index_of(small_root, tmp_path, "emar")
    samples = TokenSamples(TrainingData(small_root, [file], tokenizer, 4096))
    made = [samples.sample(index) for index in range(3)]
    batch = DataCollatorForLanguageModeling(tokenizer.pad_token_id)(made)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = model(**batch).loss
    by_hand, tokens = 0.0, 0
    for row, one in enumerate(made):
        first = one["labels"].index(next(label for label in one["labels"] if label != IGNORE_INDEX))
        answer = torch.tensor(one["input_ids"][first:])
        by_hand += torch.nn.functional.cross_entropy(
            logits[row, first - 1 : len(one["input_ids"]) - 1], answer, reduction="sum"
        )
        tokens += len(answer)
    assert loss.item() == pytest.approx((by_hand / tokens).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(model(input_ids=batch["input_ids"], labels=batch["labels"]).loss, [model.lm_head.weight])
    batch["labels"][:, 0] = 7  # the first token's label is no target
    assert model(**batch).loss.item() == pytest.approx(loss.item(), rel=1e-6) and gradient.abs().sum() > 0
    everything = TokenSamples(samples.data, loss_on_prompt=True).sample(0)
    assert everything["labels"] == everything["input_ids"]


def test_check_finds_what_would_stop_a_run(small_root: Path, tokenizer, tmp_path: Path) -> None:
    def fault(**changes: str) -> str:
        file = index_of(small_root, tmp_path, "emar", **changes)
        with pytest.raises(UserError) as error:
            TrainingData(small_root, [file], tokenizer, 4096).check()
        return str(error.value)

    assert "row 2: target: expected a list of names for emar, got an empty list" in fault(target="[]")
    assert "different builds" in fault(context_end="99999")
    assert "0 events" in fault(subject_id="424242")
    empty = tmp_path / "empty.csv"
    empty.write_text("subject_id,task,event,context_begin,context_end,target\n", encoding="utf-8")
    with pytest.raises(UserError, match="rows to train on"):
        TrainingData(small_root, [str(empty)], tokenizer, 4096).check()


# --- orders

sizes = st.integers(2, 300).flatmap(lambda n1: st.tuples(st.just(n1), st.integers(1, n1 - 1)))


@given(sizes, st.integers(0, 5))
def test_a_curriculum_uses_every_sample_once_and_keeps_the_rule(both: tuple[int, int], epoch: int) -> None:
    n1, n2 = both
    order = curriculum(n1, n2, seed=1, epoch=epoch)
    assert sorted(order.tolist()) == list(range(n1 + n2))
    assert order.tolist() == curriculum(n1, n2, seed=1, epoch=epoch).tolist()
    only_first = max(0, int((n1 + n2) * (1 - 2 * n2 / n1)))
    assert (order[:only_first] < n1).all()
    counts = [second_source_count(n1, n2, step) for step in range(n1 + n2 + 1)]
    assert counts == np.concatenate([[0], np.cumsum(order >= n1)]).tolist()
    steps = np.diff(counts)
    assert set(steps.tolist()) <= {0, 1}


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0.1, 3)), min_size=1, max_size=3), st.integers(1, 6))
def test_weights_draw_each_source_evenly(sources: list[tuple[int, float]], epochs: int) -> None:
    """Over any number of epochs, two samples of a source differ by one draw at most."""
    sizes, weights = zip(*sources, strict=True)
    orders = [weighted(sizes, weights, 0, epoch).tolist() for epoch in range(epochs)]
    assert orders[-1] == weighted(sizes, weights, 0, epochs - 1).tolist()
    drawn, first = np.bincount(np.concatenate(orders), minlength=sum(sizes)), 0
    for size, weight in sources:
        counts = drawn[first : first + size]
        assert counts.sum() == epochs * max(1, round(size * weight)) and np.ptp(counts) <= 1
        first += size


def test_the_second_source_rises() -> None:
    order = curriculum(1000, 200, seed=0, epoch=0) >= 1000
    parts = [order[start : start + 120].mean() for start in range(0, 1200, 120)]
    assert parts[:6] == [0] * 6 and parts[6:9] == sorted(parts[6:9]) and parts[8] > 0.5


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 3))
def test_grouping_by_length_loses_nothing(lengths: list[int], batch: int, epoch: int) -> None:
    order = grouped_by_length(shuffled(len(lengths), 0, epoch), lengths, batch, 0, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))


def test_grouping_by_length_saves_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1, 4000).astype(int)

    def useful(order: np.ndarray) -> float:
        batches = lengths[order].reshape(-1, 8)
        return batches.sum() / (batches.max(1) * 8).sum()

    mixed = shuffled(4000, 0, 0)
    assert useful(grouped_by_length(mixed, lengths, 8, 0, 0)) > 0.85 > 0.6 > useful(mixed)
    assert shuffled(4000, 0, 0).tolist() != shuffled(4000, 0, 1).tolist()


# --- rewards


@pytest.mark.parametrize(
    ("task", "label"),
    [("emar", ["Aspirin", "Heparin"]), ("ICU_Stay_7day", "no"), ("next_event", "emar"), ("discharge", "Well.")],
)
@pytest.mark.parametrize(
    "reply",
    [
        "Aspirin",
        "no",
        "No.",
        "emar",
        "",
        f"<think>\n{CHAIN}\n</think>\n\nAspirin\nheparin",
        "<think>\nAspirin",
        f"{CHAIN}\n</think>\n\nAspirin\nheparin",
        "- Aspirin\n- Aspirin",
        "Well.",
    ],
)
@pytest.mark.parametrize("end_of_prompt", ["assistant\n", "assistant\n<think>\n"])
def test_the_reward_is_the_evaluations_score(task: str, label: list[str] | str, reply: str, end_of_prompt: str) -> None:
    prompt = SamplePrompt("k", end_of_prompt, task=TASKS[task], label=label, mode="think")
    line = output_line(prompt, [Generation(reply, "stop")], sample_score)
    rewards = for_trl("accuracy")([prompt.text], [reply], task=[task], label=[json.dumps(label)], mode=["think"])
    assert rewards == [line["score"]]


def test_a_chain_in_a_block_that_the_prompt_opened_is_well_formed() -> None:
    prompts, reply = ["P\n<think>\n", "P\n"], f"{CHAIN}\n</think>\n\nAspirin"
    made = for_trl("format")(prompts, [reply] * 2, task=["emar"] * 2, label=['["Aspirin"]'] * 2, mode=["think"] * 2)
    assert made == [1.0, 0.0]


def test_a_row_that_no_reward_scores_shows_no_record(small_root: Path, tokenizer) -> None:
    """TRL logs the whole prompt of a row that every reward leaves out."""
    source = TrainingData(small_root, [str(small_root / "task_index/all/emar.csv")], tokenizer, 4096, for_rl=True)
    render, samples = source.render, PromptSamples(source)
    source.render = lambda index: replace(render(index), label=[])
    made = samples({"index": [0]})
    prompts = made.pop("prompt")
    assert prompts == [source.builder.prompt("", "", "think")] and int(samples.skipped.sum()) == 1
    assert for_trl("accuracy")(prompts, ["x"], **made) == [None]


def test_every_reward_is_in_its_range_or_none() -> None:
    for name in REWARDS:
        for reply in ("", "<think>", "</think>" * 9, "x" * 10_000, CHAIN, "yes", f"<think>\n{CHAIN}\n</think>\n\nAspirin"):
            for task, mode in itertools.product(("emar", "ICU_Stay_7day"), ("think", "no_think")):
                given = {"task": [task], "label": ['["yes"]'], "mode": [mode], "p_yes": [0.7]}
                (value,) = for_trl(name)(["P"], [reply], **given)
                assert value is None or 0 <= value <= (2 if name == "brier" else 1)
                assert (value is None) == ((name, task) in {("brier", "emar"), ("decision", "ICU_Stay_7day")})
        assert for_trl(name)(["P"], ["x"], task=["emar"], label=["[]"], mode=["think"]) == [None]
