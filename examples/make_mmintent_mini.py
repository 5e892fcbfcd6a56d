"""
Make `mmintent-mini`, the small synthetic dataset of real-media clips that ships with the package.

    python examples/make_mmintent_mini.py --output_dir data_scripts/mini_clips

Needs espeak-ng on the PATH (`apt-get install espeak-ng`) and `pip install "hf_mmintent[media]"`; one minute on one
core; the last line is `352 clips, ... MB`. Everything is drawn from `--seed`, so two runs on one machine agree.

Eight intents form four pairs. Both intents of a pair use the same sentences, spoken by the same speakers in twin clips of
equal length; only voice and face tell the twins apart. Each of the four voices and each of the four faces belongs to two
intents that share nothing else, so that one modality leaves two intents and any two modalities leave one: a missing modality
can be made up for. `README.md` in the output folder derives what each modality can reach at most. The speed of speaking is
*not* part of a voice style: the drawn mouth follows the sound, so a quick voice would be visible in the pictures.
"""

import argparse
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mini_drawing import FPS, SAMPLE_RATE, Look, draw_frame, make_poses, write_clip
from scipy.signal import butter, istft, lfilter, resample_poly, sosfilt, stft
from tqdm.auto import tqdm

from hf_mmintent.data_scripts.mmintent_mini import STYLES

ESPEAK_RATE = 22_050  # of the WAV that espeak-ng writes

# One entry per pair: its two intents, training sentences, sentences that only occur in the validation split, sentences
# that only occur in the test split.
PAIRS: tuple[dict[str, Any], ...] = (
    {
        "intents": ("Praise", "Taunt"),
        "train": (
            "That was really clever.",
            "That was a very clever answer.",
            "What a clever plan you made.",
            "You really did a brilliant job.",
            "Your speech was simply brilliant.",
            "What a brilliant idea you had.",
            "You did that all by yourself.",
            "You are quite the expert now.",
            "Well done, you finished in one day.",
            "Well done, that was quite a show.",
            "You are really something special.",
            "Your drawing is something special.",
            "Such talent is hard to find.",
            "You have a real talent for this.",
            "What a talent you turned out to be.",
            "Great work, as I expected from you.",
            "That was great work, my friend.",
            "You sure know how to impress people.",
        ),
        "validation": ("Your answer was really brilliant.", "Well done, that was a clever idea."),
        "test": (
            "Your plan was really brilliant.",
            "What a clever little speech.",
            "Well done, you have quite a talent.",
            "That was really a great show.",
        ),
    },
    {
        "intents": ("Inform", "Complain"),
        "train": (
            "The train is an hour late again.",
            "The bus is late again this morning.",
            "The train uses another platform today.",
            "The last bus left ten minutes ago.",
            "The printer is out of paper again.",
            "The printer needs another hour today.",
            "The lift is closed until Friday.",
            "The office is closed until Monday.",
            "The meeting was moved to Friday.",
            "The meeting starts an hour later today.",
            "The store ran out of milk again.",
            "The store is closed this morning.",
            "The heating goes off at ten.",
            "The heating in the office is off again.",
            "The coffee machine is out of order.",
            "The coffee ran out this morning.",
            "The lift is out of order today.",
            "The last train left an hour ago.",
        ),
        "validation": ("The store closed ten minutes ago.", "The lift in the office is out of order."),
        "test": (
            "The bus is an hour late today.",
            "The office printer is out of order again.",
            "The train was moved to another platform.",
            "The coffee machine is off this morning.",
        ),
    },
    {
        "intents": ("Joke", "Criticize"),
        "train": (
            "You drive like my old grandmother.",
            "You dance like a tired elephant.",
            "You sing like a rusty door.",
            "You snore like a rusty tractor.",
            "You cook like a hungry sailor.",
            "Your soup tastes like old socks.",
            "Your cake looks like a brick.",
            "Your cake tastes like wet paint.",
            "Your haircut looks like a bird nest.",
            "Your jacket looks like a curtain.",
            "My dog cooks better than you.",
            "My dog drives better than you.",
            "My cat sings better than you.",
            "My grandmother runs faster than you.",
            "Even a snail runs faster than you.",
            "Even a turtle types faster than you.",
            "That jacket belongs in a museum.",
            "That tie belongs in a circus.",
        ),
        "validation": ("You sing like a hungry cat.", "Even a snail drives faster than you."),
        "test": (
            "My grandmother dances better than you.",
            "Even an elephant runs faster than you.",
            "Your soup looks like wet paint.",
            "That haircut belongs in a museum.",
        ),
    },
    {
        "intents": ("Comfort", "Prevent"),
        "train": (
            "Stay here with me tonight.",
            "Stay inside until the storm is over.",
            "Do not go back to him.",
            "Do not go out there alone.",
            "Please do not call him tonight.",
            "Please sit down and breathe slowly.",
            "Sit down and wait with me.",
            "Wait here until the rain stops.",
            "Leave it alone and come with me.",
            "Put the letter away for tonight.",
            "Put the phone away and rest.",
            "Let it go and come home.",
            "Let him go and stay with us.",
            "Come away from the window, please.",
            "Come home and rest for a while.",
            "You do not have to open it.",
            "You do not have to answer him.",
            "Breathe slowly and do not move.",
        ),
        "validation": ("Stay here and breathe slowly.", "Please do not open the letter."),
        "test": (
            "Please stay here until the storm is over.",
            "Put it away and come home.",
            "Do not answer the phone tonight.",
            "Sit down and rest with us.",
        ),
    },
)

# Said before a sentence, in every pair alike: they move the telling words to other places in the sound.
OPENINGS = ("", "Well", "Oh", "So", "Look", "Hey", "Now", "Listen")

# Chosen so that the two intents of a pair differ: the emotion, too, cannot be read from the words.
EMOTION = {
    "Praise": "happy",
    "Taunt": "disgust",
    "Inform": "surprise",
    "Complain": "sad",
    "Joke": "happy",
    "Criticize": "anger",
    "Comfort": "happy",
    "Prevent": "fear",
}
PURPOSE = {
    "Praise": "to give honest praise",
    "Taunt": "to taunt the listener",
    "Inform": "to pass on news",
    "Complain": "to complain",
    "Joke": "to make a friendly joke",
    "Criticize": "to criticize the listener",
    "Comfort": "to comfort the listener",
    "Prevent": "to stop the listener from doing something",
}
FEELING = {
    "happy": "happy",
    "disgust": "disgusted",
    "surprise": "pleasantly surprised",
    "sad": "sad",
    "anger": "angry",
    "fear": "afraid",
}

AUDIO_CAPTIONS = {  # label-blind: they describe what is heard, never what it means
    "bright": (
        "a high, bright voice whose melody moves up and down",
        "a lively voice, high and clear, with a wide melody",
        "a bright and high voice with much movement in its pitch",
    ),
    "dark": (
        "a low, dark voice that stays on one tone",
        "a muffled voice, low and flat",
        "a dull and low voice with hardly any melody",
    ),
    "neutral": (
        "an even voice of middle pitch",
        "an ordinary speaking voice, neither high nor low",
        "a plain voice with an everyday melody",
    ),
    "whisper": (
        "a whispering voice without any tone",
        "a hushed voice, all breath and no melody",
        "a whisper that hisses",
    ),
}
VIDEO_CAPTIONS = {
    "smile": (
        "a smiling face with raised eyebrows",
        "the corners of the mouth point up and the eyebrows are lifted",
        "a broad smile below high, round eyebrows",
    ),
    "frown": (
        "a frowning face with lowered eyebrows",
        "the corners of the mouth hang down and the eyebrows are pulled together",
        "a turned-down mouth below low, slanted eyebrows",
    ),
    "neutral": (
        "a calm face with a straight mouth",
        "a face without visible expression, eyebrows at rest",
        "a relaxed face, neither smiling nor frowning",
    ),
    "alarm": (
        "an alarmed face with wide open eyes",
        "wide open eyes below brows that are pulled up high, the mouth open",
        "a startled face, the eyes wide and the mouth round",
    ),
}
# How the reasons name a style.
SHOWN = {
    "bright": "a high and lively voice",
    "dark": "a low and flat voice",
    "whisper": "a hushed voice",
    "smile": "a smile and raised eyebrows",
    "frown": "a frown and lowered eyebrows",
    "alarm": "wide and startled eyes",
}
NEUTRAL = {"voice": "an even voice", "face": "a calm face"}
EMOTION_REASONS = (
    'The words "{text}" leave the feeling open, but together with {shown} they come from someone who is {feeling}.',
    "The speaker seems {feeling}, judging by {shown} and not by the words.",
    'One notices {shown} while hearing "{text}", which points to a speaker who is {feeling}.',
)
INTENT_REASONS = (
    'Said with {shown}, "{text}" means that the speaker wants {purpose}.',
    'The sentence "{text}" could be meant in two ways; with {shown}, the speaker wants {purpose}.',
    "The speaker wants {purpose}: the sentence comes with {shown}.",
)
JOINT_REASONS = (
    'The speaker says "{text}" with {audio} and {video}. The words alone leave it open; with voice and face, '
    "the speaker is {feeling} and wants {purpose}.",
    'Words, voice and face together: "{text}", {audio}, {video}. They agree that the speaker is {feeling} '
    "and wants {purpose}.",
)


@dataclass(frozen=True)
class Speaker:
    """A voice and a look that occur in one split only."""

    name: str
    split: str
    voice: str  # espeak-ng voice and variant
    pitch: int  # espeak-ng `-p` of the neutral style
    look: Look


@dataclass(frozen=True)
class ClipPlan:
    """All that decides one clip; the media are made from this and nothing else."""

    id: str
    split: str
    speaker: Speaker
    text: str
    label: str
    voice_style: str  # bright, dark, neutral or whisper
    face_style: str  # smile, frown, neutral or alarm
    speech_seconds: float  # wanted length of the speech; equal for twins
    pad_seconds: float
    seed: int


MALE = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8")
FEMALE = ("f1", "f2", "f3", "f4", "f5")
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland")  # plain `en-gb` ignores the variant
SPEAKERS_PER_SPLIT = {"train": 12, "validation": 4, "test": 6}
TWINS_PER_SPEAKER_AND_PAIR = 2


def make_speakers(rng: np.random.Generator) -> list[Speaker]:
    """Draw the speakers of all splits: women and men in turn, no combination of accent and variant twice."""
    voices = {
        sex: [f"{accent}+{v}" for accent in ACCENTS for v in variants] for sex, variants in (("f", FEMALE), ("m", MALE))
    }
    for names in voices.values():
        rng.shuffle(names)
    speakers: list[Speaker] = []
    for split, count in SPEAKERS_PER_SPLIT.items():
        for index in range(count):
            sex = "fm"[index % 2]
            look = Look.random(rng, female=sex == "f")
            pitch = int(rng.integers(45, 56))
            speakers.append(Speaker(f"speaker_{len(speakers) + 1:02d}", split, voices[sex].pop(), pitch, look))
    return speakers


def deal_sentences(pair: dict[str, Any], split: str, count: int, rng: np.random.Generator) -> list[str]:
    """Choose the `count` sentences of one pair in one split: the ones reserved for it first, then training ones."""
    sentences = list(pair["train"])
    rng.shuffle(sentences)
    reserved = [] if split == "train" else list(pair[split])
    dealt = (reserved + sentences * 2)[:count]
    rng.shuffle(dealt)
    return [add_opening(text, OPENINGS[rng.integers(len(OPENINGS))]) for text in dealt]


def add_opening(text: str, opening: str) -> str:
    """Put an opening before a sentence, unless it starts with the same word."""
    if not opening or text.startswith(opening):
        return text
    return f"{opening}, {text[0].lower()}{text[1:]}"


def make_plan(seed: int) -> list[ClipPlan]:
    """Decide every clip. Returns the plans in the order of their ids, which say nothing about the label."""
    rng = np.random.default_rng(seed)
    speakers = make_speakers(rng)
    drafts: list[dict[str, Any]] = []
    for split in SPEAKERS_PER_SPLIT:
        members = [speaker for speaker in speakers if speaker.split == split]
        dealt = []
        for pair in PAIRS:
            sentences = deal_sentences(pair, split, TWINS_PER_SPEAKER_AND_PAIR * len(members), rng)
            for index, text in enumerate(sentences):
                timing = {
                    "speech_seconds": float(rng.uniform(1.15, 1.85)),
                    "pad_seconds": float(rng.uniform(0.35, 0.7)),
                }
                for label in pair["intents"]:
                    voice, face = STYLES[label]
                    draft = {"split": split, "speaker": members[index % len(members)], "text": text, "label": label}
                    dealt.append(draft | {"voice_style": voice, "face_style": face} | timing)
        rng.shuffle(dealt)
        drafts += dealt
    seeds = rng.integers(2**31, size=len(drafts))
    return [
        ClipPlan(id=f"mini_{i + 1:04d}", seed=int(s), **draft)
        for i, (draft, s) in enumerate(zip(drafts, seeds, strict=True))
    ]


def espeak(text: str, voice: str, pitch: int, melody: int, words_per_minute: int) -> np.ndarray:
    """
    Speak a sentence.

    Args:
        pitch (`int`): 0 to 99, espeak-ng's scale.
        melody (`int`): Range of the pitch in per cent of the voice's own; 0 is a monotone.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: sound at 16 kHz in `[-1, 1]` without the silence around it.

    Raises:
        RuntimeError: If espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise RuntimeError("`espeak-ng` is not on the PATH: install it with `apt-get install espeak-ng`.")
    markup = f'<speak><prosody range="{melody}%">{text}</prosody></speak>'
    command = [program, "-v", voice, "-p", str(pitch), "-s", str(words_per_minute), "-m", "--stdout", markup]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples = np.frombuffer(wav[44:], dtype="<i2").astype(np.float64) / 32768  # 44 bytes of header
    samples = resample_poly(samples, 320, 441)  # 22050 Hz -> 16000 Hz
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1]


def colour_voice(samples: np.ndarray, style: str, rng: np.random.Generator) -> np.ndarray:
    """Tilt the spectrum: pitch alone does not tell a woman's dark voice from a man's bright one. Or whisper."""
    if style == "bright":
        return lfilter([1.0, -0.85], [1.0], samples)
    if style == "dark":
        return lfilter([0.12], [1.0, -0.88], samples)
    return whisper(samples, rng) if style == "whisper" else samples


def whisper(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep the formants and replace the tone of the vocal cords by noise."""
    window, hop = 256, 64  # 16 ms, shorter than most periods of the pitch are apart
    magnitude = np.abs(stft(samples, nperseg=window, noverlap=window - hop)[2])
    padded = np.pad(magnitude, ((2, 2), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0).mean(-1)  # 310 Hz wide: no harmonics are left
    phase = rng.uniform(0, 2 * np.pi, smooth.shape)
    breath = istft(smooth * np.exp(1j * phase), nperseg=window, noverlap=window - hop)[1]
    breath = np.pad(breath, (0, max(0, len(samples) - len(breath))))[: len(samples)]
    return sosfilt(butter(2, 800, "highpass", fs=SAMPLE_RATE, output="sos"), breath)  # a whisper has no fundamental


def microphone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour the sound of one clip at random, so that its average spectrum does not betray which words were said."""
    edges = np.array([0, 250, 500, 900, 1500, 2400, 3600, 5200, 8000])
    decibels = rng.uniform(-5, 5, size=len(edges))
    spectrum = np.fft.rfft(samples)
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum * 10 ** (np.interp(frequency, edges, decibels) / 20), len(samples))


def make_sound(plan: ClipPlan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Speak one clip.

    Returns:
        The samples at 16 kHz, a whole number of pictures long, and the opening of the mouth per picture in `[0, 1]`.
    """
    raise_by, melody = {"bright": (36, 220), "dark": (-30, 8)}.get(plan.voice_style, (0, 100))
    # The speed is fixed on the neutral voice, so that twins speak equally fast whatever their style.
    neutral = espeak(plan.text, plan.speaker.voice, plan.speaker.pitch, 100, 170)
    speed = int(np.clip(170 * len(neutral) / SAMPLE_RATE / plan.speech_seconds, 130, 240))
    pitch = plan.speaker.pitch + raise_by + int(rng.integers(-3, 4))
    speech = espeak(plan.text, plan.speaker.voice, pitch, melody, speed)

    seconds = np.clip(len(speech) / SAMPLE_RATE + plan.pad_seconds, 1.6, 2.9)
    num_frames = int(np.ceil(seconds * FPS))
    step = SAMPLE_RATE // FPS
    total = num_frames * step
    speech = speech[: total - step]
    start = int((total - len(speech)) * rng.uniform(0.3, 0.6))
    silent = np.zeros(total)
    plain, coloured = silent.copy(), silent.copy()
    plain[start : start + len(speech)] = speech
    coloured[start : start + len(speech)] = microphone(colour_voice(speech, plan.voice_style, rng), rng)

    # The mouth follows the sound before the tilt and relative to its own loudest part: it must not show the style.
    energy = np.sqrt((plain.reshape(num_frames, step) ** 2).mean(axis=1))
    mouth = np.clip(energy / np.percentile(energy, 90), 0, 1) ** 0.8
    loudness = rng.uniform(0.07, 0.11) / np.sqrt((coloured**2).sum() / len(speech))
    noise = 0.0006 * rng.standard_normal(total)
    return np.clip(coloured * loudness + noise, -0.99, 0.99), mouth


def make_clip(plan: ClipPlan, path: Path) -> float:
    """Write the mp4 of one plan and return its length in seconds."""
    rng = np.random.default_rng(plan.seed)
    samples, mouth = make_sound(plan, rng)
    strength = float(rng.uniform(0.9, 1.0))
    smile = {"smile": strength, "frown": -strength}.get(plan.face_style, float(rng.uniform(-0.08, 0.08)))
    alarm = strength if plan.face_style == "alarm" else 0.0
    frames = [draw_frame(plan.speaker.look, pose) for pose in make_poses(mouth, smile, alarm, rng)]
    write_clip(path, frames, samples)
    return len(samples) / SAMPLE_RATE


def describe(plan: ClipPlan) -> dict[str, str]:
    """Fill the templates: captions that name no label, and reasons that do."""
    rng = np.random.default_rng([plan.seed, 1])  # not the stream of the media: wording and picture are independent

    def pick(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    audio, video = pick(AUDIO_CAPTIONS[plan.voice_style]), pick(VIDEO_CAPTIONS[plan.face_style])
    emotion = EMOTION[plan.label]
    voice = SHOWN.get(plan.voice_style, NEUTRAL["voice"])
    face = SHOWN.get(plan.face_style, NEUTRAL["face"])
    words = {
        "text": plan.text,
        "shown": f"{voice} and {face}",
        "audio": audio,
        "video": video,
        "feeling": FEELING[emotion],
        "purpose": PURPOSE[plan.label],
    }
    return {
        "audio_caption": audio,
        "video_caption": video,
        "emotion": emotion,
        "intent": plan.label,
        "emotion_reason": pick(EMOTION_REASONS).format(**words),
        "intent_reason": pick(INTENT_REASONS).format(**words),
        "joint_reason": pick(JOINT_REASONS).format(**words),
    }


def make_dataset(output_dir: Path, seed: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
    """
    Write `clips/*.mp4` and `metadata.jsonl`.

    Args:
        output_dir (`Path`): Created when absent; clips of an earlier run are replaced.
        seed (`int`, *optional*, defaults to 0): Decides everything.
        limit (`int`, *optional*): Make only the first so many clips.

    Returns:
        The rows of `metadata.jsonl`.

    Raises:
        RuntimeError: If espeak-ng is not installed.
    """
    clips = output_dir / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    for old in clips.glob("mini_*.mp4"):
        old.unlink()
    rows = []
    for plan in tqdm(make_plan(seed)[:limit], desc="clips", unit="clip"):
        name = f"clips/{plan.id}.mp4"
        duration = make_clip(plan, output_dir / name)
        row = {"id": plan.id, "split": plan.split, "clip": name, "text": plan.text, "label": plan.label}
        rows.append(row | {"speaker": plan.speaker.name, "duration": round(duration, 3)} | describe(plan))
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (output_dir / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the synthetic clips of mmintent-mini.")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="make only the first so many clips")
    arguments = parser.parse_args()
    rows = make_dataset(arguments.output_dir, arguments.seed, arguments.limit)
    size = sum(path.stat().st_size for path in arguments.output_dir.rglob("*") if path.is_file())
    print(f"{len(rows)} clips, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
