"""Files in, files out: decode a film once, give it a sound without touching its picture.

    path ─read_video→ Video (small frames, real times)        Audio ─mux→ the same film with sound

Everything is PyAV (FFmpeg as a library): no program is called, nothing is downloaded. Time 0 is the
start of the first shown frame, in the frames, in the sound and in the files that are written.
"""

from .muxing import mux
from .opening import picture_span
from .reading import fit, num_slots, probe, read_video
from .sound import read_audio
from .writing import check_target, write_audio, write_video

__all__ = [
    "check_target",
    "fit",
    "mux",
    "num_slots",
    "picture_span",
    "probe",
    "read_audio",
    "read_video",
    "write_audio",
    "write_video",
]
