"""Which items a data set has, and on what machines they are coded."""

from __future__ import annotations

from dataclasses import dataclass

from vov.config import option


@dataclass(frozen=True)
class SetOptions:
    """The variables of a set. Those of encode.sh go with it, for all items; VIDEO_X and IMAGE_X set X for one medium.
    """

    manifest: str = option("", "a CSV file with a column path, and if wanted caption and any variable of encode.sh in "
                           "lower case; or a folder of pictures and clips (required)", identity=False)
    out_dir: str = option("", "gets NAME/ for every item, results.csv and .json, failed.csv, report/ (required)")
    family: str = option("", "image or video: what all items are coded as, and a folder is searched for; empty: each "
                         "as what its file is", choices=("", "image", "video"), identity=False)
    caption: str = option("", "what items show that say nothing themselves", identity=False)
    ray_address: str = option("", "host:port of a Ray cluster to join; empty: Ray is started on this machine",
                              identity=False)
    workers: int = option(0, "processes that encode, each with a model of its own; 0: as many as there are GPUs, or "
                          "CPUs / CPUS", minimum=0, identity=False)
    cpus: float = option(1.0, "CPU cores of a worker", minimum=0.1, identity=False)
    gpus: float = option(-1.0, "GPUs of a worker, parts allowed; 0: it sees none; -1: 1 where this machine has GPUs or "
                         "RAY_ADDRESS is set, and DEVICE is not cpu", minimum=-1, identity=False)
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"), identity=False)
    retries: int = option(2, "how often an item is tried again whose process died", minimum=0, identity=False)
    split_from: int = option(4, "a video with at least so many groups of chunks is shared out, each group a task; a "
                             "group begins at a scene and by KEY_EVERY; 0: never", minimum=0, identity=False)
    report: bool = option(True, "make report.html with PSNR and MS-SSIM at the end", identity=False, rare=True)
    overwrite: bool = option(False, "code everything anew", identity=False)
