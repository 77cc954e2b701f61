"""Laws of the rendered sound: exact in time, honest in strength, the same for the same seed."""

import numpy as np
import pytest

from foley_lab.signals import MATERIALS, Event, EventLog, Interval
from foley_lab.synthetic.sounds import INSTANTS, RECIPES, SURFACE_GAIN, render_sound, render_stems

START = 24_000


def one(kind="impact", material="wood", strength=0.8, seed=3, **more) -> EventLog:
    event = Event(0.5, kind, material, strength, object=0, **more)
    return EventLog("test", seed, 1.5, events=[event])


def busy(seed: int) -> EventLog:
    rng = np.random.default_rng(seed)
    events = [
        Event(float(t), str(rng.choice(INSTANTS)), str(rng.choice(MATERIALS)), 1.0, "stone", o)
        for o, t in enumerate(np.arange(0.1, 3.9, 0.07))
    ]
    lasting = [Interval("scrape", 0.5, 1.5, "metal"), Interval("roll", 2.0, 3.5, "rubber")]
    return EventLog("test", seed, 4.0, events=events, continuous=lasting)


def test_every_material_has_a_recipe():
    assert set(RECIPES) == set(MATERIALS)


@pytest.mark.parametrize("seconds", [0.1, 1.0 / 3.0, 4.0])
def test_length_and_type(seconds):
    sound = render_sound(EventLog("test", 0, seconds))
    assert sound.dtype == np.float32 and sound.shape == (round(seconds * 48_000),)


def test_seed_decides_everything():
    log = busy(5)
    first = render_sound(log)
    assert np.array_equal(first, render_sound(log))
    assert np.array_equal(first, render_sound(log, seed=5))
    assert not np.array_equal(first, render_sound(log, seed=6))


@pytest.mark.parametrize("seed", range(4))
def test_busy_clip_never_clips(seed):
    sound = render_sound(busy(seed))
    assert np.isfinite(sound).all() and np.abs(sound).max() < 1


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("kind", INSTANTS)
def test_attack_starts_at_its_sample(kind, material):
    for seed in range(4):
        sound = np.abs(render_sound(one(kind, material, seed=seed)))
        before, first_ms = sound[:START].max(), sound[START : START + 48].max()
        assert before < 0.05 * sound.max()
        assert first_ms > 5 * before and first_ms > 0.3 * sound.max()


def test_time_of_event_moves_the_sound_by_as_much():
    late = one()
    late.events = [Event(0.75, "impact", "wood", 0.8, object=0)]
    ring = render_sound(one())[START : START + 4800]
    moved = render_sound(late)[START + 12_000 : START + 16_800]
    assert np.corrcoef(ring, moved)[0, 1] > 0.98


@pytest.mark.parametrize("material", MATERIALS)
def test_harder_is_louder_and_brighter(material):
    def level_and_centroid(strength):
        sound = render_sound(one("impact", material, strength))[START : START + 2048]
        power = np.abs(np.fft.rfft(sound)) ** 2
        return power.sum(), (power * np.arange(power.size)).sum() / power.sum()

    soft, hard = level_and_centroid(0.15), level_and_centroid(1.0)
    assert hard[0] > 4 * soft[0]
    if material != "gravel":  # a harder step on gravel moves more stones of the same kind
        assert hard[1] > soft[1]


def test_objects_differ_and_stay_themselves():
    def ring(number, material="metal"):
        log = one(material=material)
        log.events = [Event(0.5, "impact", material, 0.8, object=number)]
        return render_sound(log)[START : START + 9600]

    assert np.corrcoef(ring(1), ring(1))[0, 1] > 0.999
    assert abs(np.corrcoef(ring(1), ring(2))[0, 1]) < 0.5


def test_metal_rings_longest_and_rubber_is_lowest():
    def tail(material):
        power = render_sound(one("impact", material)) ** 2
        return power[START + 9600 : START + 14_400].mean() / power[START : START + 4800].mean()

    def pitch(material):
        return np.abs(np.fft.rfft(render_sound(one("impact", material))[START:])).argmax()

    assert max(MATERIALS, key=tail) == "metal"
    assert min((m for m in MATERIALS if m != "gravel"), key=pitch) == "rubber"


@pytest.mark.parametrize("material", MATERIALS)
def test_large_things_sound_lower_and_ring_longer(material):
    def centroid_and_length(size):
        sounds = [render_sound(one("impact", material, 0.7, seed, size=size)) for seed in range(6)]
        heard = np.stack([sound[START : START + 19_200] for sound in sounds])
        power = (np.abs(np.fft.rfft(heard)) ** 2).sum(0)
        late = (heard**2 * np.arange(heard.shape[1])).sum() / (heard**2).sum()
        return (power * np.arange(power.size)).sum() / power.sum(), late

    small, large = centroid_and_length(0.06), centroid_and_length(0.4)
    assert large[0] < 0.9 * small[0]
    if material != "gravel":  # its grains fall as long as they fall
        assert large[1] > 1.03 * small[1]


def test_pitch_stays_in_its_range_whatever_the_size():
    for size in (1e-3, 0.04, 0.5, 30.0):
        sound = render_sound(one("impact", "glass", 0.2, size=size))[START:]
        pitch_hz = np.abs(np.fft.rfft(sound)).argmax() * 48_000 / sound.size
        low, high = RECIPES["glass"].pitch_hz[0], RECIPES["glass"].top_hz[1]
        assert 0.98 * low < pitch_hz < high


def test_cloth_is_dull_and_has_no_partials():
    def bands(material):
        sound = np.stack([render_sound(one("impact", material, 0.8, s))[START:] for s in range(20)])
        power = np.abs(np.fft.rfft(sound)) ** 2
        hz = np.fft.rfftfreq(sound.shape[1], 1 / 48_000)
        dull = power[:, hz < 1200].sum() / power.sum()
        peak = power.max(1) / power.sum(1)  # one strong partial, or many weak ones
        return dull, float(np.median(peak))

    dull, peak = bands("cloth")
    assert dull > 0.9
    assert all(peak < bands(m)[1] for m in ("wood", "rubber", "metal", "glass"))


def test_stems_add_up():
    for seed in range(3):
        log = busy(seed)
        log.events += [Event(2.03, "impact", "cloth", 0.5, visible=False)]
        stems = render_stems(log)
        assert set(stems) == {*(e.object for e in log.events), None, "room"}
        assert np.abs(sum(stems.values()) - render_sound(log)).max() < 1e-6


def test_a_stem_holds_one_body():
    log = one("impact", "metal", size=0.2)
    log.events.append(Event(0.9, "impact", "wood", 0.8, object=1))
    stems = render_stems(log)
    assert np.abs(stems[0][:START]).max() == 0 < np.abs(stems[0][START : START + 480]).max()
    assert np.abs(stems[1][:43_200]).max() == 0 < np.abs(stems[1][43_200:]).max()


def test_one_change_leaves_the_rest_as_it_was():
    first, second = busy(2), busy(2)
    second.events[3] = Event(first.events[3].time_s, "impact", "gravel", 0.9, object=3)
    before, after = render_stems(first), render_stems(second)
    for name in (0, 7, None, "room"):
        level = np.abs(after[name]).max() / np.abs(before[name]).max()  # one gain for the clip
        assert np.allclose(after[name], level * before[name], atol=1e-4)


def test_surface_is_weak():
    assert SURFACE_GAIN <= 10 ** (-12 / 20)
    alone = render_sound(one("impact", "metal"))
    both = render_sound(one("impact", "metal", surface="wood"))
    change = np.abs(both - alone).max() / np.abs(alone).max()
    assert 0.02 < change < 0.3


@pytest.mark.parametrize("kind", ["scrape", "roll"])
def test_lasting_sound_follows_its_speed(kind):
    lasting = Interval(kind, 0.5, 1.5, "wood", speed=(0.1, 1.0))
    sound = render_sound(EventLog("test", 1, 2.0, continuous=[lasting]))
    level = [float(np.sqrt(np.mean(part**2))) for part in np.split(sound, 8)]
    assert level[5] > 2 * level[2] > 4 * level[0]  # fast, slow, nothing yet
    assert np.abs(sound[:START]).max() < 0.05 * np.abs(sound).max()


def test_noise_floor_is_quiet_but_there():
    for seed in range(5):
        rms = np.sqrt(np.mean(render_sound(EventLog("test", seed, 1.0)) ** 2))
        assert -75.5 < 20 * np.log10(rms) < -61.5


def test_events_outside_the_clip_are_silent():
    log = one()
    quiet = render_sound(EventLog("test", 3, 1.5))
    log.events = [Event(-0.2, object=0), Event(1.5, object=0)]
    assert np.abs(render_sound(log)).max() < 2 * np.abs(quiet).max()


@pytest.mark.parametrize(
    "log",
    [
        one(kind="sneeze"),
        one(kind="roll"),
        one(material="cheese"),
        EventLog("test", 0, 0.0),
        EventLog("test", 0, 1.0, continuous=[Interval("impact", 0, 1)]),
    ],
)
def test_what_cannot_sound_is_refused(log):
    with pytest.raises(ValueError, match="wanted"):
        render_sound(log)
