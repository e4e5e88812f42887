r"""Supervised training, stages 1 (domain adaptation) and 2 (reasoning), on accelerate or DeepSpeed.

    accelerate launch --config_file scripts/accelerate_configs/deepspeed_zero3.yaml sft.py \
        --config scripts/recipes/Qwen3-1.7B/sft.yaml --dataset_name datas/ehr_ins/ehr_ins.csv --output_dir models/stage1

Loss on answers only; prompts are those of evaluation, byte for byte. A used --output_dir is gone on with from its last
checkpoint, at the next unseen sample. No text of a record goes to the screen or a tracker. docs/training.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import run
from pipeline.errors import UserError
from pipeline.progress import Summary
from training.arguments import SFTArguments
from training.flags import for_this_machine, help_text, parse, settle, translate


def main(argv: Sequence[str] | None = None) -> None:
    words, notes = translate(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        return print(help_text(__doc__, SFTArguments))

    from trl import ModelConfig, SFTConfig, get_peft_config, get_quantization_config

    from inference.backends import reading_model
    from training.order import EpochSampler, curriculum, grouped_by_length, shuffled
    from training.runs import begin, end_processes, finish, left_out, save_arguments, train
    from training.samples import Source, TokenSamples, direct, lazy
    from training.setup import keeps_samples_apart, load_tokenizer, model_options, settings_of, split_files
    from training.trainer import OrderedSFTTrainer

    summary = Summary("sft.py")
    words, more = for_this_machine(words)
    data, args, model_args = parse((SFTArguments, SFTConfig, ModelConfig), words)
    on_gpu = args.device.type != "cpu"
    notes += more + settle(args, args.world_size, on_gpu)
    if args.packing and not keeps_samples_apart(model_args, on_gpu):
        args.packing = False
        notes.append(
            "--packing is set false: it needs --attn_implementation kernels-community/flash-attn2 or another flash attention"
        )
    output = Path(args.output_dir)
    main_process = args.process_index == 0

    # --- data
    files = split_files(data)
    tokenizer = load_tokenizer(model_args, args.eos_token)
    source = Source(data.root_dir, files, tokenizer, args.max_length or sys.maxsize, data.stage, data.instructions)
    if data.curriculum and (len(files) != 2 or not source.sizes[0] > source.sizes[1] > 0):
        found = ", ".join(f"{file} ({size:,} rows)" for file, size in zip(files, source.sizes, strict=True))
        raise UserError(f"--curriculum: wanted two files in --dataset_name, the larger first, found {found}")
    samples = TokenSamples(source, data.loss_on_prompt)
    if main_process:
        source.check()
        samples.check_prefix(0)
    if data.load_dataset_mode == "direct":
        with args.main_process_first(desc="tokenising"):
            dataset = direct(samples, Path(data.root_dir) / "cache/tokenised", args.dataset_num_proc)
    elif data.load_dataset_mode in ("lazzy", "lazy"):
        dataset = lazy(samples)
    else:
        raise UserError(f"--load_dataset_mode {data.load_dataset_mode}: wanted lazzy or direct")

    # --- order: a pure function of the epoch
    each_step = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    lengths = source.lengths() if data.length_grouping and not (data.curriculum or args.packing) else None

    def order(epoch: int):
        if data.curriculum:
            return curriculum(*source.sizes, args.seed, epoch)
        mixed = shuffled(len(source), args.seed, epoch)
        return mixed if lengths is None else grouped_by_length(mixed, lengths, each_step, args.seed, epoch)

    # --- training
    settings = settings_of("SFT", model_args, source, args, each_step) | {
        "curriculum": data.curriculum, "loss_on_prompt": data.loss_on_prompt, "packing": args.packing,
    }  # fmt: skip
    if main_process:
        output.mkdir(parents=True, exist_ok=True)
        print(save_arguments(output, {"data": data, "training": args, "model": model_args}))
        for note in notes:
            print(f"note: {note}")
        print(samples.describe(0, data.show_sample), flush=True)
    with args.main_process_first(desc="settings"):
        checkpoint = begin(output, settings, source.patients())
    if args.packing:  # samples one after another without padding, kept apart by their positions
        args.packing, args.padding_free = False, True
    args.model_init_kwargs = model_options(model_args, args.model_init_kwargs)
    args.max_length = None  # records were shortened by events; the trainer must not cut
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    args.remove_unused_columns = False
    with reading_model(model_args.model_name_or_path):
        trainer = OrderedSFTTrainer(
            model=model_args.model_name_or_path, args=args, train_dataset=dataset, processing_class=tokenizer,
            sampler=EpochSampler(order, len(source)), peft_config=get_peft_config(model_args),
            quantization_config=get_quantization_config(model_args),
        )  # fmt: skip
    metrics = train(trainer, checkpoint)
    finish(trainer, settings, metrics)
    too_long = left_out(trainer, samples.left_out)
    if main_process:
        summary.print(f"{trainer.state.global_step:,} steps of {each_step} samples, {too_long:,} rows left out as too long "
                      f"for --max_length, loss {metrics['train_loss']:.4f} → {output}")  # fmt: skip
    end_processes()


if __name__ == "__main__":
    run(main)
