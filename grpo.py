r"""Reinforcement learning, stage 3 (GRPO), with the evaluation's own scores as rewards.

    accelerate launch --config_file scripts/accelerate_configs/deepspeed_zero3.yaml grpo.py \
        --config scripts/recipes/Qwen3-1.7B/grpo.yaml --dataset_name datas/ehr_ins/ehr_ins_rl.csv \
        --model_name_or_path models/stage2 --output_dir models/stage3

Prompts are those of evaluation, byte for byte; rewards are functions of training/rewards.py. Completions go to
OUTPUT/completions/ on this machine only, unless --log_completions_to_tracker. docs/training.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import run
from pipeline.errors import UserError
from pipeline.progress import Summary
from training.arguments import GRPOArguments
from training.flags import for_this_machine, help_text, parse, settle, translate


def main(argv: Sequence[str] | None = None) -> None:
    words, notes = translate(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        return print(help_text(__doc__, GRPOArguments))

    from trl import GRPOConfig, ModelConfig, get_peft_config, get_quantization_config

    from inference.backends import reading_model
    from training.rewards import REWARDS, for_trl
    from training.runs import CompletionLog, begin, end_processes, finish, left_out, save_arguments, train
    from training.samples import PromptSamples, Source, lazy
    from training.setup import load_tokenizer, model_options, prepare_vllm, settings_of, split_files
    from training.trainer import RenderedGRPOTrainer

    summary = Summary("grpo.py")
    words, more = for_this_machine(words)
    data, args, model_args = parse((GRPOArguments, GRPOConfig, ModelConfig), words)
    on_gpu = args.device.type != "cpu"
    notes += more + settle(args, args.world_size, on_gpu)
    output = Path(args.output_dir)
    main_process = args.process_index == 0
    unknown = [name for name in data.rewards if name not in REWARDS]
    if unknown:
        raise UserError(f"--rewards {', '.join(unknown)}: wanted some of {', '.join(REWARDS)}")
    if args.reward_weights and len(args.reward_weights) != len(data.rewards):
        raise UserError(f"--reward_weights: wanted {len(data.rewards)}, one for each of --rewards {' '.join(data.rewards)}, "
                        f"found {len(args.reward_weights)}")  # fmt: skip
    if args.log_completions and not data.log_completions_to_tracker:
        args.log_completions = False
        notes.append("--log_completions is set false: completions are text about patients; they stand in OUTPUT/completions/. "
                     "--log_completions_to_tracker sends them to the tracker all the same")  # fmt: skip
    args.log_completions = args.log_completions or data.log_completions_to_tracker
    if args.use_vllm:
        prepare_vllm(args, data.max_prompt_length, on_gpu)

    # --- data
    tokenizer = load_tokenizer(model_args, None)
    files = split_files(data)
    source = Source(
        data.root_dir, files, tokenizer, data.max_prompt_length, data.stage, data.instructions, prompt_tokens=True
    )  # fmt: skip
    if main_process:
        source.check()
    samples = PromptSamples(source)

    # --- training
    each_step = args.generation_batch_size // args.num_generations
    settings = settings_of("GRPO", model_args, source, args, each_step) | {
        "rewards": data.rewards, "num_generations": args.num_generations, "temperature": args.temperature,
    }  # fmt: skip
    if main_process:
        output.mkdir(parents=True, exist_ok=True)
        print(save_arguments(output, {"data": data, "training": args, "model": model_args}))
        for note in notes:
            print(f"note: {note}")
        first = source.render(0)
        print(f"first prompt: task {first.task}, mode {first.mode}, {source.builder.tokens(first.prompt):,} tokens"
              + (f"\n{first.prompt}" if data.show_sample else ""), flush=True)  # fmt: skip
    with args.main_process_first(desc="settings"):
        checkpoint = begin(output, settings, source.patients())
    args.model_init_kwargs = model_options(model_args, args.model_init_kwargs)
    args.remove_unused_columns = False
    log = CompletionLog(output / "completions" / f"rank-{args.process_index}.jsonl")
    with reading_model(model_args.model_name_or_path):
        trainer = RenderedGRPOTrainer(
            model=model_args.model_name_or_path, args=args, train_dataset=lazy(samples), processing_class=tokenizer,
            reward_funcs=[log.keep(for_trl(data.rewards[0])), *map(for_trl, data.rewards[1:])],
            peft_config=get_peft_config(model_args), quantization_config=get_quantization_config(model_args),
        )  # fmt: skip
    metrics = train(trainer, checkpoint)
    finish(trainer, settings, metrics)
    unusable = left_out(trainer, samples.left_out)
    if main_process:
        summary.print(f"{trainer.state.global_step:,} steps of {each_step} prompts × {args.num_generations} completions, "
                      f"{unusable:,} rows left out as too long or without a label → {output}")  # fmt: skip
    if not (args.use_vllm and args.vllm_mode == "colocate"):  # vLLM in this process leaves the group itself
        end_processes()


if __name__ == "__main__":
    run(main)
