"""The reader of block KV's files, on the bytes that the engine's test pins."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vllm_block_attention.block_kv import BlockFileError, block_id, encode_block, open_block, owner_name

FIXTURE = Path(__file__).parents[3] / "tests" / "fixtures" / "block-kv-2.safetensors"


def test_reads_what_the_engine_wrote() -> None:
    block = open_block(FIXTURE)
    assert block.token_ids.tolist() == [5, 0, 70_000]
    assert block.shape == (2, 2, 2, 3, 2)
    assert block.fields["kind"] == "page"
    assert block.fields["pairs"] == "half"
    assert json.loads(block.fields["documents"]) == ["a", "ü\n"]
    # The block's bytes count up: keys of both layers, then values of both.
    counted = np.arange(96, dtype=np.uint8).view("<f2").reshape(2, 2, 2, 3, 2)
    for layer in range(2):
        for found, expected in zip(block.layer(layer), counted[:, layer], strict=True):
            np.testing.assert_array_equal(found.view("<u2"), expected.view("<u2"))


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_reads_types_in_blocks(kv_type: str) -> None:
    block = open_block(FIXTURE.with_stem(f"block-kv-2-{kv_type}"))
    size = {"q8_0": 34, "q4_0": 18}[kv_type]
    assert block.shape == (1, 2, 1, 3, size)
    for part, found in enumerate(block.layer(0)):
        assert found.shape == (1, 3, 32)
        for token in range(3):
            # The bytes count up, with a 16-bit scale before each 32 elements.
            head = np.arange((3 * part + token) * size, (3 * part + token + 1) * size).astype(np.uint8)
            scale = np.float32(head[:2].view("<f2")[0])
            for i in range(32):
                code = (
                    int(head[2:].view(np.int8)[i])
                    if kv_type == "q8_0"
                    else (int(head[2 + i % 16]) >> i // 16 * 4 & 15) - 8
                )
                assert found[0, token, i] == scale * np.float32(code) or np.isnan(scale)


def test_safetensors_reads_it_too() -> None:
    tensors = load_file(FIXTURE)
    keys, _ = open_block(FIXTURE).layer(1)
    np.testing.assert_array_equal(tensors["kv"][1, 0].view("<u2"), keys.view("<u2"))
    assert tensors["tokens"].tolist() == [5, 0, 70_000]


def test_accepts_no_changed_byte_and_no_other_length(tmp_path: Path) -> None:
    original = FIXTURE.read_bytes()
    path = tmp_path / "block.safetensors"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        block = open_block(path)
        for layer in range(block.shape[0]):
            block.layer(layer)

    read(original)
    for i in range(len(original)):
        flipped = bytearray(original)
        flipped[i] ^= 1
        for changed in (bytes(flipped), original[:i]):
            with pytest.raises(BlockFileError):
                read(changed)
    with pytest.raises(BlockFileError):
        read(original + b"\0")


def test_encode_block_writes_what_the_engine_did() -> None:
    pinned = open_block(FIXTURE)
    kv = np.stack([pinned.layer(layer) for layer in range(2)])
    with ThreadPoolExecutor(2) as threads:
        data = encode_block(kv, pinned.token_ids.tolist(), pinned.fields, threads)
    written = open_block(data)
    assert (written.fields, written.shape, written.start % 64) == (pinned.fields, pinned.shape, 0)
    assert written.layer_digests == pinned.layer_digests
    wanted = {"id": pinned.fields["id"], "kv_type": "f16"}
    written.require(pinned.shape, [5, 0, 70_000], wanted)
    with pytest.raises(BlockFileError, match="tokens are others"):
        written.require(pinned.shape, [5, 0, 70_001], wanted)
    with pytest.raises(BlockFileError, match='kv_type is "f16", wanted "f32"'):
        written.require(pinned.shape, [5, 0, 70_000], {"kv_type": "f32"})
    with pytest.raises(BlockFileError, match="layer 1"):
        open_block(data[:-1] + bytes([data[-1] ^ 1])).layer(1)


def test_ids_are_the_engine_s() -> None:
    # As blockId() and ownerName() of src/kv/block-id.ts give them.
    model = "0123456789abcdef" * 4
    plain = block_id(model, "f32", "ü", [5, 0, 70_000])
    assert plain == "df65666702f2eb29ff372cc2df59c2414c2c84fb9427bbef2bc9eabe19ceca1b"
    seen = block_id(model, "f32", "", [5, 0, 70_000], "f" * 64)
    assert seen == "e51502472ab484432ca60c1f06ceedd9350a3ba58ffcd939a7815ed4d295fc2e"
    assert owner_name("ü") == "a5f0a872939f5f523793c36ff5346141864b7001f9a1c10118c342b5b49adf83"
