import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from block_attention_trainer.__main__ import main
from block_attention_trainer.embed import Embedder, EmbeddingError, serve

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(40))]
TEXTS = ["w1 w2 w3", "w4", "", " ".join(f"w{i % 40}" for i in range(30)), "w1 w2 w3 w4 w5 w6 w7", "w9 nowhere"]


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def tiny_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        initializer_range=0.5,
        max_position_embeddings=24,
    )


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 24 positions, without a pooler, as contriever comes."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    BertModel(tiny_config(), add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def written_out(folder: Path, text: str) -> list[float]:
    """The mean of a text's own hidden states, one text at a time and a number at a time."""
    ids = [2, *(WORDS.index(w) if w in WORDS else 1 for w in text.split()), 3]
    ids = [*ids[:23], 3] if len(ids) > 24 else ids
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
    return [sum(float(states[t, d]) for t in range(len(ids))) / len(ids) for d in range(states.shape[1])]


def test_embed_is_the_mean_of_the_last_hidden_states(bert: Path) -> None:
    embeddings = Embedder(bert, 4).embed(TEXTS)
    assert embeddings.dtype == torch.float32
    for text, embedding in zip(TEXTS, embeddings.tolist(), strict=True):
        assert embedding == pytest.approx(written_out(bert, text), abs=1e-5)
    # Not normalized, and not all the same.
    norms = embeddings.norm(dim=1)
    assert norms.max() - norms.min() > 1e-2


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_embed_is_the_same_in_batches_of_any_size(bert: Path, batch_size: int) -> None:
    alone = torch.cat([Embedder(bert, 1).embed([text]) for text in TEXTS])
    torch.testing.assert_close(Embedder(bert, batch_size).embed(TEXTS), alone, atol=1e-5, rtol=0)
    backwards = Embedder(bert, batch_size).embed(TEXTS[::-1])
    torch.testing.assert_close(backwards.flip(0), alone, atol=1e-5, rtol=0)


def test_embed_is_the_same_whatever_stands_beside_it(bert: Path) -> None:
    embedder = Embedder(bert, 8)
    short = embedder.embed(["w1 w2"])
    # Beside a long text the short one is padded with a word that means something elsewhere.
    embedder.tokenizer.pad_token_id = 7
    torch.testing.assert_close(embedder.embed(["w1 w2", TEXTS[3]])[:1], short, atol=1e-5, rtol=0)
    assert embedder.embed([]).shape == (0, 16)


def test_embed_reads_bin_files_and_weights_with_a_pooler(bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = BertModel(tiny_config())
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    by_safetensors = Embedder(tmp_path, 2).embed(TEXTS)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    torch.testing.assert_close(Embedder(tmp_path, 2).embed(TEXTS), by_safetensors, atol=0, rtol=0)
    assert not torch.allclose(Embedder(bert, 2).embed(TEXTS), by_safetensors, atol=1e-2)


def test_embed_counts_positions_as_roberta_does(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=20, pad_token_id=0, type_vocab_size=1,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    embedder = Embedder(tmp_path, 2)
    assert embedder.max_tokens == 19
    assert embedder.embed([TEXTS[3]]).isfinite().all()


def test_embed_refuses_models_that_are_not_whole(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="it is no folder"):
        Embedder(tmp_path / "nowhere", 1)
    with pytest.raises(EmbeddingError, match="Cannot load an embedding model"):
        Embedder(tmp_path, 1)
    with pytest.raises(EmbeddingError, match="the batch size is 0, wanted 1 or more"):
        Embedder(bert, 0)
    model = BertModel.from_pretrained(bert, add_pooling_layer=False)
    state = {key: value for key, value in model.state_dict().items() if "layer.1.output" not in key}
    model.config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(EmbeddingError, match=r'its weights lack "encoder\.layer\.1\.output'):
        Embedder(tmp_path, 1)
    (tmp_path / "pytorch_model.bin").write_bytes((tmp_path / "pytorch_model.bin").read_bytes()[:1000])
    with pytest.raises(EmbeddingError, match="Cannot load an embedding model"):
        Embedder(tmp_path, 1)


def test_serve_answers_each_line_in_order(bert: Path) -> None:
    embedder = Embedder(bert, 2)
    answers: list[str] = []
    lines = [json.dumps({"texts": texts}) for texts in (TEXTS[:2], [], TEXTS[2:])]
    serve(embedder, lines, answers.append)
    ready, *rest = [json.loads(answer) for answer in answers]
    assert ready == {"dimensions": 16}
    rows = [np.frombuffer(base64.b64decode(row), "<f4") for answer in rest for row in answer["embeddings"]]
    np.testing.assert_allclose(np.stack(rows), embedder.embed(TEXTS).numpy(), atol=1e-5)
    assert [len(answer["embeddings"]) for answer in rest] == [2, 0, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{no json", "Cannot embed line 1: it is no JSON object"),
        ("[1]", "Cannot embed line 1: it is no JSON object"),
        ('{"texts": "w1"}', 'Cannot embed line 1: its "texts" are no list of texts'),
        ('{"texts": [1]}', 'Cannot embed line 1: its "texts" are no list of texts'),
    ],
)
def test_serve_names_a_line_that_is_none(bert: Path, line: str, message: str) -> None:
    with pytest.raises(EmbeddingError) as raised:
        serve(Embedder(bert, 2), [line], io.StringIO().write)
    assert str(raised.value) == message


def test_main_serves_standard_streams_and_nothing_else_stands_there(bert: Path) -> None:
    command = [sys.executable, "-m", "block_attention_trainer", "embed", "--model", str(bert), "--batch-size", "3"]
    line = json.dumps({"texts": ["w1 w2", "w3"]}) + "\n"
    done = subprocess.run(command, input=line + "{\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: Cannot embed line 2: it is no JSON object"
    ready, answer = [json.loads(each) for each in done.stdout.splitlines()]
    assert ready == {"dimensions": 16}
    assert len(answer["embeddings"]) == 2


def test_main_tells_a_missing_model_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--model", str(tmp_path / "none")]) == 1
    out, error = capfd.readouterr()
    assert error == f'error: Cannot load an embedding model from "{tmp_path / "none"}": it is no folder\n'
    assert out == ""
