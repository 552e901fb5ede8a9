"""Where blocks rest beside vLLM's own memory: a store of files, and the nearest blocks in RAM.

The folder is the one of block-attention's own engine: `blocks/ab/abcd….kv`, one process writes, the one that holds
`writer.lock`; the others read (decision 0027).
"""

import contextlib
import os
import re
import shutil
import sys
import threading
import time
import urllib.parse
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .block_kv import PAIRS, VERSION, hash_fields

T = TypeVar("T")
_STARTED_MS = round(time.time() * 1000)
# Of the cap, for files that turned out damaged.
_QUARANTINE_SHARE = 64


class Store(Protocol):
    """Files of blocks by their ids. Used by several threads at once."""

    def read(self, block_id: str) -> bytes | None:
        """A block's file, or None where there is none. Raises OSError where the store cannot be reached."""
        ...

    def has(self, block_id: str) -> bool:
        """Whether there is a file, sound or not."""
        ...

    def write(self, block_id: str, data: bytes) -> None:
        """Keeps a file, whole or not at all, and returns once it is safe. Raises OSError where it cannot."""
        ...

    def set_aside(self, block_id: str) -> None:
        """Takes a damaged file out of the way, if this process may."""
        ...

    def close(self) -> None:
        """Lets others write."""
        ...


def open_store(place: str, *, writes: bool, made: str) -> Store:
    """The store that a place names: a folder, `./blocks?cap=20GB`, or `redis://[user:password@]host[:port][/database]`.

    `writes` says whether this process is to keep blocks there, `made` names what computes them (`place_of`). Raises
    ValueError for what is no place, ImportError where the package "redis" is missing.
    """
    if re.match(r"rediss?://", place):
        return RedisStore(place, made)
    path, _, query = place.removeprefix("file:").removeprefix("//").partition("?")
    name, _, cap = query.partition("=")
    if path == "" or "://" in place.removeprefix("file://") or (query and name != "cap"):
        raise ValueError(
            f'Cannot open the store "{place}": wanted a folder, and its cap: ./blocks?cap=20GB, or redis://host'
        )
    return FolderStore(Path(path), parse_bytes(cap) if query else None, writes=writes)


def parse_bytes(text: str) -> int:
    """`20GB`, `512MiB` or a number of bytes. Raises ValueError for anything else."""
    units = {f"{letter}{i}B": (1024 if i else 1000) ** (n + 1) for n, letter in enumerate("KMGT") for i in ("", "i")}
    for unit, size in sorted({**units, "B": 1, "": 1}.items(), key=lambda item: -len(item[0])):
        number = text.removesuffix(unit)
        if text.endswith(unit) and number.replace(".", "", 1).isdecimal():
            return int(float(number) * size)
    raise ValueError(f'Cannot read a size: it is "{text}", wanted for instance "20GB"')


class RedisStore:
    """Redis or Valkey, one server, whose own limits say what it keeps. Keys are block-attention's: `PREFIX:MADE/ID`."""

    def __init__(self, url: str, made: str) -> None:
        """`?prefix=` of the URL is what keys begin with, `?timeout=` in ms an answer's time. Raises ImportError."""
        import redis

        plain, _, query = url.partition("?")
        asked = dict(urllib.parse.parse_qsl(query, strict_parsing=True)) if query else {}
        if unknown := sorted(asked.keys() - {"prefix", "timeout"}):
            raise ValueError(f'Cannot open the Redis store: it has "{unknown[0]}", wanted "prefix" or "timeout"')
        timeout = float(asked.get("timeout", "10000")) / 1000
        self._client = redis.Redis.from_url(plain, socket_timeout=timeout, socket_connect_timeout=min(timeout, 1.0))
        self._error = redis.RedisError
        self._keys = f"{asked.get('prefix', 'block-kv')}:{made}/"
        self._down_until = 0.0

    def read(self, block_id: str) -> bytes | None:
        return self._use(lambda: self._client.get(self._keys + block_id))

    def has(self, block_id: str) -> bool:
        # The engine waits for it: a server that is gone is asked again after five seconds.
        if time.monotonic() < self._down_until:
            return False
        try:
            return self._use(lambda: self._client.exists(self._keys + block_id)) == 1
        except OSError:
            self._down_until = time.monotonic() + 5
            return False

    def write(self, block_id: str, data: bytes) -> None:
        self._use(lambda: self._client.set(self._keys + block_id, data))

    def set_aside(self, block_id: str) -> None:
        with contextlib.suppress(OSError):
            self._use(lambda: self._client.unlink(self._keys + block_id))

    def close(self) -> None:
        self._client.close()

    def _use(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._error as error:
            raise OSError(f"Cannot use the Redis store: {error}") from error


def place_of(producer: str, compute: str) -> str:
    """What else than its id must agree for a block's bits to be of use: docs/block-kv-format.md."""
    return hash_fields("block-attention block place", VERSION, producer, compute, PAIRS)[:16]


class FolderStore:
    """A folder of blocks, those used least recently evicted for new ones."""

    def __init__(self, path: Path, cap_bytes: int | None = None, *, writes: bool = True) -> None:
        """Raises OSError for a folder that cannot be made, ValueError for what is none."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._cap = cap_bytes if cap_bytes is not None else shutil.disk_usage(path).total // 10
        self._unit = os.statvfs(path).f_bsize if sys.platform != "win32" else 4096
        self._wants_to_write = writes
        self._own = f"{os.getpid()} {_STARTED_MS}"
        self._lock = threading.Lock()
        # Files from the one used least recently on, each with what it takes; None until this process writes.
        self._sizes: OrderedDict[str, int] | None = None
        self._used = 0

    def read(self, block_id: str) -> bytes | None:
        path = self._path(block_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        with self._lock:
            if self._sizes is not None and block_id in self._sizes:
                self._sizes.move_to_end(block_id)
        return data

    def has(self, block_id: str) -> bool:
        return self._path(block_id).is_file()

    def write(self, block_id: str, data: bytes) -> None:
        with self._lock:
            self._become_writer()
            size = self._on_disk(len(data))
            room = self._cap - self._cap // _QUARANTINE_SHARE
            if size > room:
                raise OSError(f'Cannot keep a block in "{self.path}": it takes {size} bytes, wanted at most {room}')
            assert self._sizes is not None
            self._used -= self._sizes.pop(block_id, 0)
            while self._used + size > room:
                oldest, freed = self._sizes.popitem(last=False)
                self._path(oldest).unlink(missing_ok=True)
                self._used -= freed
            self._sizes[block_id] = size
            self._used += size
        try:
            self._write_file(self._path(block_id), data)
        except OSError:
            with self._lock:
                self._used -= self._sizes.pop(block_id, 0)
            raise

    def set_aside(self, block_id: str) -> None:
        path = self._path(block_id)
        with self._lock, contextlib.suppress(OSError):
            if not self._wants_to_write:
                return
            self._become_writer()
            folder = self.path / "quarantine"
            folder.mkdir(exist_ok=True)
            kept = self._on_disk(path.stat().st_size)
            # Their names begin with the time.
            for found in sorted(folder.iterdir(), reverse=True):
                kept += self._on_disk(found.stat().st_size)
                if kept > self._cap // _QUARANTINE_SHARE:
                    found.unlink()
            path.replace(folder / f"{round(time.time() * 1000)}-{path.name}")
            if self._sizes is not None:
                self._used -= self._sizes.pop(block_id, 0)

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._sizes is not None and self._holder() == self._own:
                (self.path / "writer.lock").unlink()
            self._sizes = None

    def _write_file(self, path: Path, data: bytes) -> None:
        partial = self.path / "partial" / str(uuid.uuid4())
        for folder in (partial.parent, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        if sys.platform != "win32":
            for folder in (path.parent, path.parent.parent):
                handle = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def _become_writer(self) -> None:
        """Raises OSError where another process writes, or nobody can."""
        if self._sizes is not None:
            return
        if not self._wants_to_write:
            raise PermissionError(f'Cannot write into "{self.path}": this process reads')
        lock = self.path / "writer.lock"
        for _ in range(10):
            try:
                with lock.open("x") as file:
                    file.write(f"{self._own}\n")
                break
            except FileExistsError:
                holder = self._holder()
                pid = int(holder.split()[0]) if holder.split()[:1] and holder.split()[0].isdecimal() else 0
                if pid > 0 and (holder == self._own if pid == os.getpid() else _is_alive(pid)):
                    raise PermissionError(
                        f'Cannot write into "{self.path}": process {pid} does; if that is none of ours, remove "{lock}"'
                    ) from None
                self._take_away(lock, holder)
        else:
            raise PermissionError(f'Cannot write into "{self.path}": "{lock}" cannot be taken')
        shutil.rmtree(self.path / "partial", ignore_errors=True)
        found = []
        for path in self.path.glob("blocks/*/*.kv"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, path.stem, self._on_disk(stat.st_size)))
        self._sizes = OrderedDict((name, size) for _, name, size in sorted(found))
        self._used = sum(self._sizes.values())

    def _holder(self) -> str:
        with contextlib.suppress(OSError):
            return (self.path / "writer.lock").read_text().strip()
        return ""

    def _take_away(self, lock: Path, holder: str) -> None:
        """Removes what a process that is gone left, if it is still that: one has the turn, of those that try."""
        turn = lock.with_name(f"{lock.name}.turn")
        if holder == "":
            # Made just now, perhaps, by one that has yet to write its number.
            time.sleep(0.1)
        try:
            turn.touch(exist_ok=False)
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time.time() - turn.stat().st_mtime > 5:
                    turn.unlink()
            time.sleep(0.02)
            return
        try:
            if self._holder() == holder:
                lock.unlink(missing_ok=True)
        finally:
            turn.unlink(missing_ok=True)

    def _path(self, block_id: str) -> Path:
        return self.path / "blocks" / block_id[:2] / f"{block_id}.kv"

    def _on_disk(self, num_bytes: int) -> int:
        return -(-num_bytes // self._unit) * self._unit


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    # Linux keeps what has ended, and takes signals for it, until it is waited for.
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return True


class RamTier(Generic[T]):
    """What was used last, up to so many bytes. Used by several threads at once."""

    def __init__(self, cap_bytes: int) -> None:
        self._cap = cap_bytes
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: str) -> T | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: str, value: T, num_bytes: int) -> None:
        with self._lock:
            self._forget(key)
            if num_bytes > self._cap:
                return
            self._values[key] = (value, num_bytes)
            self.used_bytes += num_bytes
            while self.used_bytes > self._cap:
                self._forget(next(iter(self._values)))

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self.used_bytes = 0

    def _forget(self, key: str) -> None:
        if key in self._values:
            self.used_bytes -= self._values.pop(key)[1]
