r"""Supervised fine-tuning, stage 1 (domain adaptation) and stage 2 (reasoning), on accelerate or DeepSpeed.

    accelerate launch --config_file scripts/accelerate_configs/deepspeed_zero3.yaml sft.py \
        --config scripts/recipes/Qwen3-1.7B/sft.yaml --dataset_name datas/ehr_ins/ehr_ins.csv --output_dir models/stage1

The loss is computed on answers only; prompts are the same bytes as in evaluation. The same command resumes a run from its
last checkpoint. No patient text is printed or sent to a tracker. See docs/training.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import run
from pipeline.errors import UserError
from pipeline.progress import Summary
from training.arguments import SFTArguments, parse

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


def main(script_args: SFTArguments, args: SFTConfig, model_args: ModelConfig, notes: list[str]) -> None:
    from training import runs
    from training.held_out import SampleMetrics, check_metric, check_overlap, held_out_data
    from training.order import curriculum, grouped_by_length, parse_weights, shuffled, weighted
    from training.overrides import apply_overrides, trainer_options
    from training.samples import TokenSamples, evaluation_dataset, lazy_dataset, tokenized_dataset
    from training.trainer import EarlyStopping, OrderedSFTTrainer
    from training.uploads import HubUpload, check_uploads

    summary = Summary("sft.py")
    check_uploads(args, script_args)
    upload = HubUpload.from_arguments(args) if args.process_index == 0 else None
    args, model_args, notes = apply_overrides(args, script_args, model_args, notes)
    output, main_process = Path(args.output_dir), args.process_index == 0
    if upload:
        upload.open()

    # --- data
    data = runs.load_training_data(script_args, args, model_args, args.max_length or sys.maxsize)
    if script_args.curriculum and (len(data.files) != 2 or not data.sizes[0] > data.sizes[1] > 0):
        given = ", ".join(f"{file} ({size:,} rows)" for file, size in zip(data.files, data.sizes, strict=True))
        raise UserError(f"--curriculum: expected two files in --dataset_name, the larger first, got {given}.")
    weights = parse_weights(script_args.dataset_weights, len(data.files)) if script_args.dataset_weights else None
    if weights and script_args.curriculum:
        raise UserError("--dataset_weights: expected no --curriculum, which weighs the files itself, got both. Omit one.")
    held_out = held_out_data(script_args.eval_dataset_name, data) if script_args.eval_dataset_name else None
    global_batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    start = runs.claim("sft.py", script_args, args, model_args, data, global_batch, held_out)
    if start is None:  # it is up to date
        return upload.send(output) if upload else None
    samples = TokenSamples(data, script_args.loss_on_prompt)
    if main_process:
        data.check()
        samples.check_prefix(0)
    if script_args.load_dataset_mode == "direct":
        with args.main_process_first(desc="tokenizing"):
            dataset = tokenized_dataset(samples, Path(script_args.root_dir) / "cache/tokenised", args.dataset_num_proc)
    elif script_args.load_dataset_mode in ("lazzy", "lazy"):
        dataset = lazy_dataset(samples)
    else:
        raise UserError(f"--load_dataset_mode: expected lazzy or direct, got {script_args.load_dataset_mode}.")

    # --- evaluation set
    evaluation, metrics_of_samples = {}, None
    if held_out:
        held_out_samples = TokenSamples(held_out, script_args.loss_on_prompt)
        evaluation["eval_dataset"] = evaluation_dataset(held_out_samples, args.eval_batch_size * args.world_size)
        if script_args.eval_metric_samples:
            counts = (script_args.eval_metric_samples, script_args.eval_max_new_tokens, args.eval_batch_size)
            metrics_of_samples = evaluation["sample_metrics"] = SampleMetrics(held_out, *counts)
        if main_process:
            held_out.check()
            check_overlap(held_out, data)
            check_metric(args, metrics_of_samples)

    # --- order of the samples: a pure function of the epoch
    group_lengths = script_args.length_grouping and not (script_args.curriculum or args.packing)
    lengths = data.approximate_lengths() if group_lengths else None

    seed = args.seed if args.data_seed is None else args.data_seed

    def order(epoch: int):
        if script_args.curriculum:
            return curriculum(*data.sizes, seed, epoch)
        samples = weighted(data.sizes, weights, seed, epoch) if weights else shuffled(len(data), seed, epoch)
        return samples if lengths is None else grouped_by_length(samples, lengths, global_batch, seed, epoch)

    # --- training
    others = {"curriculum": script_args.curriculum, "loss_on_prompt": script_args.loss_on_prompt, "packing": args.packing}
    others |= {"dataset_weights": weights, "eval_dataset": [Path(file).name for file in held_out.files] if held_out else None}
    settings = runs.run_settings("SFT", model_args, data, args, global_batch, **others)
    if main_process:
        runs.describe_training(output, settings, data)
        runs.print_arguments(output, {"data": script_args, "training": args, "model": model_args}, notes)
        print(samples.describe(0, script_args.show_sample), flush=True)
    with runs.constructing_trainer(model_args.model_name_or_path):
        options = trainer_options(args, model_args, data.tokenizer)
        trainer = OrderedSFTTrainer(order, train_dataset=dataset, **evaluation, **options)
    if script_args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(script_args.early_stopping_patience, script_args.early_stopping_threshold))
    metrics = runs.train(trainer, start.checkpoint)
    runs.save_model(trainer, settings, metrics)
    skipped = runs.count_skipped(trainer, samples.skipped)
    if main_process:
        runs.complete(start.provenance, trainer)
        if upload:
            upload.send(output)
        steps = f"{trainer.state.global_step:,} steps of {global_batch} samples"
        results = f"{skipped:,} rows skipped as too long for --max_length, loss {metrics['train_loss']:.4f}"
        summary.print(f"{steps}, {results}{runs.best_checkpoint(trainer)} → {output}")
    trainer.accelerator.end_training()  # so that no process waits for this one


if __name__ == "__main__":
    run(lambda: main(*parse(__doc__, SFTArguments, "SFTConfig")))
