"""Checkpoints that are complete or absent: written under another name, synced, then renamed."""

import os
import re
import shutil
from pathlib import Path

UNFINISHED = "unfinished-checkpoint"
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoints_in(run_folder: Path) -> list[Path]:
    """Complete ones, oldest step first."""
    found = [(int(m[1]), p) for p in run_folder.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def last_checkpoint(run_folder: Path) -> Path | None:
    found = checkpoints_in(run_folder)
    return found[-1] if found else None


def clear_unfinished(run_folder: Path) -> None:
    """Deletes what a killed run was writing."""
    shutil.rmtree(run_folder / UNFINISHED, ignore_errors=True)


def publish(run_folder: Path, name: str, keep: int) -> Path:
    """Makes the unfinished checkpoint the complete one of that name, and deletes all but the newest `keep`."""
    unfinished, target = run_folder / UNFINISHED, run_folder / name
    for path in [*unfinished.rglob("*"), unfinished]:
        _sync(path)
    if target.exists():
        # The same step, written before: a run that went on and was stopped before its next step.
        shutil.rmtree(target)
    (unfinished / name).rename(target)
    _sync(run_folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    for old in checkpoints_in(run_folder)[:-keep]:
        shutil.rmtree(old)
    return target


def _sync(path: Path) -> None:
    if os.name == "nt":
        # Windows opens no folders, and syncs no file that is open for reading.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
