"""Claims about video files, made here by PyAV and ffmpeg: what they say of themselves, damage, seeking, sound."""

import resource
import subprocess
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.clips import film, panning
from vov import VovError, media
from vov.evaluation.anchors import ffmpeg

SAID = "INFO", "vov.media"
BT2020, PQ, HLG = 9, 16, 18


@pytest.fixture(scope="module")
def clip():
    """36 frames 48×64 of a camera that moves over a photograph."""
    return panning(36, 48, 64)


def near(found, expected, limit=6.0):
    """Whether two clips differ by what a codec loses."""
    return found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < limit


def by_command_line(path, *filters):
    """Frames that ffmpeg's command line decodes: the second opinion."""
    raw = subprocess.run([ffmpeg(), "-v", "error", "-i", str(path), *filters, "-fps_mode", "passthrough", "-f",
                          "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8)


# --- what a file says of itself ---

@pytest.mark.parametrize("kind", [
    {"name": "a.mp4"}, {"name": "a.mkv", "codec": "ffv1", "pixels": "yuv444p"},
    {"name": "a.webm", "codec": "libvpx-vp9"}, {"name": "a.avi", "codec": "mjpeg", "pixels": "yuvj420p"},
    {"name": "a.mp4", "codec": "libx264", "pixels": "yuv420p10le"},
    {"name": "a.mkv", "colorspace": 1, "color_range": 2}], ids=lambda kind: f"{kind['name']} {kind.get('codec', '')}")
def test_frames_equal_those_of_ffmpegs_command_line(tmp_path, clip, kind):
    kind = dict(kind)
    path = tmp_path / kind.pop("name")
    frames = clip if "444" not in kind.get("pixels", "") else clip[:, :47, :63]  # odd sizes are read exactly
    film(path, frames, **kind)
    found = media.read_clip(path)
    assert found.frames.shape == frames.shape and found.fps == pytest.approx(24)
    assert np.array_equal(found.frames.ravel(), by_command_line(path))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_and_mirrored_video_is_read_upright(tmp_path, clip, degrees, mirrored, caplog):
    caplog.set_level(*SAID)
    stored = np.rot90(clip[:, :, ::-1] if mirrored else clip, -degrees // 90, axes=(1, 2))
    film(tmp_path / "a.mp4", stored, turn=(degrees, mirrored))
    source = media.FrameSource(tmp_path / "a.mp4")
    assert (source.info.width, source.info.height) == (64, 48)
    assert near(source.clip().frames, clip)
    assert caplog.messages == ([f"{tmp_path / 'a.mp4'}: turned upright"] if degrees or mirrored else [])


def test_an_angle_that_is_no_quarter_turn_is_refused(tmp_path, clip):
    film(tmp_path / "a.mp4", clip, turn=(30, False))
    with pytest.raises(VovError, match=r"no quarter turn.*re-encode it"):
        media.FrameSource(tmp_path / "a.mp4")


def test_anamorphic_video_is_read_with_square_pixels_turned_or_not(tmp_path, clip):
    film(tmp_path / "a.mp4", clip, aspect=2)
    found = media.read_clip(tmp_path / "a.mp4").frames
    assert near(found, media.resize(clip, 128, 48))
    film(tmp_path / "b.mp4", np.rot90(clip, -1, axes=(1, 2)), aspect=2, turn=(90, False))
    assert near(media.read_clip(tmp_path / "b.mp4").frames, media.resize(clip, 64, 96))


def combing(frames):
    """How much each row differs from the mean of its neighbours."""
    rows = frames.astype(int)
    return np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) // 2).mean()


def test_interlaced_video_is_deinterlaced_and_said(tmp_path, caplog):
    caplog.set_level(*SAID)
    fields = panning(48, 48, 64, speed=3)
    woven = fields[1::2].copy()
    woven[:, 1::2] = fields[::2, 1::2]  # bottom field first, as PyAV marks it
    film(tmp_path / "a.mp4", woven, 25, pixels="yuv444p",
         options={"flags": "+ilme+ildct", "x264-params": "keyint=8"})
    source = media.FrameSource(tmp_path / "a.mp4")
    found = source.clip().frames
    assert source.info.interlaced and len(found) == 24 and "deinterlaced" in caplog.messages[0]
    assert combing(found) < 0.5 * combing(woven) and near(found[2:-2], fields[::2][2:-2])
    for first in range(0, 24, 5):  # the same alone as in a row
        assert np.array_equal(np.stack(list(source.read(first, 2))), found[first:first + 2])


def pq(nits):
    """SMPTE ST 2084."""
    y = (np.asarray(nits, float) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(nits):
    """ITU-R BT.2100 for a display of 1,000 cd/m²."""
    scene = (np.asarray(nits, float) / 1000) ** (1 / 1.2)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073)


@pytest.mark.parametrize(("transfer", "trc"), [("hlg", HLG), ("pq", PQ)])
def test_hdr_is_recognised_and_said(tmp_path, clip, caplog, transfer, trc):
    caplog.set_level(*SAID)
    film(tmp_path / "a.mp4", clip[:2], pixels="yuv420p10le", colorspace=BT2020, color_primaries=BT2020, color_trc=trc)
    assert media.FrameSource(tmp_path / "a.mp4").info.transfer == transfer
    assert caplog.messages == [f"{tmp_path / 'a.mp4'}: HDR ({transfer.upper()}): tone mapped to SDR, BT.709"]


@pytest.mark.slow  # swscale takes seconds to work out its table
@pytest.mark.parametrize(("transfer", "trc"), [("hlg", HLG), ("pq", PQ)])
def test_hdr_is_tone_mapped(tmp_path, transfer, trc):
    """A dark red of BT.709, as BT.2020 says it: read as SDR it would be grey and flat."""
    wide = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    light = np.stack([wide @ [100, 10, 10], wide @ [100, 100, 100]])  # cd/m²
    code = {"pq": pq, "hlg": hlg}[transfer](light)
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    frames[:, :, :32], frames[:, :, 32:] = np.rint(code * 255)
    film(tmp_path / "a.mkv", frames, pixels="yuv444p10le", colorspace=BT2020, color_primaries=BT2020, color_trc=trc,
         options={"crf": "2"})
    (red, green, blue), grey = media.read_clip(tmp_path / "a.mkv").frames[0, 16, [16, 48]].astype(int)
    assert red > 2 * max(green, blue) and np.ptp(grey) <= 3 and 110 < grey[0] < 150


@pytest.mark.parametrize(("name", "codec", "pixels"), [
    ("a.webm", "libvpx-vp9", "yuva420p"), ("a.webm", "libvpx", "yuva420p"), ("a.mov", "qtrle", "argb"),
    ("a.mov", "prores_ks", "yuva444p10le"), ("a.mkv", "ffv1", "bgra")])
def test_alpha_of_a_video_is_shown_on_white(tmp_path, clip, caplog, name, codec, pixels):
    caplog.set_level(*SAID)
    alpha = np.broadcast_to((np.arange(64) // 32 * 255).astype(np.uint8), clip.shape[:3])
    options = {"auto-alt-ref": "0", "b": "2M"} if codec.startswith("libvpx") else {}
    film(tmp_path / name, np.concatenate([clip, alpha[..., None]], axis=3)[:6], codec=codec, pixels=pixels,
         options=options)
    found = media.read_clip(tmp_path / name).frames
    assert found[:, :, :28].min() > 245 and near(found[:, :, 36:], clip[:6, :, 36:], 12)
    assert caplog.messages == [f"{tmp_path / name}: transparent parts are shown on white"]


# --- time ---

@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi", "ts", "mpg"])
def test_the_rate_of_a_video_is_the_one_it_was_written_with(tmp_path, clip, suffix):
    """Matroska keeps milliseconds, too coarse for 1001/30000 of a second; AVI has no presentation times."""
    film(tmp_path / f"a.{suffix}", clip, Fraction(30000, 1001), codec="mpeg2video" if suffix == "mpg" else "libx264")
    source = media.FrameSource(tmp_path / f"a.{suffix}")
    assert len(source) == len(list(source)) == 36
    assert source.fps == pytest.approx(30000 / 1001, rel=1e-6) and not source.info.variable


def test_a_varying_rate_is_kept_or_brought_to_the_usual_one_and_said(tmp_path, clip, caplog):
    caplog.set_level(*SAID)
    ticks = [*range(20), *range(22, 22 + 48, 3)]  # 20 frames at 30 a second, then 16 at 10
    film(tmp_path / "a.mp4", clip, 30, ticks=ticks)
    source = media.FrameSource(tmp_path / "a.mp4")
    assert source.info.variable and source.fps == pytest.approx(30)
    assert caplog.messages == [f"{tmp_path / 'a.mp4'}: variable frame rate brought to 30: {len(source)} frames from 36"]
    found = source.clip().frames
    stored = media.read_clip(tmp_path / "a.mp4", keep_times=True)
    assert np.array_equal(found[22:25], np.stack([stored.frames[20]] * 3)) and len(source) in range(68, 71)
    assert stored.times.tolist() == pytest.approx([tick / 30 for tick in ticks]) and len(stored.frames) == 36
    media.write_video(tmp_path / "b.mp4", stored.frames, stored.fps, times=stored.times)
    again = media.FrameSource(tmp_path / "b.mp4", keep_times=True)
    assert again.times.tolist() == pytest.approx(stored.times.tolist(), abs=1e-4)
    media.write_video(tmp_path / "c.mp4", found, source.fps)  # at the usual rate: it plays for as long
    usual = media.FrameSource(tmp_path / "c.mp4")
    assert not usual.info.variable and usual.info.duration == pytest.approx(source.info.duration, abs=1 / 30)


def test_another_rate_and_a_start_choose_frames_by_time(tmp_path, clip):
    film(tmp_path / "a.mp4", clip, 24)
    whole = media.read_clip(tmp_path / "a.mp4").frames
    half = media.FrameSource(tmp_path / "a.mp4", fps=12)
    assert half.fps == 12 and np.array_equal(half.clip().frames, whole[1::2])
    assert len(media.FrameSource(tmp_path / "a.mp4", fps=48)) == 72
    part = media.FrameSource(tmp_path / "a.mp4", start="0.5s", frames=6)
    assert np.array_equal(part.clip().frames, whole[12:18]) and part.times[0] == 0


def test_frames_that_an_edit_list_cuts_away_do_not_exist(tmp_path, clip):
    media.write_video(tmp_path / "a.mp4", clip[:12], 10)
    subprocess.run([ffmpeg(), "-v", "error", "-ss", "0.45", "-i", str(tmp_path / "a.mp4"), "-c", "copy",
                    str(tmp_path / "b.mp4")], check=True)
    source = media.FrameSource(tmp_path / "b.mp4")
    assert len(source) == len(list(source)) == 7


# --- any frame, in constant memory ---

@pytest.mark.parametrize(("name", "codec", "options"), [
    ("a.mp4", "libx264", {"x264-params": "keyint=8:open_gop=1:bframes=3"}),
    ("a.ts", "libx264", {"x264-params": "keyint=8:open_gop=1:bframes=3"}),
    ("a.mkv", "libx264", {"x264-params": "keyint=8:min-keyint=8"}),
    ("a.mpg", "mpeg2video", {"g": "8", "bf": "2"}), ("a.webm", "libvpx-vp9", {"g": "8"}),
    ("a.avi", "libx264", {"x264-params": "keyint=8"}),
    ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"})])
def test_a_chunk_read_alone_equals_the_same_frames_of_the_whole(tmp_path, clip, name, codec, options):
    film(tmp_path / name, clip, codec=codec, options=options)
    source = media.FrameSource(tmp_path / name)
    whole = list(source)
    assert len(whole) == 36
    for first in range(0, 36, 5):
        chunk = list(source.read(first, 5))
        assert len(chunk) == min(5, 36 - first)
        assert all(np.array_equal(a, b) for a, b in zip(chunk, whole[first:], strict=False)), first


def test_reading_holds_a_few_frames_however_many_there_are(tmp_path):
    film(tmp_path / "a.mp4", np.concatenate([panning(40, 120, 160)] * 5))
    source = media.FrameSource(tmp_path / "a.mp4")
    tracemalloc.start()
    assert sum(1 for _ in source) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 120 * 160 * 3


# --- damage ---

@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("mp4", "libx264"), ("ts", "libx264"),
                                               ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mpg", "mpeg2video"),
                                               ("y4m", "wrapped_avframe")])
def test_a_video_cut_short_is_not_taken_for_a_shorter_clip(tmp_path, clip, suffix, codec):
    path, cut = tmp_path / f"a.{suffix}", tmp_path / f"cut.{suffix}"
    film(path, clip, codec=codec)
    if suffix == "mp4":  # with the index in front it still promises all
        subprocess.run([ffmpeg(), "-v", "error", "-i", str(path), "-c", "copy", "-movflags", "faststart",
                        str(tmp_path / "front.mp4")], check=True)
        path = tmp_path / "front.mp4"
    data = path.read_bytes()
    for part in (1 / 2, 2 / 3):
        cut.write_bytes(data[:int(len(data) * part)])
        with pytest.raises(VovError, match=rf"cut\.{suffix}: (damaged or cut short after \d+ frames|frame \d+ of \d+ "
                                           r"cannot be decoded|not a readable video) \(.+\).* fetch it anew") as caught:
            media.read_clip(cut)
        assert "\n" not in str(caught.value)


def test_a_transport_stream_that_lost_packets_keeps_its_rate(tmp_path, clip):
    film(tmp_path / "a.ts", clip)
    data = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[:188 * (len(data) // 188 * 2 // 3)])  # where no byte is missing
    source = media.FrameSource(tmp_path / "cut.ts")
    assert source.fps == pytest.approx(24) and near(np.stack(list(source.read(0, 12))), clip[:12])


def test_a_hole_in_a_video_is_found_when_it_is_reached(tmp_path, clip):
    film(tmp_path / "a.mp4", clip)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    data[len(data) // 2:len(data) // 2 + 60] = bytes(60)
    (tmp_path / "a.mp4").write_bytes(data)
    source = media.FrameSource(tmp_path / "a.mp4")
    assert near(np.stack(list(source.read(0, 3))), clip[:3])
    with pytest.raises(VovError, match=r"a\.mp4: frame \d+ of 36 cannot be decoded"):
        source.clip()


def test_a_recording_that_starts_in_mid_group_begins_at_its_first_whole_picture(tmp_path, clip, caplog):
    caplog.set_level(*SAID)
    film(tmp_path / "a.ts", clip, options={"x264-params": "keyint=12:open_gop=1:bframes=2:scenecut=0"})
    data = (tmp_path / "a.ts").read_bytes()
    packets = [data[i:i + 188] for i in range(0, len(data), 188)]
    (tmp_path / "mid.ts").write_bytes(b"".join(packets[:3] + packets[3 + len(packets) // 6:]))
    source = media.FrameSource(tmp_path / "mid.ts")
    assert "are left out" in caplog.messages[0] and len(source) in (23, 24)
    assert near(source.clip().frames, clip[36 - len(source):])


def test_files_without_moving_pictures_are_refused(tmp_path, clip):
    film(tmp_path / "a.mp4", clip[:6], clicks=[0.1])
    subprocess.run([ffmpeg(), "-v", "error", "-i", str(tmp_path / "a.mp4"), "-vn", "-c", "copy",
                    str(tmp_path / "a.m4a")], check=True)
    with pytest.raises(VovError, match=r"a\.m4a: there is only sound in this file; give one with moving pictures"):
        media.FrameSource(tmp_path / "a.m4a")


def test_a_single_frame_is_a_clip(tmp_path, clip):
    film(tmp_path / "a.mp4", clip[:1])
    found = media.read_clip(tmp_path / "a.mp4")
    assert near(found.frames, clip[:1]) and found.fps == pytest.approx(24)


# --- writing ---

def test_a_written_video_keeps_its_size_rate_and_nearly_its_pixels(tmp_path, clip):
    odd = clip[:6, :33, :47]
    media.write_video(tmp_path / "a.mp4", odd, 12.5, crf=1)
    found = media.read_clip(tmp_path / "a.mp4")
    assert found.fps == pytest.approx(12.5) and found.frames.shape == (6, 34, 48, 3)
    assert near(found.frames[:, :33, :47], odd, 8)
    rows = np.abs(found.frames[:, :33, :47].mean(axis=(2, 3)) - odd.mean(axis=(2, 3)))
    assert rows.max() < 3
    media.write_video(tmp_path / "b.mp4", iter(odd), 12.5, crf=1)  # frame by frame
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


def test_a_full_disk_at_any_moment_is_an_error_and_leaves_nothing(tmp_path, clip):
    path = tmp_path / "a.mp4"
    media.write_video(path, clip, 24)
    whole = path.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, len(whole) * 9 // 10, len(whole) // 12):  # x264 now and then ends a few bytes later
        path.write_bytes(b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            with pytest.raises(VovError, match=r"a\.mp4: the disk is full"):
                media.write_video(path, clip, 24)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_a_video_that_cannot_be_written_is_refused_in_one_line(tmp_path, clip):
    for frames, fps, message in ((clip, 1e-20, "1e-20 frames per second cannot be written"),
                                 (clip[:0], 24, "no frames"),
                                 ([clip[0], clip[0, :20]], 24, "frame 1 is 64×20, the first 64×48")):
        with pytest.raises(VovError, match=message):
            media.write_video(tmp_path / "a.mp4", frames, fps)
    with pytest.raises(ZeroDivisionError):
        media.write_video(tmp_path / "a.mp4", (1 // 0 for _ in range(2)), 24)
    assert not list(tmp_path.iterdir())


# --- sound ---

def click_times(path):
    """Seconds at which a file's sound begins to be loud, as a player would time it."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            wave = np.abs(frame.to_ndarray().astype(float)).max(axis=0)
            wave /= 1 if frame.format.name.startswith("flt") else 32768
            for place in np.flatnonzero(wave > 0.4):
                at = float(frame.pts * frame.time_base) + place / frame.rate
                if not found or at - found[-1] > 0.1:
                    found.append(at)
    return found


def packets_of(data):
    with av.open(data) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize(("name", "codec", "sound"), [("a.mp4", "libx264", "aac"), ("a.webm", "libvpx-vp9", "libopus"),
                                                      ("a.avi", "mpeg4", "pcm_s16le"), ("a.ts", "libx264", "ac3")])
def test_sound_rides_along_packet_by_packet_and_in_time(tmp_path, clip, name, codec, sound):
    film(tmp_path / name, np.concatenate([clip, clip]), codec=codec, clicks=[1.0, 2.5], sound=sound)
    source = media.FrameSource(tmp_path / name, start=12, frames=54)
    media.write_video(tmp_path / "out.mp4", source, source.fps, sound=source.sound())
    begin = float(source.info.begin)
    assert click_times(tmp_path / name) == pytest.approx([begin + 1.0, begin + 2.5], abs=0.01)
    assert click_times(tmp_path / "out.mp4") == pytest.approx([0.5, 2.0], abs=0.01)
    kept, given = packets_of(str(tmp_path / "out.mp4")), packets_of(str(tmp_path / name))
    assert 0.6 * len(given) < len(kept) < len(given)
    assert any(given[i:i + len(kept)] == kept for i in range(len(given)))
    assert len(media.FrameSource(tmp_path / "out.mp4")) == 54


def test_sound_that_is_missing_damaged_or_beyond_mp4(tmp_path, clip):
    film(tmp_path / "a.mp4", clip)
    assert media.FrameSource(tmp_path / "a.mp4").sound() == b""
    with pytest.raises(VovError, match=r"b\.mp4: its sound is damaged .*`audio`=none"):
        media.write_video(tmp_path / "b.mp4", clip, 24, sound=b"no container")
    assert not (tmp_path / "b.mp4").exists()
    film(tmp_path / "c.avi", clip, codec="mpeg4", clicks=[0.5], sound="adpcm_ms")
    with pytest.raises(VovError, match=r"c\.avi: its sound \(adpcm_ms\) cannot be copied .*`audio`=none"):
        media.FrameSource(tmp_path / "c.avi").sound()
