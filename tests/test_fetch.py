"""Fetching from a hub on this machine: whole files or none, resumed, compared, never unasked."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hub import REVISION, Hub
from safetensors.torch import save

pytest.importorskip("huggingface_hub")

from foley_lab import FoleyError, MissingWeights
from foley_lab.weights import (
    SOURCES,
    catalogue,
    convert,
    fetch,
    fetching,
    load_official,
    official_files,
    verify,
)

ROOT = Path(__file__).resolve().parents[1]
FETCH = [sys.executable, "-m", "foley_lab", "weights", "fetch", "siglip2"]
TENCENT, SIGLIP, CLAP = (SOURCES[name].origin for name in ("xl", "siglip2", "clap"))
ALL = ("xl", "dac-vae", "synchformer", "siglip2", "clap")


def pickled(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture
def hub():
    seeded = torch.Generator().manual_seed(1)
    large = {"w": torch.randn(50_000, generator=seeded)}
    transformers = {
        "config.json": b"{}",
        "model.safetensors": save(large),
        "training.py": b"never asked for",
    }
    repositories = {
        TENCENT: {
            "LICENSE": b"terms " * 100,
            "hunyuanvideo_foley_xl.pth": pickled(large),
            "hunyuanvideo_foley.pth": pickled(large),
            "vae_128d_48k.pth": pickled({"state_dict": large, "metadata": {"kwargs": {"a": [1]}}}),
            "synchformer_state_dict.pth": pickled(large),
        },
        SIGLIP: transformers | {"preprocessor_config.json": b"{}"},
        CLAP: transformers | {"tokenizer.json": b"[]", "vocab.json": b"{}" * 100},
    }
    with Hub(repositories) as started:
        yield started


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, hub) -> Path:
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Small files are cut off between pieces, too.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    return tmp_path / "weights"


def seen(folder: Path) -> list[str]:
    """What lies there under a name of its own."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name[0] != "."
    )


def aside(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.part"))


def test_a_model_comes_with_all_it_needs(hub, folder):
    told = []
    paths = fetch("xl", accept_licence=True, say=told.append)
    assert paths == [path for name in ALL for path in official_files(name)]
    wanted = [f"{name}/{file}" for name in ALL for file in SOURCES[name].files]
    wanted += [f"{name}/LICENSE" for name in ALL[:3]] + [f"{name}/digests.json" for name in ALL]
    wanted += ["siglip2/preprocessor_config.json", "clap/tokenizer.json", "clap/vocab.json"]
    assert seen(folder) == sorted(wanted) and not aside(folder)
    pickle = hub.repositories[TENCENT]["hunyuanvideo_foley_xl.pth"]
    assert official_files("xl")[0].read_bytes() == pickle
    record = json.loads((folder / "xl" / "digests.json").read_text())
    assert record["hunyuanvideo_foley_xl.pth"] == {
        "bytes": len(pickle),
        "sha256": hashlib.sha256(pickle).hexdigest(),
        "repository": TENCENT,
        "revision": REVISION,
    }
    assert any("not for the EU, the UK and South Korea" in line for line in told)
    assert {entry.name for entry in catalogue() if entry.present} >= set(ALL)
    assert set(verify("xl")) >= set(paths)


def test_what_is_there_is_not_fetched_again(hub, folder, monkeypatch):
    first = fetch("siglip2")
    hub.asked.clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is asked
    assert fetch("siglip2") == first and hub.asked == []


def test_files_laid_there_by_hand_are_compared(hub, folder):
    (folder / "siglip2").mkdir(parents=True)
    for file in SOURCES["siglip2"].files:
        (folder / "siglip2" / file).write_bytes(hub.repositories[SIGLIP][file])
    with pytest.raises(FoleyError, match=r"no digest on record.*weights fetch siglip2"):
        verify("siglip2")
    fetch("siglip2")
    assert {path.rpartition("/")[2] for path, _ in hub.asked} == {"preprocessor_config.json"}
    assert verify("siglip2")
    (folder / "siglip2" / "digests.json").unlink()
    (folder / "siglip2" / "config.json").write_bytes(b"[]")  # of the same size
    fetch("siglip2")
    assert (folder / "siglip2" / "config.json").read_bytes() == b"{}"


def test_no_network_leaves_nothing(folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingWeights, match=r"cannot be had from.*HF_ENDPOINT") as caught:
        fetch("siglip2")
    assert "\n" not in str(caught.value)
    assert not folder.exists()


BAD_ENDPOINTS = ("mirror", "http://", "://x", "http://[", "http://a b", "http://a:99999", "ftp://x")


@pytest.mark.parametrize("endpoint", [*BAD_ENDPOINTS, "http://a\nb"])
def test_a_malformed_endpoint_is_told_in_one_line(folder, endpoint):
    """In a process of its own: the hub's library reads it when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": endpoint}
    done = subprocess.run(FETCH, cwd=ROOT, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: HF_ENDPOINT ") and "https://huggingface.co" in done.stderr
    assert not folder.exists()


def test_an_empty_endpoint_is_not_set(folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert fetching._endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8080/hub/")
    assert fetching._endpoint() == "http://mirror.example:8080/hub"


@pytest.mark.parametrize("name", ["xl", "xxl", "dac-vae", "synchformer"])
def test_terms_are_accepted_first(hub, folder, name):
    with pytest.raises(FoleyError, match=r"not for the EU, the UK.*--accept-licence"):
        fetch(name)
    assert not folder.exists() and hub.asked == []


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'small', wanted one of xl, xxl"):
        fetch("small")


def test_a_cut_connection_is_taken_up_again(hub, folder):
    hub.cut["model.safetensors"] = [100_000]
    fetch("siglip2")
    first, second = hub.starts("model.safetensors")
    assert first == 0 and 0 < second <= 100_000
    content = (folder / "siglip2" / "model.safetensors").read_bytes()
    assert content == hub.repositories[SIGLIP]["model.safetensors"]


def test_an_interrupted_fetch_goes_on(hub, folder):
    content = hub.repositories[SIGLIP]["model.safetensors"]
    hub.cut["model.safetensors"] = [70_000]
    hub.dies = True
    with pytest.raises(MissingWeights, match=r"model\.safetensors cannot be had.*503.*it goes on"):
        fetch("siglip2")
    assert "siglip2/model.safetensors" not in seen(folder)
    (part,) = aside(folder)
    half = part.stat().st_size
    assert 60_000 < half <= 70_000 and part.read_bytes() == content[:half]
    with pytest.raises(MissingWeights, match="weights fetch siglip2"):
        official_files("siglip2")
    hub.down = hub.dies = False
    hub.asked.clear()
    fetch("siglip2")
    assert hub.starts("model.safetensors") == [half]
    assert (folder / "siglip2" / "model.safetensors").read_bytes() == content
    assert not aside(folder)


def test_a_part_of_another_version_is_not_continued(hub, folder):
    hub.down = True
    with pytest.raises(MissingWeights, match="503"):
        fetch("dac-vae", accept_licence=True)
    hub.down = False
    old = folder / "dac-vae" / ".vae_128d_48k.pth.0123456789ab.part"
    old.write_bytes(b"old")
    fetch("dac-vae", accept_licence=True)
    assert hub.starts("vae_128d_48k.pth") == [0] and not old.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_what_arrives_damaged_is_refused(hub, folder, file):
    if file == "config.json":
        hub.repositories[SIGLIP][file] = b'{"a": 1}'
    hub.twisted.add(file)
    with pytest.raises(FoleyError, match=f"{file} arrived with another digest"):
        fetch("siglip2")
    assert f"siglip2/{file}" not in seen(folder) and not aside(folder)
    hub.twisted.clear()
    fetch("siglip2")
    assert verify("siglip2")


def test_a_part_that_went_bad_is_thrown_away(hub, folder):
    content = hub.repositories[SIGLIP]["model.safetensors"]
    digest = hashlib.sha256(content).hexdigest()
    part = folder / "siglip2" / f".model.safetensors.{digest[:12]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    with pytest.raises(FoleyError, match="another digest"):
        fetch("siglip2")
    fetch("siglip2")
    assert hub.starts("model.safetensors") == [1000, 0]
    (folder / "siglip2" / "model.safetensors").unlink()
    part.write_bytes(content + b"more")
    assert fetch("siglip2")


def test_room_is_looked_for_first(hub, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10_000))
    with pytest.raises(FoleyError, match=r"has 0\.00 GB free, wanted 0\.00 GB.*FOLEY_LAB_WEIGHTS"):
        fetch("siglip2")
    assert seen(folder) == [] and hub.asked == []


def test_a_hub_without_digests_is_refused(hub, folder):
    hub.silent = True
    with pytest.raises(FoleyError, match=r"no size and digest.*HF_ENDPOINT"):
        fetch("siglip2")


def test_a_repository_without_the_file_or_without_itself(hub, folder):
    del hub.repositories[SIGLIP]["config.json"]
    with pytest.raises(FoleyError, match=r"has no config\.json"):
        fetch("siglip2")
    del hub.repositories[CLAP]
    with pytest.raises(MissingWeights, match="404"):
        fetch("clap")


def test_an_older_repository_is_converted(hub, folder):
    files = hub.repositories[CLAP]
    wanted = torch.arange(1000.0)
    files["pytorch_model.bin"] = pickled({"text.w": wanted})
    del files["model.safetensors"]
    fetch("clap")
    assert "clap/pytorch_model.bin" not in seen(folder)
    assert torch.equal(load_official("clap")["text.w"], wanted)
    assert verify("clap")
    hub.asked.clear()
    fetch("clap")
    assert hub.asked == []


def test_a_newer_file_replaces_the_copy_of_the_older(hub, folder):
    fetch("dac-vae", accept_licence=True)
    copy = convert("dac-vae")
    assert verify("dac-vae")[-1].parent == copy.parent and copy in verify("dac-vae")
    hub.repositories[TENCENT]["vae_128d_48k.pth"] = pickled({"w": torch.ones(500)})
    (folder / "dac-vae" / "vae_128d_48k.pth").unlink()
    copy.unlink()
    copy.write_bytes(b"older")
    fetch("dac-vae", accept_licence=True)
    assert load_official("dac-vae")["w"].shape == (500,)
    assert verify("dac-vae")


def test_a_damaged_file_is_found(hub, folder):
    path = fetch("siglip2")[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FoleyError, match=r"SHA-256.*delete it.*weights fetch siglip2"):
        verify("siglip2")
    path.write_bytes(data[:-1])
    with pytest.raises(FoleyError, match=f"has {len(data) - 1} bytes, wanted {len(data)}"):
        verify("siglip2")
    fetch("siglip2")  # it is not the file on record
    assert verify("siglip2")
    (folder / "siglip2" / "digests.json").write_text("{")
    with pytest.raises(FoleyError, match=r"digests\.json is damaged"):
        verify("siglip2")


def test_offline_is_respected(hub, folder):
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(FETCH, cwd=ROOT, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, hub.asked) == (3, "", [])
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE" in done.stderr and not folder.exists()


def test_offline_does_not_matter_when_nothing_is_missing(hub, folder, monkeypatch):
    first = fetch("siglip2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch("siglip2") == first
    with pytest.raises(MissingWeights, match="HF_HUB_OFFLINE is set") as caught:
        fetch("xl")  # before any terms are spoken of
    told = str(caught.value)
    assert f"lay these files below {folder}: xl/hunyuanvideo_foley_xl.pth of {TENCENT}" in told
    for file in ("dac-vae/vae_128d_48k.pth", "clap/model.safetensors", "clap/tokenizer.json"):
        assert file in told
    assert "siglip2/" not in told  # that is here
    (folder / "siglip2" / "digests.json").unlink()
    with pytest.raises(MissingWeights, match=r"siglip2 .*without digests on record.*as they are"):
        fetch("siglip2")
