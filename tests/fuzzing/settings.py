"""Targets: configuration, as YAML and as environment variables, and the fits that it asks for."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from random import Random
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzzing import edits
from tests.fuzzing.judge import Broken, Target
from vov import config
from vov.bitstream import Header
from vov.commands.add_noise import AddNoisePictures, AddNoiseVideo
from vov.commands.decode import DecodePictures, DecodeVideo
from vov.commands.edit import MergeVideos
from vov.commands.options import ImageFit, VideoFit
from vov.evaluation.pairs import EvalConfig

CLASSES = (VideoFit, ImageFit, AddNoiseVideo, AddNoisePictures, DecodeVideo, DecodePictures, MergeVideos, EvalConfig)
VALUE = edits.TEXT | edits.WHOLE.map(str) | edits.REAL.map(str)
PLAIN = st.sampled_from(["1", "0", "2", "4", "0.5", "true", "float32", "cpu", "crop", "random", "x"])
IN_HEADER = {field.name: field.metadata for field in dataclasses.fields(Header)}


def names(cls: type) -> list[str]:
    """Every variable of a class."""
    return [name for field in config.variables(cls).values() for name in config.environment_names(field)]


def environments(cls: type) -> st.SearchStrategy[dict[str, str]]:
    """A few variables, some for one stage."""
    key = st.sampled_from(sorted(set(names(cls)) - {"CONFIG"})) | st.builds(
        str.__add__, st.sampled_from(["STAGE1_", "STAGE2_"]), st.sampled_from(names(cls))
    )
    return st.dictionaries(key, VALUE | PLAIN, max_size=4)


@st.composite
def presets(draw, cls: type) -> bytes:
    """YAML: the right keys with any value, in any place; or odd text."""
    keys = st.sampled_from([*config.keys_of(cls), "stage1", "stage2"]) | edits.TEXT
    section = st.dictionaries(keys, edits.JUNK, max_size=3)
    tree = draw(st.dictionaries(keys, edits.JUNK | section, max_size=4) | edits.JUNK)
    try:
        data = yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        data = edits.dumped(tree).encode()
    return draw(edits.changed(data, 3)) if draw(st.integers(0, 2)) == 0 else data


def check(found: Any) -> None:
    """A configuration that was accepted: numbers are finite, and what goes into a header fits it."""
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise Broken(f"{field.name} = {value} was accepted")
        if isinstance(value, str) and "\0" in value:
            raise Broken(f"{field.name} = {value!r} was accepted")
        meta = IN_HEADER.get(field.name)
        if (
            meta
            and meta["kind"] in ("integer", "float")
            and isinstance(found, VideoFit | ImageFit)
            and value > meta["high"]
        ):
            raise Broken(f"{field.name} = {value} was accepted, but no header can hold it")


def from_environment(case: tuple[type, dict[str, str], str], folder: Path) -> None:
    """Loads a configuration from variables."""
    cls, environ, stage = case
    check(config.load(cls, {}, environ, stage, {"config": ""} if "config" in config.variables(cls) else None))


def from_yaml(case: tuple[type, bytes, str], folder: Path) -> None:
    """Loads a configuration from a preset."""
    cls, data, stage = case
    path = folder / "preset.yaml"
    path.write_bytes(data)
    try:
        check(config.load(cls, {}, {"CONFIG": str(path)}, stage))
    finally:
        path.unlink()


ODD = (
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "1e9",
    "1e400",
    "-0",
    "nan",
    "-inf",
    "inf",
    "１",
    "①",
    "1_000",
    " 7 ",
    "0x10",
    "1e-320",
    "",
    "true",
    "TRUE",
    "auto",
    "none",
    "random",
    "\n",
    "\0",
    "x" * 5000,
    str(2**31),
    str(2**64),
    str(10**40),
    "cuda:0",
    "8k",
    "4,5",
    "[1]",
    "{}",
    "~",
    "../..",
    "/dev/null",
    "~root",
    "\ud800",
    "猫",
)


def environment_beside(case: tuple[type, dict[str, str], str], random: Random) -> tuple[type, dict[str, str], str]:
    """The same command with another variable or two."""
    cls, environ, stage = case
    more = {random.choice(_names(cls)): random.choice(ODD) for _ in range(random.randrange(1, 3))}
    return cls, environ | more, stage


@functools.cache
def _names(cls: type) -> list[str]:
    return sorted(set(names(cls)) - {"CONFIG"})


def _choose(make) -> st.SearchStrategy:
    return st.sampled_from(CLASSES).flatmap(
        lambda cls: st.tuples(st.just(cls), make(cls), st.sampled_from(["", "stage1", "stage2"]))
    )


FITS = st.sampled_from([VideoFit, ImageFit]).flatmap(
    lambda cls: st.tuples(st.just(cls), presets(cls), st.sampled_from(["", "stage1", "stage2"]))
)
TARGETS = [
    Target("settings in the environment", _choose(environments), from_environment, 120, environment_beside),
    Target("settings in YAML", FITS, from_yaml, 60, edits.text_beside),
]
