"""Every way of attending against the mask written out cell by cell, and the layout against the paper's own example."""

import shutil

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from block_attention_trainer.attention import Attention, attend, block_mask, mask_by_cells
from block_attention_trainer.layout import PLAIN, Encoding, Layout, Mode, Segment, shared_context

BOUND = 1e-5


def random_row(rng: np.random.Generator, num_samples: int) -> list[list[Segment]]:
    """Samples of both modes, with and without context, one or several questions, empty blocks among the local ones."""
    row: list[list[Segment]] = []
    for _ in range(num_samples):
        mode: Mode = "block" if rng.random() < 0.6 else "full"
        context = [int(n) for n in rng.integers(0, 9, rng.integers(0, 5))]
        num_questions = int(rng.integers(1, 4)) if sum(context) else 1
        finals = [int(n) for n in rng.integers(1, 7, num_questions)]
        is_global = [bool(x) for x in rng.integers(0, 2, len(context))]
        encoding = Encoding((1,) * int(rng.integers(0, 4)), (2,) * int(rng.integers(0, 3)), bool(rng.integers(0, 2)))
        chosen = encoding if rng.random() < 0.7 else PLAIN
        opening = int(rng.integers(0, 3))
        row.append(shared_context(opening, context, finals, mode, is_global=is_global, encoding=chosen))
    return row


def random_layout(seed: int) -> Layout:
    rng = np.random.default_rng(seed)
    rows = [random_row(rng, int(rng.integers(1, 5))) for _ in range(int(rng.integers(1, 4)))]
    return Layout.of_rows(rows, multiple=int(rng.choice([1, 1, 16])))


def random_qkv(layout: Layout, heads: int, kv_heads: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    rows, length = layout.shape
    q, k, v = (torch.randn(rows, length, h, 8).transpose(1, 2).requires_grad_() for h in (heads, kv_heads, kv_heads))
    return q, k, v


def test_layout_of_rows_gives_the_masks_of_the_paper() -> None:
    layout = Layout.of_rows([[shared_context(0, [1, 2], [1], "block")]])
    assert layout.dense_mask[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]
    assert layout.position.tolist() == [[0, 1, 2, 3]]


ENCODINGS = (PLAIN, Encoding(lead=(1, 2, 3)), Encoding(sinks=(4, 4)), Encoding((), (4,), True), Encoding((), (), True))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("seed", range(12))
def test_every_way_of_attending_follows_the_spans(seed: int, encoding: Encoding) -> None:
    """Against the rule said of spans, without a layout: who sees whom, and where each token stands."""
    rng = np.random.default_rng(seed)
    num_spans, num_questions = int(rng.integers(1, 8)), int(rng.integers(1, 4))
    spans = [(bool(rng.integers(0, 2)), int(n)) for n in rng.integers(1, 6, num_spans)]
    finals = [int(n) for n in rng.integers(1, 6, num_questions)]
    opening = int(rng.integers(0, 3))
    is_global, lengths = [list(x) for x in zip(*spans, strict=True)]
    segments = shared_context(opening, lengths, finals, "block", is_global=is_global, encoding=encoding)
    layout = Layout.of_rows([[segments]])
    # Of each token: its span, whether that sees all before it, whose it is: a question's, or all questions' (-1); and
    # whether it is of a lead-in.
    tokens: list[tuple[int, bool, int, bool]] = []
    places: list[int] = []
    position = 0
    for s, (kind, n) in enumerate(spans):
        fronted = s > 0 and not kind
        lead = len(encoding.lead) if fronted else 0
        kept = n + (opening if s == 0 else 0) + (len(encoding.sinks) if fronted else 0)
        tokens += [(s, kind, -1, True)] * lead + [(s, kind, -1, False)] * kept
        places += [*range(position - lead, position + kept)]
        position += kept
    for i, n in enumerate(finals):
        tokens += [(num_spans + i, True, i, False)] * n
        places += [*range(position, position + n)]
    sees_preamble = encoding.sees_preamble and not is_global[0]
    expected = torch.tensor(
        [
            [
                k <= q
                and (
                    span == other
                    or (sees_all and asked in (-1, question) and not is_lead)
                    or (sees_preamble and other == 0)
                )
                for k, (other, _, asked, is_lead) in enumerate(tokens)
            ]
            for q, (span, sees_all, question, _) in enumerate(tokens)
        ]
    )
    assert torch.equal(layout.dense_mask[0, 0], expected)
    flex = create_mask(block_mask(layout).mask_mod, 1, 1, len(tokens), len(tokens), device="cpu")
    assert torch.equal(flex[0, 0], expected)
    assert layout.position[0].tolist() == places
    q, k, v = (x.detach() for x in random_qkv(layout, 4, 2, seed))
    by_mask = scaled_dot_product_attention(q, k, v, attn_mask=expected, enable_gqa=True)
    assert (attend("segments", q, k, v, layout) - by_mask).abs().max() < BOUND


def test_a_lead_in_is_seen_by_its_block_alone_and_stands_right_before_it() -> None:
    spans = shared_context(0, [1, 2], [1], "block", encoding=Encoding(lead=(9, 9)))
    layout = Layout.of_rows([[spans]])
    assert layout.dense_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 1],
    ]
    assert layout.position.tolist() == [[0, -1, 0, 1, 2, 3]]


def test_a_global_span_sees_earlier_local_ones_and_a_local_one_sees_no_global_one() -> None:
    spans = shared_context(0, [1, 1, 1], [1], "block", is_global=[False, True, False])
    layout = Layout.of_rows([[spans]])
    assert layout.dense_mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]]


def test_layout_of_rows_restarts_positions_for_each_sample_and_each_question() -> None:
    row = [shared_context(1, [2], [1, 2], "block"), shared_context(1, [2], [2], "full")]
    layout = Layout.of_rows([row], multiple=8)
    assert layout.position[0, :11].tolist() == [0, 1, 2, 3, 3, 4, 0, 1, 2, 3, 4]
    assert layout.segment[0].tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 3] + [-1] * 5
    assert layout.shape == (1, 16)
    assert not layout.dense_mask[0, 0, 4, 3], "questions over one context do not see each other"


def test_shared_context_refuses_a_final_block_without_tokens() -> None:
    with pytest.raises(ValueError, match="Cannot lay out a sample: its final block has no tokens"):
        shared_context(0, [3], [0], "block")


def test_shared_context_in_full_mode_is_plain_causal() -> None:
    layout = Layout.of_rows([[shared_context(1, [2, 3], [4], "full")]])
    assert torch.equal(layout.dense_mask[0, 0], torch.ones(10, 10, dtype=torch.bool).tril())


@pytest.mark.parametrize("seed", range(40))
def test_dense_mask_equals_the_cells(seed: int) -> None:
    layout = random_layout(seed)
    assert torch.equal(layout.dense_mask, mask_by_cells(layout))


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("attention", ["dense", "segments"])
@pytest.mark.parametrize("seed", range(25))
def test_attend_equals_the_cells_forward_and_backward(seed: int, attention: Attention, heads: tuple[int, int]) -> None:
    layout = random_layout(seed)
    weights = torch.randn(*layout.shape, generator=torch.Generator().manual_seed(seed))
    # What padding gives is never used.
    weights = torch.where(layout.sample >= 0, weights, 0.0)[:, None, :, None]
    expected, actual = random_qkv(layout, *heads, seed), random_qkv(layout, *heads, seed)
    output = attend("cells", *expected, layout)
    output_actual = attend(attention, *actual, layout)
    used = (layout.sample >= 0)[:, None, :, None]
    assert (output - output_actual).mul(used).abs().max() < BOUND
    (output.sin() * weights).sum().backward()
    (output_actual.sin() * weights).sum().backward()
    for x, y in zip(expected, actual, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert (x.grad - y.grad).abs().max() < BOUND


@pytest.mark.parametrize("seed", range(6))
def test_attend_flex_equals_the_cells_forward(seed: int) -> None:
    layout = random_layout(seed)
    q, k, v = (x.detach() for x in random_qkv(layout, 4, 2, seed))
    used = (layout.sample >= 0)[:, None, :, None]
    difference = attend("cells", q, k, v, layout) - attend("flex", q, k, v, layout)
    assert difference.mul(used).abs().max() < BOUND


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for CPUs needs g++; there is none here")
def test_attend_flex_compiled_equals_the_cells_forward() -> None:
    layout = random_layout(3)
    q, k, v = (x.detach().contiguous() for x in random_qkv(layout, 4, 2, 3))
    compiled = torch.compile(flex_attention)(q, k, v, block_mask=block_mask(layout), enable_gqa=True)
    assert isinstance(compiled, Tensor)
    used = (layout.sample >= 0)[:, None, :, None]
    assert (attend("cells", q, k, v, layout) - compiled).mul(used).abs().max() < BOUND


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has no backward pass on CPUs; no CUDA here")
@pytest.mark.parametrize("seed", range(6))
def test_attend_flex_equals_the_cells_backward_on_cuda(seed: int) -> None:
    layout = random_layout(seed).to("cuda")
    q, k, v = (x.detach().cuda().requires_grad_() for x in random_qkv(layout, 4, 2, seed))
    q2, k2, v2 = (x.detach().clone().requires_grad_() for x in (q, k, v))
    attend("cells", q, k, v, layout).sin().sum().backward()
    attend("flex", q2, k2, v2, layout).sin().sum().backward()
    for x, y in zip((q, k, v), (q2, k2, v2), strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert (x.grad - y.grad).abs().max() < 1e-3, "TF32 is off by default, tiles sum in another order"
