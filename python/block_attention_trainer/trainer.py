"""Transformers' Trainer with rows under layouts, one loss over the global batch, and exact resuming."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from .batch import Batch, Collator
from .checkpoints import UNFINISHED, clear_unfinished, publish
from .distillation import Teacher, divergence, sensitivity
from .evaluation import evaluate_mode, greedy_answer, metrics_of, target_logits
from .layout import Mode
from .models import TEACHER
from .optimizers import make_optimizer, make_schedule
from .packing import Item, PackingOptions, Row, plan_rows, plan_stream
from .progress import Progress
from .samples import SampleIndex
from .settings import Settings


class NonFiniteLossError(RuntimeError):
    """The loss is no number; the batch that gave it was saved."""


class TrainingRows:
    """The rows of one process, step after step: row i of the stream goes to process i modulo their number.

    So the rows of a step are the same, however many processes and passes share them. `num_rows` ends the epochs.
    """

    def __init__(
        self,
        index: SampleIndex,
        options: PackingOptions,
        collate: Collator,
        *,
        seed: int,
        rank: int,
        world: int,
        num_rows: int | None = None,
    ) -> None:
        self._index = index
        self._options = options
        self._collate = collate
        self._seed = seed
        self._rank = rank
        self._world = world
        self._num_rows = num_rows
        self.first_row = 0

    def __iter__(self) -> Iterator[Batch]:
        rows = plan_stream(self._index, self._options, self._seed, self.first_row)
        if self._num_rows is not None:
            # The last step of the last epoch may lack rows: it is filled with empty ones.
            rows = chain(islice(rows, max(0, self._num_rows - self.first_row)), repeat(()))
        return (self._collate(row) for row in islice(rows, self._rank, None, self._world))


class EvaluationRows:
    """The rows of each mode, and single samples to decode."""

    def __init__(
        self,
        index: SampleIndex,
        options: PackingOptions,
        collate: Collator,
        modes: Iterable[Mode],
        rank: int,
        world: int,
    ) -> None:
        self._collate = collate
        self._rank = rank
        self._world = world
        self._rows: dict[Mode, list[Row]] = {}
        for mode in modes:
            of_mode = PackingOptions(**{**vars(options), "modes": (mode,), "full_share": None})
            rows = list(plan_rows(index, of_mode, None))
            if rows:
                self._rows[mode] = rows

    @property
    def modes(self) -> list[Mode]:
        return list(self._rows)

    def batches(self, mode: Mode) -> Iterator[Batch]:
        """Equally many on each process, since sharded models compute together: the last may be empty."""
        rows = self._rows[mode]
        for first in range(0, len(rows), self._world):
            place = first + self._rank
            yield self._collate(rows[place] if place < len(rows) else ())

    def single(self, mode: Mode, count: int) -> Iterator[Batch]:
        numbers = sorted({i for row in self._rows[mode] for item in row for i in item.samples})[:count]
        for i in numbers:
            yield self._collate((Item(mode, (i,), 0),))


class BlockTrainer(Trainer):
    """Trains on TrainingRows. One pass is one row; a step is `rows_per_step` of them over all processes."""

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        settings: Settings,
        rows: TrainingRows,
        *,
        rows_per_epoch: int,
        progress: Progress,
        evaluation: EvaluationRows | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        plan: dict[str, Any] | None = None,
        marks: dict[str, Any] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self._settings = settings
        self._rows = rows
        self._rows_per_epoch = rows_per_epoch
        self._progress = progress
        self._evaluation = evaluation
        self._plan = plan or {}
        self._marks = marks or {}
        self._teacher = teacher
        self._is_writing = False
        # Of the step, over all processes: tokens, targets. Of this process: the sum of its losses.
        self._step_counts = torch.zeros(2, dtype=torch.float64)
        self._step_loss = torch.zeros((), dtype=torch.float64)
        self._logged = [0.0, 0.0]
        self._started: tuple[float, int] | None = None
        self._tokens_since_start = 0.0
        self.step_losses: list[float] = []
        self.signal: int | None = None
        self.was_stopped = False
        super().__init__(
            model=model,
            args=args,
            processing_class=tokenizer,
            # Never read: evaluate() takes its rows from EvaluationRows. The Trainer wants to see that there are some.
            eval_dataset=[0] if evaluation else None,
            callbacks=[_StepCallback(self)],
        )
        self.loss_is_scaled_for_ga = True

    # Data

    def get_train_dataloader(self) -> Any:
        return self._rows

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        batches = list(islice(epoch_iterator, num_batches))
        counts = torch.tensor(
            [sum(b.num_tokens for b in batches), sum(len(b.targets) for b in batches)], dtype=torch.float64
        )
        self._step_counts = self._summed(counts.to(device))
        self._step_loss = torch.zeros((), dtype=torch.float64, device=device)
        return batches, self._step_counts[1]

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs.to(self.args.device) if isinstance(inputs, Batch) else super()._prepare_inputs(inputs)

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        return 0

    # Loss

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One pass's part of the step's loss, times the processes, because gradients are averaged over them."""
        assert not return_outputs
        logits = target_logits(model, inputs)
        # A pass without targets still computes, so that all processes exchange gradients alike.
        loss = self._loss(logits, inputs) if len(inputs.targets) else logits.sum() * 0.0
        if not torch.isfinite(loss):
            self._stop_for(inputs, loss)
        self._step_loss += loss.detach().double()
        divisor: Any = num_items_in_batch if self._settings.training.loss_divisor == "tokens" else 1
        if isinstance(divisor, Tensor):
            divisor = divisor.clamp(min=1).to(loss.dtype)
        scaled: Tensor = loss / divisor * self.args.world_size
        return scaled

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The sum of the targets' losses: the answer's own and, in block mode, the divergence from the teacher."""
        settings = self._settings.distillation
        if self._teacher is None or settings is None:
            return F.cross_entropy(logits, batch.targets, reduction="sum")
        own = F.cross_entropy(logits, batch.targets, reduction="none")
        answers = torch.where(batch.in_block, settings.answer_weight, 1.0).to(own.dtype) * own
        in_block = logits[batch.in_block]
        with self.accelerator.autocast():
            soft = self._teacher.soft(batch)
        weights = sensitivity(soft, in_block, batch.targets[batch.in_block], settings.clip)
        return answers.sum() + settings.weight * (weights * divergence(soft, in_block)).sum()

    def _stop_for(self, batch: Batch, loss: Tensor) -> None:
        path = (
            Path(self._folder) / f"bad-batch-step-{self.state.global_step + 1}-process-{self.args.process_index}.json"
        )
        content = {
            "step": self.state.global_step + 1,
            "loss": str(loss.item()),
            "sample_ids": batch.sample_ids,
            "modes": batch.modes,
            "input_ids": batch.input_ids[0].tolist(),
            "positions": batch.layout.position[0].tolist(),
            "segments": batch.layout.segment[0].tolist(),
            "predictors": batch.predictors.tolist(),
            "targets": batch.targets.tolist(),
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        names = ", ".join(f'"{name}"' for name in dict.fromkeys(batch.sample_ids))
        raise NonFiniteLossError(
            f"Stopped in step {self.state.global_step + 1}: the loss is {loss.item()}; the batch of {names} is saved "
            f'as "{path}"'
        )

    # Optimizer and schedule

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            fused = self.args.device.type == "cuda"
            self.optimizer = make_optimizer(model or self.model, self._settings.optimizer, fused=fused)  # type: ignore[arg-type]
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            chosen = optimizer or self.optimizer
            assert chosen is not None
            chosen = getattr(chosen, "optimizer", chosen)
            self.lr_scheduler = make_schedule(chosen, num_training_steps, self._settings.schedule)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Telling

    def begin_step(self) -> None:
        """Called before each optimizer step."""
        if self._started is None:
            self._progress.tell("stage", stage="First step, which prepares those after it")

    def finish_step(self) -> None:
        """Called after each optimizer step: one number a step crosses the processes."""
        loss = self._summed(self._step_loss.clone()).item()
        tokens, targets = self._step_counts.tolist()
        self.step_losses.append(loss / max(1.0, targets))
        self._logged[0] += loss
        self._logged[1] += targets
        now = time.monotonic()
        step, steps = self.state.global_step, self.state.max_steps
        if self._started is None:
            # The first step also pays for starting up.
            self._started, rate, left = (now, step), None, None
        else:
            self._tokens_since_start += tokens
            seconds = max(now - self._started[0], 1e-9)
            rate = self._tokens_since_start / seconds
            left = (steps - step) * seconds / (step - self._started[1])
        loss_per_token = self.step_losses[-1]
        self._progress.tell(
            "step",
            step=step,
            steps=steps,
            loss=loss_per_token,
            tokens=int(tokens),
            tokensPerSecond=rate,
            secondsLeft=left,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["loss_per_token"] = self._logged[0] / max(1.0, self._logged[1])
            self._logged = [0.0, 0.0]
        rows = self.state.global_step * self._settings.training.rows_per_step
        self.state.epoch = rows / max(1, self._rows_per_epoch)
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Both modes over the evaluation files: losses, accuracies, and full minus block."""
        if self._evaluation is None:
            return {}
        self._progress.tell("stage", stage="Evaluating")
        model: Any = self.model_wrapped if self.is_in_train else self.model
        was_training = model.training
        model.eval()
        precision = self.accelerator.autocast()
        with precision:
            sums = {
                mode: self._summed(evaluate_mode(model, self._evaluation.batches(mode), self.args.device))
                for mode in self._evaluation.modes
            }
            self._show_answers(model)
        model.train(was_training)
        metrics = {f"eval_{name}": value for name, value in metrics_of(sums).items()}
        self.log(dict(metrics))
        self._progress.tell("evaluation", step=self.state.global_step, metrics=metrics_of(sums))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _show_answers(self, model: nn.Module) -> None:
        count = self._settings.evaluation.show_answers
        tokenizer = self.processing_class
        if count == 0 or self._evaluation is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return
        end = tokenizer.eos_token_id
        ends = {end} if isinstance(end, int) else set(end or [])
        for mode in self._evaluation.modes:
            for batch in self._evaluation.single(mode, count):
                ids = greedy_answer(model, batch, ends, self.args.device)
                self._progress.tell(
                    "answer",
                    mode=mode,
                    sample=batch.sample_ids[0],
                    gold=tokenizer.decode(batch.targets.tolist()),
                    answer=tokenizer.decode(ids),
                    isRight=ids == batch.targets.tolist(),
                )

    # Checkpoints

    @property
    def _folder(self) -> str:
        return str(self.args.output_dir)

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)
        return f"{folder}/{UNFINISHED}" if self._is_writing else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._progress.tell("stage", stage="Writing a checkpoint")
        folder = Path(self._folder)
        if self.args.should_save:
            clear_unfinished(folder)
        self._wait()
        self._is_writing = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_writing = False
        self._wait()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            for file, content in (("plan.json", self._plan), ("block_attention.json", self._marks)):
                (folder / UNFINISHED / name / file).write_text(json.dumps(content, indent=2), encoding="utf-8")
            shutil.rmtree(folder / UNFINISHED / name / TEACHER, ignore_errors=True)
            adapter = folder / UNFINISHED / name / "adapter_config.json"
            if adapter.is_file():
                # PEFT passes over it; the engine takes the folder as an adapter.
                config = json.loads(adapter.read_text(encoding="utf-8"))
                adapter.write_text(json.dumps({**config, "block_attention": self._marks}, indent=2), encoding="utf-8")
            path = publish(folder, name, self._settings.checkpoints.keep)
            self._progress.tell("checkpoint", step=self.state.global_step, path=str(path))
        self._wait()

    def evaluate_at_the_end(self) -> None:
        """The last step is judged, whether or not its number is one that is."""
        if self._evaluation is not None and self.state.global_step == self.state.max_steps:
            self.control.should_evaluate = True

    def stop_if_signalled(self) -> None:
        """After a step: where any process was told to stop, all write a checkpoint and end."""
        asked = torch.tensor(float(self.signal is not None), device=self.args.device)
        if self._summed(asked).item() > 0:
            self.was_stopped = True
            self.control.should_save = True
            self.control.should_training_stop = True

    # Processes

    def _summed(self, x: Tensor) -> Tensor:
        if self.args.world_size > 1:
            dist.all_reduce(x)
        return x

    def _wait(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()


class _StepCallback(TrainerCallback):
    def __init__(self, trainer: BlockTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.begin_step()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._trainer.finish_step()
        self._trainer.evaluate_at_the_end()
        self._trainer.stop_if_signalled()
