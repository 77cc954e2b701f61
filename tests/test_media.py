"""Laws of the media room: right frames at right times, the picture untouched, the sound exact."""

from __future__ import annotations

import math
import os
import random
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import (
    SAMPLE_RATE,
    clicks,
    copy_shifted,
    make_film,
    make_sound,
    payloads,
    picture,
    shown_times,
)
from torch.nn.functional import interpolate

from foley_lab import media
from foley_lab.media import num_slots, probe, read_audio, read_video, writing
from foley_lab.signals import Audio, MediaError, View

SYNC = View("sync", Fraction(25), 32, 32, "crop", "bicubic")
VISUAL = View("visual", Fraction(25, 4), 48, 40)
EVERY = View("every", Fraction(0), 32, 32)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="session")
def film(folder) -> Path:
    """Two seconds of H.264 with B-frames at 25 Hz and a click at 0.5 s."""
    return make_film(folder / "film.mp4", sound=clicks(2, [0.5]), tags={"title": "A film"})


def noise(index: int, width: int, height: int) -> np.ndarray:
    """A frame that compresses badly, so that files are long enough to damage."""
    return np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8)


def greys(frames) -> list[int]:
    """Which frames a view shows, as levels modulo the codec's error."""
    middle = frames.images[:, frames.view.height // 2, frames.view.width // 2].float().mean(-1)
    return [round((level - 20) / 10) for level in middle.tolist()]


def sound_of(count: int, at: int, channels: int = 2) -> Audio:
    samples = torch.zeros(channels, count)
    samples[:, at] = 0.9
    return Audio(samples)


def expected_slots(times: list[Fraction], rate: Fraction, count: int) -> list[Fraction]:
    """The rule, spelled out: the first frame with time >= k / rate, else the last frame."""
    return [next((t for t in times if t >= k / rate), times[-1]) for k in range(count)]


# Which frames


ODD_FILMS = {
    "h264 30 Hz": ("a.mp4", {"fps": 30, "frames": 46}),
    "ntsc": ("b.mp4", {"fps": Fraction(30000, 1001), "frames": 44}),
    "vp9": ("c.webm", {"codec": "libvpx-vp9"}),
    "mpeg4 with B-frames": ("d.mp4", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "10 bit": (
        "e.mp4",
        {
            "codec": "libx265",
            "pix_fmt": "yuv420p10le",
            "options": {"x265-params": "log-level=none"},
        },
    ),
    "variable rate": ("f.mp4", {"frames": 7, "ticks": [0, 10, 100, 500, 510, 900, 1400]}),
    "variable rate in mkv": ("g.mkv", {"frames": 6, "ticks": [0, 10, 100, 500, 510, 900]}),
    "odd size": ("h.webm", {"codec": "libvpx-vp9", "size": (65, 49)}),
    "odd size, 4:4:4": ("i.mp4", {"size": (97, 65), "pix_fmt": "yuv444p"}),
    "one frame": ("j.mp4", {"frames": 1}),
    "one pixel": ("k.webm", {"codec": "libvpx-vp9", "size": (1, 1), "frames": 5}),
    "transport stream": ("l.ts", {"sound": clicks(2, [0.5])}),
    "fragments": ("m.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "program stream": ("n.mpg", {"codec": "mpeg2video"}),
    "flash": ("o.flv", {}),
    "high speed": ("p.mkv", {"fps": 240, "frames": 120}),
    "sound starts late": ("q.mp4", {"sound": clicks(1, [0.5]), "sound_start": 24_000}),
}


@pytest.mark.parametrize("name", ODD_FILMS)
def test_every_slot_shows_the_first_frame_not_before_it(name, folder):
    file, settings = ODD_FILMS[name]
    path = make_film(folder / file, **settings)
    video = read_video(path, [SYNC, VISUAL, EVERY])
    times = shown_times(path)
    for view in (SYNC, VISUAL):
        frames = video.views[view.name]
        count = num_slots(video.duration_s, view.frame_rate)
        assert frames.images.shape == (count, view.height, view.width, 3)
        assert frames.images.is_contiguous() and frames.images.dtype == torch.uint8
        expected = expected_slots(times, view.frame_rate, count)
        assert frames.times_s.tolist() == [float(t) for t in expected]
        # Times are one thing, pixels another: both must belong to the same frame.
        index = {float(t): i % 20 for i, t in enumerate(times)}
        assert greys(frames) == [index[t] for t in frames.times_s.tolist()]
    assert video.views["every"].times_s.tolist() == [float(t) for t in times]
    assert video.warnings == []
    assert probe(path).duration_s == video.duration_s


def test_avi_without_display_times_is_read_in_order(folder):
    path = make_film(folder / "b-frames.avi", codec="mpeg4", options={"bf": "2"}, frames=30)
    frames = read_video(path, [EVERY]).views["every"]
    assert frames.times_s.tolist() == [i / 25 for i in range(30)]
    assert greys(frames) == [i % 20 for i in range(30)]


def test_the_last_slots_repeat_the_last_frame(folder):
    path = make_film(folder / "slow.mp4", frames=3, ticks=[0, 100, 200], fps=10)
    frames = read_video(path, [SYNC]).views["sync"]
    last = frames.times_s[-1].item()
    assert last == pytest.approx(0.2)
    assert (frames.times_s == last).sum() >= 2


def test_a_film_faster_than_240_hz_is_thinned(folder):
    path = make_film(folder / "fast.mp4", fps=300, frames=150)
    frames = read_video(path, [EVERY]).views["every"]
    assert len(frames.times_s) == 120
    assert (frames.times_s.diff() > 0).all()


def test_views_read_together_equal_views_read_alone(film):
    together = read_video(film, [SYNC, VISUAL, EVERY]).views
    for view in (SYNC, VISUAL, EVERY):
        alone = read_video(film, [view]).views[view.name]
        assert torch.equal(alone.images, together[view.name].images)
        assert torch.equal(alone.times_s, together[view.name].times_s)


def test_a_section_is_a_clip_of_its_own(film):
    whole = read_video(film, [SYNC]).views["sync"]
    section = read_video(film, [SYNC], start_s=0.4, end_s=1.2)
    assert section.duration_s == pytest.approx(0.8)
    assert torch.equal(section.views["sync"].images, whole.images[10:30])
    assert section.views["sync"].times_s.tolist() == pytest.approx([k / 25 for k in range(20)])
    assert read_video(film, [SYNC], start_s=1.99).views["sync"].images.shape[0] == 1


def test_number_of_slots_covers_the_clip():
    assert num_slots(10.0, Fraction(25)) == 250
    assert num_slots(0.1 + 0.2, Fraction(10)) == 3  # 0.30000000000000004 s
    assert num_slots(10.01, Fraction(25)) == 251
    assert num_slots(0, Fraction(25)) == 1


# Which pixels


def test_views_are_resized_as_asked(film):
    with av.open(str(film)) as source:
        frame = next(source.decode(source.streams.video[0])).to_ndarray(format="rgb24")
    full = torch.from_numpy(frame).permute(2, 0, 1)[None]
    video = read_video(film, [SYNC, VISUAL]).views
    squeezed = interpolate(full, (48, 40), mode="bilinear", antialias=True)
    assert torch.equal(video["visual"].images[0], squeezed[0].permute(1, 2, 0))
    cropped = interpolate(full, (32, 48), mode="bicubic", antialias=True)[..., 8:40]
    assert torch.equal(video["sync"].images[0], cropped[0].permute(1, 2, 0))


@pytest.mark.parametrize(("degrees", "row", "column"), [(90, -1, 0), (180, -1, -1), (270, 0, -1)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rotation_is_applied(folder, degrees, row, column, suffix):
    path = make_film(folder / f"turned{degrees}{suffix}", rotation=degrees, frames=3)
    video = read_video(path, [View("v", Fraction(25), 32, 32)])
    assert (video.width, video.height) == ((64, 96) if degrees % 180 else (96, 64))
    corners = video.views["v"].images[0, ::31, ::31].float().mean(-1)
    assert corners[row, column] > 240
    assert (corners > 240).sum() == 1


def test_oblong_pixels_are_displayed_wide(folder):
    path = make_film(folder / "wide.mp4", sample_aspect=Fraction(2), frames=3)
    video = read_video(path, [SYNC])
    assert (video.width, video.height) == (192, 64)
    # Displayed 192x64, the crop keeps the middle third: the white corner square is outside.
    assert video.views["sync"].images[0].max() < 100


def test_a_thin_picture_is_cropped_without_blowing_up():
    thin = torch.zeros(1, 3, 2, 4096, dtype=torch.uint8)
    thin[..., 2040:2056] = 255
    image = media.fit(thin, View("v", Fraction(25), 224, 224, "crop", "bicubic"))
    assert image.shape == (224, 224, 3)
    assert image[112, 112].min() == 255


def test_size_may_change_midway(folder):
    small = make_film(folder / "small.ts", size=(48, 48), frames=20)
    large = make_film(folder / "large.ts", frames=20)
    path = folder / "changing.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    video = read_video(path, [SYNC])
    assert video.views["sync"].images.shape[1:] == (32, 32, 3)
    assert any("size" in w for w in video.warnings)


# Odd clocks


def test_an_edit_list_hides_frames(folder, film):
    path = copy_shifted(film, folder / "edited.mp4", -0.4)
    video = read_video(path, [EVERY])
    assert video.duration_s == pytest.approx(1.6)
    assert greys(video.views["every"])[:3] == [10, 11, 12]


def test_a_late_picture_starts_at_zero(folder):
    early = make_film(folder / "early.mp4", frames=40)
    path = copy_shifted(early, folder / "late.mp4", 0.5)
    video = read_video(path, [EVERY])
    assert video.views["every"].times_s[0] == 0
    assert video.duration_s == pytest.approx(1.6)


def test_negative_times_in_matroska_do_no_harm(folder):
    source = make_film(folder / "plain.mkv", frames=60)
    path = copy_shifted(source, folder / "negative.mkv", -0.4)
    video = read_video(path, [SYNC])
    assert video.views["sync"].images.shape[0] == num_slots(video.duration_s, Fraction(25))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_truncated_file_is_noticed(folder, suffix):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    whole = make_film(folder / f"whole{suffix}", frames=100, draw=noise, container_options=options)
    path = folder / f"half{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    video = read_video(path, [SYNC])
    assert any("truncated" in w for w in video.warnings)
    assert 1 < video.duration_s < 3
    with pytest.raises(MediaError, match="truncated"):
        read_video(path, [SYNC], strict=True)
    assert read_video(whole, [SYNC], strict=True).warnings == []


def damaged_copy(source: Path, target: Path, every: int) -> Path:
    data, dice = bytearray(source.read_bytes()), random.Random(0)
    for at in range(len(data) // 4, len(data) * 3 // 4, every):
        data[at] = dice.randrange(256)
    target.write_bytes(data)
    return target


def test_a_damaged_file_is_read_around_its_damage(folder):
    source = make_film(folder / "sane.mkv", frames=100, draw=noise, size=(64, 64))
    path = damaged_copy(source, folder / "hurt.mkv", every=3000)
    try:
        video = read_video(path, [SYNC])
    except MediaError as error:  # too much of it is damaged
        assert "\n" not in str(error)
    else:
        assert video.views["sync"].images.shape[0] == num_slots(video.duration_s, Fraction(25))


def test_any_garbage_in_a_file_ends_in_a_media_error_or_a_video(folder, film):
    sound = film.read_bytes()
    dice = random.Random(1)
    for trial in range(40):
        data = bytearray(sound)
        for _ in range(dice.choice([1, 10, 200])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path = folder / "garbage.mp4"
        path.write_bytes(data[: dice.randrange(1, len(data))] if trial % 2 else data)
        for read in (lambda p: read_video(p, [SYNC]), read_audio):
            try:
                read(path)
            except MediaError as error:
                assert "\n" not in str(error)


# Bad inputs


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _coded_image(path: Path, codec: str, pix_fmt: str) -> Path:
    with av.open(str(path), "w", format="image2" if codec != "gif" else "gif") as output:
        stream = output.add_stream(codec, rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = pix_fmt
        frame = av.VideoFrame.from_ndarray(picture(3, 32, 32), format="rgb24")
        output.mux(stream.encode(frame.reformat(format=pix_fmt)))
        output.mux(stream.encode(None))
    return path


def _song_with_cover(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        cover = output.add_stream("png", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        track = output.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.VideoFrame.from_ndarray(picture(3, 32, 32), format="rgb24")
        output.mux(cover.encode(frame))
        output.mux(cover.encode(None))
        sound = av.AudioFrame.from_ndarray(clicks(1, [0.5], 1), format="fltp", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        output.mux(track.encode(sound))
        output.mux(track.encode(None))
    return path


def _no_frames(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        output.start_encoding()
    return path


def _many_streams(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        for _ in range(40):
            stream = output.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(picture(3, 32, 32), format="rgb24").reformat(
            format="yuv420p"
        )
        for stream in output.streams:
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return path


def _claims(path: Path, side: int) -> Path:
    data = make_film(path, codec="rawvideo", pix_fmt="bgr24", frames=2).read_bytes()
    # Raw pictures have no size of their own; they lie upside down, which is a negative height.
    size, claim = struct.pack("<2i", 96, -64), struct.pack("<2i", side, -side)
    assert data.count(size) == 1
    return _written(path, data.replace(size, claim))


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


BAD_FILES = {
    "missing": lambda d: d / "missing.mp4",
    "folder": lambda d: d,
    "empty": lambda d: _written(d / "empty.mp4", b""),
    "text named mp4": lambda d: _written(d / "text.mp4", b"not a film\n" * 100),
    "web page": lambda d: _written(d / "page.mp4", b"<!DOCTYPE html><html></html>"),
    "random bytes": lambda d: _written(d / "random.mp4", random.Random(0).randbytes(50_000)),
    "zeros": lambda d: _written(d / "zeros.mp4", bytes(50_000)),
    "jpeg": lambda d: _coded_image(d / "picture.jpg", "mjpeg", "yuvj420p"),
    "png": lambda d: _coded_image(d / "picture.png", "png", "rgb24"),
    "gif": lambda d: _coded_image(d / "picture.gif", "gif", "rgb8"),
    "playlist": lambda d: _written(
        d / "list.m3u8",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.mp4\n#EXT-X-ENDLIST\n",
    ),
    "concat script": lambda d: _written(d / "list.mp4", b"ffconcat version 1.0\nfile film.mp4\n"),
    "session description": lambda d: _written(d / "call.sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\n"),
    "web address": lambda d: "https://example.org/film.mp4",
    "file address": lambda d: "file:///etc/hostname",
    "concat address": lambda d: "concat:a.mp4|b.mp4",
    "sound only": lambda d: make_sound(d / "sound.wav", clicks(1, [0.5]), "pcm_s16le"),
    "sound in mp4": lambda d: make_sound(d / "sound.m4a", clicks(1, [0.5]), "aac"),
    "song with a cover": lambda d: _song_with_cover(d / "song.mp4"),
    "subtitles": lambda d: _written(d / "words.srt", b"1\n00:00:01,000 --> 00:00:02,000\nhi\n"),
    "no frames": lambda d: _no_frames(d / "none.mp4"),
    "no frames in mkv": lambda d: _no_frames(d / "none.mkv"),
    "cut before its index": lambda d: _written(
        d / "cut.mp4", make_film(d / "uncut.mp4").read_bytes()[:800]
    ),
    "too many pixels": lambda d: make_film(
        d / "huge.mp4", size=(4160, 2400), frames=1, options={"preset": "ultrafast"}
    ),
    "8192 pixels claimed": lambda d: _claims(d / "claims.avi", 8192),
    "16384 pixels claimed": lambda d: _claims(d / "claims.avi", 16384),
    "too many streams": lambda d: _many_streams(d / "streams.mkv"),
    "device": lambda d: "/dev/zero",
    "pipe": lambda d: _fifo(d / "pipe.mp4"),
    "null in the name": lambda d: "film\0.mp4",
    "endless name": lambda d: d / ("x" * 5000 + ".mp4"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(name, tmp_path):
    if os.name != "posix" and name in ("device", "pipe"):
        pytest.skip("no such files here")
    path = BAD_FILES[name](tmp_path)
    for door in (lambda p: read_video(p, [SYNC]), probe):
        with pytest.raises(MediaError) as caught:
            door(path)
        message = str(caught.value)
        assert "\n" not in message and "wanted" in message
        assert name != "8192 pixels claimed" or "8192x8192" in message
        assert len(message) < 600 or name == "endless name"


def test_a_picture_that_grows_past_the_limit_is_not_decoded(tmp_path):
    small = make_film(tmp_path / "small.ts", frames=10)
    large = make_film(
        tmp_path / "large.ts", size=(4160, 2400), frames=2, options={"preset": "ultrafast"}
    )
    path = _written(tmp_path / "grows.ts", small.read_bytes() + large.read_bytes())
    video = read_video(path, [SYNC])
    assert any("damaged" in w for w in video.warnings)
    assert video.views["sync"].images.shape[0] == num_slots(video.duration_s, Fraction(25))


def test_names_of_any_bytes_are_read_and_written(film, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe film.mp4"))
    try:
        path.write_bytes(film.read_bytes())
    except OSError:
        pytest.skip("this file system wants valid names")
    assert probe(path).duration_s == 2
    target = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff out.mkv"))
    media.mux(path, target, sound_of(96_000, 100))
    assert payloads(target) == payloads(film)
    media.write_audio(target.with_suffix(".wav"), sound_of(100, 1))
    with pytest.raises(MediaError) as caught:
        probe(target.with_suffix(".wav"))
    str(caught.value).encode("utf-8")


def test_limits_of_time(film):
    with pytest.raises(MediaError, match="sections"):
        read_video(film, [SYNC], max_seconds=1)
    assert read_video(film, [SYNC], end_s=0.9, max_seconds=1).duration_s == pytest.approx(0.9)
    with pytest.raises(MediaError, match="deadline"):
        read_video(film, [SYNC], deadline_s=0)
    with pytest.raises(MediaError, match="earlier"):
        read_video(film, [SYNC], start_s=2.5)


@pytest.mark.parametrize(
    ("views", "section"),
    [
        ([SYNC, SYNC], {}),
        ([View("v", Fraction(-1), 8, 8)], {}),
        ([View("v", Fraction(1), 0, 8)], {}),
        ([SYNC], {"start_s": -1.0}),
        ([SYNC], {"start_s": math.nan}),
        ([SYNC], {"start_s": 1.0, "end_s": 1.0}),
    ],
)
def test_senseless_requests_are_value_errors(film, views, section):
    with pytest.raises(ValueError, match="wanted"):
        read_video(film, views, **section)


# Sounds in


@pytest.mark.parametrize(
    ("file", "codec", "tolerance"),
    [
        ("s.wav", "pcm_s24le", 1e-6),
        ("s.flac", "flac", 1e-4),
        ("s.m4a", "aac", 0.3),
        ("s.mka", "libopus", 0.3),
    ],
)
def test_sounds_come_back(folder, file, codec, tolerance):
    sound = clicks(1, [0.25])
    path = make_sound(folder / file, sound, codec)
    back = read_audio(path)
    assert back.sample_rate == SAMPLE_RATE and back.samples.dtype == torch.float32
    assert abs(back.samples.shape[1] - sound.shape[1]) <= 960
    assert back.samples[0].abs().argmax() == 12_000
    assert back.samples[0, 12_000] == pytest.approx(0.9, abs=tolerance)


def test_resampling_keeps_length_and_level(folder):
    t = np.arange(44_100) / 44_100
    sound = 0.5 * np.sin(2 * np.pi * 1000 * t, dtype=np.float64)[None].astype(np.float32)
    path = make_sound(folder / "tone.wav", sound, "pcm_s16le", rate=44_100)
    back = read_audio(path)
    assert back.samples.shape == (1, 48_000)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000)
    assert np.abs(back.samples[0, 500:-500].numpy() - expected[500:-500]).max() < 1e-3


def test_mono_is_the_mean_of_the_channels(folder):
    sound = np.stack([np.full(4800, 0.5), np.full(4800, -0.1)]).astype(np.float32)
    path = make_sound(folder / "pair.wav", sound, "pcm_s24le")
    assert read_audio(path, mono=True).samples.flatten().numpy() == pytest.approx(0.2, abs=1e-6)


def test_sound_is_placed_against_the_picture(folder):
    path = make_film(folder / "offset.mp4", sound=clicks(1, [0.25]), sound_start=24_000)
    # The file itself stores the delay in whole milliseconds.
    assert read_audio(path).samples[0].abs().argmax() == pytest.approx(36_000, abs=48)
    early = copy_shifted(path, folder / "early-cut.mp4", -0.4)
    assert read_audio(early).samples[0].abs().argmax() == pytest.approx(16_800, abs=48)


def test_a_film_without_sound_has_none(folder):
    path = make_film(folder / "silent.mp4", frames=3)
    assert not probe(path).has_audio
    with pytest.raises(MediaError, match="no sound"):
        read_audio(path)


def test_a_film_whose_clock_jumps_is_refused_before_memory_runs_out(tmp_path):
    path = make_film(tmp_path / "jump.mkv", frames=3, ticks=[0, 40, 90_000_000])
    for work in (
        lambda: read_video(path, [SYNC]),
        lambda: media.mux(path, tmp_path / "out.mp4", sound_of(100, 1)),
    ):
        with pytest.raises(MediaError, match="at most 3600 s"):
            work()


# Sounds out


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_written_sounds_come_back(tmp_path, suffix):
    noise_like = torch.rand(2, 30_000, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    media.write_audio(tmp_path / f"a{suffix}", Audio(noise_like))
    back = read_audio(tmp_path / f"a{suffix}")
    assert back.samples.shape == noise_like.shape
    if suffix != ".ogg":
        assert (back.samples - noise_like).abs().max() < 2**-23
    assert os.listdir(tmp_path) == [f"a{suffix}"]


def test_full_scale_does_not_wrap(tmp_path):
    media.write_audio(tmp_path / "a.wav", Audio(torch.tensor([[1.0, -1.0, 0.0]])))
    assert read_audio(tmp_path / "a.wav").samples[0].tolist() == pytest.approx([1, -1, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        (torch.zeros(100), ValueError),
        (torch.zeros(3, 100), ValueError),
        (torch.full((1, 100), math.nan), ValueError),
        (torch.full((1, 100), 1.2), MediaError),
    ],
)
def test_unfit_sounds_are_refused(tmp_path, film, samples, error):
    with pytest.raises(error, match="wanted"):
        media.write_audio(tmp_path / "a.wav", Audio(samples))
    with pytest.raises(error, match="wanted"):
        media.mux(film, tmp_path / "a.mp4", Audio(samples))
    assert os.listdir(tmp_path) == []


# Films out


COPIES = [
    ("h264", {}, ".mp4", [".mp4", ".mov", ".mkv"]),
    ("hevc", ODD_FILMS["10 bit"][1], ".mp4", [".mp4", ".mkv"]),
    ("vp9", {"codec": "libvpx-vp9"}, ".webm", [".webm", ".mkv", ".mp4"]),
    ("vp9 in avi", {"codec": "libvpx-vp9", "options": {"lag-in-frames": "0"}}, ".avi", [".mp4"]),
    ("mpeg4 in avi", {"codec": "mpeg4", "options": {"bf": "2"}}, ".avi", [".mp4", ".mov", ".mkv"]),
    ("av1", {"codec": "libsvtav1", "options": {"preset": "12"}}, ".mkv", [".mp4", ".webm"]),
    ("turned", {"rotation": 90}, ".mp4", [".mp4", ".mkv"]),
    ("oblong", {"sample_aspect": Fraction(4, 3)}, ".mp4", [".mp4", ".mkv"]),
    ("variable", {"frames": 6, "ticks": [0, 10, 100, 500, 510, 900]}, ".mkv", [".mp4", ".mkv"]),
    ("one frame", {"frames": 1}, ".mp4", [".mp4", ".mkv"]),
]


@pytest.mark.parametrize(
    ("settings", "source", "target"),
    [
        pytest.param(settings, source, target, id=f"{name} to {target[1:]}")
        for name, settings, source, targets in COPIES
        for target in targets
    ],
)
def test_the_picture_is_untouched_and_the_sound_exact(tmp_path, settings, source, target):
    path = make_film(tmp_path / f"source{source}", **settings)
    before = read_video(path, [EVERY])
    count = round(before.duration_s * SAMPLE_RATE)
    at = count // 3
    out = tmp_path / f"out{target}"
    assert media.mux(path, out, sound_of(count, at)) == []

    assert payloads(out) == payloads(path)
    after = read_video(out, [EVERY])
    assert torch.equal(after.views["every"].images, before.views["every"].images)
    assert (after.width, after.height) == (before.width, before.height)
    tick = 0.0011 if ".mkv" in (source, target) or target == ".webm" else 1e-6
    assert after.duration_s == pytest.approx(before.duration_s, abs=2 * tick)
    times = before.views["every"].times_s
    assert (after.views["every"].times_s - times).abs().max() < tick

    sound = read_audio(out)
    assert sound.samples.shape == (2, count)
    assert sound.samples[0].abs().argmax() == at
    with av.open(str(out)) as film:
        assert film.streams.audio[0].sample_rate == SAMPLE_RATE
        frame_s = 0.0214  # 1024 samples of AAC; 20 ms of Opus
        assert film.duration / av.time_base <= before.duration_s + frame_s
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, out.name])


@pytest.mark.parametrize("given", [1000, 200_000])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_cut_or_padded_to_the_picture(film, tmp_path, given, suffix):
    out = tmp_path / f"out{suffix}"
    media.mux(film, out, sound_of(given, 500, channels=1))
    sound = read_audio(out)
    assert sound.samples.shape == (1, 96_000)
    assert sound.samples[0].abs().argmax() == 500


def test_an_edit_list_survives(film, tmp_path):
    path = copy_shifted(film, tmp_path / "edited.mp4", -0.4)
    out = tmp_path / "out.mp4"
    media.mux(path, out, sound_of(76_800, 9_600))
    assert payloads(out) == payloads(path)
    assert probe(out).duration_s == pytest.approx(1.6)
    assert read_audio(out).samples[0].abs().argmax() == 9_600
    with pytest.raises(MediaError, match="edit list"):
        media.mux(path, tmp_path / "out.mkv", sound_of(100, 1))


def test_a_late_picture_and_its_sound_move_to_zero(tmp_path):
    source = make_film(tmp_path / "s.mp4", frames=40, sound=clicks(1.6, [0.5]))
    path = copy_shifted(source, tmp_path / "late.mp4", 0.5)
    out = tmp_path / "out.mp4"
    media.mux(path, out, Audio(torch.zeros(2, 100)), keep_audio_db=0)
    # The source stores the delay in whole milliseconds.
    assert read_audio(out).samples[0].abs().argmax() == pytest.approx(24_000, abs=48)
    with av.open(str(out)) as film:
        assert film.start_time == 0


def test_own_sound_is_replaced_or_mixed_under(film, tmp_path):
    new = sound_of(96_000, 60_000, channels=1)
    media.mux(film, tmp_path / "replaced.mkv", new)
    replaced = read_audio(tmp_path / "replaced.mkv").samples[0]
    assert replaced[23_900:24_100].abs().max() < 1e-4
    media.mux(film, tmp_path / "mixed.mkv", new, keep_audio_db=-12)
    mixed = read_audio(tmp_path / "mixed.mkv").samples
    own = read_audio(film).samples
    assert mixed[:, 24_000].numpy() == pytest.approx(own[:, 24_000].numpy() * 10**-0.6, abs=1e-3)
    assert mixed[0, 60_000] == pytest.approx(0.9, abs=1e-3)


def test_a_loud_mixture_is_turned_down(film, tmp_path):
    media.mux(film, tmp_path / "loud.mkv", sound_of(96_000, 24_000), keep_audio_db=6)
    assert read_audio(tmp_path / "loud.mkv").samples.max() == pytest.approx(1, abs=1e-3)


def test_mixing_a_film_without_sound_just_adds_the_new_one(tmp_path):
    path = make_film(tmp_path / "silent.mp4")
    media.mux(path, tmp_path / "out.mkv", sound_of(96_000, 7), keep_audio_db=0)
    assert read_audio(tmp_path / "out.mkv").samples[0].argmax() == 7


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_tags_chapters_and_subtitles_are_kept(tmp_path, suffix):
    codec = "mov_text" if suffix == ".mp4" else "subrip"
    chapters = [
        {"id": i, "start": 1000 * i, "end": 1000 * (i + 1), "time_base": Fraction(1, 1000),
         "metadata": {"title": f"part {i}"}}
        for i in range(2)
    ]  # fmt: skip
    path = make_film(
        tmp_path / f"source{suffix}", tags={"title": "A film"}, chapters=chapters, subtitle=codec
    )
    out = tmp_path / f"out{suffix}"
    assert media.mux(path, out, sound_of(96_000, 1)) == []
    with av.open(str(out)) as film:
        tags = {k.lower(): v for k, v in film.metadata.items()}
        assert tags["title"] == "A film"
        assert [c["metadata"]["title"] for c in film.chapters()] == ["part 0", "part 1"]
        words = film.streams.subtitles[0]
        lines = [p for p in film.demux(words) if p.size]
        line = next(p for p in lines if b"hello" in bytes(p))
        assert line.pts * line.time_base == Fraction(1, 5)
    assert abs(probe(out).duration_s - 2) < 1e-6


def test_subtitles_that_do_not_fit_are_named(tmp_path):
    path = make_film(tmp_path / "source.mp4", subtitle="mov_text")
    lost = media.mux(path, tmp_path / "out.mkv", sound_of(96_000, 1))
    assert len(lost) == 1 and "subtitle" in lost[0]


def test_streams_are_copied_from_transport_streams(tmp_path):
    path = make_film(tmp_path / "source.ts", sound=clicks(2, [0.5]))
    out = tmp_path / "out.mp4"
    media.mux(path, out, sound_of(96_000, 30_000))
    before, after = (read_video(p, [EVERY]).views["every"] for p in (path, out))
    assert torch.equal(before.images, after.images)
    assert read_audio(out).samples[0].abs().argmax() == 30_000


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libopus"), (".mp4", "flac"), (".mkv", "libopus")]
)
def test_other_sound_codecs_are_exact_too(film, tmp_path, suffix, codec):
    out = tmp_path / f"out{suffix}"
    media.mux(film, out, sound_of(96_000, 30_000), codec=codec)
    sound = read_audio(out).samples[0]
    assert sound.abs().argmax() == 30_000
    assert len(sound) == pytest.approx(96_000, abs=960)
    with pytest.raises(ValueError, match="wanted one of"):
        media.mux(film, out, sound_of(10, 1), codec="mp3", force=True)


def test_sound_at_another_rate_is_resampled(film, tmp_path):
    samples = torch.zeros(1, 88_200)
    samples[0, 44_100] = 0.9
    media.mux(film, tmp_path / "out.mkv", Audio(samples, 44_100))
    back = read_audio(tmp_path / "out.mkv").samples
    assert back.shape == (1, 96_000)
    assert back[0].abs().argmax() == 48_000


def test_equal_input_gives_equal_files(film, tmp_path):
    for suffix in (".mp4", ".mkv"):
        files = [tmp_path / f"{name}{suffix}" for name in "ab"]
        for file in files:
            media.mux(film, file, sound_of(96_000, 7))
        assert files[0].read_bytes() == files[1].read_bytes()


# Targets


def test_targets_are_checked_before_work_starts(film, tmp_path):
    vp9 = make_film(tmp_path / "v.webm", codec="libvpx-vp9", frames=3)
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    os.link(film, tmp_path / "same.mp4")
    bad = [
        (film, film, "source itself"),
        (film, tmp_path / "same.mp4", "source itself"),
        (film, tmp_path / "out.avi", "wanted one of"),
        (film, tmp_path / "out", "wanted one of"),
        (film, tmp_path / "nowhere" / "out.mp4", "create it"),
        (film, tmp_path / "folder.mp4", "is a folder"),
        (film, tmp_path / "out.webm", r"\.mp4 \.mov \.mkv"),
        (vp9, tmp_path / "out.mov", r"\.mp4 \.mkv \.webm"),
        (tmp_path / "missing.mp4", tmp_path / "out.mp4", "does not exist"),
    ]
    for source, target, words in bad:
        with pytest.raises(MediaError, match=words) as caught:
            media.check_target(source, target, force=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="exists already"):
        media.check_target(film, tmp_path / "there.mp4")
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"
    assert media.check_target(film, tmp_path / "OUT.MP4") == tmp_path / "OUT.MP4"
    assert media.check_target(film, tmp_path / "out.wav") == tmp_path / "out.wav"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that refuses even a superuser")
def test_an_unwritable_folder_is_refused(film):
    with pytest.raises(MediaError, match="takes no new files"):
        media.check_target(film, "/proc/out.mp4")


@pytest.mark.parametrize("blow", [KeyboardInterrupt, MemoryError, RuntimeError, OSError])
def test_nothing_is_left_behind_when_work_breaks_off(film, tmp_path, monkeypatch, blow):
    (tmp_path / "out.mp4").write_bytes(b"old")

    def fail(self, count):
        raise blow("stop")

    monkeypatch.setattr(writing.SoundTrack, "finish", fail)
    with pytest.raises(MediaError if blow is OSError else blow):
        media.mux(film, tmp_path / "out.mp4", sound_of(96_000, 1), force=True)
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"old"


def test_a_full_disk_leaves_nothing_behind(film, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    loud = torch.rand(2, 96_000, generator=torch.Generator().manual_seed(0)) - 0.5
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        for suffix in (".mkv", ".mp4"):
            with pytest.raises(MediaError, match="disk"):
                media.mux(film, tmp_path / f"out{suffix}", Audio(loud))
        with pytest.raises(MediaError, match="disk"):
            media.write_audio(tmp_path / "out.wav", Audio(loud))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_film_damaged_throughout_is_given_up(tmp_path):
    path = make_film(tmp_path / "hurt.webm", codec="libvpx-vp9", frames=80, draw=noise)
    data = path.read_bytes()
    for payload in payloads(path):
        data = data.replace(payload, bytes(len(payload)))
    with pytest.raises(MediaError, match="more than 50 damaged"):
        read_video(_written(path, data), [SYNC])


# Films from frames


def test_made_films_are_reproducible_and_exact(tmp_path):
    frames = [picture(i, 96, 64) for i in range(30)]
    audio = sound_of(SAMPLE_RATE, 24_000)
    for name in ("a.mp4", "b.mp4"):
        media.write_video(tmp_path / name, iter(frames), 30, audio)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    video = read_video(tmp_path / "a.mp4", [EVERY])
    assert video.duration_s == 1 and video.frame_rate == 30
    assert greys(video.views["every"]) == [i % 20 for i in range(30)]
    sound = read_audio(tmp_path / "a.mp4").samples
    assert sound.shape == (2, SAMPLE_RATE) and sound[0].abs().argmax() == 24_000


@pytest.mark.parametrize(("given", "fps"), [(10, 25), (100_000, 29.97), (96_000, 12)])
def test_made_films_are_as_long_as_their_frames(tmp_path, given, fps):
    frames = (picture(i, 64, 48) for i in range(24))
    media.write_video(tmp_path / "a.mkv", frames, fps, sound_of(given, 5, channels=1))
    video = probe(tmp_path / "a.mkv")
    assert video.duration_s == pytest.approx(24 / fps, abs=0.002)
    assert read_audio(tmp_path / "a.mkv").samples.shape[1] == round(24 / fps * SAMPLE_RATE)


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([], ValueError),
        ([np.zeros((48, 64), np.uint8)], ValueError),
        ([np.zeros((48, 64, 3), np.float32)], ValueError),
        ([picture(0, 64, 48), picture(0, 48, 64)], ValueError),
        ([picture(0, 63, 47)], MediaError),
    ],
)
def test_unfit_frames_leave_no_film(tmp_path, frames, error):
    with pytest.raises(error):
        media.write_video(tmp_path / "a.mp4", frames, 25)
    assert os.listdir(tmp_path) == []


# The room


def test_opening_the_room_is_quick_and_says_nothing():
    code = "import sys, foley_lab.media; print('transformers' in sys.modules, 'cv2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False False\n", "")


REAL = sorted(Path(os.environ["FOLEY_LAB_MEDIA"]).glob("*.[ma][pv][4i]")) if os.environ.get(
    "FOLEY_LAB_MEDIA") else []  # fmt: skip


@pytest.mark.skipif(not REAL, reason="set FOLEY_LAB_MEDIA to a folder of real films")
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_real_films(path, tmp_path):
    video = read_video(path, [SYNC, EVERY], strict=True)
    assert (video.views["every"].times_s.diff() > 0).all()
    count = round(video.duration_s * SAMPLE_RATE)
    out = tmp_path / "out.mp4"
    media.mux(path, out, sound_of(count, count // 2))
    assert payloads(out) == payloads(path)
    assert probe(out).duration_s == pytest.approx(video.duration_s, abs=1e-5)
    sound = read_audio(out).samples
    assert sound.shape[1] == count and sound[0].abs().argmax() == count // 2
