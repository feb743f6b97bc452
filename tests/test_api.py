"""`lora_ext.apply` and `lora_ext.merge` on a pipeline, as the README shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Tiny, lora_file

import lora_ext
from lora_ext.errors import FileError, FitError, PromptError


@pytest.fixture(scope="module")
def pipe() -> Tiny:
    return Tiny()


def same(one: tuple[torch.Tensor, ...], two: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.allclose(a, b, atol=2e-4, rtol=2e-4) for a, b in zip(one, two, strict=True))


def test_apply_set_and_close(pipe: Tiny, tmp_path: Path) -> None:
    plain = pipe.draw()
    path = tmp_path / "a.safetensors"
    lora_ext.write(lora_file(pipe), path)
    with lora_ext.apply(pipe, {path: 0.8}) as lora:
        strong = pipe.draw()
        assert all(fit.ok for fit in lora.fits)
        lora.set("a", 0.5)
        weaker = pipe.draw()
        lora.set("a", {"unet": 0.5, "te": 0.0, "lbw": "OUTALL"})
        assert torch.equal(pipe.draw()[0], plain[0])
        lora.set("a", 0.8)
        assert all(map(torch.equal, pipe.draw(), strong))
        with pytest.raises(FileError, match="did you mean 'a'"):
            lora.set("A", 1.0)
        with pytest.raises(PromptError, match="did you mean 'unet'"):
            lora.set("a", {"unte": 1.0})
    assert all(map(torch.equal, pipe.draw(), plain))
    assert not same(strong, weaker)


def test_merge_is_what_apply_shows(tmp_path: Path) -> None:
    pipe = Tiny()
    file, other = lora_file(pipe), lora_file(pipe, "full", wide=True, seed=1, name="b", std=0.1)
    with lora_ext.apply(pipe, {file: 0.8, other: -0.5}, mode="baked"):
        shown = pipe.draw()
    parameters = dict(pipe.unet.named_parameters())
    fits = lora_ext.merge(pipe, {file: 0.8, other: -0.5})
    assert [fit.name for fit in fits] == ["a", "b"]
    assert all(map(torch.equal, pipe.draw(), shown))
    assert all(p is parameters[name] for name, p in pipe.unet.named_parameters() if name in parameters)
    with lora_ext.apply(pipe, {file: -0.8, other: 0.5}):
        assert same(pipe.draw(), Tiny().draw())


def test_merge_without_memory_names_no_mode(pipe: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """merge has no modes to choose between, so its message must not advise one."""
    plain = pipe.draw()
    monkeypatch.setattr("lora_ext.inject.MemoryBudget.lacking", lambda *_, **__: "baking takes 9 GiB more")
    with pytest.raises(FitError, match=r"^baking takes 9 GiB more; free some memory, or merge") as caught:
        lora_ext.merge(pipe, [lora_file(pipe)])
    assert "mode" not in str(caught.value) and all(map(torch.equal, pipe.draw(), plain))


def test_the_same_file_twice_adds_up(pipe: Tiny) -> None:
    file = lora_file(pipe)
    with lora_ext.apply(pipe, [file, file]):
        twice = pipe.draw()
    with lora_ext.apply(pipe, {file: 2.0}):
        assert same(twice, pipe.draw())


def test_missing_files_are_named(pipe: Tiny, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere\.safetensors"):
        lora_ext.apply(pipe, tmp_path / "nowhere.safetensors")


def test_what_cannot_be_meant_is_refused_before_anything_is_applied(pipe: Tiny, tmp_path: Path) -> None:
    """NaN and a mode of another name acted without a word; "banana" and None were Python's own errors."""
    file, plain = lora_file(pipe), pipe.draw()
    for weight in (float("nan"), float("inf"), "banana", None, {"unet": float("nan")}, {"te": "x"}, {"start": "x"}):
        with pytest.raises(PromptError, match="a finite number is needed"):
            lora_ext.apply(pipe, {file: weight})  # type: ignore[dict-item]
    with pytest.raises(FitError, match="unknown mode 'bakd'; did you mean 'baked'"):
        lora_ext.apply(pipe, {file: 1.0}, mode="bakd")
    assert all(map(torch.equal, pipe.draw(), plain))
    with lora_ext.apply(pipe, {file: "0.8"}) as lora:  # type: ignore[dict-item]
        as_text = pipe.draw()
        lora.set(file.name, 0.8)
        assert all(map(torch.equal, pipe.draw(), as_text))


def test_what_never_acts_is_reported(pipe: Tiny) -> None:
    file = lora_file(pipe)
    with lora_ext.apply(pipe, {file: {"start": 9, "stop": 2}}) as lora:
        assert "never acts, because it starts at step 9 and stops before step 2" in str(lora.fits[0])
        assert lora.remove(file.name)[0].notes == ()  # what was asked for is not told


def test_regions_of_the_picture(pipe: Tiny) -> None:
    """Each half is what its own file alone predicts; a mask of ones is no mask; nothing is left afterwards."""
    a, b = (lora_file(pipe, seed=seed, name=name) for seed, name in ((0, "a"), (1, "b")))
    plain = pipe.draw()
    unet_only = {"weight": 0.5, "te": 0.0}
    with lora_ext.apply(pipe, {a: unet_only}, mode="live"):
        left = pipe.draw()[1]
    with lora_ext.apply(pipe, {b: unet_only}, mode="live"):
        right = pipe.draw()[1]
    with lora_ext.apply(pipe, {a: unet_only | {"at": "left"}, b: unet_only | {"at": "right"}}) as lora:
        both = pipe.draw()[1]
        torch.testing.assert_close(both[..., :4], left[..., :4], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(both[..., 4:], right[..., 4:], atol=1e-4, rtol=1e-3)
        assert (both - left)[..., 4:].abs().max() > 1e-3
        assert {fit.name for fit in lora.fits} == {"a", "b"}
        lora.set("b", 0.0)
        torch.testing.assert_close(pipe.draw()[1][..., :4], left[..., :4], atol=1e-4, rtol=1e-3)
    for way in ("separate", "output"):
        with lora_ext.apply(pipe, {a: unet_only | {"at": torch.ones(3, 3), "way": way}}, mode="live"):
            assert torch.equal(pipe.draw()[1], left)
        with lora_ext.apply(pipe, {a: unet_only | {"at": torch.zeros(3, 3), "way": way}}, mode="live") as lora:
            torch.testing.assert_close(pipe.draw()[1], plain[1])
            assert "its mask is 0 everywhere" in str(lora.fits[0])
    assert all(map(torch.equal, pipe.draw(), plain))
    with lora_ext.apply(pipe, {a: {"weight": 1.0, "at": "left"}}) as lora:
        assert torch.equal(pipe.draw()[0], plain[0]) and "encodes the text once" in str(lora.fits[0])


def test_regions_that_are_refused(pipe: Tiny) -> None:
    file = lora_file(pipe)
    wrong = {"lefft": "did you mean 'left'", "0-2;0-1": "at=0-2", "face": "give a mask as a tensor"}
    for at, message in wrong.items():
        with pytest.raises(PromptError, match=message):
            lora_ext.apply(pipe, {file: {"at": at}})
    with pytest.raises(PromptError, match="a mask is"):
        lora_ext.apply(pipe, {file: {"at": torch.ones(2, 2, 2)}})
    with pytest.raises(PromptError, match="did you mean 'output'"):
        lora_ext.apply(pipe, {file: {"at": "left", "way": "outptu"}})
    with pytest.raises(FitError, match="regions need"):
        lora_ext.apply(pipe, {file: {"at": "left"}}, mode="baked")
    with lora_ext.apply(pipe, {file: 1.0}) as lora, pytest.raises(FitError, match="not later to set"):
        lora.set("a", {"at": "left"})
