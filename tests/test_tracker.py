"""The tracker: a contact is found where it was put, smooth motion is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from foley_lab.encoders.tracker import (
    ALONE,
    BACKED,
    NEAR_S,
    Break,
    camera_path,
    fit_hinge,
    velocity_breaks,
    vote,
)
from foley_lab.signals import Event

SIZE = 96
Path = Callable[[float], tuple[float, float]]


def scene(size: int = SIZE, seed: int = 0) -> np.ndarray:
    """A textured wall: waves of several lengths, 70 to 190, wider than the picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, : 3 * size]
    wall = np.zeros_like(x, float)
    for _ in range(12):
        fx, fy, phase = *rng.uniform(-0.5, 0.5, 2), rng.uniform(0, 2 * math.pi)
        wall += np.cos(fx * x + fy * y + phase)
    return 130 + 10 * wall


def film(
    path: Path | None,
    rate: float,
    seconds: float,
    radius: float = 2.5,
    noise: float = 4.0,
    pan_px: float = 0.0,
    shutter: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark disc on the wall, blurred by the shutter, with noise; uint8 [F, H, W, 3], times."""
    rng, wall = np.random.default_rng(1), scene()
    y, x = np.mgrid[:SIZE, :SIZE]
    frames, count = [], round(rate * seconds)
    for k in range(count):
        shift = pan_px * k
        whole, part = int(shift), shift - int(shift)
        picture = (1 - part) * wall[:, whole : whole + SIZE]
        picture = picture + part * wall[:, whole + 1 : whole + 1 + SIZE]
        if path is not None:
            cover = np.zeros((SIZE, SIZE))
            for moment in np.linspace(0, shutter, 5):
                px, py = path((k + moment - shutter / 2) / rate)
                cover += np.clip(radius + 0.5 - np.hypot(x - px, y - py), 0, 1) / 5
            picture = picture * (1 - cover) + 20 * cover
        frames.append(picture + rng.normal(0, noise, (SIZE, SIZE)))
    grey = np.stack(frames).clip(0, 255).round().astype(np.uint8)
    images = torch.from_numpy(grey)[..., None].expand(-1, -1, -1, 3).contiguous()
    return images, torch.arange(count, dtype=torch.float64) / rate


def falling(floor: float = 80.0, drop_s: float = 0.4, bounce: float = 0.75) -> tuple[Path, list]:
    """A ball dropped from 15 px that bounces on the floor, and when."""
    g = 2 * (floor - 15) / drop_s**2
    contacts, speed, moment = [], g * drop_s, drop_s
    while len(contacts) < 4:
        contacts.append((moment, speed * bounce))
        speed *= bounce
        moment += 2 * speed / g

    def path(t: float) -> tuple[float, float]:
        x = 20 + 25 * t / drop_s / 2
        since = [(t - at, up) for at, up in contacts if at <= t]
        if not since:
            return x, 15 + g * max(t, 0) ** 2 / 2
        s, up = since[-1]
        return x, floor - up * s + g * s * s / 2

    return path, [at for at, _ in contacts]


def sure(images: torch.Tensor, times: torch.Tensor) -> list[Break]:
    return [b for b in velocity_breaks(images, times) if b.confidence >= BACKED]


@pytest.mark.parametrize("speed", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("rate", [24.0, 30.0])
def test_a_small_fast_ball_is_caught_at_its_contacts(speed: float, rate: float) -> None:
    """At natural speed it crosses up to 13 pixels a frame, five times its radius."""
    path, contacts = falling()
    seconds = contacts[1] + 0.25
    images, times = film(lambda t: path(t * speed), rate, seconds / speed)
    found = sure(images, times)
    assert len(found) == 2
    for seen, true in zip(found, contacts, strict=False):
        assert seen.time_s == pytest.approx(true / speed, abs=0.015)
        assert seen.y == pytest.approx(80 / SIZE, abs=0.05)


def test_a_contact_below_the_picture_is_found_by_extrapolation() -> None:
    path, contacts = falling(floor=101.0)
    images, times = film(path, 25.0, contacts[0] + 0.4)
    found = sure(images, times)
    assert [b.time_s for b in found] == pytest.approx([contacts[0]], abs=0.02)
    assert found[0].y > 1


def test_a_rebound_from_a_wall_is_a_contact_too() -> None:
    images, times = film(lambda t: (80 - abs(t - 0.93) * 70, 40 + 10 * t), 25.0, 1.8)
    found = sure(images, times)
    assert [b.time_s for b in found] == pytest.approx([0.93], abs=0.015)
    assert found[0].strength == pytest.approx(140 / SIZE, rel=0.15)


@pytest.mark.parametrize("period", [0.8, 1.6, 3.0])
def test_the_turning_points_of_a_swing_are_no_contacts(period: float) -> None:
    def path(t: float) -> tuple[float, float]:
        angle = 0.7 * math.cos(2 * math.pi * t / period)
        return 48 + 55 * math.sin(angle), 15 + 55 * math.cos(angle)

    assert sure(*film(path, 25.0, 4.0)) == []


def test_a_throw_without_contact_has_none() -> None:
    assert sure(*film(lambda t: (10 + 50 * t, 80 - 150 * t + 100 * t * t), 25.0, 1.5)) == []


def test_a_ball_that_passes_behind_a_post_has_none() -> None:
    images, times = film(lambda t: (10 + 45 * t, 50), 25.0, 1.6)
    images[:, :, 44:50] = 60
    assert sure(images, times) == []


@pytest.mark.parametrize("pan_px", [0.7, 2.3])
def test_a_pan_is_no_contact(pan_px: float) -> None:
    assert sure(*film(None, 25.0, 3.0, pan_px=pan_px)) == []


def test_a_contact_is_found_under_a_pan() -> None:
    path, contacts = falling()
    images, times = film(path, 25.0, contacts[0] + 0.3, radius=3.0, pan_px=1.3)
    found = sure(images, times)
    assert [b.time_s for b in found] == pytest.approx(contacts[:1], abs=0.015)


def test_noise_and_stillness_have_none() -> None:
    assert sure(*film(None, 25.0, 3.0, noise=12.0)) == []
    assert sure(*film(lambda t: (30, 30), 25.0, 3.0, noise=0.0)) == []


def test_grey_pictures_do() -> None:
    path, contacts = falling()
    images, times = film(path, 25.0, contacts[0] + 0.3)
    assert [b.time_s for b in sure(images[..., 1], times)] == pytest.approx(contacts[:1], abs=0.015)


def test_a_lone_body_on_a_plain_wall_does_not_move_the_camera() -> None:
    plain = np.full((20, SIZE, SIZE), 90, np.uint8)
    for k in range(20):
        plain[k, 40:60, 3 * k : 3 * k + 20] = 200
    assert not camera_path(plain).any()


def test_the_camera_is_followed() -> None:
    images, _ = film(None, 25.0, 1.0, pan_px=1.5)
    path = camera_path(images[..., 0].numpy())
    assert path[-1] == pytest.approx([1.5 * 24, 0], abs=2)


def test_the_hinge_finds_what_was_drawn() -> None:
    t = np.arange(12.0)
    p = np.stack([2 * t, 3 * t + 0.2 * t**2 - 9 * np.maximum(0, t - 5.3)], 1)
    hinge = fit_hinge(t, p, 4.0, 7.0)
    assert hinge is not None
    assert hinge.at == pytest.approx(5.3, abs=0.01)
    assert hinge.after - hinge.before == pytest.approx([0, -9], abs=0.1)
    assert hinge.acceleration == pytest.approx([0, 0.4], abs=0.02)


def test_few_frames_have_no_breaks() -> None:
    assert velocity_breaks(torch.zeros(5, 32, 32, 3, dtype=torch.uint8), torch.arange(5.0)) == []


def test_pictures_without_times_are_refused() -> None:
    with pytest.raises(ValueError, match="a time for each"):
        velocity_breaks(torch.zeros(9, 32, 32, 3, dtype=torch.uint8), torch.arange(5.0))


def test_the_vote_adds_what_is_sure_or_backed_and_nothing_twice() -> None:
    def at(time_s: float, confidence: float) -> Break:
        return Break(time_s, 1.0, 0.5, 0.5, confidence)

    alone, backed, unbacked = at(1.0, ALONE), at(2.0, BACKED), at(3.0, BACKED)
    known = at(4.0 + NEAR_S / 2, 0.99)
    added = vote(
        [Event(4.0)],
        [alone, backed, unbacked, known],
        lambda time_s: 0.2 if time_s == 2.0 else 0.0,
        weak=0.1,
    )
    assert added == [alone, backed]
