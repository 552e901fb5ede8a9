"""Makes a virtual environment from a requirements file where it is not there yet: complete, or not at all.

The folder is `CACHE/NAME-DIGEST`, the digest over the requirements and what they include, so that changed ones get a
folder of their own. Two at once wait for each other: the lock is the operating system's, which frees it when its holder
dies. What a killed one left is made anew, for the mark of a complete one is written last.

Needs the standard library only, for it runs before anything is installed. What it tells are JSON lines on standard
output: {"say"} for people, at the end {"python"}, the environment's interpreter, or {"error"}, one line. What pip tells
goes to standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

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
    tell(say=f'Making the Python environment "{folder}" (once; up to 6 GB, several minutes)')
    if folder.exists():
        shutil.rmtree(folder)
    run([sys.executable, "-m", "venv", str(folder)], lock)
    # Wheels of gigabytes: /tmp may be a small disk in memory.
    temporary = folder / "tmp"
    temporary.mkdir()
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    pip = [str(interpreter(folder)), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", *quiet]
    run([*pip, "--requirement", str(requirements)], lock, {"TMPDIR": str(temporary), "TEMP": str(temporary)})
    shutil.rmtree(temporary)
    mark = folder / f"{MARK}.partial"
    mark.write_text(json.dumps({"digest": digest, "python": sys.version.split()[0]}), encoding="utf-8")
    mark.replace(folder / MARK)


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


def run(command: list[str], lock: IO[bytes], variables: dict[str, str] | None = None) -> None:
    """Runs a command that holds the lock, too, for it may live longer than this process.

    Raises EnvironmentMakingError.
    """
    kept: list[str] = []
    inherited = {} if os.name == "nt" else {"pass_fds": (lock.fileno(),)}
    with subprocess.Popen(  # type: ignore[call-overload]
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        env={**os.environ, **(variables or {})},
        text=True,
        errors="replace",
        **inherited,
    ) as process:
        try:
            for line in process.stderr:
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
        return "the disk is full; the environment takes up to 6 GB"
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


def tell(**fields: str) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    sys.exit(main())
