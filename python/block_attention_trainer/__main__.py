"""The command line: train, export, train-tokenizer, embed, schema."""

import argparse
import sys
from pathlib import Path

from .settings import ExportSettings, SettingsError, json_schema, read_settings

SCHEMA_FILE = Path(__file__).parent.parent / "settings.schema.json"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 for an error of what was given, which is told in one line; 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (ValueError, OSError, RuntimeError) as error:
        if options.verbose:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _train(options: argparse.Namespace) -> int:
    settings = read_settings(options.config, options.set)
    from .train import train

    return train(settings, progress_target=options.progress_json, resume=not options.new)


def _export(options: argparse.Namespace) -> None:
    from .export import export, export_adapter

    settings = ExportSettings.model_validate(
        {key: value for key in ("dtype", "max_shard_bytes") if (value := getattr(options, key)) is not None}
    )
    (export_adapter if options.adapter else export)(options.checkpoint, options.out, settings)


def _train_tokenizer(options: argparse.Namespace) -> None:
    settings = read_settings(options.config, options.set)
    if settings.tokenizer is None:
        raise SettingsError(f'Cannot train a tokenizer: "{options.config}" has no "tokenizer"')
    folder = options.out or settings.run_folder / "tokenizer"
    if (folder / "tokenizer.json").exists() and not options.force:
        raise SettingsError(f'Cannot write "{folder}": there is a tokenizer, wanted another name or --force')
    from .tokenizer_training import train_tokenizer

    train_tokenizer(settings.tokenizer, folder)


def _embed(options: argparse.Namespace) -> None:
    from .embed import serve_standard_streams

    serve_standard_streams(options.model, options.batch_size)


def _schema(options: argparse.Namespace) -> None:
    options.out.write_text(json_schema(), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m block_attention_trainer", description=sys.modules[__package__].__doc__
    )
    parser.add_argument("--verbose", action="store_true", help="errors with their stack")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("--config", type=Path, required=True, help="the settings file, JSON")
    config.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="a setting over the file's, section.key=value"
    )

    train = commands.add_parser("train", parents=[config], help="train, or go on from the last checkpoint, and export")
    train.add_argument(
        "--progress-json", metavar="FD", help="progress as JSON lines on this descriptor, or - for stdout"
    )
    train.add_argument("--new", action="store_true", help="refuse to go on from a checkpoint")
    train.set_defaults(run=_train)

    exporting = commands.add_parser("export", help="write a checkpoint as a Hugging Face folder, adapters merged")
    exporting.add_argument("--checkpoint", type=Path, required=True, help="a run's checkpoint folder")
    exporting.add_argument("--out", type=Path, required=True, help="the folder that is written")
    exporting.add_argument("--adapter", action="store_true", help="write the adapter alone, not merged")
    exporting.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: bfloat16")
    exporting.add_argument("--max-shard-bytes", type=int, help="the most bytes of a file of weights")
    exporting.set_defaults(run=_export)

    tokenizer = commands.add_parser("train-tokenizer", parents=[config], help="train the settings' tokenizer alone")
    tokenizer.add_argument("--out", type=Path, help="the folder that is written; default: in the run's folder")
    tokenizer.add_argument("--force", action="store_true", help="write over a tokenizer that is there")
    tokenizer.set_defaults(run=_train_tokenizer)

    embed = commands.add_parser("embed", help="embed texts: lines of JSON in, lines of JSON out")
    embed.add_argument("--model", type=Path, required=True, help="the folder of a Hugging Face encoder")
    embed.add_argument("--batch-size", type=int, default=32, help="texts computed at once, default: 32")
    embed.set_defaults(run=_embed)

    schema = commands.add_parser("schema", help="write the settings' JSON schema")
    schema.add_argument("--out", type=Path, default=SCHEMA_FILE, help="default: settings.schema.json")
    schema.set_defaults(run=_schema)
    return parser


if __name__ == "__main__":
    sys.exit(main())
