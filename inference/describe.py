"""Show how a model is prompted: its family, what its chat template does, and how prompts end in each mode.

    python -m inference.describe MODEL [--family NAME] [--url URL --chat] [other flags of test.py]

MODEL is a folder (its tokenizer is enough), a Hub id, a short name of --models, or with --url a name on the server. No weights
are loaded, and no server is asked. What is detected comes from the chat template, the rest from inference/families.yaml.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
from collections.abc import Sequence

from inference.families import Family
from inference.prompts import NO_THINK, PLAIN, THINK, ChatPromptBuilder, PromptBuilder
from inference.settings import InferenceSettings, add_inference_flags, parse_model
from pipeline.cli import Parser, check_flags, run
from pipeline.errors import UserError

INPUT, INSTRUCTION = "## Patient Demographics [None]\n- Gender: F", "What is next?"  # no patient's
CHOSEN_BY = {
    "--family": "by --family",
    "training": "by the record of its training",
    "name": "by its name",
    "template": "by its chat template",
    "default": "no name and no template in inference/families.yaml matches",
}


def make_parser() -> Parser:
    cli = Parser(__doc__)
    cli.usage = "python -m inference.describe MODEL [--family NAME] [flags of test.py]"
    add_inference_flags(cli)
    return cli


def main(argv: Sequence[str] | None = None) -> None:
    words, cli = list(sys.argv[1:] if argv is None else argv), make_parser()
    check_flags(cli, words)
    if words and not words[0].startswith("-"):
        words.insert(0, "--model_name_or_path")
    elif not {word.partition("=")[0] for word in words} & {"--model_name_or_path", "--help", "-h"}:
        cli.error("expected MODEL as the first argument, got none. Give a folder, a Hub id or a short name of --models.")
    try:
        describe(InferenceSettings.from_flags(parse_model(cli, words)))
    except UserError as error:
        raise UserError(str(error).replace("--model_name_or_path", "MODEL")) from None


def describe(settings: InferenceSettings) -> None:
    """Print how the model of the settings is prompted."""
    from inference.backends import load_builder, prompt_warnings
    from inference.checks import check_tokenizer

    model, server = settings.model.model_name_or_path, settings.server
    if server.tokenizer or not server.chat:
        check_tokenizer(server.tokenizer or model, of_model=server.url is None)
    builder = load_builder(settings)
    print(f"{model}: family {builder.family.name}, {CHOSEN_BY[builder.family.chosen_by]}\n")
    rows = table(builder.family, builder)
    width = max(len(name) for name, _, _ in rows)
    print("\n".join(f"{name:{width}}  {source:8}  {value}" for name, value, source in rows))
    print("\nrequest fields in each mode:" if server.chat else "\nwhat follows the instruction in each mode:")
    for mode in (PLAIN, THINK, NO_THINK):
        prompt = builder.prompt(INPUT, INSTRUCTION, mode)
        print(f"{mode:8}  {request_fields(prompt) if server.chat else repr(prompt.rpartition(INSTRUCTION)[2])}")
    for warning in prompt_warnings(settings, builder):
        print(f"warning: {warning}", file=sys.stderr)


def table(family: Family, builder: PromptBuilder) -> list[tuple[str, str, str]]:
    """(name, value, how it is known) of the facts about a model."""
    facts = builder.facts()
    in_template = not isinstance(builder, ChatPromptBuilder)
    detected, declared = "detected" if in_template else "declared", "declared"
    switch = "; ".join(f"{name} = {on!r} or {off!r}" for name, (on, off) in facts["thinking_switch"].items())
    appended = declared if facts["direct_answer"] == family.direct_answer else "flag"
    return [
        ("system text", facts["system_turn"], "detected" if builder.tokens.tokenizer else "assumed"),
        ("thinking switch", switch or "none", detected),
        ("reasons without it", "always" if family.always_reasons else "no", declared),
        ("marks of reasoning", repr(family.reasoning) if family.reasoning else "none", declared),
        ("appended to answer at once", repr(facts["direct_answer"]) if in_template else "nothing", appended),
        ("end-of-turn token", ", ".join(facts["end_of_turn"] or ()) or "the tokenizer's or server's own", detected),
        ("date in the prompt", facts["template_date"] or "none", detected),
    ]


def request_fields(prompt: str) -> str:
    """The fields of a chat request besides the messages, as JSON."""
    content = json.loads(prompt)
    fields = {name: value for name, value in content.items() if name != "messages"} if isinstance(content, dict) else {}
    return json.dumps(fields) if fields else "none"


if __name__ == "__main__":
    run(main)
