"""Pivotal tuning: batches without the word, words with punctuation or beside it, and words that cannot be learned."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_trainable_model import RecordingHost
from tiny_trainable_model import recipe as tiny_recipe
from tiny_trainable_model import tiny_model as tiny_trainable_model

from lora_ext import embedded
from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.generate import GenerationReport, Settings, generate
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.lora_tags import surround_with_spaces
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_check import recipe_advice, recipe_problems
from lora_ext.train.config.recipe_io import recipe_from_settings, settings_from_recipe
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.run.textual_inversion import TrainableEmbedding
from lora_ext.train.run.training_run import TrainingRun
from lora_ext.training.standalone_run import open_trainable_model

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def real() -> StandaloneTrainableModel:
    """The embedded model, whose tokenizer takes runs of punctuation as one piece, as CLIP's does."""
    return open_trainable_model(Recipe())


def pictures(folder: Path, captions: list[str], concept: str = "1_thing") -> Path:
    where = folder / concept
    where.mkdir(parents=True)
    for number, caption in enumerate(captions):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / f"{number}.png")
        (where / f"{number}.txt").write_text(caption, encoding="utf-8")
    return folder


def recipe(folder: Path, captions: list[str], **more: Any) -> Recipe:
    data = folder / "data"
    if not data.is_dir():
        pictures(data, captions)
    settings: dict[str, Any] = {"resolution": "64", "network_dim": 2, "seed": 5, "max_train_steps": 1}
    settings |= {"train_data_dir": str(data), "output_dir": str(folder / "out"), "inversion_steps": 4}
    return recipe_from_settings({**settings, "inversion_lr": 0.1, **more})


def trained(real: StandaloneTrainableModel, made: Recipe) -> tuple[torch.Tensor, TrainingRun, str]:
    shell = RecordingHost()
    run = TrainingRun(real, made, shell)
    run.run()
    (vectors,) = load_lora_file(run.folder / "last.safetensors").embeddings[str(made.token_string)].values()
    return vectors, run, "\n".join(shell.said)


@pytest.mark.parametrize(
    ("text", "word", "apart"),
    [
        ("a photo of <s1>, red", "<s1>", "a photo of <s1> , red"),
        ("(<s1>)", "<s1>", "( <s1> )"),
        ("<s1>", "<s1>", "<s1>"),
        ("s*, x", "s*", "s* , x"),
        ("cats*, cats", "s*", "cats*, cats"),
        ("a sks, dog", "sks", "a sks, dog"),
        ("sksy", "sks", "sksy"),
        ("a <ZZ>,<zz>.", "<zz>", "a <ZZ> , <zz> ."),
        ("a+b", "+", "a + b"),
        ("(a-b)", "a-b", "(a-b)"),
        ("(-b-)", "-b-", "( -b- )"),
        ("-ab, ab-, -ab", "ab-", "-ab, ab- , -ab"),
        ("", "sks", ""),
        ("a", "", "a"),
    ],
)
def test_a_word_is_apart_from_punctuation(text: str, word: str, apart: str) -> None:
    assert surround_with_spaces(text, word) == apart
    assert surround_with_spaces(apart, word) == apart, "once is enough"


@pytest.mark.long
@pytest.mark.parametrize(
    ("word", "captions"),
    [
        ("<s1>", ["a photo of <s1>, red", "(<s1>) in the snow", "<s1>"]),
        ("s*", ["s*, a disc", "a disc of s*.", "s*!"]),
        ("<zz>", ["<zz>, red", "red,<zz>,blue", "<ZZ>,"]),
        ("[v]", ["a [v], red", "[v]", "([v])"]),
        ("zzqx", ["zzqx, red", "a (zzqx) hat", "zzqx's"]),
        ("my_word", ["my_word, red", "a my_word", "my_word"]),
    ],
)
def test_words_beside_punctuation_are_learned(
    real: StandaloneTrainableModel, tmp_path: Path, word: str, captions: list[str]
) -> None:
    made = recipe(tmp_path, captions, token_string=word, init_word="disc")
    begun = real.token_embeddings("disc", 1)[0]
    vectors, run, said = trained(real, made)
    assert (vectors - begun).abs().max() > 0.02
    assert "was put into" not in said and "did not train it" not in said, "all of them had it"
    with real.with_token_embedding(word, [vectors]):
        assert all(real.count_token_uses(word, p.caption, 75) == 1 for p in run.data.images)


def test_the_word_takes_the_initial_words_place_beside_punctuation(
    real: StandaloneTrainableModel, tmp_path: Path
) -> None:
    made = recipe(tmp_path, ["a red disc, on white", "(disc)", "sky", "discs"], token_string="<s1>", init_word="disc")
    _, run, said = trained(real, made)
    captions = [p.caption for p in run.data.images]
    assert captions == ["a red <s1> , on white", "( <s1> )", "<s1> sky", "<s1> discs"]
    assert "'<s1>' was put into 4 captions that did not contain it" in said


def test_a_name_inside_another_word_is_not_the_word(real: StandaloneTrainableModel, tmp_path: Path) -> None:
    """`sks` in `sksy` is no sks: such a batch ended in a traceback."""
    vectors, run, said = trained(real, recipe(tmp_path, ["a sksy hat", "SKS hat"], token_string="sks"))
    assert [p.caption for p in run.data.images] == ["sks a sksy hat", "SKS hat"]
    assert "was put into 1 caption" in said and vectors.shape == (1, 128)


@pytest.mark.long
def test_batches_without_the_word_teach_it_nothing_and_are_counted(
    real: StandaloneTrainableModel, tmp_path: Path
) -> None:
    """Regularisation pictures keep their captions; half of the batches have no other."""
    pictures(tmp_path / "reg", ["a disc", "a ring"], "1_disc")
    more = {"reg_data_dir": str(tmp_path / "reg"), "token_string": "<s1>", "init_word": "disc", "inversion_steps": 8}
    made = recipe(tmp_path, ["<s1>, red", "<s1>"], **more)
    vectors, _, said = trained(real, made)
    assert "4 of 8 batches had no caption with '<s1>' and did not train it" in said
    assert (vectors - real.token_embeddings("disc", 1)[0]).abs().max() > 0.02


@pytest.mark.long
def test_dropped_captions_teach_nothing_and_all_dropped_is_an_error(
    real: StandaloneTrainableModel, tmp_path: Path
) -> None:
    made = recipe(tmp_path, ["<s1>"] * 4, token_string="<s1>", caption_dropout_rate=0.5, inversion_steps=8)
    assert "batches had no caption with '<s1>'" in trained(real, made)[2]
    with pytest.raises(TrainError, match="no batch had a caption with '<s1>'; lower caption_dropout_rate"):
        trained(real, recipe(tmp_path, [], token_string="<s1>", caption_dropout_rate=1.0))


@pytest.mark.long
def test_a_word_that_is_cut_off_is_reported_before_the_run(real: StandaloneTrainableModel, tmp_path: Path) -> None:
    made = recipe(tmp_path, ["a"], token_string="<s1>", caption_prefix="red " * 90)
    with pytest.raises(TrainError, match=r"is not read in 1 of 1 caption, .*75 tokens is cut off; shorten"):
        trained(real, made)
    assert not list((tmp_path / "out").glob("*.safetensors"))
    made = recipe(tmp_path, [], token_string="<s1>", caption_prefix="red " * 90, max_token_length=225)
    assert trained(real, made)[0].shape == (1, 128)


def test_a_prefix_may_have_the_word(real: StandaloneTrainableModel, tmp_path: Path) -> None:
    _, run, said = trained(real, recipe(tmp_path, ["red"], token_string="<s1>", caption_prefix="a <s1>,"))
    assert "was put into" not in said and run.data.images[0].caption == "red"
    assert run.data.subsets[0].caption_rules.caption_prefix == "a <s1> ,"


def test_a_word_that_regularisation_captions_have_is_reported(real: StandaloneTrainableModel, tmp_path: Path) -> None:
    pictures(tmp_path / "reg", ["a disc"], "1_disc")
    made = recipe(tmp_path, ["a disc"], token_string="disc", reg_data_dir=str(tmp_path / "reg"))
    assert "'disc' is in 1 caption of regularisation pictures" in trained(real, made)[2]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("my.word", "has a '.', at which"),
        ("a,b", "has a ',', which separates"),
        (" sks", "begins or ends with a space"),
        ("sks\n", "begins or ends with a space"),
        ("a\u200bb", "an invisible character"),
        ("<lora:x:1>", "looks like a tag"),
    ],
)
def test_words_that_no_prompt_could_call_are_refused(word: str, message: str) -> None:
    assert [message in sentence for sentence in recipe_problems(Recipe(token_string=word))] == [True]


@pytest.mark.parametrize(
    ("word", "message"),
    [("[v]", r"write \[v\] in prompts"), ("<s1>", "put spaces around"), ("s*", "put spaces around")],
)
def test_how_a_word_is_written_in_prompts_is_reported(word: str, message: str) -> None:
    assert any(message in sentence for sentence in recipe_advice(Recipe(token_string=word)))
    assert not any("token_string" in s or "spaces" in s for s in recipe_advice(Recipe(token_string="sks")))


def test_a_word_without_a_token_is_reported() -> None:
    host = tiny_trainable_model()
    host.model.tokenizer.__class__.encode, before = (lambda self, text: []), host.model.tokenizer.__class__.encode
    try:
        with pytest.raises(TrainError, match="has no token"):
            TrainableEmbedding(host, Recipe(token_string="\u3164x"))
    finally:
        host.model.tokenizer.__class__.encode = before


def test_sample_prompts_have_the_word_where_it_is_read(real: StandaloneTrainableModel, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a <s1>, red --s 1", encoding="utf-8")
    more = {"sample_prompts": str(tmp_path / "prompts.txt"), "sample_every_n_epochs": 1, "inversion_steps": 1}
    _, run, _ = trained(real, recipe(tmp_path, ["<s1>"], token_string="<s1>", **more))
    assert [drawn.sample_spec.prompt for drawn in run.sample_images] == ["a <s1> , red"]


@pytest.mark.long
def test_generate_says_that_a_word_beside_punctuation_is_not_found(
    real: StandaloneTrainableModel, tmp_path: Path
) -> None:
    made = recipe(tmp_path, ["<s1>"], token_string="<s1>", inversion_steps=1)
    trained(real, made)
    message = {}
    for prompt in ("a <s1>, red", "a <s1> , red", "red", "(<s1>:1.1)"):
        report = GenerationReport()
        settings = Settings(prompt=f"{prompt} <lora:last:1>", lora_dir=(tmp_path / "out",), steps=1)
        generate(settings, model=real.model, report=report)
        message[prompt] = [note for note in report.notes if "beside punctuation" in note]
    assert [len(notes) for notes in message.values()] == [1, 0, 0, 0] and "'<s1>'" in message["a <s1>, red"][0]


@pytest.mark.long
def test_processes_of_which_one_has_no_word_learn_together(tmp_path: Path) -> None:
    """One process's batch is a regularisation picture, the other's has the word, before and beside the network."""
    pictures(tmp_path / "data", ["a thing one"], "1_thing")
    pictures(tmp_path / "reg", ["plain stuff"], "1_stuff")
    more: dict[str, Any] = {"token_string": "sks", "inversion_steps": 2, "inversion_continue": True}
    more |= {"reg_data_dir": str(tmp_path / "reg"), "train_batch_size": 1, "max_train_epochs": None}
    made = tiny_recipe(tmp_path / "data", tmp_path / "out", max_train_steps=2, **more)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    both = [
        subprocess.Popen(
            [sys.executable, str(HERE / "tiny_trainable_model.py"), json.dumps(settings_from_recipe(made))],
            env={**os.environ, **shared, "PYTHONPATH": path, "RANK": str(n), "LOCAL_RANK": str(n)},
        )
        for n in (0, 1)
    ]
    assert [process.wait(timeout=180) for process in both] == [0, 0]
    assert load_lora_file(tmp_path / "out" / "last.safetensors").embeddings["sks"]


def test_the_dataset_keeps_regularisation_captions(real: StandaloneTrainableModel, tmp_path: Path) -> None:
    pictures(tmp_path / "reg", ["a disc, plain"], "1_disc")
    made = recipe(tmp_path, ["a disc"], token_string="<s1>", init_word="disc", reg_data_dir=str(tmp_path / "reg"))
    data = Dataset.from_recipe(made)
    word = TrainableEmbedding(real, made)
    with real.with_token_embedding(word.token, word.vectors):
        assert word.add_token_to_captions(data) == 1
    assert sorted(p.caption for p in data.images) == ["a <s1>", "a disc, plain"]


def test_the_embedded_tokenizer_takes_punctuation_together() -> None:
    """What makes the sentences above necessary."""
    assert embedded.CHECKPOINT.is_file()
    words = open_trainable_model(Recipe()).model.tokenizer
    name, text = words.encode("<s1>"), words.encode("a <s1>, red")
    assert not any(text[at : at + len(name)] == name for at in range(len(text)))
