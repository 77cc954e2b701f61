"""A small film for the page: the frames that were read and a sound, as the bytes of an .mp4.

H.264 and AAC, which every browser plays. Picture and sound keep their common clock in the file
itself, so they are as synchronous on the page as they are in the result.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from foley_lab.signals import Audio, Frames

X264 = {"crf": "28", "threads": "1", "x264-params": "mbtree=0"}
"""Without macroblock trees, whose code gives other bytes now and then."""
BIT_RATE = 80_000
CLOCK = Fraction(1, 90_000)
"""Ticks of the picture; the times of frames need not be even."""


def small_film(frames: Frames, audio: Audio) -> bytes:
    """An .mp4 of the frames at their own times, with the sound from time 0 on.

    Args:
        frames: Images [F, H, W, 3] with even H and W.
        audio: Samples [1 or 2, N] in [-1, 1].

    Raises:
        ValueError: If there are no frames, their sides are odd, or the sound has no one or two
            channels.
    """
    images = np.asarray(frames.images)
    if images.ndim != 4 or not len(images) or images.shape[1] % 2 or images.shape[2] % 2:
        raise ValueError(
            f"frames of shape {list(images.shape)}, wanted [F, H, W, 3] with even H and W, "
            "read them with another View"
        )
    samples = np.ascontiguousarray(audio.samples, np.float32)
    if samples.ndim != 2 or samples.shape[0] not in (1, 2):
        raise ValueError(f"sound of shape {list(samples.shape)}, wanted [1 or 2, N]")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", container_options={"fflags": "+bitexact"}) as output:
        picture: Any = output.add_stream("libx264", options=X264)
        picture.height, picture.width = images.shape[1:3]
        picture.pix_fmt = "yuv420p"
        picture.codec_context.time_base = CLOCK
        layout = "mono" if len(samples) == 1 else "stereo"
        sound: Any = output.add_stream("aac", rate=audio.sample_rate, layout=layout)
        sound.bit_rate = BIT_RATE
        for stream in (picture, sound):
            stream.codec_context.flags |= Flags.bitexact
        for image, time_s in zip(images, np.asarray(frames.times_s), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s / CLOCK), CLOCK
            output.mux(picture.encode(frame))
        output.mux(picture.encode(None))
        block = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        block.sample_rate, block.pts = audio.sample_rate, 0
        block.time_base = Fraction(1, audio.sample_rate)
        output.mux(sound.encode(block))
        output.mux(sound.encode(None))
    return file.getvalue()
