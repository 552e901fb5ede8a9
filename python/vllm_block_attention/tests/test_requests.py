"""What requests may ask for."""

import pytest

from vllm_block_attention.requests import Naming, RefusedError, plan

NAMING = Naming("0" * 64, "f32")


def test_plan_names_blocks_by_their_own_tokens() -> None:
    one = plan({"block_attention": {"blocks": [2, 3]}}, [5, 6, 7, 8, 9, 1], NAMING)
    other = plan({"block_attention": {"blocks": [3, 2]}}, [7, 8, 9, 5, 6, 1], NAMING)
    alone = plan({"block_attention": {"encode": True}}, [7, 8, 9], NAMING)
    assert one is not None
    assert other is not None
    assert alone is not None
    assert [block.start for block in one.blocks] == [0, 2]
    assert [block.id for block in one.blocks] == [block.id for block in reversed(other.blocks)]
    assert (alone.blocks[0].id, alone.encodes, alone.cache_salt) == (one.blocks[1].id, True, None)
    assert one.cache_salt != other.cache_salt
    assert plan({"other": 1}, [1], NAMING) is None
    assert plan(None, [1], NAMING) is None


def test_plan_keeps_tenants_apart() -> None:
    salted = [plan({"block_attention": {"blocks": [1], "salt": salt}}, [5, 6], NAMING) for salt in ("a", "b")]
    ids = {(each.blocks[0].id, each.blocks[0].owner, each.cache_salt) for each in salted if each is not None}
    assert len({each for column in zip(*ids, strict=True) for each in column}) == 6


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "is a list, wanted an object"),
        ({}, "wanted either"),
        ({"encode": True, "blocks": [1]}, "wanted either"),
        ({"encode": "yes"}, "wanted either"),
        ({"blocks": [1], "repair": "x"}, 'has "repair"'),
        ({"blocks": [0]}, "no list of lengths"),
        ({"blocks": [True]}, "no list of lengths"),
        ({"blocks": 3}, "no list of lengths"),
        ({"blocks": [2, 1]}, "wanted 1 or more for the final block"),
        ({"blocks": [1], "salt": 3}, "wanted text"),
    ],
)
def test_plan_refuses_by_name(asked: object, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        plan({"block_attention": asked}, [5, 6, 7], NAMING)
