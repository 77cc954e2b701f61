"""Checkpoints: saved = loaded, in shards and whole; what is absent, damaged or mixed is named."""

import hashlib
import json
import os
import pickle
import shutil
from collections import OrderedDict, namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from foley_lab import FoleyError, MissingWeights
from foley_lab.generators.foley import XL, FoleyTransformer
from foley_lab.weights import (
    MAX_BYTES,
    SHIPPED,
    catalogue,
    catalogue_report,
    convert,
    describe_size,
    load_official,
    load_shards,
    load_shipped,
    load_strictly,
    official_files,
    official_metadata,
    save_shards,
    verify,
    write_manifest,
)

GOLDEN = Path(os.environ.get("FOLEY_LAB_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


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
    assert entries["xl"].missing == ("hunyuanvideo_foley_xl.pth",)
    assert entries["xl"].about_bytes == 5_825_925_376
    with pytest.raises(MissingWeights, match="foley-lab weights fetch xl"):
        official_files("xl")
    (tmp_path / "xl").mkdir()
    (tmp_path / "xl" / "hunyuanvideo_foley_xl.pth").write_bytes(b"12345")
    found = next(entry for entry in catalogue() if entry.name == "xl")
    assert found.present and found.bytes == 5 and found.missing == ()
    assert official_files("xl") == [tmp_path / "xl" / "hunyuanvideo_foley_xl.pth"]
    with pytest.raises(ValueError, match="'xs', wanted one of xl, xxl"):
        official_files("xs")
    report = json.loads(json.dumps(catalogue_report()))
    assert report["folder"] == str(tmp_path)
    told = {entry["name"]: entry for entry in report["weights"]}
    assert told["xl"]["present"] and told["xl"]["path"] == str(tmp_path / "xl")
    assert told["clap"]["missing"] == ["config.json", "model.safetensors"]


def test_a_file_is_no_folder_of_weights(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path / "file"))
    for ask in (catalogue, lambda: verify("xl"), lambda: official_files("xl")):
        with pytest.raises(FoleyError, match=r"FOLEY_LAB_WEIGHTS names .*file.*wanted a folder"):
            ask()
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", "~nobody-of-that-name/weights")
    with pytest.raises(MissingWeights):
        official_files("xl")


def test_shipped_files_are_those_of_the_manifest():
    """After a change of a shipped file run `python -m foley_lab.weights`."""
    listed = json.loads((SHIPPED / "manifest.json").read_text())
    there = {p.relative_to(SHIPPED).as_posix() for p in SHIPPED.rglob("*") if p.is_file()}
    assert listed.keys() == there - {"manifest.json"}
    for name in {file.split("/")[0] for file in listed}:
        assert verify(name)


def test_verify_finds_a_flipped_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("foley_lab.weights.shipped.SHIPPED", tmp_path)
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
    for name in ("large", "XL"):  # shipped and official names alike
        with pytest.raises(ValueError, match=rf"'{name}', wanted one of small, small/codec, xl,"):
            verify(name)


# Official weights


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FOLEY_LAB_WEIGHTS", str(tmp_path))
    for name in ("xl", "dac-vae", "synchformer", "siglip2"):
        (tmp_path / name).mkdir()
    return tmp_path


PICKLE = {"xl": "hunyuanvideo_foley_xl", "dac-vae": "vae_128d_48k"}
PICKLE["synchformer"] = "synchformer_state_dict"


def lay(folder: Path, name: str, content, **options) -> Path:
    path = folder / name / f"{PICKLE[name]}.pth"
    torch.save(content, path, **options)
    return path


ODD = {
    "large": torch.randn(30, 20, generator=torch.Generator().manual_seed(2)),
    "double": torch.tensor([1.0, 1e-3], dtype=torch.float64),
    "turned": torch.arange(12.0).reshape(3, 4).T,
    "scale": torch.tensor(0.5),
    "count": torch.tensor([2**40, -3]),
    "small": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 3),
}
ODD["tied"] = ODD["large"]
ODD["conv"] = torch.arange(24.0).reshape(2, 4, 3)


@pytest.mark.parametrize("zipped", [True, False], ids=["newer", "older"])
@pytest.mark.parametrize(("name", "dtype"), [("xl", torch.bfloat16), ("synchformer", None)])
def test_pickles_become_mapped_copies(folder, monkeypatch, name, dtype, zipped):
    path = lay(folder, name, OrderedDict(ODD), _use_new_zipfile_serialization=zipped)
    before = path.read_bytes()
    wanted = {k: t.to(dtype) if dtype and t.is_floating_point() else t for k, t in ODD.items()}
    for opened in (0, 1):
        if opened:
            monkeypatch.setattr(torch, "load", None)  # the pickle is not opened again
        loaded = load_official(name)
        assert loaded.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert loaded[key].dtype == tensor.dtype and torch.equal(loaded[key], tensor), key
        token_major = loaded["conv"].transpose(1, 2).is_contiguous()
        assert token_major == (name == "xl")  # as `TimeConv` multiplies it
    copy = path.with_suffix(".safetensors")
    assert path.read_bytes() == before and convert(name) == copy
    assert sorted(os.listdir(path.parent)) == sorted([path.name, copy.name, "digests.json"])
    assert load_file(copy).keys() == wanted.keys()  # readable for everyone else
    path.unlink()
    assert official_files(name) == [copy] and load_official(name).keys() == wanted.keys()
    assert next(entry for entry in catalogue() if entry.name == name).present


def test_copies_are_mapped_not_read(folder):
    """Nothing is held in memory: the tensors lie in the pages of the file."""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("told by Linux only")
    lay(folder, "synchformer", {"w": torch.ones(4_000_000)})
    tensor = load_official("synchformer")["w"]
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            assert line.endswith("synchformer_state_dict.safetensors")
            return
    raise AssertionError("not mapped")


def test_the_container_of_the_codec(folder):
    kwargs = {"encoder_rates": [2, 3, 4, 5, 8], "continuous": True, "latent_dim": None}
    container = {"state_dict": {"w": torch.ones(3)}, "metadata": {"kwargs": kwargs}}
    lay(folder, "dac-vae", container)
    for _ in range(2):
        assert official_metadata("dac-vae") == {"kwargs": kwargs}
        assert torch.equal(load_official("dac-vae")["w"], torch.ones(3))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference data absent")
def test_the_reference_container_opens(folder):
    shutil.copyfile(GOLDEN / "dac_tinyA_checkpoint.pth", folder / "dac-vae" / "vae_128d_48k.pth")
    told = json.loads((GOLDEN / "dac_tinyA_checkpoint.json").read_text())
    assert official_metadata("dac-vae")["kwargs"] == told["constructor"]
    wanted, loaded = load_file(GOLDEN / "dac_tinyA_weights.safetensors"), load_official("dac-vae")
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], wanted[key].float()) for key in wanted)


class Code:
    """What a pickle can do to whoever opens it."""

    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False], ids=["newer", "older"])
def test_code_is_refused_and_not_run(folder, zipped):
    content = {"w": torch.ones(2), "x": Code(folder / "ran")}
    path = lay(folder, "xl", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FoleyError, match=r"carries code \(\w+\.mkdir\), which has not been run"):
        load_official("xl")
    assert not (folder / "ran").exists()
    assert os.listdir(path.parent) == [path.name]
    torch.load(path, weights_only=False)  # it would have
    assert (folder / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["newer", "older"])
def test_cut_off_files_are_refused(folder, zipped):
    path = lay(folder, "xl", ODD, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (0, 1, 10, 100, 1000, len(whole) // 2, len(whole) - 200, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(FoleyError, match=r"cannot be read.*weights fetch xl") as caught:
            load_official("xl")
        assert "\n" not in str(caught.value)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        torch.ones(2),
        {},
        {"w": 1},
        {1: torch.ones(2)},
        {"state_dict": {}},
        {"state_dict": {"w": "x"}, "metadata": {}},
        {"w": torch.ones(2).to_sparse()},
        {"w": torch.ones(2, dtype=torch.complex64)},
    ],
    ids=str,
)
def test_foreign_pickles_are_refused(folder, content):
    lay(folder, "xl", content)
    with pytest.raises(FoleyError, match="wanted tensors by name"):
        load_official("xl")


@pytest.mark.parametrize("content", [b"<html>", b"PK\x03\x04" + bytes(99), bytes(99), b"\x80\x02."])
def test_foreign_files_are_refused(folder, content):
    (folder / "xl" / "hunyuanvideo_foley_xl.pth").write_bytes(content)
    (folder / "siglip2" / "model.safetensors").write_bytes(content)
    (folder / "siglip2" / "config.json").write_bytes(b"{}")
    for name in ("xl", "siglip2"):
        with pytest.raises(FoleyError, match=f"cannot be read.*weights fetch {name}"):
            load_official(name)


def test_no_room_for_a_copy(folder, monkeypatch):
    path = lay(folder, "xl", ODD)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.warns(UserWarning, match="is read itself") as caught:
        loaded = load_official("xl")
    assert len(caught) == 1 and loaded["large"].dtype == torch.bfloat16
    assert torch.equal(loaded["large"], ODD["large"].bfloat16())
    with pytest.raises(FoleyError, match=r"room for a copy.*FOLEY_LAB_WEIGHTS"):
        convert("xl")
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupted_copy_leaves_nothing(folder, monkeypatch):
    path = lay(folder, "xl", ODD)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_official("xl")
    assert os.listdir(path.parent) == [path.name]


def test_a_copy_belongs_to_its_pickle(folder):
    lay(folder, "synchformer", {"w": torch.zeros(5)})
    assert load_official("synchformer")["w"].sum() == 0
    path = lay(folder, "synchformer", {"w": torch.ones(5)})
    os.utime(path, (1, 1))
    assert load_official("synchformer")["w"].sum() == 5
    path.with_suffix(".safetensors").write_bytes(b"damaged")
    assert load_official("synchformer")["w"].sum() == 5
    path.unlink()
    path.with_suffix(".safetensors").write_bytes(b"damaged")
    with pytest.raises(FoleyError, match=r"synchformer_state_dict\.safetensors cannot be read"):
        load_official("synchformer")


def test_what_need_not_be_converted(folder):
    for file in ("config.json", "model.safetensors"):
        (folder / "siglip2" / file).write_bytes(b"{}")
    with pytest.raises(ValueError, match="'siglip2' comes as safetensors"):
        convert("siglip2")
    with pytest.raises(MissingWeights, match="weights fetch xxl"):
        convert("xxl")


def test_copies_are_verified(folder):
    lay(folder, "synchformer", {"w": torch.zeros(5)})
    copy = convert("synchformer")
    copy.with_suffix(".pth").unlink()
    assert verify("synchformer") == [copy]
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    with pytest.raises(FoleyError, match="SHA-256"):
        verify("synchformer")


def test_every_difference_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("foley_lab.weights.shipped.SHIPPED", tmp_path)
    paths = [save_shards(tmp_path / "small" / p, {"w": torch.ones(9)}, {})[0] for p in "abc"]
    write_manifest()
    paths[0].write_bytes(b"")
    paths[2].unlink()
    with pytest.raises(FoleyError, match=r"2 faults: \(1\) .*a\.saf.*; \(2\) .*c\.saf") as caught:
        verify("small")
    assert "\n" not in str(caught.value) and "b.safetensors" not in str(caught.value)


def test_a_copy_is_made_of_what_fits(folder):
    """The check is asked before anything is written, and about a copy that was there."""
    path = lay(folder, "dac-vae", {"state_dict": {"w": torch.ones(3)}, "metadata": {"a": 1}})
    asked = []

    def refuse(tensors, metadata):
        asked.append((set(tensors), metadata))
        raise FoleyError("no")

    for ask in (convert, load_official, official_metadata):
        with pytest.raises(FoleyError, match="no"):
            ask("dac-vae", refuse)
    assert os.listdir(path.parent) == [path.name]
    convert("dac-vae")
    with pytest.raises(FoleyError, match="no"):
        convert("dac-vae", refuse)
    assert asked == 4 * [({"w"}, {"a": 1})]


@pytest.mark.parametrize("record", ["{", "[]", '{"a": 1}', '{"a": {"bytes": 1}}'])
def test_a_damaged_record_is_told_before_a_copy_is_made(folder, record):
    path = lay(folder, "synchformer", {"w": torch.zeros(5)})
    path.with_name("digests.json").write_text(record)
    for ask in (convert, load_official, verify):
        with pytest.raises(FoleyError, match=r"digests\.json is damaged"):
            ask("synchformer")
    assert sorted(os.listdir(path.parent)) == sorted(["digests.json", path.name])


def test_a_copy_without_a_digest_is_no_sound_one(folder):
    path = lay(folder, "synchformer", {"w": torch.zeros(5)})
    copy = convert("synchformer")
    record = path.with_name("digests.json")
    facts = json.loads(record.read_text())
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    record.write_text(json.dumps({path.name: {"bytes": len(data), "sha256": digest}}))
    with pytest.raises(FoleyError, match=rf"{copy.name} has no digest on record"):
        verify("synchformer")
    record.write_text(json.dumps({**facts, path.name: {"bytes": len(data), "sha256": digest}}))
    assert verify("synchformer") == [copy, path]


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles_are_searched_for_code(folder, protocol, recwarn):
    path = folder / "xl" / "hunyuanvideo_foley_xl.pth"
    path.write_bytes(pickle.dumps({"x": Code(folder / "ran")}, protocol))
    with pytest.raises(FoleyError, match=r"carries code \(\w+\.mkdir\)"):
        load_official("xl")
    assert not (folder / "ran").exists()
    path.write_bytes(pickle.dumps({"x": [1, "posix mkdir"]}, protocol))  # harmless, but no weights
    with pytest.raises(FoleyError, match="cannot be read") as caught:
        load_official("xl")
    assert "carries code" not in str(caught.value) and not recwarn.list


# Strict loading


def transformer_and_tensors(config):
    with torch.device("meta"):
        module = FoleyTransformer(config)
    generator = torch.Generator().manual_seed(3)
    return module, {
        key: (0.1 * torch.randn(value.shape, generator=generator)).bfloat16()
        for key, value in module.state_dict().items()
    }


SLIM = replace(XL, depth_triple_blocks=2, depth_single_blocks=1, hidden_size=32, num_heads=2)


def test_tensors_are_taken_over_not_copied():
    module, tensors = transformer_and_tensors(SLIM)
    tensors["ssl_head.weight"] = torch.ones(2)
    assert load_strictly(module, tensors, tolerate_unknown=True) == ["ssl_head.weight"]
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    parameters = dict(module.named_parameters())
    assert parameters["cond_in.linear_1.weight"].data_ptr() == (
        tensors["cond_in.linear_1.weight"].data_ptr()
    )
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, tensors[key]), key
    plain = FoleyTransformer(SLIM).bfloat16()
    plain.load_state_dict({key: tensors[key] for key in plain.state_dict()})
    seeded = torch.Generator().manual_seed(4)
    inputs = [torch.randn(1, n, 768, generator=seeded) for n in (4, 3, 8)]
    arguments = (torch.randn(1, 128, 10, generator=seeded), torch.tensor([500.0]), *inputs)
    with torch.inference_mode():
        heard = module(*arguments)
        assert heard.isfinite().all() and torch.equal(heard, plain(*arguments))


def test_a_transformer_lies_in_its_file(folder):
    """No tensor is copied on its way from the mapped file, convolutions included."""
    module, tensors = transformer_and_tensors(SLIM)
    lay(folder, "xl", tensors)
    loaded = load_official("xl")
    load_strictly(module, loaded, tolerate_unknown=True)
    for key, parameter in module.named_parameters():
        assert parameter.data_ptr() == loaded[key].data_ptr(), key
        assert torch.equal(parameter, tensors[key]), key


def test_what_does_not_fit_is_named():
    module, tensors = transformer_and_tensors(SLIM)
    lacking = {key: tensors[key] for key in tensors if "time_in" not in key}
    with pytest.raises(
        FoleyError, match=r"without time_in\.mlp\.0\.bias.* and 1 more.*2 \+ 1 blocks"
    ):
        load_strictly(module, lacking, tolerate_unknown=True)
    with pytest.raises(FoleyError, match=r"with more, wanted none.*right size: fetch it again"):
        load_strictly(module, tensors | {"more": torch.ones(1)})
    whole = tensors | {"time_in.mlp.0.bias": torch.ones(32, dtype=torch.int32)}
    with pytest.raises(FoleyError, match=r"a\.pth with time_in\.mlp\.0\.bias of torch\.int32"):
        load_strictly(module, whole, source="a.pth")
    tensors["empty_clip_feat"] = torch.ones(1, 5)
    with pytest.raises(FoleyError, match=r"empty_clip_feat \[1, 5\].*wanted \[1, 768\]"):
        load_strictly(module, tensors)
    assert all(tensor.is_meta for tensor in module.state_dict().values())


def test_a_file_under_the_wrong_name_says_so():
    with torch.device("meta"):
        tensors = FoleyTransformer(XL).state_dict()
        module = FoleyTransformer(replace(XL, depth_triple_blocks=18, depth_single_blocks=36))
    assert describe_size(tensors) == "xl (12 + 24 blocks of width 1408)"
    with pytest.raises(FoleyError, match=r"the file looks like xl \(12 \+ 24 blocks"):
        load_strictly(module, tensors, tolerate_unknown=True)
    assert "no published size (2 + 1 blocks of width 32)" in describe_size(
        transformer_and_tensors(SLIM)[1]
    )
    assert (
        describe_size(nn.Linear(1, 1, bias=False).state_dict())
        == "no transformer of HunyuanVideo-Foley (1 tensors)"
    )
