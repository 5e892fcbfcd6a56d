"""Drawn talking faces and the mp4 writer of `make_mmintent_mini.py`. Nothing here knows labels or sentences."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

SIZE = 96  # pixels, both sides
FPS = 10
SAMPLE_RATE = 16_000
OVERSAMPLING = 4  # drawn large and averaged down: ImageDraw itself does not smooth edges

Colour = tuple[int, int, int]

SKIN: tuple[Colour, ...] = (
    (255, 224, 196),
    (241, 194, 150),
    (224, 172, 120),
    (190, 132, 88),
    (158, 104, 70),
    (128, 82, 56),
)
HAIR: tuple[Colour, ...] = ((35, 28, 26), (84, 52, 32), (150, 94, 48), (214, 176, 100), (150, 150, 155), (140, 50, 30))
BACKGROUND: tuple[Colour, ...] = ((176, 206, 226), (206, 222, 188), (232, 214, 186), (214, 196, 222), (190, 196, 204))
SHIRT: tuple[Colour, ...] = ((50, 80, 140), (140, 50, 60), (50, 110, 80), (90, 70, 120), (60, 64, 72), (190, 140, 50))
EYES: tuple[Colour, ...] = ((70, 44, 28), (56, 96, 136), (60, 104, 70))
HAIRCUTS = ("short", "long", "bald", "curly")


@dataclass(frozen=True)
class Look:
    """What stays the same in every clip of one speaker."""

    skin: Colour
    hair: Colour
    background: Colour
    shirt: Colour
    eyes: Colour
    haircut: str
    glasses: bool
    beard: bool
    width: float  # half width of the head as a share of the picture
    height: float
    eye_distance: float  # from the middle of the face to the middle of an eye, share of the half width

    @classmethod
    def random(cls, rng: np.random.Generator, female: bool) -> "Look":
        """Draw the look of one speaker."""
        weights = (0.15, 0.6, 0.0, 0.25) if female else (0.55, 0.05, 0.2, 0.2)
        return cls(
            skin=SKIN[rng.integers(len(SKIN))],
            hair=HAIR[rng.integers(len(HAIR))],
            background=BACKGROUND[rng.integers(len(BACKGROUND))],
            shirt=SHIRT[rng.integers(len(SHIRT))],
            eyes=EYES[rng.integers(len(EYES))],
            haircut=HAIRCUTS[rng.choice(len(HAIRCUTS), p=weights)],
            glasses=bool(rng.random() < 0.3),
            beard=bool(not female and rng.random() < 0.35),
            width=float(rng.uniform(0.28, 0.305)),
            height=float(rng.uniform(0.36, 0.385)),
            eye_distance=float(rng.uniform(0.41, 0.45)),
        )


@dataclass(frozen=True)
class Pose:
    """What changes from frame to frame. Positions are shares of the picture."""

    x: float
    y: float
    tilt: float  # radians
    mouth: float  # 0 closed .. 1 wide open
    eyelids: float  # 0 open .. 1 closed
    smile: float  # -1 frown .. 0 neutral .. 1 smile; moves the corners of the mouth and the brows
    alarm: float  # 0 none .. 1 startled: eyes wide, brows high, mouth round


def make_poses(mouth: np.ndarray, smile: float, alarm: float, rng: np.random.Generator) -> list[Pose]:
    """
    Animate one clip.

    Args:
        mouth (`np.ndarray` of shape `(num_frames,)`): Opening of the mouth in `[0, 1]`, one value per frame.
        smile (`float`): Expression, from -1 (frown) to 1 (smile), held for the whole clip.
        alarm (`float`): How startled the face is, from 0 to 1, held as well.
        rng (`np.random.Generator`): Source of head motion and blinks.

    Returns:
        `list[Pose]`, one per frame.
    """
    time = np.arange(len(mouth)) / FPS
    sway = [
        rng.uniform(0.003, 0.010) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.6) * time + rng.random())) for _ in range(2)
    ]
    tilt = rng.uniform(0.01, 0.05) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.5) * time + rng.random()))
    centre = 0.5 + rng.uniform(-0.015, 0.015), 0.53 + rng.uniform(-0.012, 0.012)
    blink = int(rng.integers(2, max(3, len(mouth) - 2)))
    eyelids = np.zeros(len(mouth))
    eyelids[blink - 1 : blink + 2] = (0.5, 1.0, 0.4)[: len(eyelids[blink - 1 : blink + 2])]
    return [
        Pose(x, y, *map(float, moved), smile, alarm)
        for x, y, *moved in zip(centre[0] + sway[0], centre[1] + sway[1], tilt, mouth, eyelids, strict=True)
    ]


class FaceCanvas:
    """Draws in face coordinates: x and y run from -1 to 1 over the head and turn with it."""

    def __init__(self, look: Look, pose: Pose) -> None:
        self.look, self.pose = look, pose
        self.side = SIZE * OVERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side), look.background)
        self.draw = ImageDraw.Draw(self.image)

    def points(self, x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
        """Face coordinates to pixels of the large picture."""
        across, down = np.asarray(x) * self.look.width, np.asarray(y) * self.look.height
        cos, sin = np.cos(self.pose.tilt), np.sin(self.pose.tilt)
        column = (self.pose.x + cos * across - sin * down) * self.side
        row = (self.pose.y + sin * across + cos * down) * self.side
        return list(zip(column.tolist(), row.tolist(), strict=True))

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, fill: Colour) -> None:
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        self.draw.polygon(self.points(x + half_width * np.cos(angle), y + half_height * np.sin(angle)), fill=fill)

    def line(self, x: np.ndarray, y: np.ndarray, fill: Colour, width: float) -> None:
        """A stroke `width` pixels wide in the final picture."""
        self.draw.line(self.points(x, y), fill=fill, width=round(width * OVERSAMPLING), joint="curve")

    def finish(self) -> np.ndarray:
        return np.asarray(self.image.resize((SIZE, SIZE), Image.Resampling.BOX))


def shade(colour: Colour, factor: float) -> Colour:
    """Scale a colour's brightness."""
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue


def draw_frame(look: Look, pose: Pose) -> np.ndarray:
    """Draw one picture, `np.uint8` of shape `(96, 96, 3)`."""
    canvas = FaceCanvas(look, pose)
    _draw_head(canvas)
    for side in (-1.0, 1.0):
        _draw_eye(canvas, side)
    _draw_mouth(canvas)
    return canvas.finish()


def _draw_head(canvas: FaceCanvas) -> None:
    look = canvas.look
    if look.haircut == "long":
        canvas.ellipse(0, 0.1, 1.22, 1.25, look.hair)
    elif look.haircut == "curly":
        for angle in np.linspace(np.pi, 2 * np.pi, 9):
            canvas.ellipse(1.0 * np.cos(angle), -0.15 + 0.9 * np.sin(angle), 0.34, 0.27, look.hair)
    elif look.haircut == "short":
        canvas.ellipse(0, -0.15, 1.1, 1.0, look.hair)
    shoulders = np.array([-2.2, -1.2, -0.4, 0.4, 1.2, 2.2])
    canvas.draw.polygon(canvas.points(shoulders, np.array([2.0, 1.15, 0.98, 0.98, 1.15, 2.0])), fill=look.shirt)
    canvas.ellipse(0, 0.95, 0.36, 0.3, shade(look.skin, 0.86))  # neck
    for side in (-1, 1):
        canvas.ellipse(side * 0.98, 0.02, 0.14, 0.18, shade(look.skin, 0.9))
    if look.beard:
        canvas.ellipse(0, 0.2, 0.98, 0.86, look.hair)
    canvas.ellipse(0, 0, 0.97, 0.9 if look.beard else 1.0, look.skin)
    if look.haircut != "bald":
        x = np.linspace(-0.93, 0.93, 15)
        top = -np.sqrt(1 - x**2) * 1.03
        fringe = -0.72 - 0.1 * np.cos(np.pi * x) if look.haircut != "long" else -0.84 + 0.5 * x**2
        lower = np.maximum(fringe, top)
        canvas.draw.polygon(canvas.points(np.r_[x, x[::-1]], np.r_[top, lower[::-1]]), fill=look.hair)
    canvas.line(np.array([0.02, 0.09, -0.03]), np.array([-0.02, 0.2, 0.22]), shade(look.skin, 0.75), 1.2)  # nose


def _draw_eye(canvas: FaceCanvas, side: float) -> None:
    look, smile, alarm = canvas.look, canvas.pose.smile, canvas.pose.alarm
    x, y = side * look.eye_distance, -0.14
    opening = (1 - canvas.pose.eyelids) * (0.13 + 0.035 * smile + 0.1 * alarm)
    if opening > 0.03:
        canvas.ellipse(x, y, 0.19, opening, (250, 250, 250))
        canvas.ellipse(x, y, 0.085, min(0.085, opening), look.eyes)
        canvas.ellipse(x, y, 0.04, min(0.045, opening), (10, 10, 10))
    else:
        canvas.line(np.array([x - 0.18, x, x + 0.18]), np.array([y, y + 0.03, y]), shade(look.skin, 0.5), 1.2)
    # A frown pulls the inner end of the brow down, a smile lifts and rounds the whole brow, alarm lifts its inner end most.
    along = np.linspace(0, 1, 7)  # from the inner to the outer end
    height = -0.37 - 0.10 * max(smile, 0) + 0.05 * max(-smile, 0) - 0.14 * alarm
    slant = (0.2 * max(-smile, 0) - 0.16 * alarm) * (0.6 - along)
    arch = -(0.05 + 0.07 * max(smile, 0)) * np.sin(np.pi * along) * (1 - max(-smile, 0))
    brow = shade(look.hair, 0.55) if look.haircut != "bald" else (60, 44, 36)
    canvas.line(side * (look.eye_distance - 0.22 + 0.46 * along), height + slant + arch, brow, 2.4)
    if look.glasses:
        angle = np.linspace(0, 2 * np.pi, 25)
        canvas.line(x + 0.3 * np.cos(angle), y + 0.21 * np.sin(angle), (40, 40, 48), 1.1)
        canvas.line(
            np.array([0.0, side * (look.eye_distance - 0.3)]), np.array([y - 0.02, y - 0.02]), (40, 40, 48), 1.1
        )


def _draw_mouth(canvas: FaceCanvas) -> None:
    look, pose = canvas.look, canvas.pose
    mouth = pose.mouth + 0.6 * pose.alarm * (1 - pose.mouth)  # startled people do not close it
    half_width = 0.38 + 0.08 * max(pose.smile, 0) - 0.05 * mouth - 0.15 * pose.alarm
    x = np.linspace(-1, 1, 17)
    bow = 0.2 * pose.smile * (0.45 - x**2)  # positive is down: a smile hangs in the middle, a frown at the corners
    parting = np.sqrt(np.clip(1 - x**2, 0, 1))
    upper = 0.52 + bow - (0.02 + 0.05 * mouth) * parting
    lower = 0.52 + bow + (0.03 + 0.22 * mouth) * parting
    outline = np.r_[x, x[::-1]] * half_width
    lips = (min(255, round(look.skin[0] * 0.8 + 10)), round(look.skin[1] * 0.48), round(look.skin[2] * 0.5))
    canvas.draw.polygon(canvas.points(outline, np.r_[upper, lower[::-1]]), fill=(70, 18, 24))
    if mouth > 0.3:
        teeth = np.minimum(upper + 0.06, lower)
        canvas.draw.polygon(canvas.points(outline * 0.8, np.r_[upper, teeth[::-1]]), fill=(240, 236, 230))
    canvas.line(x * half_width, upper, lips, 1.8)
    canvas.line(x * half_width, lower, lips, 2.0)


def write_clip(path: Path, frames: list[np.ndarray], samples: np.ndarray) -> None:
    """
    Write one mp4: H.264 pictures and mono AAC.

    Args:
        path (`Path`): File to write.
        frames (`list[np.ndarray]`): `np.uint8` pictures of shape `(96, 96, 3)`, at 10 per second.
        samples (`np.ndarray` of shape `(num_samples,)`): Sound in `[-1, 1]` at 16 kHz.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # one thread: the bits must not depend on the machine's cores
        # Without mbtree: x264's macroblock tree reads past the edge of pictures this small and varies from run to run.
        video.options = {"crf": "27", "preset": "veryslow", "tune": "animation", "x264-params": "mbtree=0"}
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 24_000
        packets = []
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            packets += video.encode(frame)
        packets += video.encode(None)
        sound = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        packets += audio.encode(sound)
        packets += audio.encode(None)
        for packet in packets:
            container.mux(packet)
