"""Embeddings: names in a prompt that stand for learned vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_generate import folder, settings  # noqa: F401
from test_host_prompt_encoding import WordTokenizer, clip  # noqa: F401
from torch import Tensor, nn

from lora_ext.errors import FileError
from lora_ext.file.loading import assemble_lora_file
from lora_ext.generate import GenerationReport, generate, load_settings_model, main
from lora_ext.host import infotext
from lora_ext.host.standalone.embeddings import (
    Embedding,
    EmbeddingTable,
    bundled_embeddings,
    embeddings_in_folders,
    load_embedding,
    replaced_token_embeddings,
)
from lora_ext.host.standalone.prompt_encoding import CHUNK_TOKENS, TextEncoder, tokenize_prompt


def of(name: str, vectors: Tensor) -> Embedding:
    return Embedding(name, lambda: {"emb_params": vectors}, lambda: name)


def known(*embeddings: Embedding, widths: tuple[int, ...] = (16,)) -> EmbeddingTable:
    return EmbeddingTable(WordTokenizer().encode, widths, embeddings)


def test_the_longest_name_wins_and_takes_its_tokens() -> None:
    one, two = of("aa", torch.zeros(1, 16)), of("aa bbb", torch.zeros(2, 16))
    (chunk,) = tokenize_prompt("c aa bbb aa dddd", WordTokenizer(), known(one, two))
    assert chunk.embedding_rows == ((2, two, 0), (3, two, 1), (4, one, 0))
    assert chunk.tokens[:6] == (62, 1, 0, 0, 0, 4)


def test_emphasis_reaches_an_embedding() -> None:
    (chunk,) = tokenize_prompt("(aa:1.5)", WordTokenizer(), known(of("aa", torch.zeros(3, 16))))
    assert chunk.weights[:5] == (1, 1.5, 1.5, 1.5, 1)


def test_an_embedding_is_never_cut_by_a_chunks_end() -> None:
    first, second = tokenize_prompt(
        "ccc " * (CHUNK_TOKENS - 2) + "aa ccc", WordTokenizer(), known(of("aa", torch.zeros(3, 16)))
    )
    assert not first.embedding_rows and [at for at, _, _ in second.embedding_rows] == [1, 2, 3]
    (whole,) = tokenize_prompt("aa", WordTokenizer(), known(of("aa", torch.zeros(200, 16))))
    assert len(whole.embedding_rows) == CHUNK_TOKENS


def test_an_embedding_moves_on_with_its_words() -> None:
    """A chunk that is cut after a comma takes the embedding behind it along (the web UI leaves it behind)."""
    first, second = tokenize_prompt(
        "ccc " * 68 + ", aa" + " ccc" * 7, WordTokenizer(), known(of("aa", torch.zeros(2, 16)))
    )
    assert not first.embedding_rows and [at for at, _, _ in second.embedding_rows] == [1, 2]


def test_the_vectors_reach_the_encoder_and_gradients_reach_them(clip: nn.Module) -> None:  # noqa: F811
    table = clip.get_input_embeddings().weight.detach()
    vectors = table[[5, 9]].clone().requires_grad_()
    parts = tokenize_prompt("c aa c", WordTokenizer(), known(of("aa", vectors)))
    state, _ = TextEncoder(clip).encode_each_prompt([parts], 63, vectors_of=lambda e: e.content["emb_params"])
    plain = clip(torch.tensor([[62, 1, 5, 9, 1, *[63] * 72]])).last_hidden_state
    assert torch.allclose(state, plain, atol=1e-6)
    state.square().sum().backward()
    assert vectors.grad is not None and bool(vectors.grad.abs().sum(1).gt(0).all())
    assert not clip.get_input_embeddings()._forward_hooks


def test_hooks_leave_after_an_error(clip: nn.Module) -> None:  # noqa: F811
    with pytest.raises(ZeroDivisionError), replaced_token_embeddings(clip, {1: torch.zeros(16)}):
        1 / 0  # noqa: B018
    assert not clip.get_input_embeddings()._forward_hooks


def test_what_does_not_fit_stays_text() -> None:
    table = known(of("aa", torch.zeros(1, 20)))
    (chunk,) = tokenize_prompt("aa", WordTokenizer(), table)
    assert not chunk.embedding_rows and chunk.tokens[1] == 2 and "20" in table.skipped["aa"]


def test_two_encoders_get_their_own_vectors() -> None:
    pair = {"clip_g": torch.ones(2, 24), "clip_l": torch.zeros(2, 16)}
    rows = Embedding("x", lambda: pair).vectors_for((16, 24))
    assert rows is not None and rows[0] is not rows[1] and rows[0].shape == (2, 16) and rows[1].shape == (2, 24)
    assert Embedding("x", lambda: {"emb_params": torch.ones(2, 16)}).vectors_for((16, 24)) is None
    assert Embedding("x", lambda: pair).vectors_for((16, 32)) is None


def test_files(tmp_path: Path) -> None:
    vectors = torch.randn(2, 16)
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "x"}, tmp_path / "webui.pt")
    torch.save({"<cat>": vectors[0]}, tmp_path / "concept.bin")
    save_file({"emb_params": vectors}, tmp_path / "plain.safetensors")
    (tmp_path / "sub").mkdir()
    save_file({"clip_l": vectors, "clip_g": vectors.clone()}, tmp_path / "sub" / "xl.safetensors")
    (tmp_path / "notes.txt").write_text("nothing")
    found = {embedding.name: embedding for embedding in embeddings_in_folders([tmp_path])}
    assert found.keys() == {"webui", "concept", "plain", "xl"}
    for name in ("webui", "plain"):
        (rows,) = found[name].vectors_for((16,)) or ()
        assert torch.equal(rows, vectors)
    (row,) = found["concept"].vectors_for((16,)) or ()
    assert torch.equal(row, vectors[:1]) and len(found["plain"].hash()) == 12
    torch.save({"a": 1}, tmp_path / "none.pt")
    with pytest.raises(FileError, match="not a textual-inversion"):
        load_embedding(tmp_path / "none.pt")
    with pytest.raises(FileError, match="not a folder"):
        embeddings_in_folders([tmp_path / "gone"])


def test_a_damaged_file_is_reported_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "aa.pt").write_bytes(b"\x80nonsense")
    table = EmbeddingTable(WordTokenizer().encode, (16,), embeddings_in_folders([tmp_path]))
    assert not tokenize_prompt("aa", WordTokenizer(), table)[0].embedding_rows and "damaged" in table.skipped["aa"]


def test_a_lora_files_own_embedding() -> None:
    vectors = torch.randn(1, 16)
    file = assemble_lora_file({"bundle_emb.zz.string_to_param.*": vectors}, {}, Path("style.safetensors"))
    (own,) = bundled_embeddings([file])
    assert own.name == "zz" and own.hash() == "style" and torch.equal((own.vectors_for((16,)) or ())[0], vectors)


def test_pictures_with_embeddings(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """A name in the prompt changes the picture, from a folder and from a LoRA file, and the infotext tells it."""
    model = load_settings_model(settings(folder))
    width = model.text_encoders[0].module.config.hidden_size
    loras = tmp_path / "loras"
    loras.mkdir()
    save_file({"bundle_emb.qq.string_to_param.*": torch.randn(2, width)}, loras / "kit.safetensors")
    embeddings_folder = tmp_path / "embeddings"
    embeddings_folder.mkdir()
    save_file({"emb_params": torch.randn(1, width)}, embeddings_folder / "ww.safetensors")
    save_file({"emb_params": torch.randn(1, 5)}, embeddings_folder / "vv.safetensors")

    def draw(prompt: str, report: GenerationReport | None = None) -> tuple[bytes, str]:
        run = settings(folder, prompt=prompt, lora_dir=(loras,), embeddings=(embeddings_folder,))
        (image,) = generate(run, model=model, report=report)
        return image.tobytes(), image.info[infotext.PARAMETERS_KEY]

    plain, _ = draw("a qq")
    with_file, text = draw("a qq <lora:kit:1>")
    assert plain != with_file and "TI hashes: qq: kit" in infotext_line(text)
    report = GenerationReport()
    with_folder, text = draw("a ww, vv", report)
    assert "TI hashes: ww: " in infotext_line(text) and with_folder != plain
    assert len(report.notes) == 1 and "'vv'" in report.notes[0]
    command = ["--prompt", "vv", "--ckpt", str(folder / "SD1.safetensors"), "--embeddings", str(embeddings_folder)]
    command += ["--steps", "1", "--width", "64", "--height", "64", "--device", "cpu", "--out", str(tmp_path)]
    assert main(command) == 0 and "'vv' is not used" in capsys.readouterr().err


def infotext_line(text: str) -> str:
    """The line of parameters, quotes aside."""
    return text.splitlines()[-1].replace('"', "")
