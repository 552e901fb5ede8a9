"""The settings file: JSON, checked, every key documented here; an unknown key is an error.

`settings.schema.json` is made from this by `python -m block_attention_trainer schema`. The command `train` checks a
file against it, and against the rules of the validators here, before there is a Python environment:
src/train/settings.ts has those rules, too, and tests/wrong_settings.json has a case of each for both.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .layout import Mode

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16")

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the key."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


MODEL_PATH = (
    "A Hugging Face folder; `hf:OWNER/REPO`, which `block-attention train` fetches first and checks; or a name that "
    "Transformers finds."
)


class ModelSettings(Section):
    """Which model is trained: a folder, or an architecture made anew."""

    path: str | None = Field(None, description=MODEL_PATH)
    architecture: dict[str, Any] | None = Field(
        None,
        description="From nothing: the keys of config.json, `model_type` among them. `vocab_size` is the tokenizer's "
        "where it is absent.",
    )
    tokenizer: str | None = Field(
        None, description="The tokenizer's folder; default: the model's, or what `tokenizer` trains."
    )
    prefix: str | None = Field(
        None,
        description='Text before block 0 in block mode, for instance "[Block-Attention]", tokenized alone. Default: '
        "the model's own, else none.",
    )
    repair: Annotated[str, Field(pattern=r"^(none|lead|preamble|sink=\d{1,2}|preamble,sink=\d{1,2})$")] = Field(
        "none",
        description="What local blocks but block 0 are encoded with, in block mode: `lead`, behind the lead-in of "
        "`model.lead`, which no other block sees; `preamble`, seeing block 0; `sink=N`, beginning with N newline "
        "tokens. Export and checkpoints name it, and serving then does the same.",
    )
    lead: str | None = Field(None, description="With `repair` lead: the lead-in's text, special tokens read as such.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.architecture is None):
            raise ValueError('wanted either "path" or "architecture"')
        if self.architecture is not None and "model_type" not in self.architecture:
            raise ValueError('"architecture" has no "model_type"')
        if (self.repair == "lead") != (self.lead is not None):
            raise ValueError('wanted "lead" with "repair": "lead", and only there')
        return self


class TokenizerSettings(Section):
    """A byte-level BPE tokenizer trained from text, with each digit on its own."""

    text: list[str] = Field(description="UTF-8 text files that it learns from.", min_length=1)
    vocab_size: Annotated[int, Field(ge=260)] = Field(4096, description="Bytes, special tokens and merges together.")
    special_tokens: list[str] = Field(
        ["<|pad|>", "<|eos|>", "<|user|>", "<|assistant|>"],
        description="Never cut; the ids count from 0 in this order.",
    )
    pad_token: str = Field("<|pad|>", description="One of the special tokens.")
    eos_token: str = Field("<|eos|>", description="Ends an answer; one of the special tokens.")
    bos_token: str | None = Field(None, description="Put before each prompt; one of the special tokens.")
    chat_template: str | None = Field(None, description="Jinja text for tokenizer_config.json.")

    @model_validator(mode="after")
    def _special_tokens(self) -> Self:
        for role, token in (("pad", self.pad_token), ("eos", self.eos_token), ("bos", self.bos_token)):
            if token is not None and token not in self.special_tokens:
                raise ValueError(f'"{role}_token" is "{token}", which is no special token')
        return self


class DataSettings(Section):
    """What is learned from. docs/training-data.md describes the files."""

    train: list[str] = Field([], description="Parquet files of samples.")
    text: list[str] = Field([], description="Instead of samples: plain UTF-8 text, learned whole, in full mode.")
    evaluation: list[str] = Field([], description="Parquet files of samples that are never trained on.")
    modes: list[Mode] = Field(
        ["block", "full"], description="The modes that samples are trained in, where the sample allows.", min_length=1
    )
    full_share: Share | None = Field(
        None,
        description="Where samples are of both modes: the share of contexts, drawn in each epoch, that are learned in "
        "full mode, the others being learned in block mode. Default: each is learned in both.",
    )
    block_dropout: Share = Field(
        0.0,
        description="The probability that one local block of a context sees all before it, drawn in each epoch, so "
        "that blocks learn to be the final one (arXiv:2605.15913).",
    )
    max_tokens: Positive = Field(
        4096, description="The most tokens of a sample, BOS and prefix counted; more is an error."
    )
    position_reencoding: bool = Field(
        True,
        description="false: in block mode the positions of each local block start at 0, as in the paper's ablation. "
        "Such a model is to be served without position re-encoding, too.",
    )
    loss_on_prompt: bool = Field(False, description="Learn the prompt's tokens, too, within their blocks.")
    shuffled_row_groups: Positive = Field(8, description="How many row groups are shuffled together, and in memory.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (not self.train) == (not self.text):
            raise ValueError('wanted either "train" or "text"')
        if len(set(self.modes)) < len(self.modes):
            raise ValueError('"modes" names one twice')
        return self


class PackingSettings(Section):
    """How samples share rows."""

    tokens_per_row: Positive | None = Field(
        None, description="The most tokens of a row; null gives each sample, in each mode, a row of its own."
    )
    share_contexts: bool = Field(
        True, description="Put questions of one group over one context, where rows are packed."
    )
    open_rows: Positive = Field(16, description="How many rows are filled at a time.")


class OptimizerSettings(Section):
    """How weights are changed."""

    name: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: Muon for the layers' matrices, AdamW for embeddings, norms and biases."
    )
    learning_rate: Rate = Field(description="The peak; of Muon's matrices where that is chosen.")
    adamw_learning_rate: Rate | None = Field(None, description="With muon: the peak of the rest; default: the same.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Decoupled, on matrices only.")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="AdamW's.", strict=False)
    epsilon: Rate = Field(1e-8, description="AdamW's.")
    momentum: Share = Field(0.95, description="Muon's.")
    max_gradient_norm: Annotated[float, Field(ge=0)] = Field(1.0, description="Gradients are clipped to it; 0: never.")


class ScheduleSettings(Section):
    """The learning rate by step: a rise to the peak, then one of four ways."""

    name: Literal["linear", "constant", "cosine", "trapezoid"] = Field(
        "linear",
        description="linear and cosine: to zero at the last step; trapezoid: level, then linear to zero over the last "
        "part.",
    )
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(None, description="Steps of the rise.")
    warmup_fraction: Share | None = Field(None, description="Instead: the part of all steps. Default: no rise.")
    decay_fraction: Share = Field(0.2, description="trapezoid: the part of all steps in which it falls.")

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError('wanted either "warmup_steps" or "warmup_fraction"')
        return self


class TrainingSettings(Section):
    """How long, how much at once, and on what."""

    steps: Positive | None = Field(None, description="Optimizer steps.")
    epochs: Rate | None = Field(None, description="Instead: how often each sample is seen in each mode.")
    rows_per_step: Positive = Field(
        description="Rows of a step, over all processes: divided by their number, the "
        "passes that a process accumulates."
    )
    loss_divisor: Literal["one", "tokens"] = Field(
        "one", description="The sum of the targets' losses is divided by 1, or by their number over the whole step."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(42, description="Of order, dropout and new weights.")
    precision: Precision = Field(
        "auto",
        description="bfloat16: autocast over float32 weights. auto: what multiplies matrices faster here, measured "
        "before the first step; float32 for several processes on CPUs.",
    )
    attention: Literal["auto", "dense", "flex", "segments"] = Field(
        "auto", description="auto: flex on CUDA, segments on CPUs, dense elsewhere."
    )
    gradient_checkpointing: bool = Field(False, description="Compute layers twice, keep less.")
    distributed: Literal["ddp", "fsdp", "deepspeed"] = Field(
        "ddp", description="How several processes (torchrun) share the model; one process needs none."
    )
    deepspeed_config: str | None = Field(None, description="With deepspeed: its JSON file.")
    threads: Positive | None = Field(None, description="CPU threads of a process; default: PyTorch's choice.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError('wanted either "steps" or "epochs"')
        if (self.distributed == "deepspeed") != (self.deepspeed_config is not None):
            raise ValueError('wanted "deepspeed_config" with "distributed": "deepspeed", and only there')
        return self


class DistillationSettings(Section):
    """Block distillation: in block mode each target is also learned from the model itself in full mode, frozen."""

    teacher: Literal["base", "start"] = Field(
        "start",
        description="start: the weights that the run begins with. base: with `lora.adapter`, the model without it.",
    )
    weight: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Of the divergence from the teacher, beside the answer's own loss."
    )
    answer_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Of the answer's own loss in block mode.")
    clip: Annotated[float, Field(ge=0)] = Field(
        4.0,
        description="A target counts 1 and as many nats more as it is likelier to the teacher than to the student, up "
        "to this; then all are brought to 1 on average. 0: all count alike.",
    )
    top_k: Positive = Field(
        32, description="So many of the teacher's likeliest tokens are kept; the rest count as one."
    )
    store: str | None = Field(
        None,
        description="The file that keeps what the teacher said of each sample, for later epochs and runs. Default: "
        "teacher.sqlite in the run's folder.",
    )


class LoraSettings(Section):
    """Low-rank adapters (PEFT) instead of all weights; merged on export."""

    adapter: str | None = Field(
        None, description="Start from this adapter, a checkpoint's folder, of the same rank and modules."
    )
    rank: Positive = Field(16, description="Rank of the two factors.")
    alpha: Rate = Field(32.0, description="The adapter's product is scaled by alpha / rank.")
    dropout: Share = Field(0.0, description="Before the adapter, while training.")
    target_modules: list[str] | Literal["all-linear"] = Field("all-linear", description="Names of linear layers.")
    quantize: Literal["none", "4bit"] = Field(
        "none", description="4bit: QLoRA, frozen weights in NF4. Needs CUDA and the package bitsandbytes."
    )


class EvaluationSettings(Section):
    """Both modes, during training."""

    every_steps: Positive | None = Field(None, description="Default: at the end only.")
    at_start: bool = Field(False, description="Evaluate before the first step as well.")
    max_samples: Positive | None = Field(None, description="The first so many; default: all.")
    answer_after: str | None = Field(
        None,
        description='Where an answer begins, for instance " is": the tokens that follow this text in a response count '
        "as first tokens. Default: the response's first token.",
    )
    show_answers: Annotated[int, Field(ge=0)] = Field(0, description="So many answers are decoded greedily and shown.")


class CheckpointSettings(Section):
    """What a run can go on from."""

    every_steps: Positive | None = Field(None, description="Default: at the end and on Ctrl-C only.")
    keep: Positive = Field(2, description="Older ones are deleted.")


class LoggingSettings(Section):
    """What is told on the way."""

    every_steps: Positive = Field(10, description="How often losses are logged.")
    tensorboard: bool = Field(True, description="Into the run's folder.")
    wandb: bool = Field(False, description="Needs the package wandb and an account.")


class ExportSettings(Section):
    """The folder that is written after the last step, for Transformers and for the engine."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Of the weights.")
    max_shard_bytes: Annotated[int, Field(ge=2**20)] = Field(
        5 * 10**9, description="The most bytes of a safetensors file."
    )


class Settings(Section):
    """Settings of a training run. Relative paths count from the folder where the command is run."""

    schema_file: str | None = Field(None, alias="$schema", description="For editors: the path of settings.schema.json.")
    output_folder: str = Field(description="Runs are written under it.")
    run_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="The run's folder in it, and its name in TensorBoard and W&B."
    )
    model: ModelSettings
    tokenizer: TokenizerSettings | None = Field(
        None, description="Train a tokenizer first, where the run has none yet."
    )
    data: DataSettings
    packing: PackingSettings = PackingSettings()
    optimizer: OptimizerSettings
    schedule: ScheduleSettings = ScheduleSettings()
    training: TrainingSettings
    lora: LoraSettings | None = Field(None, description="Adapters instead of all weights.")
    distillation: DistillationSettings | None = Field(
        None, description="Learn block mode from full mode, too; default: from the answers alone."
    )
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    logging: LoggingSettings = LoggingSettings()
    export: ExportSettings | None = Field(ExportSettings(), description="null: no folder is written at the end.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.packing.tokens_per_row is not None and self.packing.tokens_per_row < self.data.max_tokens:
            raise ValueError(
                f'"packing.tokens_per_row" is {self.packing.tokens_per_row}, "data.max_tokens" is '
                f"{self.data.max_tokens}: a sample may not fit into a row"
            )
        if self.model.architecture is not None and self.lora is not None:
            raise ValueError('"lora" adapts trained weights, "model.architecture" has none')
        if self.model.architecture is not None and self.model.tokenizer is None and self.tokenizer is None:
            raise ValueError('"model.architecture" needs "model.tokenizer" or "tokenizer"')
        if self.tokenizer is not None and (self.model.architecture is None or self.model.tokenizer is not None):
            raise ValueError('"tokenizer" trains one for "model.architecture" without "model.tokenizer"')
        if self.distillation is not None and (self.data.loss_on_prompt or "block" not in self.data.modes):
            raise ValueError(
                '"distillation" teaches answers in block mode: wanted "block" in "data.modes", and no '
                '"data.loss_on_prompt"'
            )
        if self.distillation is not None and self.training.distributed != "ddp":
            raise ValueError('"distillation" wants the whole model in each process: "training.distributed" "ddp"')
        if self.data.text and "full" not in self.data.modes:
            raise ValueError('"data.text" is learned in full mode, "data.modes" has no "full"')
        if (self.evaluation.every_steps or self.evaluation.at_start) and not self.data.evaluation:
            raise ValueError('"evaluation" is asked for, "data.evaluation" names no files')
        return self

    @property
    def run_folder(self) -> Path:
        return Path(self.output_folder) / self.run_name


def read_settings(path: Path, overrides: list[str] | None = None) -> Settings:
    """Reads a settings file, with `section.key=value` (value as JSON, else as text) put over it.

    Raises SettingsError, one line, that names the key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f'Cannot read "{path}": {" ".join(str(error).split())}') from error
    if not isinstance(value, dict):
        raise SettingsError(f'Cannot read "{path}": it is no JSON object')
    for override in overrides or []:
        _override(value, override)
    return parse_settings(value, f'"{path}"')


def parse_settings(value: dict[str, Any], where: str = "the settings") -> Settings:
    """Checks settings. Raises SettingsError for the first key that is wrong."""
    try:
        return Settings.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SettingsError(f'Cannot use {where}: there is no setting "{key}"') from error
        what = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"Cannot use {where}: " + (f'"{key}": {what}' if key else what)) from error


def json_schema() -> str:
    """The text of settings.schema.json."""
    schema = Settings.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _override(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise SettingsError(f'Cannot use "--set {override}": wanted section.key=value')
    try:
        new = json.loads(text)
    except ValueError:
        new = text
    *sections, last = key.split(".")
    for section in sections:
        inner = value.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SettingsError(f'Cannot use "--set {override}": "{section}" is no section')
        value = inner
    value[last] = new
