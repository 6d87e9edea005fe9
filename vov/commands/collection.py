"""One θ for a collection: `MANIFEST=pictures OUT_DIR=runs/kind CONFIG=nano-image bash scripts/fit_collection.sh`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError
from vov.bitstream.header import HIGHEST
from vov.config import cli, option, override
from vov.config.rate_targets import NO_TARGET
from vov.dataset.items import Listed, read_by_set, read_items
from vov.fitting.settings import FitConfig
from vov.model.registry import backbone_class
from vov.runtime.files import content_hash, locked, refuse_existing, refuse_overlap, write_bytes
from vov.runtime.resumable import FIT, Outputs, refuse_foreign


@dataclass(frozen=True)
class CollectionFit(FitConfig):
    """What the θ is fitted to, and how. It must serve noise that it has never seen, of files of any size."""

    UNUSED = ("noise", "timesteps", "decode_steps", "guidance", "sampler", "init_lora_path", "preview_every", "roi",
              "roi_weight", *NO_TARGET)

    family: str = option("", "image or video; empty: video where CONFIG says wan or video, else image",
                         choices=("", "image", "video"), identity=False)
    manifest: str = option("", "a CSV file (path, caption) or a folder of pictures or clips (required)", identity=False)
    name: str = option("", "names the .vovd file; default: that of MANIFEST", identity=False)
    caption: str = option("", "what items show that say nothing themselves", identity=False)
    windows: int = option(4, "of a clip: how many runs of CHUNK_FRAMES frames, evenly spread", minimum=1)
    num_frames: int = option(81, "of a clip: frames of a window, 4n+1", name="CHUNK_FRAMES", alias=("NUM_FRAMES",),
                             minimum=1, maximum=HIGHEST["num_frames"])
    theta_length: int = override(FitConfig, "theta_length", 4096)
    lr: float = override(FitConfig, "lr", 0.05)
    batch_size: int = override(FitConfig, "batch_size", 8)
    init_bits: float = override(FitConfig, "init_bits", 4.0)

    @property
    def tree(self) -> str:
        """FAMILY, or what CONFIG's name says."""
        return self.family or ("video" if any(word in self.config for word in ("wan", "video")) else "image")


def windows_of(item: Listed, settings: CollectionFit) -> tuple[list, float]:
    """The windows of one item at the model's geometry, and its frames per second (0 for a picture)."""
    from vov.fitting.collection_fit import Window
    from vov.media import FrameSource, fit_geometry, read_image

    size = settings.width, settings.height
    if settings.tree == "image":
        return [Window(fit_geometry(read_image(item.path)[None], *size, settings.resize), item.caption)], 0.0
    source, long = FrameSource(item.path, size=size, resize=settings.resize), settings.num_frames
    if len(source) < long:
        raise VovError(f"{item.path}: has {len(source)} frames, a window needs CHUNK_FRAMES={long}; lower it")
    starts = np.unique(np.linspace(0, len(source) - long, settings.windows).round().astype(int))
    return [Window(np.stack(list(source.read(int(start), long))), item.caption) for start in starts], source.fps


def main(settings: CollectionFit) -> None:
    """Fits, writes OUT_DIR/NAME.vovd, says how large it is."""
    if not settings.manifest or not settings.out_dir:
        raise VovError("MANIFEST and OUT_DIR must be set; see --help")
    items = read_items(settings.manifest, settings.tree, settings.caption, out_dir=settings.out_dir)
    from vov import bitstream
    from vov.decoding import collection
    from vov.fitting import collection_fit
    from vov.fitting.distributed import world

    folder = Path(settings.out_dir)
    path = folder / f"{settings.name or Path(settings.manifest).stem}{collection.SUFFIX}"
    refuse_overlap([path, folder / "fit"], read_by_set(settings, items))
    refuse_foreign([path, *(folder / "fit" / name for name in FIT)])
    refuse_existing(path, settings.overwrite)
    with world() as here, locked(folder) if here.first else nullcontext():
        read = [windows_of(item, settings) for item in items]
        backbone = settings.load(backbone_class(settings.tree))
        shown = [window for found, _ in read for window in found]
        stream = collection_fit.fit(backbone, shown, settings, path.stem, folder / "fit",
                                    read[0][1], here)
        if here.first:
            data = bitstream.to_bytes(stream)
            with Outputs(path.name, [path], content_hash(data), settings.overwrite) as outputs:
                outputs.make(path, lambda: write_bytes(path, data))
                outputs.finish()
            found = collection.read(path)
            print(f"{path}: {len(found.data)} bytes, collection {found.name.hex()}, {len(items)} items")


if __name__ == "__main__":
    cli.run(CollectionFit, main, "MANIFEST=folder OUT_DIR=runs/kind [VARIABLE=value …] bash scripts/fit_collection.sh")
