"""The folder of blocks: shared with block-attention's own engine, capped, whole files or none."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import redis_server

from vllm_block_attention.store import FolderStore, RamTier, open_store, parse_bytes, place_of

IDS = [f"{i:064x}" for i in range(9)]


def test_folder_store_gives_back_what_was_written(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.read(IDS[0]) is None
    store.write(IDS[0], b"abc")
    assert (tmp_path / "blocks" / "00" / f"{IDS[0]}.kv").read_bytes() == b"abc"
    assert store.read(IDS[0]) == b"abc"
    assert list((tmp_path / "partial").iterdir()) == []


def test_folder_store_evicts_what_was_used_least_recently(tmp_path: Path) -> None:
    # Each takes one unit of the file system; the cap holds three, its 64th beside.
    unit = os.statvfs(tmp_path).f_bsize
    store = FolderStore(tmp_path, 3 * unit + unit // 2)
    for block_id in IDS[:3]:
        store.write(block_id, b"x")
    store.read(IDS[0])
    store.write(IDS[3], b"x")
    assert [store.read(block_id) is not None for block_id in IDS[:4]] == [True, False, True, True]
    with pytest.raises(OSError, match="wanted at most"):
        store.write(IDS[4], b"x" * 9 * unit)
    store.close()
    # The next process knows the order by the files' times.
    later = FolderStore(tmp_path, 3 * unit + unit // 2)
    later.read(IDS[2])
    os.utime(tmp_path / "blocks" / "00" / f"{IDS[0]}.kv", (1, 1))
    later.write(IDS[5], b"x")
    assert later.read(IDS[0]) is None
    assert later.read(IDS[2]) is not None


def test_folder_store_leaves_writing_to_the_process_that_writes(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "writer.lock").write_text(f"{other.pid} 17\n")
        store = FolderStore(tmp_path)
        with pytest.raises(PermissionError, match=f"process {other.pid} does"):
            store.write(IDS[0], b"x")
        assert store.read(IDS[0]) is None
    finally:
        other.communicate(b"\n")
    store.write(IDS[0], b"x")
    assert (tmp_path / "writer.lock").read_text().startswith(f"{os.getpid()} ")
    store.close()
    assert not (tmp_path / "writer.lock").exists()
    with pytest.raises(PermissionError, match="reads"):
        FolderStore(tmp_path, writes=False).write(IDS[0], b"x")


def test_folder_store_sets_damaged_files_aside_within_bounds(tmp_path: Path) -> None:
    unit = os.statvfs(tmp_path).f_bsize
    store = FolderStore(tmp_path, 128 * unit)
    for block_id in IDS[:3]:
        store.write(block_id, b"x")
        store.set_aside(block_id)
        time.sleep(0.002)
    assert store.read(IDS[0]) is None
    names = sorted(path.name.split("-")[1] for path in (tmp_path / "quarantine").iterdir())
    assert names == [f"{block_id}.kv" for block_id in IDS[1:3]]


def test_open_store_refuses_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted a folder"):
        open_store("http://localhost", writes=True, made="")
    with pytest.raises(ValueError, match="wanted for instance"):
        open_store(f"{tmp_path}?cap=lots", writes=True, made="")
    open_store(f"file:{tmp_path}?cap=1GB", writes=True, made="").close()
    assert [parse_bytes(text) for text in ("20GB", "1.5MiB", "7")] == [20 * 10**9, 3 * 2**19, 7]


def test_redis_store_keeps_files_under_the_engine_s_keys() -> None:
    redis = pytest.importorskip("redis")
    with redis_server() as url:
        made = place_of("vllm 0.32.0, CPU AVX2", "float32")
        store = open_store(f"{url}?prefix=mine", writes=True, made=made)
        assert (store.has(IDS[0]), store.read(IDS[0])) == (False, None)
        store.write(IDS[0], b"abc")
        assert redis.Redis.from_url(url).get(f"mine:{made}/{IDS[0]}") == b"abc"
        assert (store.has(IDS[0]), store.read(IDS[0])) == (True, b"abc")
        store.set_aside(IDS[0])
        assert not store.has(IDS[0])
        with pytest.raises(ValueError, match='it has "cap"'):
            open_store(f"{url}?cap=1GB", writes=True, made=made)
    with pytest.raises(OSError, match="Cannot use the Redis store"):
        store.read(IDS[0])
    assert not store.has(IDS[0])


def test_ram_tier_keeps_what_was_used_last_up_to_its_cap() -> None:
    ram: RamTier[str] = RamTier(10)
    for key in "abc":
        ram.put(key, key.upper(), 4)
    assert [ram.get(key) for key in "abc"] == [None, "B", "C"]
    ram.get("b")
    ram.put("d", "D", 4)
    assert [ram.get(key) for key in "bcd"] == ["B", None, "D"]
    ram.put("e", "E", 11)
    assert (ram.get("e"), ram.used_bytes) == (None, 8)
