"""Makes a virtual environment from a requirements file where it is not there yet: complete, or not at all.

The folder is `CACHE/NAME-DIGEST`, the digest over the requirements and what they include, so that changed ones get a
folder of their own. Two at once wait for each other: the lock is the operating system's, which frees it when its holder
dies. What a killed one left is made anew, for the mark of a complete one is written last.

Every package is pinned there with the digests of its files, and pip takes no other.

Needs the standard library only, for it runs before anything is installed. What it tells are JSON lines on standard
output: {"say"} for people, {"progress"} each second while packages are installed, at the end {"python"}, the
environment's interpreter, or {"error"}, one line. What pip warns of goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

OLDEST_PYTHON = (3, 11)
MARK = "complete.json"


class EnvironmentMakingError(Exception):
    """What stands in the way, in one line."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--cache", type=Path, required=True, help="the folder of environments")
    parser.add_argument("--name", required=True, help="the first part of the environment's folder")
    parser.add_argument("--requirements", type=Path, required=True)
    parser.add_argument("--if-there", action="store_true", help="make none: an error where there is none")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tell(python=str(environment(options.cache, options.name, options.requirements, only_if_there=options.if_there)))
    except (EnvironmentMakingError, OSError) as error:
        tell(error=f"Cannot make the Python environment: {describe(error)}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def environment(cache: Path, name: str, requirements: Path, *, only_if_there: bool = False) -> Path:
    """The interpreter of the environment, which is made where it is not there.

    Raises EnvironmentMakingError, one line, and OSError.
    """
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise EnvironmentMakingError(
            f'"{sys.executable}" is Python {sys.version.split()[0]}, {oldest} or newer is wanted'
        )
    digest = hashlib.sha256("\n".join(lines_of(requirements)).encode()).hexdigest()
    folder = cache.absolute() / f"{name}-{digest[:16]}"
    if is_complete(folder, digest):
        return interpreter(folder)
    if only_if_there:
        raise EnvironmentMakingError(f'"{folder}" is not there')
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("ab") as lock:
        if not take(lock):
            tell(say=f'Waiting for another process that makes "{folder}"')
            while not take(lock):
                time.sleep(0.2)
        if not is_complete(folder, digest):
            make(folder, digest, requirements, lock)
    return interpreter(folder)


def make(folder: Path, digest: str, requirements: Path, lock: IO[bytes]) -> None:
    tell(say=f'Making the Python environment "{folder}" (once; 6 GB, 9 GB while it is made, several minutes)')
    if folder.exists():
        shutil.rmtree(folder)
    run([sys.executable, "-m", "venv", str(folder)], lock)
    # Wheels of gigabytes: /tmp may be a small disk in memory.
    temporary = folder / "tmp"
    temporary.mkdir()
    pip = [str(interpreter(folder)), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    # The file lists all packages; a package may ask for one that no index has. pip's bar would hide its lines.
    options = ["--progress-bar", "off", "--no-deps", "--require-hashes", "--requirement", str(requirements)]
    with PipProgress(folder, numbered(requirements)) as progress:
        run([*pip, *options], lock, {"TMPDIR": str(temporary), "TEMP": str(temporary)}, progress.take)
    shutil.rmtree(temporary)
    mark = folder / f"{MARK}.partial"
    mark.write_text(json.dumps({"digest": digest, "python": sys.version.split()[0]}), encoding="utf-8")
    mark.replace(folder / MARK)


class PipProgress:
    """What pip has done so far, by its own lines and by what it has written: told every second while it is entered."""

    def __init__(self, folder: Path, packages: int) -> None:
        self._folder = folder
        self._packages = 0
        self._of = packages
        self._is_installing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def take(self, line: str) -> None:
        """A line of pip's."""
        if line.startswith("Collecting "):
            self._packages += 1
        elif line.startswith("Ignoring "):
            # Its marker names another platform.
            self._of -= 1
        elif line.startswith("Installing collected packages"):
            self._is_installing = True

    def _tell(self) -> None:
        seconds = 0.0
        # Counting a folder of 50,000 files takes a while: most of the time is the installation's.
        while not self._ended.wait(max(1.0, 10 * seconds)):
            started = time.monotonic()
            stage = "installing" if self._is_installing else "downloading"
            tell(progress={"stage": stage, "packages": self._packages, "of": self._of, "bytes": size_of(self._folder)})
            seconds = time.monotonic() - started


def size_of(folder: Path) -> int:
    """Bytes of all files; those that go meanwhile are passed over."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total


def numbered(requirements: Path) -> int:
    """How many packages a requirements file and what it includes ask for, on whatever platform."""
    return sum(not line.startswith("--hash") for line in lines_of(requirements))


def is_complete(folder: Path, digest: str) -> bool:
    """Whether it is marked so and its interpreter runs: the Python that it was made with may have gone."""
    try:
        if json.loads((folder / MARK).read_text(encoding="utf-8")).get("digest") != digest:
            return False
        return subprocess.run([interpreter(folder), "-c", ""], capture_output=True, check=False).returncode == 0
    except (OSError, ValueError, AttributeError):
        return False


def interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def lines_of(requirements: Path) -> list[str]:
    """What a requirements file asks for, and what the files that it includes do, without comments."""
    lines: list[str] = []
    for raw in requirements.read_text(encoding="utf-8").splitlines():
        line = raw.split("#", maxsplit=1)[0].strip()
        included = re.fullmatch(r"(?:-r|--requirement)\s+(.+)", line)
        if included:
            lines += lines_of(requirements.parent / included[1])
        elif line:
            lines.append(line)
    return lines


def run(
    command: list[str],
    lock: IO[bytes],
    variables: dict[str, str] | None = None,
    on_line: Callable[[str], object] = str,
) -> None:
    """Runs a command that holds the lock, too, for it may live longer than this process.

    Raises EnvironmentMakingError.
    """
    kept: list[str] = []
    inherited = {} if os.name == "nt" else {"pass_fds": (lock.fileno(),)}
    with subprocess.Popen(  # type: ignore[call-overload]
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(variables or {})},
        text=True,
        errors="replace",
        **inherited,
    ) as process:
        try:
            for line in process.stdout:
                on_line(line)
                if re.match(r"WARNING|ERROR|DEPRECATION", line):
                    sys.stderr.write(line)
                kept.append(line.strip())
        except KeyboardInterrupt:
            process.terminate()
            raise
    if process.returncode != 0:
        raise EnvironmentMakingError(reason(command, process.returncode, [line for line in kept if line][-200:]))


def reason(command: list[str], code: int, lines: list[str]) -> str:
    """Why venv or pip failed, for a person."""
    text = "\n".join(lines)
    if "ensurepip is not available" in text or "No module named venv" in text or "No module named ensurepip" in text:
        return f'"{command[0]}" has no venv module; install it (on Debian and Ubuntu: apt install python3-venv)'
    if "No space left on device" in text or "[Errno 28]" in text:
        return "the disk is full; the environment takes 6 GB, 9 GB while it is made"
    if re.search(
        r"NewConnectionError|NameResolutionError|Connection refused|ProxyError|ConnectTimeout|ReadTimeout", text
    ):
        return "the package index cannot be reached; it needs the network, or a mirror that pip knows (PIP_INDEX_URL)"
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    said = errors[-1] if errors else f"it ended with {code}"
    what = "pip" if "pip" in command else "venv"
    return f"{what} says: {re.sub(r'^(error|ERROR): *', '', said)[:300].rstrip('.')}"


def take(lock: IO[bytes]) -> bool:
    """Takes the lock unless another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            lock.seek(0)
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f'"{error.filename}": {error.strerror or error}'
    return " ".join(str(error).split())


def tell(**fields: object) -> None:
    # One write a line: another thread tells as well.
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
