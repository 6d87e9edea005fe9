"""Fetches the foundation models and the weights of the learned metrics: resumed, checked, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from tqdm import tqdm

from vov import VovError
from vov.config import option
from vov.evaluation.perceptual import WEIGHTS, file_digest
from vov.model.lookup import GIGABYTES, MODELS

logger = logging.getLogger(__name__)
EVERYTHING = ("wan", "qwen", "metrics")
UNUSED = ("assets/", "examples/", ".gitattributes")
ATTEMPTS, TIMEOUT = 4, 60  # tries of one file, seconds without a byte
BLOCK = 2**20


@dataclass(frozen=True)
class FetchConfig:
    """What to fetch, from where, and where to put it."""

    what: str = option("all", ", ".join(f"{name} ({GIGABYTES.get(name, '? ')} GB)" for name in MODELS) + ", metrics "
                       "(0.9 GB), with commas between; all: wan,qwen,metrics. DRY_RUN=1 says how much")
    cache_dir: str = option("../pretrained_models", "gets a folder for each foundation model")
    metric_weights_dir: str = option("", "gets the weights of the metrics; default: PyTorch's cache (TORCH_HOME)")
    hf_endpoint: str = option("https://huggingface.co", "the Hugging Face hub or a mirror of it")
    metrics_mirror: str = option("", "URL of a folder that holds the metrics' files, instead of their own homes")
    verify: bool = option(True, "check the SHA-256 of files that are already there")
    dry_run: bool = option(False, "only list what would be fetched")


@dataclass(frozen=True)
class File:
    """One file to fetch; `sha256` may be its first digits, or "" when nobody states it; `size` 0 when unknown."""

    url: str
    path: Path
    size: int = 0
    sha256: str = ""


def main(settings: FetchConfig) -> None:
    """Lists, checks the disk, fetches what is missing."""
    names = EVERYTHING if settings.what == "all" else tuple(part.strip() for part in settings.what.split(","))
    for name in names:
        if name not in (*MODELS, "metrics"):
            raise VovError(f"WHAT={settings.what}: {name!r} is not one of {', '.join((*MODELS, 'metrics', 'all'))}")
    files: list[File] = []
    for name in names:
        files += metric_files(settings) if name == "metrics" else model_files(MODELS[name], settings)
    missing = [file for file in files if not complete(file, settings.verify)]
    total = sum(file.size for file in missing)
    logger.info("%d of %d files are to be fetched, %.1f GB", len(missing), len(files), total / 1e9)
    for file in missing:
        logger.info("%s%s", file.path, f"  {file.size / 1e6:,.1f} MB" if file.size else "")
    if settings.dry_run:
        return
    check_disk(missing)
    failures = []
    for file in missing:
        try:
            download(file)
        except VovError as error:  # the others are still worth having
            failures.append(str(error))
            logger.error("%s", error)
    if failures:
        raise VovError(f"{len(failures)} of {len(missing)} files could not be fetched; the first: {failures[0]}")


def metric_files(settings: FetchConfig) -> list[File]:
    """Weights of LPIPS, DISTS and FVD."""
    folder = Path(settings.metric_weights_dir or Path(torch.hub.get_dir()) / "checkpoints").expanduser()
    mirror = settings.metrics_mirror.rstrip("/")
    return [File(f"{mirror}/{w.file}" if mirror else w.url, folder / w.file, sha256=w.sha256) for w in WEIGHTS.values()]


def model_files(repository: str, settings: FetchConfig) -> list[File]:
    """Files of a repository on the hub at its present commit, with the sizes and hashes that the hub states."""
    base = settings.hf_endpoint.rstrip("/")
    url = f"{base}/api/models/{repository}?blobs=true"
    try:
        with urllib.request.urlopen(_request(url), timeout=TIMEOUT) as answer:
            tree = json.load(answer)
        commit, siblings = tree["sha"], tree["siblings"]
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise VovError(f"cannot list {repository} at {base} ({_reason(error)}); check the network, a proxy "
                       "(HTTPS_PROXY) or set HF_ENDPOINT to a mirror") from error
    folder = Path(settings.cache_dir).expanduser() / repository.split("/")[-1]
    files = []
    for entry in siblings:
        name = str(entry["rfilename"])
        if name.startswith(UNUSED):
            continue
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise VovError(f"{repository}: the hub lists a file named {name!r}, outside of the model's folder")
        files.append(File(f"{base}/{repository}/resolve/{commit}/{name}", folder / name, int(entry.get("size") or 0),
                          str((entry.get("lfs") or {}).get("sha256") or "")))
    # model_index.json last: a folder with it is complete, and only then is it found
    return sorted(files, key=lambda file: file.path.name == "model_index.json")


def complete(file: File, verify: bool) -> bool:
    """Whether `file` is on disk as it should be."""
    if not file.path.is_file() or (file.size and file.path.stat().st_size != file.size):
        return False
    return not (verify and file.sha256) or file_digest(file.path).startswith(file.sha256)


def check_disk(files: Iterable[File]) -> None:
    """Raises VovError before a download that the disk cannot hold."""
    wanted: dict[Path, int] = {}
    for file in files:
        place = file.path.parent
        while not place.exists():
            place = place.parent
        part = _part(file.path)
        there = part.stat().st_size if part.is_file() else 0
        wanted[place] = wanted.get(place, 0) + max(0, file.size - there)
    for place, size in wanted.items():
        free = shutil.disk_usage(place).free
        if size > free:
            raise VovError(f"{place}: {size / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
                           "choose another CACHE_DIR or fetch less with WHAT")


def download(file: File) -> None:
    """Fetches one file; continues a part that an earlier run left, and checks size and SHA-256 before renaming.

    Raises VovError after four failed attempts; the part stays, so that the next run goes on from there.
    """
    part = _part(file.path)
    problem: Exception | str = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(2**attempt / 4)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            _append(file, part)
        except urllib.error.HTTPError as error:
            problem = error
            if error.code == 416:  # the part is as long as the file, or longer
                if not _acceptable(file, part):
                    part.unlink(missing_ok=True)
                    continue
            elif error.code < 500 and error.code != 429:
                break
            else:
                continue
        except (OSError, HTTPException) as error:
            problem = error
            if isinstance(error, PermissionError):
                break
            continue
        if _acceptable(file, part):
            with part.open("rb") as handle:
                os.fsync(handle.fileno())
            part.replace(file.path)
            return
        size = part.stat().st_size
        if file.size and size < file.size:
            problem = f"the connection closed after {size:,} of {file.size:,} bytes"
            continue
        part.unlink()
        problem = "size or SHA-256 differ from what is expected; the source is damaged or has changed"
    raise VovError(f"{file.url}: not fetched ({_reason(problem)}); check the network and run the same command again, "
                   f"or put the file at {file.path} by hand")


def _append(file: File, part: Path) -> None:
    offset = part.stat().st_size if part.is_file() else 0
    if file.size and offset == file.size:
        return
    request = _request(file.url)
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        resumed = getattr(answer, "status", None) == 206
        rest = int(answer.headers.get("Content-Length") or 0)
        with part.open("ab" if resumed else "wb") as handle, tqdm(
                total=(rest + offset * resumed) or None, initial=offset * resumed, unit="B", unit_scale=True,
                desc=file.path.name[:40]) as bar:
            got = 0
            while block := answer.read(BLOCK):
                handle.write(block)
                bar.update(len(block))
                got += len(block)
    if got < rest:
        raise ConnectionError(f"the connection closed after {got:,} of {rest:,} bytes")


def _acceptable(file: File, part: Path) -> bool:
    if file.size and part.stat().st_size != file.size:
        return False
    if not file.sha256:
        if file.path.suffix in (".pt", ".pth"):
            logger.info("%s: SHA-256 %s, nobody states one to compare with", file.path.name, file_digest(part))
        return part.stat().st_size > 0
    return file_digest(part).startswith(file.sha256)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _request(url: str) -> urllib.request.Request:
    request = urllib.request.Request(url, headers={"User-Agent": "vov"})
    if os.environ.get("HF_TOKEN") and ("/resolve/" in url or "/api/models/" in url):  # of the hub only
        request.add_unredirected_header("Authorization", f"Bearer {os.environ['HF_TOKEN']}")
    return request


def _reason(problem: Exception | str) -> str:
    text = str(getattr(problem, "reason", "") or problem)
    return text.splitlines()[0][:120] if text else type(problem).__name__

