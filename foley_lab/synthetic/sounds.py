"""The sound of an event log: modal synthesis, exact to the sample, two milliseconds a second.

A struck body rings in damped modes (van den Doel & Pai 1998, "The sounds of physical shapes"):

    y(t) = Σ_k a_k · exp(−t / τ_k) · sin(2π f_k t)  +  click(t)

`RECIPES` says for each material where the modes f_k lie, how long they ring and how the contact
itself clicks; a body of a clip (seed, object) draws its own damping and place of the blow from
these ranges, and lies in the range of pitch where its `size` puts it: large is low and rings a
little longer. A size that is not known is drawn too. Every body has two such responses, struck
softly (dark) and struck hard (bright), and an event of strength h sounds as

    level(h) · ((1 − h) · soft + h · hard),

so that a harder blow is louder and brighter. Scrapes and rolls drive the same responses with noise
and with showers of tiny blows that follow the speed. A few early reflections come after the direct
sound and the noise floor lies far below it, so an event starts at sample `round(time_s · 48 000)`
and nothing moves it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log2
from typing import cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import lfilter, oaconvolve

from foley_lab.signals import MATERIALS, SMALL_RATES, Event, EventLog, Interval

Sound = NDArray[np.float32]
Modes = NDArray[np.float64]

SAMPLE_RATE = SMALL_RATES.sample_rate
INSTANTS = ("impact", "step", "key", "drop")
INTERVALS = ("scrape", "roll")

SURFACE_GAIN = 0.2
"""Peak of what was struck beside what strikes it: −14 dB."""

SIZES = (0.04, 0.5)
"""Extents in picture heights between which a body's pitch runs from the top of its range to the
bottom."""

SIZE_SPREAD = 0.2
"""How much of that range bodies of one size share, by their own draw: ±10 %."""


@dataclass(frozen=True)
class Recipe:
    """How one material rings; pairs are the ranges from which every body draws.

    Attributes:
        pitch_hz: Lowest mode.
        top_hz: Highest mode.
        num_modes: How many modes lie between them, roughly evenly in octaves.
        decay_s: τ of the lowest mode.
        damping: How fast τ falls with frequency: τ_k = decay · (pitch / f_k)^damping.
        brightness: How the amplitudes fall, in dB per octave, for a soft and for a hard blow.
        click_hz: Band of the noise at the contact.
        click_s: Decay of that noise.
        click: Its share for a soft and for a hard blow, relative to the modes.
        grains: How many grains of noise stand in for the modes (gravel), or None.
        thud: Whether a band of noise from the lowest to the highest mode stands in for them all
            (cloth).
        gain: Loudness of the material beside the others.
    """

    pitch_hz: tuple[float, float]
    top_hz: tuple[float, float]
    num_modes: tuple[int, int]
    decay_s: tuple[float, float]
    damping: float
    brightness: tuple[float, float]
    click_hz: tuple[float, float]
    click_s: float
    click: tuple[float, float]
    grains: tuple[int, int] | None = None
    thud: bool = False
    gain: float = 1.0


RECIPES = {
    "wood": Recipe(
        (190, 420), (1100, 1700), (4, 6), (0.022, 0.038), 0.7, (-5, -1.5),
        (700, 2600), 0.0025, (0.15, 0.4),
    ),
    "metal": Recipe(
        (380, 950), (8000, 12000), (10, 14), (0.25, 0.55), 0.45, (-4.5, -0.8),
        (4000, 16000), 0.0015, (0.1, 0.35), gain=0.8,
    ),
    "glass": Recipe(
        (1700, 3300), (11000, 15000), (5, 7), (0.05, 0.11), 0.5, (-5, -0.8),
        (5000, 18000), 0.001, (0.1, 0.35), gain=0.85,
    ),
    "rubber": Recipe(
        (75, 150), (230, 380), (2, 3), (0.022, 0.036), 0.4, (-6, -3),
        (200, 1100), 0.002, (0.15, 0.3),
    ),
    "stone": Recipe(
        (2300, 3600), (7000, 9500), (6, 8), (0.004, 0.008), 0.3, (-4, -0.5),
        (1200, 9000), 0.004, (0.5, 0.9),
    ),
    "plastic": Recipe(
        (620, 1000), (2400, 4000), (4, 5), (0.009, 0.017), 0.15, (-3, 1),
        (1500, 6000), 0.0015, (0.15, 0.45), gain=0.9,
    ),
    "gravel": Recipe(
        (0, 0), (0, 0), (0, 0), (0, 0), 0, (0, 0),
        (1600, 11000), 0.003, (0, 0), grains=(25, 45),
    ),
    "cloth": Recipe(
        (210, 420), (600, 900), (0, 0), (0.012, 0.02), 0, (-9, -3),
        (500, 3000), 0.003, (0.06, 0.16), thud=True,
    ),
}  # fmt: skip


def render_sound(log: EventLog, seed: int | None = None) -> Sound:
    """What the log sounds like.

    Args:
        log: Events and intervals. Those that start outside the clip are silent; a surface that is
            not one of `MATERIALS` adds nothing. Events without an object share one body per
            material.
        seed: Draws bodies, room, level and noise; None takes `log.seed`.

    Returns:
        Mono float32 [N] at 48 kHz, N = round(seconds · 48 000), |x| < 1; the same seed gives the
        same samples.

    Raises:
        ValueError: If the length, a kind or a material is none that can be rendered.
    """
    _check(log)
    seed = log.seed if seed is None else seed
    dry = np.zeros(SMALL_RATES.num_samples(log.seconds), np.float32)
    _play(log, seed, lambda _: dry)
    place = _rng(seed, "place")
    wet = _reflect(dry, _echoes(place))
    wet *= _level(wet, place)
    wet += _noise_floor(dry.size, place)
    return wet


def render_stems(log: EventLog, seed: int | None = None) -> dict[int | str | None, Sound]:
    """What each body of the log sounds like, in its room and at its level.

    Args:
        log, seed: As for `render_sound`.

    Returns:
        Mono float32 [N] by the number of the body (None for what has none), with what it strikes,
        and the noise floor under "room"; together they are `render_sound` within 1e-6.

    Raises:
        ValueError: As `render_sound`.
    """
    _check(log)
    seed = log.seed if seed is None else seed
    num_samples = SMALL_RATES.num_samples(log.seconds)
    stems: dict[int | str | None, Sound] = {}
    _play(log, seed, lambda name: stems.setdefault(name, np.zeros(num_samples, np.float32)))
    place = _rng(seed, "place")
    echoes = _echoes(place)
    stems = {name: _reflect(dry, echoes) for name, dry in stems.items()}
    level = _level(sum(stems.values(), np.zeros(num_samples, np.float32)), place)
    stems = {name: wet * level for name, wet in stems.items()}
    return {**stems, "room": _noise_floor(num_samples, place)}


def _play(log: EventLog, seed: int, track_of: Callable[[int | None], Sound]) -> None:
    """Add every event and interval to the track [N] of its body.

    The dice of each hang on its own time, so that a change to one leaves the others as they were.
    """
    bodies = _Bodies(seed)
    for event in log.events:
        track, start = track_of(event.object), round(event.time_s * SAMPLE_RATE)
        if 0 <= start < track.size:
            rng = _rng(seed, event.kind, round(event.time_s * 1e6))
            _add(track, start, _instant(event, bodies, rng))
    for interval in log.continuous:
        track, start = track_of(interval.object), round(interval.start_s * SAMPLE_RATE)
        end = min(round(interval.end_s * SAMPLE_RATE), track.size)
        if 0 <= start < end:
            rng = _rng(seed, interval.kind, round(interval.start_s * 1e6))
            _add(track, start, _lasting(interval, end - start, bodies, rng))


def _check(log: EventLog) -> None:
    if not 0 < log.seconds < 3600:
        raise ValueError(f"log lasts {log.seconds} s, wanted 0 to 3600; correct its `seconds`")
    for wanted, things in ((INSTANTS, log.events), (INTERVALS, log.continuous)):
        for thing in things:
            if thing.kind not in wanted:
                raise ValueError(f"kind {thing.kind!r}, wanted one of {', '.join(wanted)}")
            if thing.material not in RECIPES:
                raise ValueError(
                    f"material {thing.material!r}, wanted one of {', '.join(MATERIALS)}"
                )


# ------------------------------------------------------------------------------------------ bodies


@dataclass
class Body:
    """One sounding thing of a clip.

    Attributes:
        soft, hard: Responses to a light and to a hard blow [L], peak near 1.
        recipe: What it is made of.
        noise: Filtered noise from which grains are cut [M] (gravel only, otherwise empty).
    """

    soft: Sound
    hard: Sound
    recipe: Recipe
    noise: Sound = field(default_factory=lambda: np.zeros(0, np.float32))

    def strike(self, strength: float, rng: Generator) -> Sound:
        """Response [L] to one blow of `strength` 0 to 1, before the level of the blow."""
        if self.recipe.grains:
            return _grains(self, strength, rng)
        # By its stubs NumPy would make it float64, in truth a float leaves float32 alone.
        return cast(Sound, (1 - strength) * self.soft + strength * self.hard)


class _Bodies:
    """The bodies of one clip, each made when it first sounds."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made: dict[tuple[str, int | str | None, float | None], Body] = {}

    def get(self, material: str, name: int | str | None, size: float | None = None) -> Body:
        key = (material, name, size)
        if key not in self._made:
            # The draws hang on the object alone: another material or size keeps them.
            rng = _rng(self._seed, "body", -1 if name is None else name)
            self._made[key] = _make_body(RECIPES[material], size, rng)
        return self._made[key]


def _make_body(recipe: Recipe, extent: float | None, rng: Generator) -> Body:
    height, damping, place = rng.uniform(size=3)  # of its pitch in the range, of its decay, ...
    if extent is not None:
        low, high = SIZES
        height = (height - 0.5) * SIZE_SPREAD + log2(high / max(extent, 1e-6)) / log2(high / low)
        height = min(max(height, 0.0), 1.0)
    if recipe.grains:
        tilt = np.float32(0.75 - 0.5 * height)  # large stones are darker
        low, high = recipe.click_hz
        band_hz = float(low * (1.3 - 0.6 * tilt)), float(high * (1.1 - 0.4 * tilt))
        noise = _band_noise(16384, band_hz, rng)
        return Body(_click(recipe, 1.0, rng), _click(recipe, 1.0, rng), recipe, noise)
    pitch = _between(recipe.pitch_hz, height, geometric=True)
    top = _between(recipe.top_hz, rng.uniform(), geometric=True)
    decay = _between(recipe.decay_s, damping, geometric=True)
    if extent is not None:
        decay *= 1.2 - 0.4 * height
    if recipe.thud:
        return _make_thud(recipe, (pitch, top), decay, rng)
    count = int(rng.integers(recipe.num_modes[0], recipe.num_modes[1] + 1))
    steps = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / (count - 1)
    steps[0] = 0
    modes_hz = pitch * (top / pitch) ** np.clip(steps, 0, 1.05)
    decays_s = decay * (pitch / modes_hz) ** recipe.damping * rng.uniform(0.8, 1.25, count)
    # A mode is silent where the blow meets its node; .15 keeps every mode a little alive.
    shape = 0.15 + np.abs(np.sin(np.pi * np.arange(1, count + 1) * (0.12 + 0.33 * place)))
    octaves = np.log2(modes_hz / pitch)
    responses = []
    for hardness, slope_db in enumerate(recipe.brightness):
        ring = _ring(modes_hz, decays_s, shape * 10 ** (slope_db * octaves / 20))
        ring /= np.abs(ring).max()
        _add(ring, 0, recipe.click[hardness] * _click(recipe, 0.55 + 0.45 * hardness, rng))
        responses.append(ring * np.float32(recipe.gain / np.abs(ring).max()))
    return Body(responses[0], responses[1], recipe)


def _make_thud(
    recipe: Recipe, band_hz: tuple[float, float], decay_s: float, rng: Generator
) -> Body:
    """Folds that give way: one burst of low noise, no partials; a hard blow opens its band."""
    low, high = band_hz
    length = int(7 * decay_s * SAMPLE_RATE)
    fade = np.exp(-np.arange(length, dtype=np.float32) / np.float32(decay_s * SAMPLE_RATE))
    responses = []
    for hardness, slope_db in enumerate(recipe.brightness):
        noise = _band_noise(length, (low, high), rng, slope_db)
        # it is cyclic and starts at its greatest swing, or the onset would be blurred
        burst = np.roll(noise, -int(np.abs(noise).argmax())) * fade
        burst /= np.abs(burst).max()
        _add(burst, 0, recipe.click[hardness] * _click(recipe, 0.55 + 0.45 * hardness, rng))
        responses.append(burst * np.float32(recipe.gain / np.abs(burst).max()))
    return Body(responses[0], responses[1], recipe)


def _ring(modes_hz: Modes, decays_s: Modes, amplitudes: Modes, block: int = 256) -> Sound:
    """Σ a·exp(−t/τ)·sin(2πft) until −70 dB [L], as one small matrix product.

    With s = −1/τ + 2πif and t = t_block + t_inside, exp(st) = exp(s·t_block) · exp(s·t_inside):
    all samples of all modes come from a few hundred exponentials.
    """
    rates = (-1 / decays_s + 2j * np.pi * modes_hz) / SAMPLE_RATE
    num_blocks = int(8 * decays_s.max() * SAMPLE_RATE / block) + 1
    outer = np.exp(np.outer(np.arange(num_blocks) * block, rates)) * amplitudes
    inner: NDArray[np.complex128] = np.exp(np.outer(rates, np.arange(block)))
    real = np.concatenate([outer.real, outer.imag], 1).astype(np.float32)
    imag = np.concatenate([inner.imag, inner.real], 0).astype(np.float32)
    return (real @ imag).reshape(-1)


def _click(recipe: Recipe, brightness: float, rng: Generator) -> Sound:
    """Noise of the contact [L], peak 1; it starts at full height, which makes every onset sharp."""
    length = int(7 * recipe.click_s * SAMPLE_RATE)
    low, high = recipe.click_hz
    click = _band_noise(length, (low, low + (high - low) * brightness), rng)
    click *= np.exp(-np.arange(length, dtype=np.float32) / (recipe.click_s * SAMPLE_RATE))
    return click / np.abs(click).max()


def _grains(body: Body, strength: float, rng: Generator) -> Sound:
    """Gravel: dozens of short bursts of noise, the strongest first; harder blows move more."""
    assert body.recipe.grains is not None
    fewest, most = body.recipe.grains
    count = round(fewest + (most - fewest) * (0.7 * strength + 0.3 * rng.uniform()))
    spread = rng.uniform(0.08, 0.15) * SAMPLE_RATE
    starts = (spread * rng.beta(1.0, 2.2, count)).astype(np.int64)
    levels = rng.uniform(0.15, 0.75, count) ** 1.5 * np.exp(-1.5 * starts / spread)
    starts[0], levels[0] = 0, 1.0
    length = 336
    decays = rng.uniform(0.0006, 0.0022, (count, 1)) * SAMPLE_RATE
    inside = np.arange(length)
    pieces = body.noise[rng.integers(0, body.noise.size - length, (count, 1)) + inside]
    pieces = pieces * np.exp(-inside / decays) * (levels * (0.5 + 0.5 * strength))[:, None]
    out = np.zeros(int(spread) + length + 1, np.float32)
    np.add.at(out, starts[:, None] + inside, pieces.astype(np.float32))
    return out / max(1.0, float(np.abs(out).max()))


# ----------------------------------------------------------------------------- instants, intervals


def _instant(event: Event, bodies: _Bodies, rng: Generator) -> Sound:
    """Sound of one event [L], its first sample the contact."""
    strength = float(np.clip(event.strength, 0, 1))
    body = bodies.get(event.material, event.object, event.size)
    sound = body.strike(strength, rng)
    level = 0.07 + 0.93 * strength**1.4
    if event.kind == "step":
        heel = _ring(np.array([rng.uniform(75, 110)]), np.array([0.016]), np.array([0.45]))
        sound = _sum(0.8 * sound, heel)
    elif event.kind == "key":
        sound = 0.55 * _shorten(sound, 0.010)
        sound = _sum(sound, 0.12 * _click(RECIPES["plastic"], 1.0, rng))
    elif event.kind == "drop":
        sound = _sum(0.7 * _shorten(sound, 0.018), 0.1 * _bubble(rng))
    if event.surface in RECIPES and event.kind != "key":
        under = bodies.get(event.surface, "surface").strike(strength, rng)
        sound = _sum(sound, SURFACE_GAIN * float(np.abs(sound).max()) * under)
    return (level * 10 ** (rng.uniform(-1, 1) / 20)) * sound


def _lasting(interval: Interval, length: int, bodies: _Bodies, rng: Generator) -> Sound:
    """Sound of one scrape or roll [length + tail]."""
    body = bodies.get(interval.material, interval.object, interval.size)
    speed = np.asarray(interval.speed or (1.0,), np.float32)
    speed = np.interp(np.linspace(0, 1, length), np.linspace(0, 1, speed.size), speed)
    edge = np.minimum(np.arange(length) / 720, (length - np.arange(length)) / 1440)
    envelope = (np.clip(speed, 0, 1) * np.clip(edge, 0, 1)).astype(np.float32)
    if interval.kind == "scrape":
        # Roughness: the contact catches a few hundred times a second, more weakly where it is slow.
        catches = np.repeat(rng.uniform(0.4, 1.0, length // 160 + 1).astype(np.float32), 160)
        drive = rng.standard_normal(length, np.float32) * envelope * catches[:length]
        loudness, rumble = 0.16, 0.0
    else:
        chance = (8 + 60 * envelope) / SAMPLE_RATE
        hits = np.flatnonzero(rng.random(length, np.float32) < chance)
        drive = np.zeros(length, np.float32)
        drive[hits] = rng.exponential(0.4, hits.size) * envelope[hits]
        loudness, rumble = 0.05, 0.02
    sound = oaconvolve(drive, _kernel(body, interval.kind, rng)).astype(np.float32)
    middle = float(np.sqrt(np.mean(np.square(sound[:length])) / max(np.mean(envelope**2), 1e-6)))
    sound *= loudness / max(middle, 1e-6) * rng.uniform(0.7, 1.2)
    if rumble:
        sound[:length] += rumble * _rumble(length, rng) * envelope
    return sound


def _kernel(body: Body, kind: str, rng: Generator) -> Sound:
    """What a scrape or roll excites: the body's response, faded so that it ends within 120 ms."""
    strength = 0.6 if kind == "scrape" else 0.3
    response = body.strike(strength, rng)[:5760]
    return response * np.linspace(1, 0, response.size, dtype=np.float32)


def _rumble(length: int, rng: Generator) -> Sound:
    """Low noise below about 150 Hz [length], unit RMS; made at 1.5 kHz and drawn out."""
    step = 32
    white = rng.standard_normal(length // step + 2)
    slow = cast(NDArray[np.float64], lfilter([1.0], [1.0, -1.1, 0.35], white))
    slow /= np.sqrt(np.mean(slow**2)) + 1e-9
    return np.interp(np.arange(length) / step, np.arange(slow.size), slow).astype(np.float32)


def _bubble(rng: Generator) -> Sound:
    """The rising chirp of a drop of water [L], peak near 1."""
    t = np.arange(1440) / SAMPLE_RATE
    phase = rng.uniform(900, 2200) * (t + rng.uniform(4, 12) * t**2)
    return (np.sin(2 * np.pi * phase) * np.exp(-t / 0.006)).astype(np.float32)


def _shorten(sound: Sound, decay_s: float) -> Sound:
    """The sound held by a finger: an extra decay on top of its own."""
    short = sound[: int(6 * decay_s * SAMPLE_RATE)]
    return short * np.exp(-np.arange(short.size, dtype=np.float32) / (decay_s * SAMPLE_RATE))


# ------------------------------------------------------------------------------ room, noise, tools


def _echoes(rng: Generator) -> list[tuple[int, np.float32]]:
    """Four to six early reflections, 3 to 20 ms late, 20 to 34 dB down: (samples, gain)."""
    return [
        (
            int(rng.uniform(0.003, 0.020) * SAMPLE_RATE),
            np.float32(0.5 * 10 ** (rng.uniform(-34, -20) / 20) * rng.choice((-1, 1))),
        )
        for _ in range(int(rng.integers(4, 7)))
    ]


def _reflect(dry: Sound, echoes: list[tuple[int, np.float32]]) -> Sound:
    """The sound and its echoes, a little duller than itself."""
    wet = dry.copy()
    dull = dry.copy()
    dull[1:] += dry[:-1]
    for delay, gain in echoes:
        wet[delay:] += gain * dull[: max(0, dull.size - delay)]
    return wet


def _level(wet: Sound, rng: Generator) -> float:
    """The clip's gain: many blows at once may exceed full scale, then it is turned down as a whole,
    never bent."""
    level = 0.62 * 10 ** (rng.uniform(-7, 0) / 20)
    return min(level, 0.97 / max(float(np.abs(wet).max(initial=0.0)), 1e-9))


def _noise_floor(num_samples: int, rng: Generator) -> Sound:
    """Noise at −75 to −62 dBFS RMS, between white and brownish [N]."""
    noise = rng.standard_normal(num_samples, np.float32)
    colour = np.float32(rng.uniform(0, 0.9))
    gain, pole = np.array([1 - colour], np.float32), np.array([1, -colour], np.float32)
    noise = cast(Sound, lfilter(gain, pole, noise))  # a tuple only if handed a state
    rms = float(np.sqrt(np.mean(np.square(noise))))
    return noise * np.float32(10 ** (rng.uniform(-75, -62) / 20) / (rms + 1e-12))


def _band_noise(
    length: int, band_hz: tuple[float, float], rng: Generator, slope_db: float = 0.0
) -> Sound:
    """Noise between two frequencies [length], unit RMS, with edges a third of an octave wide; it
    rises by `slope_db` per octave."""
    frequencies = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequencies, 1.0))
    low, high = (log2(max(edge, 1.0)) for edge in band_hz)
    mask = np.clip(1 + 3 * (octaves - low), 0, 1) * np.clip(1 + 3 * (high - octaves), 0, 1)
    mask = mask * 10 ** (slope_db * (octaves - low) / 20)
    spectrum = rng.standard_normal(mask.size) + 1j * rng.standard_normal(mask.size)
    noise = np.fft.irfft(spectrum * mask, length).astype(np.float32)
    return noise / np.float32(np.sqrt(np.mean(noise**2)) + 1e-12)


def _between(bounds: tuple[float, float], share: float, geometric: bool = False) -> float:
    low, high = bounds
    return low * (high / low) ** share if geometric else low + (high - low) * share


def _add(out: Sound, start: int, sound: Sound) -> None:
    """Adds `sound` into `out` from `start`, cut at the end."""
    fits = min(sound.size, out.size - start)
    out[start : start + fits] += sound[:fits]


def _sum(a: Sound, b: Sound) -> Sound:
    """Sum of two sounds that start together, as long as the longer one."""
    long, short = (a, b) if a.size >= b.size else (b, a)
    total = long.astype(np.float32)
    total[: short.size] += short
    return total


def _rng(seed: int, *names: str | int) -> Generator:
    """A generator that hangs on the seed and on what it is for."""
    return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(repr(names).encode())])
