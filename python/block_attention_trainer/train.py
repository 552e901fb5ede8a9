"""A training run from its settings: what is loaded, checked, trained, evaluated and exported, in this order."""

import copy
import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from .attention import Attention, default_attention
from .batch import Collator, Opening
from .checkpoints import clear_unfinished, last_checkpoint
from .distillation import SoftStore, Teacher
from .export import export, refuse_loss
from .layout import Mode
from .models import (
    ModelError,
    as_teacher,
    block_attention_of,
    encoding_of,
    faster_precision,
    fingerprint,
    load_model,
    load_tokenizer,
    longest_sample,
    mark_block_attention,
    opening_of,
    tokenize,
    use_gradient_checkpointing,
)
from .packing import PackingOptions, count_rows
from .progress import open_progress
from .samples import DataError, Limits, SampleFiles, SampleIndex
from .settings import PRECISIONS, DistillationSettings, Precision, Settings, SettingsError
from .tokenizer_training import train_tokenizer, write_text_samples
from .trainer import BlockTrainer, EvaluationRows, TrainingRows

FLEX_MULTIPLE = 128
"""Rows are filled up to it for FlexAttention, whose mask is made of squares of this size."""


def train(settings: Settings, *, progress_target: str | None = None, resume: bool = True) -> int:
    """Trains, or goes on from the run's last complete checkpoint.

    Returns the exit code: 0, or 130 and 143 where SIGINT or SIGTERM stopped it, after a checkpoint.
    Raises ValueError's kinds of this package and NonFiniteLossError, one line each.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    progress = open_progress(progress_target, is_main=rank == 0)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    if settings.training.threads is not None:
        torch.set_num_threads(settings.training.threads)
    run = settings.run_folder
    passes = _passes(settings, world)
    checkpoint = last_checkpoint(run)
    if checkpoint is not None and not resume:
        raise SettingsError(f'Cannot start anew: "{run}" has checkpoints; name another run, or delete them')
    if settings.export is not None:
        refuse_loss(run / "export", [] if settings.model.path is None else [settings.model.path])
    run.mkdir(parents=True, exist_ok=True)
    if settings.training.precision == "auto":
        progress.tell("stage", stage="Choosing the precision")
    settings = _with_precision(settings, run if checkpoint else None, world)
    args = _arguments(settings, passes, world)
    device = args.device
    with _main_first(rank, world):
        progress.tell("stage", stage="Preparing the tokenizer")
        tokenizer = _tokenizer(settings, run, is_main=rank == 0)
    attention: Attention = (
        default_attention(device) if settings.training.attention == "auto" else settings.training.attention
    )
    base_dtype = torch.bfloat16 if settings.lora is not None and args.bf16 else torch.float32
    torch.manual_seed(settings.training.seed)
    progress.tell("stage", stage="Loading the model")
    distillation = settings.distillation
    keeps_start = distillation is not None and distillation.teacher == "start"
    model: Any = load_model(
        settings.model, attention, lora=settings.lora, dtype=base_dtype, tokenizer=tokenizer, keeps_start=keeps_start
    )
    modes = _modes(settings)
    prefix = settings.model.prefix
    if prefix is None:
        prefix = str(block_attention_of(model.config).get("prefix", ""))
    mark_block_attention(model.config, prefix, modes, settings.model)
    encoding = encoding_of(tokenizer, settings.model)
    if settings.training.gradient_checkpointing:
        use_gradient_checkpointing(model)
    opening = opening_of(tokenizer, prefix)
    with _main_first(rank, world):
        if settings.data.text:
            progress.tell("stage", stage="Cutting the text into samples")
        paths = _training_files(settings, run, tokenizer, opening, is_main=rank == 0)
    progress.tell("stage", stage="Checking the samples")
    limit = min(settings.data.max_tokens, longest_sample(model.config) or settings.data.max_tokens)
    limits = Limits(model.config.vocab_size, limit, opening.lengths())
    options = PackingOptions(
        modes=modes,
        num_opening=opening.lengths(),
        tokens_per_row=settings.packing.tokens_per_row,
        share_contexts=settings.packing.share_contexts and not settings.data.loss_on_prompt,
        open_rows=settings.packing.open_rows,
        shuffled_row_groups=settings.data.shuffled_row_groups,
        full_share=settings.data.full_share,
        front_length=len(encoding.lead) + len(encoding.sinks),
    )
    collating = {
        "multiple": FLEX_MULTIPLE if attention == "flex" else 1,
        "answer_after": tokenize(tokenizer, settings.evaluation.answer_after or ""),
        "reencodes": settings.data.position_reencoding,
        "encoding": encoding,
    }
    cached = settings.data.shuffled_row_groups + settings.packing.open_rows
    files = SampleFiles(paths, cached_row_groups=cached)
    index = files.index(limits)
    learning = {"loss_on_prompt": settings.data.loss_on_prompt, "block_dropout": settings.data.block_dropout}
    collate = Collator(files, index, opening, **learning, **collating)  # type: ignore[arg-type]
    evaluation = None
    if settings.data.evaluation:
        held_out = SampleFiles([Path(p) for p in settings.data.evaluation])
        if (
            held_out.metadata.get("tokenizer_digest") != files.metadata.get("tokenizer_digest")
            and not settings.data.text
        ):
            raise DataError(
                f'Cannot evaluate on "{settings.data.evaluation[0]}": it was cut with tokenizer '
                f'"{held_out.metadata.get("tokenizer_digest")}", the training files with '
                f'"{files.metadata.get("tokenizer_digest")}"'
            )
        held_index = _first(held_out.index(limits), settings.evaluation.max_samples)
        held_collate = Collator(held_out, held_index, opening, **collating)  # type: ignore[arg-type]
        evaluation = EvaluationRows(held_index, options, held_collate, modes, rank, world)
    progress.tell("stage", stage="Packing samples into rows")
    rows_per_epoch = count_rows(index, options, settings.training.seed, 1)
    if rows_per_epoch == 0:
        raise DataError(f"Cannot train: no sample of {len(index)} is of the modes {', '.join(modes)}")
    steps = settings.training.steps
    num_rows = None
    if steps is None:
        num_rows = max(1, count_rows(index, options, settings.training.seed, settings.training.epochs or 0))
        steps = ceil(num_rows / settings.training.rows_per_step)
    rows = TrainingRows(index, options, collate, seed=settings.training.seed, rank=rank, world=world, num_rows=num_rows)
    args.max_steps = steps
    args.eval_steps = settings.evaluation.every_steps or steps
    args.save_steps = settings.checkpoints.every_steps or steps
    plan = _plan(settings, options, index, opening)
    teacher = None
    if distillation is not None:
        progress.tell("stage", stage="Preparing the teacher")
        teacher = _teacher(distillation, model, collate, run)
    if checkpoint is not None:
        _check_plan(checkpoint, plan)
        rows.first_row = _step_of(checkpoint) * settings.training.rows_per_step
    if rank == 0:
        clear_unfinished(run)
        (run / "settings.json").write_text(settings.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")
    trainer = BlockTrainer(
        model,
        args,
        settings,
        rows,
        rows_per_epoch=rows_per_epoch,
        progress=progress,
        evaluation=evaluation,
        tokenizer=tokenizer,
        plan=plan,
        marks=model.config.block_attention,
        teacher=teacher,
    )
    trainer.remove_callback(PrinterCallback)
    if settings.logging.tensorboard and rank == 0:
        writer = SummaryWriter(str(run / "tensorboard"), purge_step=_step_of(checkpoint) + 1 if checkpoint else None)
        trainer.add_callback(TensorBoardCallback(writer))
    progress.tell(
        "start",
        run=str(run),
        steps=steps,
        firstStep=_step_of(checkpoint) if checkpoint else 0,
        samples=len(index),
        rowsPerEpoch=rows_per_epoch,
        weights=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        device=str(device),
        processes=world,
        attention=attention,
        precision="bfloat16" if args.bf16 else "float32",
        modes=list(modes),
    )
    # A run that is done already is exported again; the Trainer would take one step more.
    if checkpoint is None or _step_of(checkpoint) < steps:
        if checkpoint is not None:
            progress.tell("stage", stage="Loading the checkpoint")
        with _signals(trainer):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.was_stopped:
        name = signal.Signals(trainer.signal or signal.SIGTERM)
        progress.tell("end", why=name.name, step=trainer.state.global_step)
        return 128 + name
    last = last_checkpoint(run)
    if settings.export is not None and last is not None and rank == 0:
        progress.tell("stage", stage="Exporting")
        export(last, run / "export", settings.export)
        progress.tell("export", path=str(run / "export"))
    if world > 1:
        dist.barrier()
    progress.tell("end", why="done", step=max(trainer.state.global_step, _step_of(checkpoint) if checkpoint else 0))
    return 0


def _teacher(settings: DistillationSettings, model: Any, collate: Collator, run: Path) -> Teacher:
    """The model itself, frozen: with adapters the same weights, else a copy of them."""
    has_adapters = hasattr(model, "peft_config")
    frozen = model if has_adapters else copy.deepcopy(model).requires_grad_(False)
    store = SoftStore(Path(settings.store or run / "teacher.sqlite"), f"{fingerprint(frozen)} {settings.top_k}")
    teaching = partial(as_teacher, model) if has_adapters else nullcontext
    return Teacher(frozen, teaching, collate, store, settings.top_k)


def _modes(settings: Settings) -> tuple[Mode, ...]:
    return ("full",) if settings.data.text else tuple(settings.data.modes)


def _passes(settings: Settings, world: int) -> int:
    rows = settings.training.rows_per_step
    if rows % world:
        raise SettingsError(f'Cannot share "training.rows_per_step" among processes: {rows} rows, {world} processes')
    return rows // world


def _device_type() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _with_precision(settings: Settings, run: Path | None, world: int) -> Settings:
    """Settings whose precision is no longer "auto".

    What is measured may come out otherwise on a busy machine. So a run that goes on keeps what it began with, which its
    folder tells, and processes on CPUs, each of which would measure for itself, take float32.
    """
    precision = settings.training.precision
    if precision == "auto" and run is not None:
        precision = _precision_of(run)
    if precision == "auto":
        device = _device_type()
        precision = "float32" if device == "cpu" and world > 1 else faster_precision(torch.device(device), 512)
    return settings.model_copy(update={"training": settings.training.model_copy(update={"precision": precision})})


def _precision_of(run: Path) -> Precision:
    """What a run computed in; "auto" where nothing tells."""
    path = run / "settings.json"
    if not path.is_file():
        return "auto"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["training"]["precision"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f'Cannot go on with "{run}": {path.name} cannot be read: {error!r}') from error
    for known in PRECISIONS:
        if written == known:
            return known
    raise ModelError(
        f'Cannot go on with "{run}": its precision is {json.dumps(written)}, wanted one of {", ".join(PRECISIONS)}'
    )


def _arguments(settings: Settings, passes: int, world: int) -> TrainingArguments:
    training = settings.training
    on_cpu = _device_type() == "cpu"
    if settings.logging.wandb:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise SettingsError('Cannot use "logging.wandb": the package wandb is not installed') from error
    options: dict[str, Any] = {}
    if world > 1 and training.distributed == "fsdp":
        if on_cpu:
            # accelerate would pass over it without a word, and copy the model to each process.
            raise SettingsError(
                'Cannot use "training.distributed": it is "fsdp", CPUs are sharded over by none, wanted "ddp"'
            )
        options = {
            "fsdp": True,
            "fsdp_config": {"version": 2, "reshard_after_forward": True, "state_dict_type": "FULL_STATE_DICT"},
        }
    if training.distributed == "deepspeed":
        options = {"deepspeed": training.deepspeed_config}
    return TrainingArguments(
        output_dir=str(settings.run_folder),
        run_name=settings.run_name,
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=passes,
        learning_rate=settings.optimizer.learning_rate,
        max_grad_norm=settings.optimizer.max_gradient_norm,
        seed=training.seed,
        bf16=training.precision == "bfloat16",
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and world > 1 else None,
        ddp_find_unused_parameters=False,
        ignore_data_skip=True,
        logging_steps=settings.logging.every_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if settings.data.evaluation else "no",
        eval_on_start=settings.evaluation.at_start,
        save_strategy="steps",
        # TensorBoard's writer is added by train(), since its folder is the run's.
        report_to="wandb" if settings.logging.wandb else "none",
        disable_tqdm=True,
        **options,
    )


def _tokenizer(settings: Settings, run: Path, *, is_main: bool) -> PreTrainedTokenizerBase:
    folder = settings.model.tokenizer or settings.model.path
    if settings.tokenizer is not None:
        trained = run / "tokenizer"
        folder = str(trained)
        if is_main and not (trained / "tokenizer_config.json").is_file():
            train_tokenizer(settings.tokenizer, trained)
    assert folder is not None
    return load_tokenizer(folder)


def _training_files(
    settings: Settings, run: Path, tokenizer: PreTrainedTokenizerBase, opening: Opening, *, is_main: bool
) -> list[Path]:
    if not settings.data.text:
        return [Path(p) for p in settings.data.train]
    path = run / "text.parquet"
    if is_main and not path.is_file():
        num_opening = opening.lengths()["full"]
        write_text_samples(settings.data.text, tokenizer, settings.data.max_tokens, num_opening, path)
    return [path]


def _first(index: SampleIndex, count: int | None) -> SampleIndex:
    return index if count is None else SampleIndex(*(getattr(index, f.name)[:count] for f in fields(index)))


def _plan(settings: Settings, options: PackingOptions, index: SampleIndex, opening: Opening) -> dict[str, Any]:
    """What the order of rows depends on: a run goes on only where none of it changed."""
    return {
        "seed": settings.training.seed,
        "rows_per_step": settings.training.rows_per_step,
        "modes": list(options.modes),
        "tokens_per_row": options.tokens_per_row,
        "share_contexts": options.share_contexts,
        "open_rows": options.open_rows,
        "shuffled_row_groups": options.shuffled_row_groups,
        "opening": opening.lengths(),
        "samples": len(index),
        "tokens": int(index.num_context.sum(dtype=int) + index.num_final.sum(dtype=int)),
        **({} if options.full_share is None else {"full_share": options.full_share}),
        **({} if options.front_length == 0 else {"front_length": options.front_length}),
    }


def _check_plan(checkpoint: Path, plan: dict[str, Any]) -> None:
    try:
        old = json.loads((checkpoint / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f'Cannot go on from "{checkpoint}": {error}') from error
    for key in plan | old:
        if old.get(key) != plan.get(key):
            raise SettingsError(
                f'Cannot go on from "{checkpoint}": "{key}" was {json.dumps(old.get(key))}, now it is '
                f"{json.dumps(plan.get(key))}; the order of samples would be another"
            )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


@contextmanager
def _main_first(rank: int, world: int) -> Iterator[None]:
    """The main process does it, then the others find it done."""
    if world > 1 and rank > 0:
        dist.barrier()
    yield
    if world > 1 and rank == 0:
        dist.barrier()


@contextmanager
def _signals(trainer: BlockTrainer) -> Iterator[None]:
    """The first signal asks for a checkpoint after the step; a second one ends the process at once."""

    def ask(number: int, _frame: object) -> None:
        trainer.signal = number
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
