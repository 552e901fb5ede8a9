"""Models of four kinds: every way of attending gives the same logits and gradients, packed or not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from factory import ARCHITECTURE, VOCAB_SIZE, random_samples, word_tokenizer, write
from torch import Tensor

from block_attention_trainer.attention import Attention
from block_attention_trainer.batch import Batch, Collator, Opening
from block_attention_trainer.evaluation import greedy_answer, target_logits
from block_attention_trainer.layout import MODES
from block_attention_trainer.models import (
    ModelError,
    check_config,
    load_model,
    load_tokenizer,
    longest_sample,
    opening_of,
    use_gradient_checkpointing,
)
from block_attention_trainer.packing import Item
from block_attention_trainer.samples import Limits, SampleFiles
from block_attention_trainer.settings import LoraSettings, ModelSettings

KINDS = ["llama", "mistral", "qwen2", "qwen3"]
BOUND = 1e-5
OPENING = Opening(0, (7, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    word_tokenizer(path / "tokenizer", bos=True)
    write(path / "train.parquet", random_samples(1, 12, group_size=3))
    write(path / "spans.parquet", random_samples(1, 12, group_size=3, spans=True))
    return path


def model_of(folder: Path, kind: str, attention: Attention, **architecture: Any) -> Any:
    torch.manual_seed(5)
    own = {"head_dim": 4} if kind == "qwen3" else {}
    settings = ModelSettings(architecture={**ARCHITECTURE, "model_type": kind, **own, **architecture})
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    return load_model(settings, attention, lora=None, dtype=torch.float32, tokenizer=tokenizer)


def collator(folder: Path, name: str = "train") -> Collator:
    files = SampleFiles([folder / f"{name}.parquet"])
    return Collator(files, files.index(Limits(VOCAB_SIZE, 99, OPENING.lengths())), OPENING)


PACKED = tuple(Item(mode, (3 * group, 3 * group + 1, 3 * group + 2), 0) for group in range(4) for mode in MODES)
UNPACKED = [(Item(mode, (i,), 0),) for mode in MODES for i in range(12)]


def loss_and_gradients(model: Any, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    total = 0.0
    num_targets = sum(len(batch.targets) for batch in batches)
    for batch in batches:
        loss = F.cross_entropy(target_logits(model, batch), batch.targets, reduction="sum") / num_targets
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal(one: tuple[float, dict[str, Tensor]], two: tuple[float, dict[str, Tensor]]) -> None:
    assert abs(one[0] - two[0]) < BOUND
    for name, gradient in one[1].items():
        assert (gradient - two[1][name]).abs().max() < BOUND, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["dense", "segments"])
@pytest.mark.parametrize("name", ["train", "spans"])
def test_packed_rows_give_the_loss_and_gradients_of_single_samples_by_cells(
    folder: Path, kind: str, attention: Attention, name: str
) -> None:
    collate = collator(folder, name)
    expected = loss_and_gradients(model_of(folder, kind, "cells"), [collate(row) for row in UNPACKED])
    assert_equal(loss_and_gradients(model_of(folder, kind, attention), [collate(PACKED)]), expected)


def test_gradient_checkpointing_changes_nothing(folder: Path) -> None:
    batch = collator(folder)(PACKED)
    expected = loss_and_gradients(model_of(folder, "llama", "segments"), [batch])
    model = model_of(folder, "llama", "segments")
    use_gradient_checkpointing(model)
    model.train()
    assert_equal(loss_and_gradients(model, [batch]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_full_mode_is_what_transformers_computes_as_it_is(folder: Path, kind: str) -> None:
    model = model_of(folder, kind, "segments").eval()
    batch = collator(folder)((Item("full", (4,), 0),))
    ours = target_logits(model, batch)
    model.set_attn_implementation("eager")
    theirs = model(input_ids=batch.input_ids).logits[0, batch.predictors]
    assert (ours - theirs).abs().max() < BOUND * 10


@pytest.mark.parametrize("mode", MODES)
def test_greedy_answer_is_the_likeliest_token_after_each_token_before(folder: Path, mode: Any) -> None:
    model = model_of(folder, "llama", "segments").eval()
    collate = collator(folder)
    batch = collate((Item(mode, (4,), 0),))
    answer = greedy_answer(model, batch, {1}, torch.device("cpu"))
    assert len(answer) > 0
    prompt = int(batch.predictors[0]) + 1
    ids = torch.cat([batch.input_ids[0, :prompt], torch.tensor(answer)])
    layout = batch.layout
    segment = layout.segment[0, :prompt].tolist() + [int(layout.segment[0, prompt - 1])] * len(answer)
    local = [s != segment[-1] for s in segment]
    rows = len(ids)
    mask = torch.tensor(
        [[k <= q and (segment[q] == segment[k] or (not local[q])) for k in range(rows)] for q in range(rows)]
    )
    model.set_attn_implementation("sdpa")
    logits = model(input_ids=ids[None], attention_mask=mask[None, None]).logits[0]
    assert logits[prompt - 1 : -1].argmax(-1).tolist() == answer


def test_load_model_refuses_what_it_cannot_train(folder: Path) -> None:
    with pytest.raises(ModelError, match='"llama" has no key "hidden"'):
        model_of(folder, "llama", "dense", hidden=3)
    with pytest.raises(ModelError, match='knows no "model_type" "lama"'):
        model_of(folder, "lama", "dense")
    with pytest.raises(ModelError, match='its "vocab_size" is 10, the tokenizer has 64 tokens'):
        model_of(folder, "llama", "dense", vocab_size=10)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ModelError, match='its RoPE is "dynamic"'):
        model_of(folder, "llama", "dense", rope_parameters=rope)
    with pytest.raises(ModelError, match=r'Cannot load a tokenizer from ".*nowhere"'):
        load_tokenizer(str(folder / "nowhere"))


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is CUDA here, so that QLoRA is not refused for its absence"
)
def test_load_model_refuses_qlora_without_cuda(folder: Path, tmp_path: Path) -> None:
    model_of(folder, "llama", "dense").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    with pytest.raises(ModelError, match=r'Cannot use "lora.quantize": "4bit" needs CUDA, there is none here'):
        load_model(
            ModelSettings(path=str(tmp_path)),
            "dense",
            lora=LoraSettings(quantize="4bit"),
            dtype=torch.float32,
            tokenizer=tokenizer,
        )


def test_longest_sample_knows_sliding_windows(folder: Path) -> None:
    assert longest_sample(model_of(folder, "mistral", "dense", sliding_window=32).config) == 32
    assert longest_sample(model_of(folder, "llama", "dense").config) == 256
    assert longest_sample(model_of(folder, "qwen2", "dense", use_sliding_window=False).config) == 256


def test_opening_of_puts_bos_where_the_tokenizer_does(folder: Path, tmp_path: Path) -> None:
    assert opening_of(load_tokenizer(str(folder / "tokenizer")), "w7 w8") == Opening(0, (7, 8))
    assert opening_of(load_tokenizer(str(word_tokenizer(tmp_path))), "") == Opening(None, ())


@pytest.mark.parametrize(
    ("config", "has_template", "expected"),
    [
        ({"add_bos_token": True}, False, Opening(0, ())),
        ({"add_bos_token": True, "tokenizer_class": "LlamaTokenizerFast"}, False, Opening(0, ())),
        ({"tokenizer_class": "LlamaTokenizerFast"}, False, Opening(0, ())),
        ({}, False, Opening(None, ())),
        ({"add_bos_token": False}, True, Opening(None, ())),
        ({"add_bos_token": True}, True, Opening(0, ())),
    ],
)
def test_bos_stands_where_the_engine_puts_it_before_and_after_saving(
    tmp_path: Path, config: dict[str, Any], has_template: bool, expected: Opening
) -> None:
    before = word_tokenizer(tmp_path / "before", bos=has_template)
    path = before / "tokenizer_config.json"
    written = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "w0", "eos_token": "w1", "pad_token": "w2"}
    path.write_text(json.dumps({**written, **config}))
    tokenizer = load_tokenizer(str(before))
    assert opening_of(tokenizer, "") == expected
    after = str(tmp_path / "after")
    tokenizer.save_pretrained(after)
    assert opening_of(load_tokenizer(after), "") == expected


def test_check_config_refuses_encoders() -> None:
    from transformers import T5Config

    with pytest.raises(ModelError, match="it has an encoder"):
        check_config(T5Config())
