"""Decoding of real media files, made on the spot, and of damaged ones."""

import io
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest

from hf_mmintent.modeling.media_decoding import MediaError, decode_audio, decode_clip, decode_video, resample
from tests.modeling.media_files import AMPLITUDE, HEIGHT, WIDTH, index_of, rotate_mp4, tone, write_media

BOTH = {
    "mp4": ("mp4", {}),
    "mov": ("mov", {}),
    "mkv": ("matroska", {}),
    "webm": ("webm", {"video": "libvpx", "audio": "libopus", "rate": 48000}),
    "avi": ("avi", {"video": "mpeg4", "audio": "mp2"}),
    "mpg": ("mpeg", {"video": "mpeg1video", "audio": "mp2"}),
    "ts": ("mpegts", {}),
}
SOUND = {
    "wav": ("wav", {"audio": "pcm_s16le"}),
    "wav float": ("wav", {"audio": "pcm_f32le"}),
    "wav 8 bit": ("wav", {"audio": "pcm_u8", "rate": 8000, "layout": "mono"}),
    "mp3": ("mp3", {"audio": "libmp3lame"}),
    "flac": ("flac", {"audio": "flac"}),
    "m4a": ("mp4", {"audio": "aac"}),
    "ogg": ("ogg", {"audio": "libopus", "rate": 48000}),
}


def media_bytes(container: str, **kwargs) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".media") as file:  # an index at the front needs a file that can be reread
        return write_media(Path(file.name), container=container, **kwargs).read_bytes()


@pytest.fixture(scope="module")
def clip_bytes() -> bytes:
    """Four seconds of H.264 and AAC in an MP4 whose index comes first."""
    return media_bytes("mp4", seconds=4.0, options={"movflags": "faststart"})


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory, clip_bytes) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    path.write_bytes(clip_bytes)
    return path


def loudness(wave: np.ndarray, rate: int) -> float:
    """Amplitude of the tone, by correlation: zero for any other sound."""
    wave = wave[rate // 4 : -rate // 4]
    phase = np.exp(-2j * np.pi * 440 * np.arange(len(wave)) / rate)
    return float(2 * abs((wave * phase).mean()))


# ---- what is decoded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH)
def test_sound_and_pictures_of_every_container(name):
    container, kwargs = BOTH[name]
    clip = decode_clip(media_bytes(container, **kwargs))
    shown = [index_of(frame) for frame in clip.frames]
    late = min(shown)  # containers without edit lists begin with the sound a picture earlier
    assert late <= 2
    assert shown[-1] >= 44 and all(step in (2, 3, 4) for step in np.diff(shown[1:]))
    assert clip.audio.dtype == np.float32 and clip.audio.ndim == 1
    assert abs(len(clip.audio) / 16000 - 2.0) < 0.1
    assert loudness(clip.audio, 16000) == pytest.approx(AMPLITUDE, rel=0.1)
    assert clip.duration == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("name", SOUND)
def test_sound_only(name):
    container, kwargs = SOUND[name]
    data = media_bytes(container, video=None, **kwargs)
    clip = decode_clip(data)
    assert clip.frames is None
    assert decode_video(data) is None
    assert loudness(clip.audio, 16000) == pytest.approx(AMPLITUDE, rel=0.1)
    assert len(clip.audio) / 16000 == pytest.approx(2.0, abs=0.1)


def test_pictures_only():
    data = media_bytes("mp4", audio=None)
    clip = decode_clip(data)
    assert clip.audio is None and decode_audio(data) is None
    assert len(clip.frames) == 16 and clip.duration == 2.0


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("target", [16000, 22050])
def test_resampling_keeps_the_waveform(rate, target):
    wave = decode_audio(
        media_bytes("wav", video=None, audio="pcm_s16le", rate=rate, layout="mono"), sampling_rate=target
    )
    assert len(wave) == 2 * target
    inner = slice(target // 20, -target // 20)  # the filter rings where the sine is cut
    np.testing.assert_allclose(wave[inner], tone(2.0, target)[inner], atol=2e-3)


def test_resampling_of_an_array():
    wave = resample(tone(3.0, 44100).astype(np.float64), 44100, 16000)
    assert wave.dtype == np.float32 and len(wave) == 48000
    np.testing.assert_allclose(wave[800:-800], tone(3.0, 16000)[800:-800], atol=1e-3)
    same = tone(1.0, 16000)
    assert resample(same, 16000, 16000) is same


@pytest.mark.parametrize(
    ("layout", "gains", "expected"),
    [
        ("mono", [1.0], 1.0),
        ("stereo", [1.0, 1.0], 1.0),
        ("stereo", [1.0, 0.0], 0.5),
        ("stereo", [1.0, -1.0], 0.0),
        ("5.1", [1.0] * 6, 1.0),
        ("5.1", [0, 0, 0, 1, 0, 0], 0.0),  # the low-frequency channel is no speech
        ("5.1", [0, 0, 1, 0, 0, 0], 1 / (2 * 2**-0.5 + 1 + 2 * 0.5)),  # FL FR FC LFE and two surrounds
    ],
)
def test_mono_mix(layout, gains, expected):
    data = media_bytes("wav", video=None, audio="pcm_s16le", rate=16000, layout=layout, gains=gains)
    np.testing.assert_allclose(decode_audio(data), expected * tone(2.0, 16000), atol=1e-4)


@pytest.mark.parametrize(
    ("codec", "layout", "place", "expected"),
    [
        ("aac", "5.1", 2, 1 / (2 * 2**-0.5 + 1 + 2 * 0.5)),
        ("libopus", "7.1", 2, 1 / (2 * 2**-0.5 + 1 + 4 * 0.5)),
        ("libopus", "7.1", 7, 0.5 / (2 * 2**-0.5 + 1 + 4 * 0.5)),
        ("aac", "hexadecagonal", 3, 1 / 16),
    ],
)
def test_mono_mix_of_many_planes(codec, layout, place, expected):
    """Eight planes and more do not fit into a frame's own pointers."""
    gains = [float(channel == place) for channel in range(av.AudioLayout(layout).nb_channels)]
    data = media_bytes("matroska", video=None, audio=codec, rate=48000, layout=layout, gains=gains)
    wave = decode_audio(data, sampling_rate=48000)
    assert loudness(wave, 48000) == pytest.approx(expected * AMPLITUDE, rel=0.05)


@pytest.mark.parametrize("fps", [1, 5, 8, 12.5, 25, 40])
def test_frames_are_those_shown_at_the_sampling_instants(clip_path, fps):
    shown = [index_of(frame) for frame in decode_video(clip_path, fps=fps)]
    assert shown == [int(k / fps * 25 + 1e-6) for k in range(int(4 * fps))]


def test_variable_frame_rate_keeps_its_timing():
    times = [0.0, 0.1, 0.15, 0.6, 0.65, 1.2, 1.9]
    data = media_bytes("mp4", audio=None, times=times)
    shown = [index_of(frame) for frame in decode_video(data, fps=10)][:20]
    assert shown == [int(np.searchsorted(times, k / 10 + 1e-6) - 1) for k in range(len(shown))]
    assert len(shown) >= 19
    assert [index_of(frame) for frame in decode_video(data, fps=None)] == list(range(7))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_of_the_display_matrix(degrees):
    data = media_bytes("mp4", audio=None, seconds=0.4)
    upright, turned = decode_video(data), decode_video(rotate_mp4(data, degrees))
    np.testing.assert_array_equal(turned, np.rot90(upright, -degrees // 90, axes=(1, 2)))
    small = decode_video(rotate_mp4(data, degrees), size=(40, 24))
    assert small.shape[1:] == (40, 24, 3)


def test_size_and_crop(clip_path):
    assert decode_video(clip_path, end=0.1).shape == (1, HEIGHT, WIDTH, 3)
    assert decode_video(clip_path, size=48, end=0.1).shape == (1, 48, 48, 3)
    whole = decode_video(clip_path, size=(16, 80), end=0.1)
    assert whole.shape == (1, 16, 80, 3) and index_of(whole[0]) == 0
    square = decode_video(clip_path, size=HEIGHT, end=0.1, crop=True)[0]
    middle = decode_video(clip_path, end=0.1)[0, :, (WIDTH - HEIGHT) // 2 : (WIDTH + HEIGHT) // 2]
    np.testing.assert_array_equal(square, middle)


def test_part_of_a_clip(clip_path):
    whole = decode_clip(clip_path)
    part = decode_clip(clip_path, start=1.5, end=2.75)
    assert [index_of(frame) for frame in part.frames] == [int((1.5 + k / 8) * 25 + 1e-6) for k in range(10)]
    assert len(part.audio) == 1.25 * 16000
    np.testing.assert_allclose(part.audio[400:-400], whole.audio[24000:44000][400:-400], atol=0.02)
    assert decode_clip(clip_path, end=100.0).duration == whole.duration


def test_a_late_part_is_sought_and_equals_the_slow_way():
    data = media_bytes("mp4", seconds=12.0)
    sought = decode_clip(data, start=9.0, end=10.0)
    assert [index_of(frame) for frame in sought.frames] == [int((9 + k / 8) * 25 + 1e-6) for k in range(8)]
    whole = decode_audio(data)[9 * 16000 : 10 * 16000]
    np.testing.assert_allclose(sought.audio[400:-400], whole[400:-400], atol=0.02)


def test_max_frames(clip_path):
    clip = decode_clip(clip_path, max_frames=3)
    assert [index_of(frame) for frame in clip.frames] == [0, 3, 6]
    assert len(clip.audio) > 3.9 * 16000  # of the pictures only


def test_a_cover_picture_is_not_a_video():
    data = io.BytesIO()
    with av.open(data, "w", format="mp3") as out:
        sound, cover = out.add_stream("libmp3lame", rate=44100), out.add_stream("png")
        cover.width = cover.height = 16
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))):
            out.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.repeat(tone(1.0, 44100)[None], 2, 0), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        for part in (frame, None):
            out.mux(sound.encode(part))
    clip = decode_clip(data.getvalue())
    assert clip.frames is None and len(clip.audio) > 15000


def test_every_kind_of_source(clip_path, clip_bytes):
    expected = decode_clip(clip_path)
    sources = [
        str(clip_path),
        clip_path.as_uri(),
        clip_bytes,
        io.BytesIO(clip_bytes),
        {"bytes": clip_bytes, "path": "elsewhere.mp4"},
        {"bytes": None, "path": str(clip_path)},
    ]
    for source in sources:
        clip = decode_clip(source)
        np.testing.assert_array_equal(clip.audio, expected.audio)
        np.testing.assert_array_equal(clip.frames, expected.frames)
    stream = io.BytesIO(clip_bytes)
    assert decode_audio(stream) is not None and decode_audio(stream) is not None  # twice, from its beginning
    assert not stream.closed


def test_names_that_look_like_protocols_are_plain_files(tmp_path, monkeypatch, clip_bytes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "concat:a.mp4").write_bytes(clip_bytes)
    assert decode_audio("concat:a.mp4") is not None


# ---- what is refused ------------------------------------------------------------------------------------------------


def cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


def scramble(data: bytes, count: int = 400) -> bytes:
    """Random bytes in the middle of the file."""
    numbers, middle = random.Random(0), len(data) // 2
    return data[:middle] + numbers.randbytes(count) + data[middle + count :]


def test_missing_file(tmp_path):
    with pytest.raises(MediaError, match=r"nowhere\.mp4' does not exist: check the path"):
        decode_clip(tmp_path / "nowhere.mp4")
    with pytest.raises(MediaError, match="folder"):
        decode_clip(tmp_path)
    with pytest.raises(MediaError, match="download it"):
        decode_clip("https://example.org/clip.mp4")
    with pytest.raises(MediaError, match="must be null"):
        decode_clip({"bytes": None, "path": None})
    with pytest.raises(TypeError, match="not int"):
        decode_clip(3)


def test_files_that_are_no_media(tmp_path):
    path = tmp_path / "clip.mp4"
    for content, message in [
        (b"", "empty"),
        (b"This is a text.\n" * 200, "not a media file"),
        (b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\n", "not a media file"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n", "not a media file"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "not a media file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (bytes(5000), "not a media file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(MediaError, match=message) as caught:
            decode_clip(path)
        assert "clip.mp4" in str(caught.value)


def test_cut_off_files():
    late_index = media_bytes("mp4", seconds=4.0)
    with pytest.raises(MediaError, match="moov"):
        decode_clip(cut(late_index))
    for container, kwargs in [
        ("mp4", {"options": {"movflags": "faststart"}}),
        ("mp4", {"options": {"movflags": "faststart"}, "audio": None}),
        ("mp4", {"options": {"movflags": "faststart"}, "video": None}),
        ("matroska", {}),
        ("avi", {"video": "mpeg4", "audio": "mp2"}),
        ("wav", {"video": None, "audio": "pcm_s16le"}),
        ("flac", {"video": None, "audio": "flac"}),
    ]:
        data = media_bytes(container, seconds=4.0, **kwargs)
        decode_clip(data)
        for share in (0.3, 0.5, 0.7):
            with pytest.raises(MediaError, match=r"cut off|damaged"):
                decode_clip(cut(data, share))


def test_the_first_part_of_a_cut_off_file_is_still_usable(clip_bytes):
    clip = decode_clip(cut(clip_bytes, 0.7), end=1.0)
    assert [index_of(frame) for frame in clip.frames] == [0, 3, 6, 9, 12, 15, 18, 21]


def test_damage_in_the_middle_is_an_error(tmp_path, clip_bytes):
    path = tmp_path / "damaged.mp4"
    path.write_bytes(scramble(clip_bytes))
    with pytest.raises(MediaError, match=r"damaged\.mp4.* near [12]\.\d\d s"):
        decode_clip(path)
    with pytest.raises(MediaError):
        decode_clip(scramble(media_bytes("mp3", video=None, audio="libmp3lame", seconds=4.0), 2000))
    with pytest.raises(MediaError):  # also when the damage comes right after a seek
        decode_clip(scramble(media_bytes("mp4", seconds=12.0), 2000), start=5.8, end=6.5)


def test_random_damage_never_raises_anything_else(clip_bytes):
    numbers = random.Random(1)
    refused = 0
    for _ in range(40):
        data = bytearray(clip_bytes)
        for _ in range(numbers.choice([1, 10, 100])):
            data[numbers.randrange(len(data))] = numbers.randrange(256)
        try:
            clip = decode_clip(bytes(data), fps=2)
        except MediaError:
            refused += 1
        else:
            assert clip.audio is not None or clip.frames is not None
    assert refused > 10


def test_nothing_in_the_window(clip_path):
    for start, end in [(2, 2), (3, 2), (-1, 2), (float("nan"), 1), (0, float("nan"))]:
        with pytest.raises(MediaError, match="start"):
            decode_clip(clip_path, start=start, end=end)
    for decode in (decode_clip, decode_audio, decode_video):
        with pytest.raises(MediaError, match=r"between 9 and 10 s; it lasts 4\.\d\d s"):
            decode(clip_path, start=9, end=10)


@pytest.mark.parametrize(
    ("name", "value"),
    [("fps", 0), ("fps", float("nan")), ("size", 0), ("size", (0, 4)), ("max_frames", 0), ("sampling_rate", 0)],
)
def test_arguments_are_checked(clip_path, name, value):
    with pytest.raises(ValueError, match=name):
        decode_clip(clip_path, **{name: value})


def test_a_missing_library_names_the_extra(monkeypatch, clip_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "hf_mmintent\[media\]"'):
        decode_clip(clip_path)


# ---- real files, speed, memory --------------------------------------------------------------------------------------


def test_real_recordings(shared_data):
    paths = sorted((shared_data / "grid" / "raw" / "s1").glob("*.mpg"))[:5]
    assert paths
    for path in paths:
        clip = decode_clip(path, size=96)
        assert clip.frames.shape == (24, 96, 96, 3)
        assert clip.audio.shape[0] / 16000 == pytest.approx(2.98, abs=0.05)
        assert clip.audio.std() > 1e-3 and clip.frames.std() > 10
        assert np.isfinite(clip.audio).all() and abs(clip.audio).max() <= 1.5


# Loaded without torch, whose own memory would hide what decoding takes; prints the length, the size of the result and
# the peak in bytes (the peak of this program alone: `ru_maxrss` would inherit the one of the test process).
PEAK = """
import re, sys, types
package = types.ModuleType("decoding")
package.__path__ = ["modeling"]
sys.modules["decoding"] = package
from decoding.media_decoding import decode_clip
clip = decode_clip(sys.argv[1], fps=1, size=32)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(clip.duration, clip.audio.nbytes + clip.frames.nbytes, peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory that Linux keeps")
def test_memory_does_not_grow_with_the_length(tmp_path, root):
    """Beyond the result itself: ten minutes of pictures take 276 MB even as they are stored in video."""
    peaks = []
    for seconds in (10, 600):
        path = write_media(tmp_path / f"{seconds}.mp4", seconds=seconds, fps=4, size=(240, 320), rate=16000)
        run = [sys.executable, "-c", PEAK, str(path)]
        output = subprocess.run(run, cwd=root, capture_output=True, text=True, check=True).stdout.split()
        assert float(output[0]) == pytest.approx(seconds, rel=0.02)
        peaks.append(int(output[2]) - int(output[1]))
    assert peaks[1] < 1.25 * peaks[0], f"peak memory beyond the result for 10 s and 600 s: {peaks} bytes"


@pytest.mark.parametrize("kind", ["mpegts", "mpeg"])
@pytest.mark.parametrize("parts", ["sound", "pictures"])
def test_recordings_joined_byte_by_byte(kind, parts):
    """Their times begin anew: what follows the first one would be left out without a word."""
    codecs = {"mpegts": ("libx264", "aac"), "mpeg": ("mpeg1video", "mp2")}[kind]
    codecs = (None, codecs[1]) if parts == "sound" else (codecs[0], None)
    once = media_bytes(kind, seconds=2.0, video=codecs[0], audio=codecs[1])
    assert decode_clip(once).duration == pytest.approx(2.0, abs=0.1)
    with pytest.raises(MediaError, match=f"the times of its {parts} fall back by|is damaged"):
        decode_clip(once + once)


def test_pictures_whose_times_jump():
    data = media_bytes("matroska", audio=None, times=[0.0, 0.04, 0.08, 50000.0])
    with pytest.raises(MediaError, match="times of its pictures jump by 50000 s"):
        decode_clip(data, size=16)
    assert len(decode_video(data, size=16, end=10.0)) == 80  # so long the picture is wanted
    assert len(decode_video(data, fps=None)) == 4
