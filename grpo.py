r"""Reinforcement learning, stage 3 (GRPO), with the scores of the evaluation as rewards.

    accelerate launch --config_file scripts/accelerate_configs/deepspeed_zero3.yaml grpo.py \
        --config scripts/recipes/Qwen3-1.7B/grpo.yaml --dataset_name datas/ehr_ins/ehr_ins_rl.csv \
        --model_name_or_path models/stage2 --output_dir models/stage3

Prompts are the same bytes as in evaluation; rewards are the functions of training/rewards.py. Completions are written to
OUTPUT/completions/ and nowhere else, unless --log_completions_to_tracker is given. See docs/training.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import run
from pipeline.errors import UserError
from pipeline.files import append_jsonl
from pipeline.progress import Summary
from training.arguments import GRPOArguments, parse

if TYPE_CHECKING:
    from trl import GRPOConfig, ModelConfig


def main(script_args: GRPOArguments, args: GRPOConfig, model_args: ModelConfig, notes: list[str]) -> None:
    from training import runs
    from training.grpo_trainer import RenderedGRPOTrainer, keep_vllm_weights_replaceable
    from training.overrides import apply_overrides, trainer_options
    from training.rewards import BRIER, DECISION, REWARDS, for_trl, scores
    from training.samples import PromptSamples, lazy_dataset
    from training.uploads import HubUpload, check_uploads

    summary = Summary("grpo.py")
    check_uploads(args, script_args)
    upload = HubUpload.from_arguments(args) if args.process_index == 0 else None
    args, model_args, notes = apply_overrides(args, script_args, model_args, notes)
    output, main_process = Path(args.output_dir), args.process_index == 0
    if upload:
        upload.open()
    names, weights = script_args.rewards, args.reward_weights
    if unknown := [name for name in names if name not in REWARDS]:
        raise UserError(f"--rewards: expected names out of {', '.join(REWARDS)}, got {', '.join(unknown)}.")
    if weights and len(weights) != len(names):
        wrong = f"expected {len(names)}, one for each of --rewards, got {len(weights)}"
        raise UserError(f"--reward_weights: {wrong}. The rewards are {' '.join(names)}.")
    vllm_in_process = args.use_vllm and args.vllm_mode == "colocate"
    if vllm_in_process and args.device.type == "cpu":
        keep_vllm_weights_replaceable()

    # --- data
    data = runs.load_training_data(script_args, args, model_args, script_args.max_prompt_length, for_rl=True)
    if set(names) <= {BRIER, DECISION}:
        for kind in data.kinds():
            if not any(scores(name, kind) for name in names):
                wrong = f"expected one that scores {kind} tasks, which the data has, got {', '.join(names)}"
                raise UserError(f"--rewards: {wrong}. Add {BRIER if kind == 'risk' else DECISION}.")
    global_batch = args.generation_batch_size // args.num_generations
    start = runs.claim("grpo.py", script_args, args, model_args, data, global_batch)
    if start is None:  # it is up to date
        return upload.send(output) if upload else None
    if main_process:
        data.check()
    samples = PromptSamples(data)

    # --- training
    others = {"rewards": names, "num_generations": args.num_generations, "temperature": args.temperature}
    settings = runs.run_settings("GRPO", model_args, data, args, global_batch, **others)
    if main_process:
        runs.describe_training(output, settings, data)
        runs.print_arguments(output, {"data": script_args, "training": args, "model": model_args}, notes)
        first = data.render(0)
        print(f"first prompt: task {first.task}, mode {first.mode}, {data.builder.tokens(first.prompt):,} tokens")
        print(f"{first.prompt}\n" if script_args.show_sample else "", end="", flush=True)
    with append_jsonl(output / "completions" / f"rank-{args.process_index}.jsonl") as append:
        rewards = [for_trl(names[0], append), *map(for_trl, names[1:])]
        with runs.constructing_trainer(model_args.model_name_or_path):
            options = trainer_options(args, model_args, data.tokenizer)
            trainer = RenderedGRPOTrainer(train_dataset=lazy_dataset(samples), reward_funcs=rewards, **options)
        metrics = runs.train(trainer, start.checkpoint)
    runs.save_model(trainer, settings, metrics)
    skipped = runs.count_skipped(trainer, samples.skipped)
    if main_process:
        runs.complete(start.provenance, trainer)
        if upload:
            upload.send(output)
        steps = f"{trainer.state.global_step:,} steps of {global_batch} prompts × {args.num_generations} completions"
        summary.print(f"{steps}, {skipped:,} rows skipped as too long or without a label → {output}")
    if not vllm_in_process:  # vLLM leaves the process group itself
        trainer.accelerator.end_training()  # so that no process waits for this one


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, GRPOArguments, "GRPOConfig")))
