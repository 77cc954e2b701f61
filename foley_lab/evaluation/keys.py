"""What each figure of a score means, for `foley-lab score --help`; light, so that it comes at once.

Every key of `score --json` has its line here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

FIELD = ("passt", "panns", "clap", "desync")
"""Networks of the field that `score --field` can ask (`field_suite`)."""

KEYS = {
    "clips": "sounds scored; their events are pooled, however many a clip has",
    "f1": "onsets paired with events one to one, by tolerance in ms; 1 is perfect",
    "f1_chance_corrected": "(f1 - chance) / (1 - chance), chance being the same onsets turned "
    "round in time; 0 is no better than anywhere",
    "f1_area": "mean f1 over the logarithm of the tolerance, 10 to 160 ms",
    "precision, recall": "onsets that belong to an event, events that are heard, within 40 ms",
    "bias_ms, mae_ms, p95_ms": "mean, mean absolute and 95th percentile of heard - true, of the "
    "pairs within 80 ms; positive is late",
    "error_160": "of the pairs within 160 ms: median_ms, mae_ms, p95_ms, jitter_ms (median "
    "distance from the median), outside (share below -50 or above 125 ms, where it is noticed), "
    "drift_ms_per_minute (slope of the error over the clip)",
    "false_sounds_per_minute": "onsets further than 80 ms from any event",
    "material_accuracy": "events and lasting sounds whose material the judge names right",
    "strength_response": "rank correlation of logged strength and heard energy, mean over clips",
    "silence_db": "median level where nothing should sound, dBFS",
    "envelope_correlation": "of the loudness in steps of 10 ms with the reference's, linear",
    "mr_stft, mr_stft_high": "distance of spectra from the reference in four resolutions: of all "
    "frequencies, of 8 to 20 kHz; 0 is equal",
    "log_mel_l1": "mean distance of log-mel spectra from the reference",
    "lsd_db, mcd_db": "log-spectral distance and mel-cepstral distortion from the reference",
    "envelope_db_correlation, envelope_lag_ms": "of the loudness in dB in steps of 5 ms, and how "
    "much later than the reference it is",
    "kernel_distance": "of the sounds from the references as sets, of 8 clips or more; 0 is alike",
    "field": "with --field: fd_NAME, kl_NAME (nats) and is_NAME of passt and panns, clap (cosine "
    "of sound and prompt), desync_s (mean absolute offset that a network hears)",
    "per_clip": "with --json: all of it for each clip, with its name as clip; reference_fits is "
    "false where the reference does not sound when the log says",
}
"""Keys that share a line, and what they mean."""


def explained(width: int = 78) -> str:
    """The keys as a list for a terminal."""
    return listed("what the figures mean (- where there is nothing to measure):", KEYS, width)


def listed(title: str, meanings: Mapping[str, str], width: int = 78) -> str:
    """A title, and under it each name with its meaning, wrapped."""
    lines = [title]
    for name, meaning in meanings.items():
        text = f"{name}: {meaning}"
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)
