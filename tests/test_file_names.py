"""Names that are no UTF-8, in NFC and NFD, and the same in two folders; metadata and presets in odd encodings."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from test_lora_library import put

from lora_ext import cli
from lora_ext.adapter_spec import Presets, resolve_tag
from lora_ext.block_weights import BLOCK_PRESETS, parse_block_weights
from lora_ext.errors import FileError
from lora_ext.file.displayed_names import displayed_name, files_below, find_by_displayed_parts, typed_path
from lora_ext.file.folder_listing import load_metadata_quickly
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.preset_file import decode_unknown_text, load_preset_file, load_preset_files
from lora_ext.file.saving import save_safetensors
from lora_ext.lora_tags import LoraTag
from lora_ext.train.config.recipe_io import recipe_from_arguments
from lora_ext.train.config.recipe_io import recipe_parser as recipe_parser

BAD = os.fsdecode(b"caf\xe9")
"""`caf` and a byte that is no UTF-8, as a name in Latin-1 comes out of an old archive."""
NFC, NFD = (unicodedata.normalize(form, "ガラス é") for form in ("NFC", "NFD"))
KEY = "lora_unet_mid_block_attentions_0_proj_in"
linux = pytest.mark.skipif(sys.platform != "linux", reason="such names are only on Linux")


def named(folder: Path, name: str, content: bytes = b"") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def lora(folder: Path, name: str, value: float = 1.0) -> Path:
    """A LoRA file whose name may be anything."""
    made = put(folder, "made.safetensors", value=value)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return made.replace(folder / name)


@given(st.text())
def test_a_shown_name_can_be_sent_and_is_found_again(name: str) -> None:
    once = displayed_name(name)
    assert once.encode("utf-8") and displayed_name(once) == once if once else True
    assert displayed_name(unicodedata.normalize("NFD", name)) == displayed_name(name)


@linux
def test_one_odd_name_does_not_take_the_library_away(tmp_path: Path) -> None:
    lora(tmp_path / "loras", f"{BAD}.safetensors", 3)
    lora(tmp_path / "loras" / BAD, "in.safetensors")
    lora(tmp_path / "loras", "good.safetensors")
    cache = tmp_path / "index.json"
    for _ in range(2):  # the second time from the cache
        library = LoraLibrary([tmp_path / "loras"], cache_path=cache)
        assert {entry.relative_name for entry in library.entries} == {"caf�", "caf�/in", "good"}
        json.dumps([entry.relative_name for entry in library.entries], ensure_ascii=False).encode("utf-8")
    assert float(next(iter(library.load("caf�").adapters.values())).tensors["lora_up.weight"][0, 0]) == 3
    assert library.load("caf�").name == "caf�" and library.find("in").relative_name == "caf�/in"
    assert library.find(BAD) is library.find("caf�")


@pytest.mark.parametrize(("disk", "typed"), [(NFC, NFD), (NFD, NFC)])
def test_nfc_and_nfd_are_one_name(tmp_path: Path, disk: str, typed: str) -> None:
    lora(tmp_path / disk, f"{disk}.safetensors")
    library = LoraLibrary([tmp_path])
    for name in (disk, typed, f"{typed}/{typed}", f"{typed}.safetensors"):
        assert library.find(name).relative_name == f"{NFC}/{NFC}"
    found = find_by_displayed_parts(tmp_path, (typed, f"{typed}.safetensors"))
    assert found is not None and found.is_file()
    assert find_by_displayed_parts(tmp_path, (typed, "other")) is None
    presets = {unicodedata.normalize("NFC", name): values for name, values in {disk: BLOCK_PRESETS["MIDD"]}.items()}
    assert parse_block_weights(typed, presets=presets) == parse_block_weights("MIDD")


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        lora(tmp_path / f"sub{number}", "same.safetensors", number)
    lora(tmp_path, "other.safetensors", 4)
    library = LoraLibrary([tmp_path])
    answer = library.ambiguity("same")
    assert answer == "3 files are called 'same'; 'sub3/same' is used; write 'sub1/same', 'sub2/same' for another"
    assert library.ambiguity("same.safetensors") == answer
    assert library.ambiguity("SAME") == answer and library.ambiguity("sub1/same") == library.ambiguity("other") == ""
    use = resolve_tag(LoraTag("same"), library)
    assert use.notes == (answer,) and resolve_tag(LoraTag("sub1/same"), library).notes == ()
    for number in (1, 2, 3):
        tensors = next(iter(library.load(f"sub{number}/same").adapters.values())).tensors
        assert float(tensors["lora_up.weight"][0, 0]) == number


def test_one_at_the_top_and_one_in_a_folder(api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A tag means the later one; the page means the very file of its row, also when it changes one."""
    from test_web import lora as sound

    sound(tmp_path / "loras" / "same.safetensors", 4, note="top")
    (tmp_path / "loras" / "sub").mkdir()
    sound(tmp_path / "loras" / "sub" / "same.safetensors", 8, note="sub")
    api.app_state.refresh_library()
    library = api.app_state.library
    assert library.find("same").relative_name == "sub/same" and library.find("loras/same").relative_name == "same"
    assert "write 'loras/same' for another" in library.ambiguity("same")
    rows = {row["name"]: row for row in api("GET", "/library")["rows"]}
    assert rows["same"]["call"] == "loras/same" and rows["sub/same"]["call"] == "same"
    for name, note in (("same", "top"), ("sub/same", "sub")):
        assert api("GET", "/inspect", params={"name": name})["metadata"] == {"note": note}
        assert library.load(rows[name]["call"]).metadata == {"note": note}
    api("POST", "/metadata", json={"name": "same", "put": {"note": "new"}})
    assert load_metadata_quickly(tmp_path / "loras" / "sub" / "same.safetensors") == {"note": "sub"}


def test_one_place_in_two_folders_has_two_names(tmp_path: Path) -> None:
    """Each file can be named, or one would be changed in place of the other."""
    for number, folder in enumerate(("first/loras", "second/loras", "third")):
        lora(tmp_path / folder, "same.safetensors", number + 1)
    library = LoraLibrary([tmp_path / "first" / "loras", tmp_path / "second" / "loras", tmp_path / "third"])
    places = {entry.relative_name: entry for entry in library.entries}
    assert places.keys() == {"loras/same", "second/loras/same", "same"}
    assert places["same"].path.parent == tmp_path / "third"  # the last folder's counts, as in the built-in
    for place, entry in places.items():
        assert library.find(place) is entry and library.find(library.shortest_name(entry)) is entry
        assert entry.root in library.folders
    assert "'loras/same'" in library.ambiguity("same")


def test_one_stem_with_two_suffixes(tmp_path: Path) -> None:
    lora(tmp_path, "a.safetensors", 1)
    torch.save(
        {f"{KEY}.lora_up.weight": torch.ones(8, 2), f"{KEY}.lora_down.weight": torch.ones(2, 8)}, tmp_path / "a.pt"
    )
    library = LoraLibrary([tmp_path])
    assert library.find("a").path.suffix == ".safetensors" and library.find("a.pt").path.suffix == ".pt"
    assert "'a.pt'" in library.ambiguity("a") and not library.ambiguity("a.pt")


def header(metadata: str) -> bytes:
    text = f'{{"__metadata__":{metadata},"{KEY}.alpha":{{"dtype":"F32","shape":[],"data_offsets":[0,4]}}}}'.encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 4


def test_half_a_surrogate_pair_in_metadata(tmp_path: Path) -> None:
    path = named(tmp_path, "half.safetensors", header(r'{"ss_output_name":"a\ud800b","n\udc00":"\ud83d\ude00"}'))
    assert load_metadata_quickly(path) == {"ss_output_name": "a�b", "n�": "😀"}
    library = LoraLibrary([tmp_path], cache_path=tmp_path / "index.json")
    assert library.find("half").alias == "a�b"
    written = save_safetensors({"x": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"dirs": f"10_{BAD}"})
    assert load_metadata_quickly(written) == {"dirs": "10_caf�"}  # at the end of a training this is no time to fail


# --- the API -----------------------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> Iterator[object]:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from test_web import Client

    client = Client(tmp_path)
    yield client
    client.app_state.jobs.close()


@linux
def test_the_page_works_beside_odd_names(api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from test_web import lora as sound

    sound(tmp_path / "loras" / "made.safetensors", 4).rename(tmp_path / "loras" / f"{BAD}.safetensors")
    named(tmp_path / "loras", "half.safetensors", header(r'{"ss_output_name":"a\ud800b"}'))
    (tmp_path / "loras" / f"broken {BAD}.safetensors").write_bytes(b"\x10" + b"\0" * 20)
    api.app_state.refresh_library()
    rows = {row["name"]: row for row in api("GET", "/library?limit=100")["rows"]}
    assert {"caf�", "half", "broken caf�"} <= rows.keys() and rows["broken caf�"]["error"]
    assert api("GET", "/inspect", params={"name": "caf�"})["kind"]
    data = tmp_path / "datasets" / BAD / f"10_{NFD}"
    data.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(data / "made.png")
    (data / "made.png").rename(data / f"{BAD}.png")
    (data / f"not {BAD}.png").write_bytes(b"no picture")
    (data / "old.txt").write_bytes("一只猫咪".encode("gbk"))
    Image.new("RGB", (64, 64)).save(data / "old.png")
    assert "caf�" in api("GET", "/train/form")["datasets"]
    found = api("GET", "/dataset", params={"name": "caf�"})
    assert [row["name"] for row in found["pictures"]] == [f"10_{NFC}/caf�.png"]
    assert len(found["skipped"]) == 2 and any("not UTF-8" in line for line in found["skipped"])
    picture = {"dataset": "caf�", "picture": found["pictures"][0]["name"]}
    api("GET", "/dataset/thumbnail", params=picture)
    api("PUT", "/dataset/caption", json={**picture, "caption": "ein Tee"})
    assert (data / f"{BAD}.txt").read_text(encoding="utf-8") == "ein Tee\n"
    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoints" / "made.safetensors")
    stored = (tmp_path / "checkpoints" / "made.safetensors").rename(tmp_path / "checkpoints" / f"m: {BAD}.safetensors")
    assert "m: caf�.safetensors" in api("GET", "/choices")["checkpoints"]
    assert api.app_state.backend.checkpoint_path("m: caf�.safetensors") == stored
    with pytest.raises(FileError):
        api.app_state.backend.checkpoint_path("../m")


@pytest.mark.long
@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", ".", "a\0b", "x" * 1000])
def test_reading_by_name_stays_inside(api, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    named(tmp_path.parent, "x")
    with pytest.raises(FileError):
        api.app_state.backend.checkpoint_path(name) if name else api.app_state.backend.checkpoint_path("/")


def test_checkpoints_and_datasets_of_one_name_can_all_be_chosen(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from lora_ext.ui.standalone_backend import StandaloneBackend, standalone_folders
    from lora_ext.web import dataset_browser
    from lora_ext.web.app_state import AppState

    for number, folder in enumerate(("one", "two"), 1):
        named(tmp_path / folder, "m.safetensors", bytes(number))
        named(tmp_path / f"d{number}" / "cats", "a.txt", bytes(number))
    folders = [tmp_path / "one", tmp_path / "two"]
    backend = StandaloneBackend(standalone_folders(tmp_path / "data", (), folders, (tmp_path / "d1", tmp_path / "d2")))
    names = [name for name in backend.choices()["checkpoints"] if name]
    assert names == ["m.safetensors", "two/m.safetensors"]
    assert [backend.checkpoint_path(name).stat().st_size for name in names] == [1, 2]
    app_state = AppState(backend)
    assert dataset_browser.dataset_names(app_state) == ["cats", "d2/cats"]
    found = [
        dataset_browser.dataset_folder(app_state, name) / "a.txt" for name in dataset_browser.dataset_names(app_state)
    ]
    assert [path.stat().st_size for path in found] == [1, 2]
    for name in ("regularisation-object-sd1", "zebras"):
        (tmp_path / "d1" / name).mkdir()
    assert dataset_browser.dataset_names(app_state)[-2:] == ["d2/cats", "regularisation-object-sd1"]
    app_state.jobs.close()


# --- presets -----------------------------------------------------------------------------------------------------

LINES = "# 说明\n脸:" + ",".join(["1"] * 17) + "\nOWN:" + ",".join(["0.5"] * 17) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gbk", "gb18030"])
def test_presets_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    path = named(tmp_path, "presets.txt", LINES.encode(encoding))
    presets, note = load_preset_file(path)
    assert presets.keys() == {"脸", "OWN"} and presets["OWN"] == ",".join(["0.5"] * 17)
    assert ("presets.txt is not UTF-8 text" in note) == (encoding not in ("utf-8", "utf-8-sig", "utf-16"))


@given(st.binary(max_size=60))
def test_no_bytes_take_the_presets_away(data: bytes) -> None:
    assert isinstance(decode_unknown_text(data)[0], str)


def test_ansi_presets_break_no_generation(api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ansi = LINES.replace("脸", "Gesicht-ü").replace("# 说明\n", "# für mich\n")
    named(tmp_path, "presets.txt", ansi.encode("cp1252"))
    presets = api.app_state.backend.presets()
    assert parse_block_weights("OWN", presets=presets.weights)
    answer = api("GET", "/presets")
    assert {"OWN", "MIDD"} <= {row["name"] for row in answer["presets"]} and "not UTF-8" in answer["notes"][0]
    library = LoraLibrary([lora(tmp_path / "loras", "a.safetensors").parent])
    assert "not UTF-8" in resolve_tag(LoraTag("a", lbw="OWN"), library, presets).notes[0]
    assert resolve_tag(LoraTag("a"), library, presets).notes == ()
    api("PUT", "/presets", json={"name": "NEW", "values": ",".join(["1"] * 17)})
    assert "OWN:" in (tmp_path / "presets.txt").read_text(encoding="utf-8") and api("GET", "/presets")["notes"] == []


def test_the_last_file_s_presets_win(tmp_path: Path) -> None:
    """Over the built-in ones, and over those of a file before."""
    zeros, ones, halves = (",".join([value] * 17) for value in ("0", "1", "0.5"))
    first = named(tmp_path, "first.txt", f"ALL:{zeros}\nFACE:{zeros}\nTHEIRS:{ones}\n".encode())
    second = named(tmp_path, "second.txt", f"FACE:{halves}\n".encode())
    presets, _ = load_preset_files(BLOCK_PRESETS, [first, second])
    assert (presets["ALL"], presets["FACE"], presets["THEIRS"], presets["NONE"]) == (zeros, halves, ones, zeros)


def test_the_user_s_presets_win_over_the_block_weight_extension_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, fakes = ModuleType("modules"), {name: ModuleType(f"modules.{name}") for name in ("paths", "shared")}
    vars(fakes["paths"]).update(extensions_dir=str(tmp_path / "extensions"), data_path=str(tmp_path))
    for name, fake in {"modules": modules, "gradio": ModuleType("gradio")}.items():
        monkeypatch.setitem(sys.modules, name, fake)
    for name, fake in fakes.items():
        setattr(modules, name, fake)
        monkeypatch.setitem(sys.modules, f"modules.{name}", fake)
    monkeypatch.delitem(sys.modules, "lora_ext.host.a1111.settings", raising=False)
    from lora_ext.host.a1111.settings import A1111HostInterface

    zeros, ones = (",".join([value] * 17) for value in ("0", "1"))
    theirs = tmp_path / "extensions" / "sd-webui-lora-block-weight" / "scripts"
    named(theirs, "lbwpresets.txt", f"FACE:{zeros}\nTHEIRS:{zeros}\n".encode())
    named(theirs, "elempresets.txt", b"NOATTN:IN04-OUT05:attn:0\nTHEIRS:IN04:attn:0.5\n")
    named(tmp_path / "lora_ext", "presets.txt", f"FACE:{ones}\n".encode())
    named(tmp_path / "lora_ext", "elements.txt", b"NOATTN:ALL:attn:0\n")
    presets = A1111HostInterface().presets()
    assert (presets.weights["FACE"], presets.weights["THEIRS"]) == (ones, zeros) and "MIDD" in presets.weights
    assert (presets.elements["NOATTN"], presets.elements["THEIRS"]) == ("ALL:attn:0", "IN04:attn:0.5")
    assert "ATTNDEEPON" in presets.elements


def test_presets_that_cannot_be_read_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = named(tmp_path, "presets.txt", LINES.encode())

    def held(self: Path) -> bytes:
        raise PermissionError(13, "The process cannot access the file")

    monkeypatch.setattr(Path, "read_bytes", held)
    presets, notes = load_preset_files(BLOCK_PRESETS, [path, tmp_path / "none.txt"])
    assert presets == dict(BLOCK_PRESETS) and "cannot be read" in notes[0] and len(notes) == 1
    assert Presets(presets, notes=notes).weights


def test_links_and_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/1.txt", ".hidden/x.txt", "a/.y.txt", "c.TXT", "d.png"):
        named((tmp_path / name).parent, Path(name).name)
    try:
        (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("no links on this system")
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, (".txt",))]
    assert found == ["a/1.txt", "b/2.txt", "c.TXT"]
    assert list(files_below(tmp_path / "nowhere")) == []


@linux
def test_a_typed_path_is_found_in_either_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A keyboard types NFC; a folder that came from macOS is spelled in NFD, and is the same folder."""
    folder = tmp_path / NFD
    stored = lora(folder, f"{NFD}.safetensors")
    typed = tmp_path / NFC / f"{NFC}.safetensors"
    assert typed_path(str(typed)) == stored and typed_path(stored) == stored
    assert typed_path(tmp_path / NFC / "new.safetensors") == folder / "new.safetensors"
    assert typed_path(tmp_path / "é" / "é") == tmp_path / "é" / "é"
    assert cli.main(["inspect", str(typed)]) == 0
    assert (
        cli.main(
            ["resize", "--model", str(typed), "--save_to", str(tmp_path / NFC / "r.safetensors"), "--new_rank", "1"]
        )
        == 0
    )
    assert (folder / "r.safetensors").is_file() and not (tmp_path / NFC).exists()
    assert cli.main(["metadata", str(typed)]) == 0
    assert recipe_parser_folder(typed.parent) == str(folder)
    capsys.readouterr()


def recipe_parser_folder(folder: Path) -> str | None:
    """`--train_data_dir` of a training command line with this folder."""
    return recipe_from_arguments(recipe_parser().parse_args(["--train_data_dir", str(folder)])).train_data_dir
