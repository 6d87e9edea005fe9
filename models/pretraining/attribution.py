"""Who made the media that the weights were trained on: models/ATTRIBUTION.md, from the licences beside the media."""

from __future__ import annotations

import json
import re
from pathlib import Path

from .pack import read_captions

TEXT = Path(__file__).with_name("attribution.md")


def flower_authors(media: Path) -> list[str]:
    """The photographers of the flowers that are here."""
    used, authors = {p.name for p in (media / "flowers").glob("*.jpg")}, set()
    for line in (media / "flowers" / "LICENSE.txt").read_text(encoding="utf-8", errors="replace").splitlines():
        if " CC-BY by " in line and line.split("/")[1].split(" ")[0] in used:
            authors.add(line.split(" CC-BY by ")[1].split(" - http")[0].strip())
    return sorted(authors)


def open_images_authors(media: Path) -> list[str]:
    """The photographers that Open Images' own list names."""
    lines = (media / "openimages" / "attribution.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return sorted({ln.rsplit(" at http", 1)[0].rsplit(" by ", 1)[1].strip() for ln in lines if " by " in ln})


def coco_pictures(media: Path) -> list[str]:
    """Address and licence of every COCO picture."""
    facts = json.loads((media / "coco_cc" / "captions_and_licences.json").read_text(encoding="utf-8"))
    return [f"{f['flickr_url']} ({f['license']})" for _, f in sorted(facts.items())]


def wallpaper_authors(media: Path) -> list[str]:
    """Author and licence of every wallpaper used, from the Debian copyright file."""
    used = {re.sub(r"_(t\d+|full)$", "", p.stem) for p in (media / "lomiri_wallpapers").glob("*.jpg")}
    found, name, author = [], "", ""
    for line in (media / "lomiri_wallpapers" / "LICENSE.txt").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(": ")
        if key == "Files":
            name = Path(value).stem
        elif key == "Copyright":
            author = value.strip()
        elif key == "License" and name in used:
            found.append(f"{name}: {author} ({value})")
            name = ""
    return sorted(found)


def gathered_clips(media: Path, used: list[str]) -> str:
    """Table rows of clips3: number of clips used, repository, terms and author of every folder, from its own list."""
    rows = []
    for line in (media / "clips3" / "SOURCES.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        count = sum(path.startswith(f"clips3/{cells[0]}/") for path in used)
        if len(cells) == 8 and count:
            clips, source = f"{count} clip{'s' * (count > 1)}", cells[1].split(" ")[0]
            rows.append(f"| {clips} from {source}, cut, scaled down, some cropped | {cells[3]} | {cells[5]} |")
    return "\n".join(rows)


def attribution(media: Path) -> str:
    """The Markdown file; `{source}` in attribution.md stands for the number of items of a source."""
    used = list(read_captions(media))
    counts: dict[str, int] = {}
    for path in used:
        counts[path.split("/")[0]] = counts.get(path.split("/")[0], 0) + 1
    lists = {"flower_authors": flower_authors(media), "open_images_authors": open_images_authors(media),
             "coco_pictures": coco_pictures(media), "wallpaper_authors": wallpaper_authors(media)}
    text = TEXT.read_text(encoding="utf-8")
    values = {k: f"{n:,}" for k, n in counts.items()} | {k: "; ".join(v) for k, v in lists.items()}
    values["gathered_clips"] = gathered_clips(media, used) if counts.get("clips3") else ""
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    return text
