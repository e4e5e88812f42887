"""Families of models: prompts end as each family's must, in every mode, on any day."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from model_families import FAMILIES, Imitation, each, make_model, text, tokenizer_like

from inference import describe, templates
from inference.families import Family, declarations, family_of, model_name
from inference.prompts import EMPTY_THINK, NO_THINK, PLAIN, SYSTEM, THINK, PromptBuilder, open_think_prefix
from pipeline.errors import UserError
from pipeline.files import write_json

names = pytest.mark.parametrize("name", FAMILIES)


def builder_of(name: str) -> PromptBuilder:
    imitation = FAMILIES[name]
    tokenizer = tokenizer_like(imitation)
    return PromptBuilder(tokenizer, family_of(tokenizer, [imitation.model]))


@names
def test_prompts_end_as_the_family_needs(name: str) -> None:
    builder, imitation = builder_of(name), FAMILIES[name]
    assert (builder.family.name, builder.family.chosen_by) == (name, "name")
    for mode, suffix, end in ((PLAIN, "", "plain"), (THINK, "\n/think", "think"), (NO_THINK, "\n/no_think", "plain")):
        prompt = builder.prompt("RECORD", "What next?", mode)
        before, _, after = prompt.rpartition(f"RECORD\nWhat next?{suffix}")
        assert after == getattr(imitation, end), mode
        assert prompt.count(SYSTEM) == prompt.count("RECORD") == 1
        assert before.endswith(f"{SYSTEM}\n\n") == (imitation.merged or name == "medgemma")


@names
def test_facts_are_detected(name: str) -> None:
    imitation, family = FAMILIES[name], builder_of(name).family
    assert (family.merges_system, family.end_tokens, family.has_clock) == (
        imitation.merged, imitation.ends, imitation.has_clock,
    )  # fmt: skip
    entry = declarations()["families"][name]
    if "switch" in entry and name != "ehr-r1-72b":  # what is declared for chat servers is what the template has
        assert family.switch.name == entry["switch"] == family_of(None, [imitation.model]).switch.name


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.from_template])
def test_a_local_folder_of_any_name_gets_the_same_prompts(name: str) -> None:
    tokenizer = tokenizer_like(FAMILIES[name])
    by_template = PromptBuilder(tokenizer, family_of(tokenizer, ["/models/final"]))
    assert by_template.family.name == name or name == "medgemma"
    assert [by_template.prompt("R", "I", mode) for mode in (PLAIN, THINK)] == [
        builder_of(name).prompt("R", "I", mode) for mode in (PLAIN, THINK)
    ]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.has_clock])
def test_prompts_are_the_same_on_any_day(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.chat_template_utils as library

    class NextYear(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2031, 5, 6)

    prompt = builder_of(name).prompt("R", "I", THINK)
    monkeypatch.setattr(library, "datetime", NextYear)
    assert builder_of(name).prompt("R", "I", THINK) == prompt and "2031" not in prompt
    assert "2024" in prompt or name == "magistral"  # which writes the date only without a system turn


@names
def test_training_writes_the_end_token_of_the_family(name: str) -> None:
    from training.runs import set_end_token
    from training.samples import end_of_turn

    tokenizer = tokenizer_like(FAMILIES[name])
    set_end_token(tokenizer)
    assert end_of_turn(tokenizer).endswith(tokenizer.eos_token)
    assert tokenizer.eos_token == FAMILIES[name].trained_end
    assert len(tokenizer(tokenizer.eos_token, add_special_tokens=False)["input_ids"]) == 1


def test_the_end_token_can_be_chosen() -> None:
    from training.runs import set_end_token
    from training.samples import end_of_turn

    for name, token in (("glm", "<|user|>"), ("gemma", "<|endoftext|>"), ("qwen3", "<|im_end|>")):
        tokenizer = tokenizer_like(FAMILIES[name])
        set_end_token(tokenizer, token)
        assert (tokenizer.eos_token, end_of_turn(tokenizer)) == (token, token)
    with pytest.raises(UserError, match="--eos_token: expected a token of"):
        set_end_token(tokenizer, "<no such token>")


def like(template: str, **options) -> PromptBuilder:
    tokenizer = tokenizer_like(Imitation("m", template, "", "", **options))
    return PromptBuilder(tokenizer, family_of(tokenizer, ["m"]))


TURN = "{{ '[' + m.role + ']' + m.content }}"


@pytest.mark.parametrize(
    ("condition", "on_off"),
    [("enable_reasoning", (True, False)), ("thinking_mode == 'on'", ("on", "off")), ("think", (True, False)),
     ("disable_thinking is not true", (False, True)), ("nothink is not true", (False, True)),
     ("suppress_reasoning is not true", (False, True)), ("enableThinking", (True, False)),
     ("reasoning_mode == 'enabled'", ("enabled", "disabled")), ("thinking_budget != 0", (-1, 0))],
)  # fmt: skip
def test_a_switch_of_any_name_is_found(condition: str, on_off: tuple) -> None:
    builder = like(each(TURN, "{% if " + condition + " %}<think>{% else %}</think>{% endif %}"))
    assert (builder.family.switch.on, builder.family.switch.off) == on_off
    assert builder.prompt("R", "I", THINK).endswith("I\n/think<think>")
    assert builder.prompt("R", "I", PLAIN).endswith("I</think>")


def test_a_switch_that_only_shortens_reasoning_is_not_enough() -> None:
    effort = "{{ '[effort ' + reasoning_effort | default('medium') + ']' }}"
    assert like(each(TURN, effort + "{# </think> #}")).prompt("R", "I", PLAIN).endswith("[effort low]" + EMPTY_THINK)
    checked = (
        "{% if reasoning_effort | default('high') not in ['high', 'none'] %}{{ raise_exception('high or none') }}{% endif %}"
    )
    assert like(each(TURN, effort, checked)).prompt("R", "I", PLAIN).endswith("[effort none]")


def test_a_template_that_opens_reasoning_in_marks_of_no_family() -> None:
    """With thinking off the block is closed; with thinking on a reply starts inside it."""
    builder = like(each(TURN, text("[assistant]<thinking>\n")))
    assert builder.prompt("R", "I", PLAIN).endswith("I[assistant]<thinking>\n\n</thinking>\n\n")
    assert open_think_prefix(builder.prompt("R", "I", THINK)) == "<thinking>\n"


def test_unknown_templates() -> None:
    """Without any mark of reasoning nothing is appended; a template that closes the block itself gets no second one."""
    assert like(each(TURN, text("[assistant]"))).prompt("R", "I", PLAIN).endswith("I[assistant]")
    assert like(each(TURN, text("[assistant]<think>"))).prompt("R", "I", PLAIN).endswith("I[assistant]" + EMPTY_THINK)
    closed = like(each(TURN, text("[assistant]<think></think>")))
    assert closed.prompt("R", "I", PLAIN).endswith("I[assistant]<think></think>")
    mentions = like(each("{{ m.content.split('</think>')[-1] }}", text("[assistant]")))
    assert mentions.prompt("R", "I", PLAIN).endswith("I[assistant]" + EMPTY_THINK)


def test_the_empty_block_of_the_command_line_wins() -> None:
    for name in ("ehr-r1-72b", "qwen2.5", "qwen3-thinking-2507", "huatuogpt-o1", "gpt-oss"):
        tokenizer = tokenizer_like(FAMILIES[name])
        family = family_of(tokenizer, [FAMILIES[name].model])
        for block in ("", "<think>\n\n</think>\n"):
            builder = PromptBuilder(tokenizer, family, block)
            assert builder.prompt("R", "I", PLAIN).rpartition("R\nI")[2] == (
                FAMILIES[name].think.removesuffix("<think>\n") + block
            )
            assert builder.facts()["direct_answer"] == block


@pytest.mark.parametrize(
    ("template", "reason"),
    [("{{ raise_exception('only for tools') }}", "only for tools"), ("{{ messages[5].content }}", "got"),
     ("{{ messages[0] + 1 }}", "got"), ("{{ 1 / 0 }}", "got"), ("{% if %}", "got"),
     ("{% for m in messages %}{{ m.role }}{% endfor %}", "without them")],
)  # fmt: skip
def test_a_template_that_fails_is_one_line(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"expected a chat template that renders .*{reason}") as error:
        like(template)
    assert "\n" not in str(error.value)


def test_an_error_at_a_sample_does_not_quote_it() -> None:
    builder = like(each("{% if 'SECRET' in m.content %}{{ raise_exception(m.content) }}{% endif %}" + TURN))
    with pytest.raises(UserError, match="renders every sample") as error:
        builder.prompt("SECRET", "I", PLAIN)
    assert "SECRET" not in str(error.value)


# --- which family


@pytest.mark.parametrize(
    ("model", "family"),
    [("Qwen/Qwen2.5-72B-Instruct", "qwen2.5"), ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3-instruct-2507"),
     ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3-thinking-2507"), ("Qwen/QwQ-32B", "qwen3-thinking-2507"),
     ("Qwen/Qwen3-8B", "qwen3"), ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "deepseek-r1"),
     ("deepseek-ai/DeepSeek-V3.1", "deepseek-v3.1"), ("meta-llama/Llama-3.3-70B-Instruct", "llama-3"),
     ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3"), ("google/gemma-3-27b-it", "gemma"),
     ("google/medgemma-27b-text-it", "medgemma"), ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral"),
     ("mistralai/Magistral-Small-2509", "magistral"), ("openai/gpt-oss-120b", "gpt-oss"), ("zai-org/GLM-4.5-Air", "glm"),
     ("microsoft/Phi-4-reasoning-plus", "phi-reasoning"), ("microsoft/phi-4", "phi"),
     ("FreedomIntelligence/HuatuoGPT-o1-70B", "huatuogpt-o1"), ("BlueZeros/EHR-R1-8B", "ehr-r1"),
     ("BlueZeros/EHR-R1-72B", "ehr-r1-72b"), ("some/Other-7B", "unknown")],
)  # fmt: skip
def test_names(model: str, family: str) -> None:
    assert family_of(None, [model]).name == family
    assert family_of(None, [model.rpartition("/")[2].lower()]).name == family


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last part of a path counts, also of a relative one; and the name of a model in the cache of the Hub."""
    folder = tmp_path / "llama-3-project" / "EHR-R1-72B"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert model_name(".") == model_name(f"{folder}/") == "ehr-r1-72b"
    assert family_of(None, [str(tmp_path / "llama-3-project/final")]).name == "unknown"
    snapshot = tmp_path / "models--google--medgemma-4b-it/snapshots/abc"
    snapshot.mkdir(parents=True)
    assert family_of(None, [str(snapshot)]).name == "medgemma"


def test_a_model_that_was_trained_here_gets_the_block_it_was_trained_with(tmp_path: Path) -> None:
    trained = tmp_path / "qwen2.5-stage1"
    (trained / "checkpoint-5").mkdir(parents=True)
    write_json(trained / "ehr_training.json", {"family": "ehr-r1"})
    (tmp_path / "old").mkdir()
    write_json(tmp_path / "old" / "ehr_training.json", {})
    tokenizer = tokenizer_like(FAMILIES["qwen2.5"])
    in_training = PromptBuilder(tokenizer).prompt("R", "I", PLAIN)
    assert in_training.endswith(EMPTY_THINK)
    for folder in (trained, trained / "checkpoint-5", tmp_path / "old"):
        family = family_of(tokenizer, [str(folder)])
        assert family.chosen_by == "training" and PromptBuilder(tokenizer, family).prompt("R", "I", PLAIN) == in_training
    assert family_of(tokenizer, [str(trained)], "qwen2.5").direct_answer == ""


def test_a_template_that_ends_a_turn_and_then_the_text() -> None:
    """As Phi-3's: a reply ends at the first token, and training writes up to the tokenizer's end token."""
    from training.samples import end_of_turn

    builder = like(
        each(TURN + "<|im_end|>\n", "", "") + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}", eos="<|endoftext|>"
    )
    assert builder.family.end_tokens == ("<|im_end|>",)
    assert end_of_turn(builder.tokenizer) == "<|im_end|>\n<|endoftext|>"


def test_an_unknown_family_is_an_error() -> None:
    with pytest.raises(UserError, match="--family: expected one of ehr-r1-72b, .*got qwen9"):
        family_of(None, [], "qwen9")


@names
def test_marks_of_given_reasoning(name: str) -> None:
    """Given reasoning and no reasoning are written with the marks of the family."""
    builder = builder_of(name)
    if builder.family.reasoning and name not in ("gpt-oss", "huatuogpt-o1", "medgemma", "granite"):
        assert builder.with_reasoning("") == builder.family.direct_answer
    assert "Fever." in builder.with_reasoning("Fever.")


def test_facts_are_json() -> None:
    import json

    for name in FAMILIES:
        facts = builder_of(name).facts()
        assert json.loads(json.dumps(facts)) == facts and isinstance(builder_of(name).family, Family)
    assert facts["template_date"] is None and builder_of("llama-3").facts()["template_date"] == "2024-07-26"
    assert f"{templates.PROMPT_DATE:%Y}" == "2024"


# --- describe


def test_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("qwen2.5", "deepseek-v3.1", "gemma", "gpt-oss"):
        folder = tmp_path / FAMILIES[name].model
        tokenizer_like(FAMILIES[name]).save_pretrained(folder)  # a tokenizer is enough
        describe.main([str(folder)])
        out = capsys.readouterr().out
        assert f"family {name}, by its name" in out
        for mode, end in (("plain", FAMILIES[name].plain), ("think", FAMILIES[name].think)):
            assert f"{mode:8}  {end!r}" in out or f"{mode:8}  {(chr(10) + '/' + mode + end)!r}" in out
    describe.main([str(folder), "--family", "ehr-r1-72b"])
    assert "family ehr-r1-72b, by --family" in (out := capsys.readouterr().out) and repr(EMPTY_THINK) in out


def test_describe_a_chat_server(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--url", "http://127.0.0.1:9/v1", "--chat"]
    describe.main(["deepseek-v3.1", *flags])
    assert 'think     {"chat_template_kwargs": {"thinking": true}}' in capsys.readouterr().out
    describe.main(["gpt-oss-20b", *flags])
    assert (
        'plain     {"reasoning_effort": "low"}' in (captured := capsys.readouterr()).out and "always reasons" in captured.err
    )
    describe.main(["m", *flags])
    assert '{"chat_template_kwargs": {"enable_thinking": false, "thinking": false}}' in capsys.readouterr().out


def test_describe_says_what_is_wrong(tmp_path: Path) -> None:
    """Its errors name what it takes: MODEL, and --tokenizer only where that names the tokenizer."""
    empty, server = tmp_path / "empty", ["--url", "http://127.0.0.1:9/v1"]
    empty.mkdir()
    for words, message in (
        ([str(tmp_path / "none/model")], "expected a folder or Hub id of a model or its tokenizer, .* Check MODEL"),
        ([str(empty)], r"expected a folder with a tokenizer, got one without\. Pass the folder of a model as MODEL\.$"),
        ([str(empty), *server], r"got one without\. Check --tokenizer\.$"),
        (["m", *server, "--tokenizer", str(tmp_path / "none/model")], "Pass it as --tokenizer"),
    ):
        with pytest.raises(UserError, match=message) as error:
            describe.main(words)
        assert "--model_name_or_path" not in str(error.value)


@pytest.mark.parametrize("words", [[], ["--family", "glm"], ["--chat"]])
def test_describe_without_a_model(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        describe.main(words)
    assert "expected MODEL as the first argument, got none." in (error := capsys.readouterr().err)
    assert "--model_name_or_path" not in error


def test_make_model(tmp_path: Path) -> None:
    from inference.backends import end_token_ids, load_tokenizer

    folder = make_model("glm", tmp_path)
    tokenizer = load_tokenizer(str(folder))
    family = family_of(tokenizer, [str(folder)])
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>"])
    assert end_token_ids(tokenizer, None, family) == sorted(ends)
