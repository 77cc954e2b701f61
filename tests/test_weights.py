"""Checkpoints: saved = loaded, in shards and whole; what is absent, damaged or mixed is named."""

import json

import pytest
import torch

from foley_lab import FoleyError, MissingWeights, weights
from foley_lab.weights import (
    MAX_BYTES,
    SHIPPED,
    catalogue,
    load_shards,
    load_shipped,
    official_files,
    save_shards,
    verify,
    write_manifest,
)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(1)
    large = torch.randn(5_000, 100, generator=generator)  # 1 MB in half precision
    return {
        "large.weight": large,
        "shared.weight": large[:10],
        "scale": torch.tensor(0.5),
        "steps": torch.tensor([2**40, 3]),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("max_bytes", [MAX_BYTES, 264_000])
def test_saved_is_loaded(tmp_path, tensors, max_bytes):
    config = {"width": 384, "rates": [25, 48_000], "name": "é"}
    paths = save_shards(tmp_path / "new" / "codec", tensors, config, max_bytes)
    assert (len(paths) > 3) == (max_bytes < MAX_BYTES)
    assert all(path.stat().st_size <= max_bytes for path in paths)
    loaded, told = load_shards(tmp_path / "new" / "codec")
    assert told == config
    assert loaded.keys() == tensors.keys()
    for name, wanted in tensors.items():
        assert loaded[name].dtype == wanted.dtype and loaded[name].shape == wanted.shape
        half = wanted.half().float() if wanted.is_floating_point() else wanted
        assert torch.equal(loaded[name], half)
    assert {p.name[0] for p in (tmp_path / "new").iterdir()} == {"c"}  # nothing left aside


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_precisions_come_back_as_float32(tmp_path, dtype):
    save_shards(tmp_path / "part", {"w": torch.tensor([1.001, 70_000.0])}, {}, dtype=dtype)
    loaded, _ = load_shards(tmp_path / "part")
    assert loaded["w"].dtype == torch.float32
    assert loaded["w"].tolist() == torch.tensor([1.001, 70_000.0]).to(dtype).float().tolist()


def test_equal_input_gives_equal_bytes(tmp_path, tensors):
    first = [p.read_bytes() for p in save_shards(tmp_path / "a", tensors, {"k": 1}, 264_000)]
    again = [p.read_bytes() for p in save_shards(tmp_path / "a", tensors, {"k": 1}, 264_000)]
    assert first == again


def test_saving_anew_leaves_no_old_shard(tmp_path, tensors):
    save_shards(tmp_path / "codec", tensors, {}, 264_000)
    save_shards(tmp_path / "codec2", tensors, {})
    (whole,) = save_shards(tmp_path / "codec", {"w": torch.ones(2)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "codec.safetensors",
        "codec2.safetensors",
    ]
    assert load_shards(tmp_path / "codec")[0].keys() == {"w"}
    assert whole.name == "codec.safetensors"


def test_values_too_large_for_half_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"'w' reaches 1e\+05.*torch\.float32"):
        save_shards(tmp_path / "part", {"w": torch.tensor([1e5])}, {})
    assert list(tmp_path.iterdir()) == []


def test_absent_shards_name_the_command(tmp_path, tensors):
    with pytest.raises(MissingWeights, match=r"has 0 of 1 files.*foley-lab train codec"):
        load_shards(tmp_path / "codec")
    paths = save_shards(tmp_path / "codec", tensors, {}, 264_000)
    paths[1].unlink()
    with pytest.raises(MissingWeights, match=f"has {len(paths) - 1} of {len(paths)} files"):
        load_shards(tmp_path / "codec")
    with pytest.raises(MissingWeights, match="install foley_lab anew"):
        load_shipped("no_such_part")


def test_mixed_and_damaged_files_are_refused(tmp_path, tensors):
    old = save_shards(tmp_path / "codec", tensors, {}, 264_000)
    kept = old[0].read_bytes()
    new = save_shards(tmp_path / "codec", {k: v + v for k, v in tensors.items()}, {}, 264_000)
    new[0].write_bytes(kept)
    with pytest.raises(ValueError, match="different savings"):
        load_shards(tmp_path / "codec")
    (tmp_path / "part.safetensors").write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_shards(tmp_path / "part")


def test_catalogue_tells_shipped_and_official(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path))
    entries = {entry.name: entry for entry in catalogue()}
    text = entries["text/minilm"]
    assert text.present and text.bytes > 40_000_000 and text.licence == "Apache-2.0"
    assert {"xl", "xxl", "dac-vae", "synchformer", "siglip2", "clap"} <= entries.keys()
    assert not entries["xl"].present and "not for the EU" in entries["xl"].licence
    with pytest.raises(MissingWeights, match="foley-lab weights fetch xl"):
        official_files("xl")
    (tmp_path / "xl").mkdir()
    (tmp_path / "xl" / "hunyuanvideo_foley_xl.pth").write_bytes(b"12345")
    found = next(entry for entry in catalogue() if entry.name == "xl")
    assert found.present and found.bytes == 5
    assert official_files("xl") == [tmp_path / "xl" / "hunyuanvideo_foley_xl.pth"]
    with pytest.raises(ValueError, match="'xs', wanted one of xl, xxl"):
        official_files("xs")


def test_shipped_files_are_those_of_the_manifest():
    """After a change of a shipped file run `python -m foley_lab.weights`."""
    listed = json.loads((SHIPPED / "manifest.json").read_text())
    there = {p.relative_to(SHIPPED).as_posix() for p in SHIPPED.rglob("*") if p.is_file()}
    assert listed.keys() == there - {"manifest.json"}
    for name in {file.split("/")[0] for file in listed}:
        assert verify(name)


def test_verify_finds_a_flipped_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    (path,) = save_shards(tmp_path / "small" / "codec", {"w": torch.ones(9)}, {})
    write_manifest()
    assert verify("small") == verify("small/codec") == [path]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FoleyError, match="SHA-256"):
        verify("small")
    path.unlink()
    with pytest.raises(MissingWeights):
        verify("small/codec")
    with pytest.raises(ValueError, match="wanted one of small"):
        verify("xl")
