"""The commands that are fuzzed: settings with which each succeeds, and the variables that a case may change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vov.commands import add_noise, decode, edit, encode, evaluate, export, fit
from vov.commands.options import ImageFit, VideoFit
from vov.evaluation.pairs import EvalConfig


@dataclass(frozen=True)
class Command:
    """An entry point and variables with which it succeeds; `varied` are those that a case may change."""

    cls: type
    main: Callable
    base: dict[str, str]
    varied: tuple[str, ...]
    stages: tuple[str, ...] = ("",)
    shape: str = "vov"  # what a case's file is: vov, weights, or none


def names(text: str) -> tuple[str, ...]:
    """Words with spaces between."""
    return tuple(text.split())


WAN, QWEN = {"CACHE_DIR": "MODELS", "MODEL_ID": "tiny-wan"}, {"CACHE_DIR": "MODELS", "MODEL_ID": "tiny-qwen"}
FIT = {"LAST_K": "2", "THETA_D_LENGTH": "300", "TRAIN_STEPS": "1", "WIDTH": "16", "HEIGHT": "16", "OUT_DIR": "OUT",
       "STAGE2_LAMBDA_RATE": "0.01", "DECODE_STEPS": "1", "BATCH_SIZE": "1"}
SHAPING = names("""
    RANK LAST_K THETA_D_LENGTH WIDTH HEIGHT RESIZE LR NOISE TIMESTEPS SEED GUIDANCE STAGE2_LAMBDA_RATE
    LAMBDA_RATE_WARMUP QUANTIZE OFFLOAD DEVICE CAPTION NAME INIT_LORA_PATH STAGE2_WIDTH STAGE2_RANK STAGE1_LR CONFIG
    MODEL_ID OUT_DIR SAVE_EVERY""")
EDITING = names("""
    STEPS SEED STRENGTH START_STEP STOP_STEP GUIDANCE REPLAY_NOISE BASE_CAPTION ITEM CAPTION RANK LAST_K WIDTH
    THETA_D_LENGTH NUM_FRAMES FPS ORIGINAL_FRAMES_DIR ORIGINAL LORA_PRESET DECODE_LIMIT""")
SCALING = names("""
    STEPS SCHEME SCALING_BYTES NOISE_BYTES SCORE SCALING RANK DECODE_LIMIT""")
SEQUENCE = names("""
    WIDTH HEIGHT NUM_FRAMES CHUNK_FRAMES RESIZE START FRAMES FPS AUDIO SCENES KEY_EVERY SCENE_THETA SCENE_STEPS
    SCENE_LR BYTES_PER_FRAME TARGET_BYTES TARGET_KBPS STEPS SHIFT SCORE SEED NAME CAPTION FRAMES_DIR INPUT OUT_DIR
    CONFIG""")
DECODING = ("QUANTIZE", "MODEL_ID", "OUTPUT_DIR", "DECODE_LIMIT")


def commands() -> dict[str, Command]:
    """Every command, with tiny settings. IN is the case's file, OUT its empty folder, MEDIA the originals."""
    return fits() | decoders() | coders() | {
        "video/edit": Command(
            edit.MergeVideos, edit.edit_video,
            WAN | {"WEIGHTS1": "IN", "WEIGHTS2": "GOLDEN/video_noise.vov", "CAPTION": "else", "STEPS": "2",
                   "OUTPUT_VIDEO": "OUT/e.mp4", "LAST_K": "2", "THETA_D_LENGTH": "300", "WIDTH": "16", "HEIGHT": "16",
                   "NUM_FRAMES": "1"}, EDITING, shape="weights"),
        "image/edit": Command(
            edit.MergePictures, edit.edit_picture,
            QWEN | {"WEIGHTS1": "IN", "WEIGHTS2": "GOLDEN/image_noise.vov", "CAPTION": "else", "OUTPUT": "OUT/e.png",
                    "STEPS": "2"}, EDITING),
        "video/eval": Command(
            EvalConfig, evaluate.evaluate_clips,
            WAN | {"REAL_DIR": "MEDIA/clip", "FAKE_DIR": "MEDIA/clip", "OUT_DIR": "OUT/results", "WORK_DIR": "OUT/work",
                   "SKIP_METRICS": "1", "SKIP_FVD": "1"},
            names("REAL_DIR FAKE_DIR NAME BITSTREAM MANIFEST NUM_FRAMES METRICS FRAME_STEP ANCHORS ANCHOR_RATES "
                  "ANCHOR_BYTES BD_ANCHOR REFERENCE_CURVES DECODE_LIMIT"), shape=""),
        "scripts/export": Command(
            export.Export, export.main,
            WAN | {"INPUT": "IN", "OUTPUT": "OUT/x.safetensors", "LAST_K": "2"},
            ("FORMAT", "RANK", "LAST_K", "LORA_PRESET", "PROJ_SEED", "OUTPUT", "MODEL_ID"),
            shape="weights"),
    }


def fits() -> dict[str, Command]:
    """Fits of both stages."""
    return {
        "video/train": Command(
            VideoFit, fit.two_stage,
            WAN | FIT | {"CONFIG": "nano-video", "FRAMES_DIR": "MEDIA/clip", "NUM_FRAMES": "1", "CAPTION": "a ramp",
                         "NAME": "x"},
            (*SHAPING, "NUM_FRAMES", "FPS", "FRAMES_DIR", "CAPTION_FILE"), ("", "stage1", "stage2"), ""),
        "image/train": Command(
            ImageFit, fit.fit_pictures,
            QWEN | FIT | {"CONFIG": "nano-image", "DESCRIPTION_FILE": "MEDIA/d.txt", "DATA_ROOT": "MEDIA"},
            (*SHAPING, "IMAGE", "DATA_ROOT", "CAPTION_START", "CAPTION_END", "DESCRIPTION_FILE"),
            ("", "stage1", "stage2"), ""),
    }


def decoders() -> dict[str, Command]:
    """Of files and checkpoints."""
    return {
        "video/reconstruct": Command(
            decode.DecodeVideo, decode.decode_video, WAN | {"BITSTREAM": "IN", "OUTPUT_DIR": "OUT"},
            (*DECODING, "START_AT", "FRAMES")),
        "image/reconstruct": Command(
            decode.DecodePictures, decode.decode_pictures, QWEN | {"BITSTREAM": "IN", "OUTPUT_DIR": "OUT"},
            DECODING),
        "image/reconstruct a checkpoint": Command(
            decode.DecodePictures, decode.decode_pictures,
            QWEN | {"INIT_LORA_PATH": "IN", "OUTPUT_DIR": "OUT", "DESCRIPTION_FILE": "MEDIA/d.txt",
                    "DATA_ROOT": "MEDIA", "LAST_K": "2", "THETA_D_LENGTH": "300", "WIDTH": "16", "HEIGHT": "16",
                    "DECODE_STEPS": "2"}, (*EDITING, "SHIFT", "SAMPLER"), shape="weights"),
    }


def coders() -> dict[str, Command]:
    """Of noise: for a fit, for sequences, for pictures."""
    return {
        "video/scale": Command(
            add_noise.AddNoiseVideo, add_noise.add_noise_video,
            WAN | {"BITSTREAM": "GOLDEN/video_theta.vov", "ORIGINAL_FRAMES_DIR": "MEDIA/clip", "OUTPUT": "OUT/s.vov",
                   "STEPS": "3"}, SCALING, shape=""),
        "image/scale": Command(
            add_noise.AddNoisePictures, add_noise.add_noise_pictures,
            QWEN | {"BITSTREAM": "GOLDEN/image_noise.vov", "ORIGINAL": "MEDIA/a.png", "OUTPUT": "OUT/s.vov",
                    "STEPS": "3"}, SCALING, shape=""),
        "video/encode": Command(
            encode.EncodeVideo, encode.encode_video,
            WAN | {"CONFIG": "nano-video", "FRAMES_DIR": "MEDIA/clip", "WIDTH": "16", "HEIGHT": "16", "NUM_FRAMES": "5",
                   "STEPS": "3", "BYTES_PER_FRAME": "8", "SCENE_STEPS": "1", "OUT_DIR": "OUT"}, SEQUENCE, ("encode",),
            shape=""),
        "image/encode": Command(
            encode.EncodePictures, encode.encode_pictures,
            QWEN | {"CONFIG": "nano-image", "DESCRIPTION_FILE": "MEDIA/d.txt", "DATA_ROOT": "MEDIA", "WIDTH": "16",
                    "HEIGHT": "16", "STEPS": "3", "SCALING_BYTES": "40", "OUT_DIR": "OUT"},
            (*SCALING, "IMAGE", "CAPTION", "DESCRIPTION_FILE", "CAPTION_START", "CAPTION_END", "DATA_ROOT", "OUT_DIR",
             "NAME", "WIDTH", "HEIGHT", "SHIFT", "SEED", "CONFIG"), ("encode",), shape=""),
    }
