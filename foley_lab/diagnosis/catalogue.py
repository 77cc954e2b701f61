"""What the benchmarks are, for `foley-lab bench --help`; light, so that help comes at once.

`bench.BENCHMARKS` has the functions behind the names.
"""

from __future__ import annotations

from foley_lab.evaluation.keys import listed

CATALOGUE = {
    "small": "the figures of the model card: the small model on 100 held-out clips, from the "
    "picture alone, with right and with contradicting words, beside the exact sound, the codec, "
    "the eyes and the generator alone; 12 min",
    "sync": "how exact the timing is: the scale from silence and a metronome to the exact sound, "
    "and where the small model stands on it, 60 clips; the gate of the onset detector by family; "
    "10 min",
    "response": "does the sound answer to its causes: pairs of clips that differ in material, "
    "surface, strength or size, 12 of each; 3 min",
    "continuity": "is a long sound one sound: seams at windows and chunks, drift, and equal runs, "
    "4 clips of 30 s; 1 min",
    "injections": "can the score be fooled: shifts, jitter, dropped, added and misnamed events "
    "read back from 60 clips, and what silence, another clip and any metronome score; 3 min",
    "samplers": "what a step buys: every sampler at 1 to 64 steps, schedules, guidance and step "
    "caches, their price in calls and milliseconds, their quality on 50 clips beside Euler with 50 "
    "steps; goes on where it was interrupted; 40 min",
    "transformer": "what one call of the official XL transformer costs, on 3 of its blocks, beside "
    "the same class computing all of it anew; --count is the number of calls; 2 min",
    "official": "what a clip of 8 s costs with the official model on this machine, part by part, "
    "with random weights of the published sizes; --count is the number of timed runs; 5 min",
}
"""By name: what it does and about how long it takes on one core of a server."""


def explained(width: int = 78) -> str:
    """The benchmarks as a list for a terminal."""
    return listed("benchmarks:", CATALOGUE, width)
