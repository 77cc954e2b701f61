"""How it looks: scenes drawn with OpenCV at any size, from a clean studio to a bad phone video.

A scene is one still world image (background, floor, resting bodies), larger than the view, over
which moving bodies are laid as small textured sprites: `warpAffine` touches their bounding boxes
only. Camera, shutter, light, noise and compression come after. What a material looks like is
constant in kind (hue range, texture, highlight) and varied in detail, because a model can name only
materials that can be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np

from foley_lab.synthetic.scenes import Body, Scene

MARGIN = 0.16
"""How much larger than the view the still world is, on each side."""

# hue 0..180, saturation, value: low and high
_HUES = {
    "wood": ((9, 18), (110, 190), (110, 190)),
    "metal": ((95, 118), (5, 45), (130, 205)),
    "glass": ((84, 100), (40, 110), (190, 245)),
    "rubber": ((0, 180), (0, 60), (22, 62)),
    "stone": ((10, 110), (4, 26), (85, 150)),
    "plastic": ((0, 180), (190, 250), (180, 250)),
    "gravel": ((12, 24), (35, 80), (95, 160)),
    "cloth": ((140, 168), (95, 165), (120, 200)),
    "skin": ((4, 14), (70, 150), (110, 235)),
}


@dataclass(frozen=True)
class Style:
    """What is done to the picture; 0 switches a thing off."""

    background: int
    shake: float
    drift: tuple[float, float]
    zoom: float
    tilt: float
    cut_s: float
    shutter: float
    noise: float
    flicker: float
    light: float
    blur: float
    jpeg: int
    grey: bool
    tint: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, split: str) -> Style:
        """A style for the split: "clean" is mild, "ugly" is what phones and uploads do."""
        u = rng.uniform
        ugly = split == "ugly"

        def some(p: float, value: float) -> float:
            return float(value) if rng.random() < p else 0.0

        tint = 1 + u(-0.12, 0.12, 3) * (1.0 if ugly else 0.3)
        dark = ugly and rng.random() < 0.15
        return cls(
            background=int(rng.integers(6 if ugly else 4)),
            shake=some(0.5 if ugly else 0.15, u(0.002, 0.02)),
            drift=(some(0.3, u(-0.1, 0.1)), some(0.3, u(-0.06, 0.06))) if ugly else (0.0, 0.0),
            zoom=some(0.2, u(-0.2, 0.2)) if ugly else 0.0,
            tilt=some(0.4, u(-0.1, 0.1)) if ugly else 0.0,
            cut_s=some(0.05, u(0.3, 1.0)) if ugly else 0.0,
            shutter=some(0.4 if ugly else 0.25, u(0.3, 1.0)),
            noise=u(6, 16) if dark else u(1, 12) if ugly else u(0, 3),
            flicker=some(0.35, u(0.02, 0.2)) if ugly else 0.0,
            light=u(0.2, 0.5) if dark else u(0.55, 1.25) if ugly else u(0.85, 1.12),
            blur=some(0.3, u(0.4, 1.2)) if ugly else 0.0,
            jpeg=int(some(0.5, u(18, 70))) if ugly else 0,
            grey=bool(ugly and rng.random() < 0.1),
            tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        )


def _field(rng: np.random.Generator, n: int, cells: int) -> np.ndarray:
    """Smooth noise in about -1..1, [n, n]."""
    grid = rng.normal(size=(cells + 3, cells + 3)).astype(np.float32)
    return cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC)


def texture(material: str, n: int, seed: int, flat: bool = False) -> np.ndarray:
    """The skin of a material, RGB float32 [n, n, 3] in 0..255.

    `flat` leaves out light and shade (floors, walls).
    """
    rng = np.random.default_rng([seed, 5])
    (h0, h1), (s0, s1), (v0, v1) = _HUES[material]
    hsv = np.array([[[rng.uniform(h0, h1), rng.uniform(s0, s1), rng.uniform(v0, v1)]]], np.float32)
    hsv[..., 0] *= 2
    hsv[..., 1:] /= 255
    base = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / max(n - 1, 1) * 2 - 1
    shade = np.ones((n, n), np.float32)
    if material == "wood":
        turn = rng.uniform(-0.4, 0.4)
        along = (y * math.cos(turn) + x * math.sin(turn)) * rng.uniform(3, 6) + 0.7 * _field(
            rng, n, 3
        )
        shade += 0.3 * np.sin(along * math.pi)
    elif material == "metal":
        shade += 0.45 * np.sin((y + 0.25 * x) * rng.uniform(2.5, 4) + rng.uniform(0, 3))
    elif material == "stone":
        shade += 0.2 * _field(rng, n, 6) + 0.22 * rng.normal(size=(n, n)).astype(np.float32)
    elif material == "gravel":
        cells = int(rng.integers(6, 11))
        grain = rng.uniform(0.35, 1.5, (cells, cells)).astype(np.float32)
        shade = cv2.resize(grain, (n, n), interpolation=cv2.INTER_NEAREST) + 0.12 * _field(
            rng, n, 9
        )
    elif material == "cloth":  # a check of bright and dark bands, wide enough for small pictures
        turn, bands = rng.uniform(-0.3, 0.3), rng.uniform(1.6, 2.6)
        across, along = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn)
        along = along - x * math.sin(turn)
        for way in (across, along):
            shade += 0.33 * np.tanh(4 * np.sin((way * bands + rng.uniform(0, 2)) * math.pi))
    elif material == "rubber":
        shade += 0.08 * _field(rng, n, 3)
    elif material == "skin":
        shade += 0.1 * _field(rng, n, 2)
    out = base * shade[..., None]
    if not flat:
        out *= (1 - 0.22 * (y + 0.5 * x))[..., None]
        hx, hy = rng.uniform(-0.45, -0.2), rng.uniform(-0.5, -0.25)
        far = (x - hx) ** 2 + (y - hy) ** 2
        if material in ("plastic", "glass", "metal"):
            width, power = {"plastic": (0.02, 190), "glass": (0.012, 230), "metal": (0.05, 120)}[
                material
            ]
            out += (power * np.exp(-far / width))[..., None]
    return np.clip(out, 0, 255)


def sprite(body: Body, n: int) -> np.ndarray:
    """Premultiplied RGBA float32 [n, n, 4], colour 0..255, alpha 0..1; the body fills it."""
    rgb = texture(body.material, n, body.seed)
    y, x = (np.mgrid[0:n, 0:n].astype(np.float32) + 0.5) / n * 2 - 1
    soft = max(2.0 / n, 0.02)
    if body.look == "bell":  # a narrow crown, a wide mouth
        half = 0.5 + 0.5 * np.clip((y + 1) / 1.75, 0, 1) ** 1.6
        alpha = np.clip(np.minimum(half - np.abs(x), 1 - np.abs(y)) / soft, 0, 1)
        rgb = rgb * np.where(y > 0.72, 0.78, 1.0)[..., None]
        if body.material == "glass":
            alpha = alpha * np.where(half - np.abs(x) < 0.14, 0.9, 0.5)
    elif body.look in ("ball", "drop", "ring"):
        r = np.hypot(x, y)
        alpha = np.clip((1 - r) / soft, 0, 1)
        rgb = rgb * (1.08 - 0.4 * r[..., None] ** 3)
        if body.look == "ring":
            alpha = np.exp(-(((r - 0.8) / 0.15) ** 2)) * 0.8
            rgb = np.full_like(rgb, 235.0)
        if body.material == "glass" and body.look == "ball":
            alpha = alpha * (0.42 + 0.5 * np.clip(r, 0, 1) ** 5)
    else:
        edge = np.minimum(1 - np.abs(x), 1 - np.abs(y))
        alpha = np.clip(edge / soft, 0, 1)
        if body.look == "box":
            rgb = rgb * np.where(edge < 0.1, 0.75, 1.0)[..., None]
        if body.material == "glass":
            alpha = alpha * np.where(edge < 0.12, 0.9, 0.45)
    return np.dstack([rgb * alpha[..., None], alpha]).astype(np.float32)


def _background(kind: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Plain, gradient, soft clouds, a room in perspective, clutter, or wallpaper; float32 RGB."""
    value = rng.uniform(40, 225)
    tint = 1 + rng.uniform(-0.18, 0.18, 3)
    out = np.full((height, width, 3), value, np.float32) * tint.astype(np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / height, x / width
    if kind == 1:
        out *= (0.7 + 0.6 * (y * rng.uniform(-1, 1) + x * rng.uniform(-1, 1)))[..., None]
    elif kind == 2:
        n = max(width, height)
        layers = [_field(rng, n, 2**k) / 2 ** (k * rng.uniform(0.6, 1.1)) for k in range(1, 6)]
        clouds = sum(layers[1:], layers[0])
        out *= (1 + 0.35 * clouds[:height, :width])[..., None]
    elif kind == 3:
        horizon, vx = rng.uniform(0.35, 0.7), rng.uniform(0.2, 0.8)
        below = y > horizon
        out[below] *= rng.uniform(0.6, 1.3)
        boards = np.sin((x - vx) / np.clip(y - horizon, 0.02, None) * rng.uniform(4, 12))
        out *= np.where(below, 1 + 0.12 * boards, 1.0)[..., None]
        out *= np.where((np.abs(x - vx) > rng.uniform(0.25, 0.5)) & ~below, 0.8, 1.0)[..., None]
    elif kind == 4:
        for _ in range(int(rng.integers(6, 25))):
            a = (int(rng.integers(width)), int(rng.integers(height)))
            size = rng.uniform(0.04, 0.35) * height
            b = (int(a[0] + size * rng.uniform(0.3, 2)), int(a[1] + size * rng.uniform(0.3, 2)))
            colour = [float(c) for c in rng.uniform(20, 235, 3)]
            if rng.random() < 0.5:
                cv2.rectangle(out, a, b, colour, -1, cv2.LINE_AA)
            else:
                cv2.circle(out, a, max(1, int(size / 2)), colour, -1, cv2.LINE_AA)
    elif kind == 5:  # stripes, checks or grain of a few pixels at 96: it flickers when it shakes
        a, b = rng.uniform(14, 60, 2) * (1.0, width / height)
        turn = rng.uniform(0, math.pi)
        waves = np.sin(2 * math.pi * (b * x * math.cos(turn) + a * y * math.sin(turn)))
        if rng.random() < 0.5:
            waves = waves * np.sin(2 * math.pi * (a * y * math.cos(turn) - b * x * math.sin(turn)))
        grain = _field(rng, max(width, height), int(rng.integers(40, 90)))[:height, :width]
        out *= (1 + rng.uniform(0.1, 0.35) * waves + rng.uniform(0.05, 0.2) * grain)[..., None]
    return np.clip(out, 0, 255)


class Painter:
    """Draws one scene at one size.

    Args:
        scene: What happens.
        width, height: Pixels of the finished picture; the scene's own aspect is squeezed into them.
        seed: Of the style's dice; None takes the scene's.
    """

    def __init__(self, scene: Scene, width: int, height: int, seed: int | None = None) -> None:
        self.scene, self.width, self.height = scene, width, height
        rng = np.random.default_rng([scene.log.seed if seed is None else seed, 6])
        self.style, self.rng = Style.draw(rng, scene.log.split), rng
        self.sx, self.sy = width / scene.aspect, float(height)
        self.sprites = {id(b): sprite(b, self._sprite_size(b)) for b in scene.bodies}
        self.moving = [b for b in scene.bodies if b.moves or b.shown or b.front]
        self.world, self.origin = self._paint_world(rng)
        self.path = self._camera_path(rng)
        field = rng.normal(0, 1, (height + 32, width + 32, 1)).astype(np.float32)
        self.noise_field = np.repeat(field, 3, 2) * self.style.noise
        self.flicker_hz = float(rng.uniform(2, 14))

    def _sprite_size(self, body: Body) -> int:
        return int(np.clip(max(body.width * self.sx, body.height * self.sy), 10, 320))

    def _paint_world(self, rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, float]]:
        scene = self.scene
        mx, my = int(self.width * MARGIN) + 2, int(self.height * MARGIN) + 2
        w, h = self.width + 2 * mx, self.height + 2 * my
        world = _background(self.style.background, w, h, rng)
        if scene.floor_y is not None and scene.floor_y < 1 + MARGIN:
            top = int(my + scene.floor_y * self.sy)
            n = int(min(max(h - top, 48), 256))
            tile = texture(scene.floor_material, n, scene.log.seed, flat=True)
            depth = max(h - top, 1)
            across = [np.roll(tile, int(k * n / 3), 0) for k in range(max(1, round(w / depth / 2)))]
            world[top:] = cv2.resize(np.hstack(across), (w, depth), interpolation=cv2.INTER_LINEAR)[
                : h - top
            ]
        camera = (1.0, 0.0, 0.0, 0.0)
        for body in scene.bodies:
            if not (body.moves or body.shown or body.front):
                self._lay(world, body, body.track[0], camera, (mx, my))
        if self.style.blur:
            world = cv2.GaussianBlur(world, (0, 0), self.style.blur * self.height / 96)
        if scene.floor_speed and scene.floor_y is not None:
            self.floor_top = min(int(my + scene.floor_y * self.sy), h)
            self.floor = world[self.floor_top :].copy()
        return world, (float(mx), float(my))

    def _run_floor(self, time_s: float) -> None:
        """Move the floor of the still world to where it is at an instant; it repeats endlessly."""
        if not (self.scene.floor_speed and len(self.floor)):
            return
        width = self.floor.shape[1]
        move, part = divmod(self.scene.floor_speed * self.sx * time_s % width, 1.0)
        now, next_ = (np.roll(self.floor, int(move) + k, 1) for k in (0, 1))
        self.world[self.floor_top :] = cv2.addWeighted(now, 1 - part, next_, part, 0)

    def _camera_path(self, rng: np.random.Generator) -> np.ndarray:
        """[ticks at 100 Hz, 4]: zoom, tilt, shift x, shift y (in picture heights)."""
        s, n = self.style, int(self.scene.log.seconds * 100) + 2
        t = np.arange(n) / 100
        span = t / max(t[-1], 1e-6) - 0.5

        def wobble() -> np.ndarray:
            waves = [
                rng.uniform(0.3, 1) * np.sin(rng.uniform(0.5, 14) * t + rng.uniform(0, 6))
                for _ in range(3)
            ]
            return sum(waves[1:], waves[0])

        path = np.empty((n, 4), np.float32)
        path[:, 0] = 1 + s.zoom * span
        path[:, 1] = s.tilt + 0.5 * s.shake * wobble()
        path[:, 2] = s.drift[0] * span + s.shake * wobble()
        path[:, 3] = s.drift[1] * span + s.shake * wobble()
        if s.cut_s:
            after = t > s.cut_s * t[-1]
            path[after, 0] *= 1.12
            path[after, 2] += 0.05
        return path

    def _affine(self, camera: tuple[float, ...], origin: tuple[float, float]) -> np.ndarray:
        """Picture heights → pixels, 2x3, under the camera."""
        zoom, tilt, dx, dy = camera
        cx, cy = self.scene.aspect / 2, 0.5
        c, s = math.cos(tilt) * zoom, math.sin(tilt) * zoom
        m = np.array(
            [[c, -s, cx - c * cx + s * cy + dx], [s, c, cy - s * cx - c * cy + dy]], np.float64
        )
        m[0] *= self.sx
        m[1] *= self.sy
        m[:, 2] += origin
        return m

    def _lay(
        self,
        canvas: np.ndarray,
        body: Body,
        at: np.ndarray,
        camera: tuple[float, ...],
        origin: tuple[float, float] = (0.0, 0.0),
        tex: np.ndarray | None = None,
        size: tuple[float, float] | None = None,
    ) -> None:
        """Blend a sprite into the canvas, inside its bounding box only."""
        tex = self.sprites[id(body)] if tex is None else tex
        n = tex.shape[0]
        w, h = size or (body.width, body.height)
        c, s = math.cos(at[2]), math.sin(at[2])
        view = self._affine(camera, origin)
        unit = np.array([[c * w, -s * h, at[0]], [s * w, c * h, at[1]], [0, 0, 1]])
        m = view @ unit  # unit square (-.5 .. .5) → pixels
        half = 0.5 * (np.abs(m[:, 0]) + np.abs(m[:, 1])) + 1
        x0, y0 = np.maximum(np.floor(m[:, 2] - half).astype(int), 0)
        x1, y1 = np.minimum(
            np.ceil(m[:, 2] + half).astype(int) + 1, (canvas.shape[1], canvas.shape[0])
        )
        if x0 >= x1 or y0 >= y1:
            return
        from_tex = np.array([[1 / n, 0, 0.5 / n - 0.5], [0, 1 / n, 0.5 / n - 0.5], [0, 0, 1]])
        warp = m @ from_tex
        warp[:, 2] -= (x0 + 0.5, y0 + 0.5)  # pixel centres
        patch = cv2.warpAffine(tex, warp, (int(x1 - x0), int(y1 - y0)), flags=cv2.INTER_LINEAR)
        roi = canvas[y0:y1, x0:x1]
        roi *= 1 - patch[..., 3:]
        roi += patch[..., :3]

    def _shadow(
        self, canvas: np.ndarray, body: Body, at: np.ndarray, camera: tuple[float, ...]
    ) -> None:
        floor_y = self.scene.floor_y
        if floor_y is None:
            return
        height = floor_y - at[1] - body.height / 2
        strength = 0.45 / (1 + 5 * max(height, 0))
        place = np.array([at[0], floor_y + 0.012, 0.0])
        self._lay(
            canvas, body, place, camera, tex=_SHADOW * strength, size=(body.width * 1.1, 0.05)
        )

    def draw(self, time_s: float) -> np.ndarray:
        """The scene at one instant, float32 RGB [H, W, 3], before light and noise."""
        k = min(int(time_s * 100), len(self.path) - 1)
        camera = tuple(float(v) for v in self.path[k])
        still = camera == (1.0, 0.0, 0.0, 0.0)
        ox, oy = int(self.origin[0]), int(self.origin[1])
        self._run_floor(time_s)
        if still:
            canvas = self.world[oy : oy + self.height, ox : ox + self.width].copy()
        else:
            to_world = np.array(
                [[1 / self.sx, 0, -ox / self.sx], [0, 1 / self.sy, -oy / self.sy], [0, 0, 1]]
            )
            m = self._affine(camera, (0.0, 0.0)) @ to_world
            canvas = cv2.warpAffine(
                self.world,
                m,
                (self.width, self.height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        for body in sorted(self.moving, key=lambda b: b.front):
            if body.shown and not body.shown[0] <= time_s <= body.shown[1]:
                continue
            at = body.at(time_s)
            if body.shadow:
                self._shadow(canvas, body, at, camera)
            self._lay(canvas, body, at, camera)
        return canvas

    def frame(self, time_s: float, interval_s: float) -> np.ndarray:
        """A finished frame whose shutter opens at `time_s`, uint8 RGB [H, W, 3]."""
        s = self.style
        if s.shutter:
            canvas = self.draw(time_s)
            for j in (1, 2):
                canvas += self.draw(time_s + j / 3 * s.shutter * interval_s)
            canvas *= np.float32(1 / 3)
        else:
            canvas = self.draw(time_s)
        if s.blur:
            canvas = cv2.GaussianBlur(canvas, (0, 0), 0.6 * s.blur * self.height / 96)
        gain = s.light * (1 + s.flicker * math.sin(self.flicker_hz * 6.28 * time_s))
        if s.grey:
            canvas = np.repeat(canvas.mean(2, keepdims=True), 3, 2)
        # OpenCV's stubs know pictures alone, not one colour or number for all pixels.
        canvas = cv2.multiply(canvas, cast(Any, (*(t * gain for t in s.tint), 0.0)), dst=canvas)
        if s.noise > 0.5:
            y, x = int(self.rng.integers(32)), int(self.rng.integers(32))
            grain = self.noise_field[y : y + self.height, x : x + self.width]
            out = cv2.add(canvas, grain, dtype=cv2.CV_8U)  # rounds and clips
        else:
            out = cv2.add(canvas, cast(Any, 0.0), dtype=cv2.CV_8U)
        if s.jpeg:
            packed = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, s.jpeg])[1]
            out = cv2.imdecode(packed, cv2.IMREAD_UNCHANGED)
            assert out is not None, "OpenCV reads the JPEG it has written"
        return out

    def frames(self, fps: float, count: int | None = None) -> Iterator[np.ndarray]:
        """Frames k = 0, 1, ... at k / fps."""
        count = round(self.scene.log.seconds * fps) if count is None else count
        for k in range(count):
            yield self.frame(k / fps, 1 / fps)


def _shadow_sprite(n: int = 24) -> np.ndarray:
    y, x = (np.mgrid[0:n, 0:n].astype(np.float32) + 0.5) / n * 2 - 1
    out = np.zeros((n, n, 4), np.float32)
    out[..., 3] = np.clip(1 - np.hypot(x, y), 0, 1)
    return out


_SHADOW = _shadow_sprite()
