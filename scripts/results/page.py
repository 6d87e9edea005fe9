"""What `scripts/results.sh` writes: results.json, tables.md, curves, pictures side by side, and what READMEs quote.

A README quotes between two HTML comments, `<!-- results: WHAT -->…<!-- /results -->`. WHAT is `table KIND BYTES`,
`lead KIND BYTES`, `bd KIND`, `sizes KIND METRIC WAY,WAY,…`, `made`, or one figure, of the mean or of one original:
`KIND WAY BYTES METRIC`, `KIND/NAME WAY BYTES METRIC`; METRIC may be `bytes`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.results import figure, ways
from scripts.results.data import BD_ANCHORS
from vov import media
from vov.evaluation.catalogue import METRICS
from vov.runtime.files import REPO, write_bytes

READMES = ("README.md", "image/README.md", "video/README.md", "docs/results/README.md")
ALONE = ("None of the other codecs keeps to this size on every original at full resolution. One that codes a smaller "
         "picture, which is scaled back up, may; that was not measured for this table.")
QUOTED = re.compile(r"(<!-- results: ([^>]*?) -->)(.*?)(<!-- /results -->)", re.S)


def write(document: dict, place: Path, made: Path) -> None:
    """All files of results, and the READMEs' figures where `place` is the repository's; made: folder of the rows."""
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_bytes(place / "results.json", text.encode())
    write_bytes(place / "tables.md", tables(document).encode())
    for kind in ways.KINDS:
        if curve := curve_rows(document, kind):
            names = {name: f"{METRICS[name].label} {'(lower is better)' if METRICS[name].lower else ''}"
                     for name in document["metrics"] if any(name in row for row in curve)}
            title = f"{ways.KINDS[kind]}: mean of {', '.join(document['originals'][kind])}"
            figure.draw(curve, title, place / f"{kind}_curves", names)
    for path in document["free"]:
        kind, name = path.split("/")
        if (picture := side_by_side(document, kind, name, made)) is not None:
            media.write_image(place / f"{kind}_{name}.png", picture)
    if place.resolve() == REPO / "docs" / "results":
        for readme in READMES:
            path = REPO / readme
            old = path.read_text(encoding="utf-8")
            if (new := filled(old, document)) != old:
                write_bytes(path, new.encode())


def curve_rows(document: dict, kind: str) -> list[dict]:
    """The means of a kind as `figure.draw` takes them."""
    return [{"way": row["way"], "bytes": row["bytes"], **row["metrics"]}
            for row in document["means"] if row["kind"] == kind]


def line(row: dict) -> str:
    """One row as text."""
    values = "  ".join(f"{METRICS[name].label} {shown(name, value)}" for name, value in row["metrics"].items())
    return f"{row['clip']:<16}{row['way']:<12}{row['bytes']:>8,} B  {values}"


def shown(name: str, value: float | str | None) -> str:
    """A metric's value with its digits."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.{METRICS[name].digits}f}"


def better(name: str, one: float, other: float) -> bool:
    """Whether `one` is the better value."""
    return one < other if METRICS[name].lower else one > other


def table(document: dict, rows: Sequence[dict], bold: bool = True) -> str:
    """Ways at one size as Markdown; the best value of each column bold, among files that are not larger than asked."""
    names = [name for name in document["metrics"] if any(name in row["metrics"] for row in rows)]
    heads = [f"{METRICS[name].label} {'↓' if METRICS[name].lower else '↑'}" for name in names]
    best = {name: extreme(name, rows) for name in names}
    lines = [f"| {' | '.join(['', 'bytes', *heads, 'seconds'])} |", "| :-- |" + " --: |" * (len(names) + 2)]
    for row in rows:
        cells = [shown(name, row["metrics"].get(name)) for name in names]
        cells = [f"**{cell}**" if bold and cell and cell == shown(name, best[name]) else cell
                 for name, cell in zip(names, cells, strict=True)]
        name = ways.title(row["way"], document["extent"] == "quick") + larger(row)
        seconds = "–" if row["seconds"] is None else f"{row['seconds']:.0f}"
        lines.append("| " + " | ".join([name, f"{row['bytes']:,.0f}", *cells, seconds]) + " |")
    return "\n".join(lines)


def by_size(document: dict, kind: str, name: str, compared: Sequence[str]) -> str:
    """One metric as Markdown, a line for each size; the best of a line bold, – where a way has no file of that size."""
    lines = [f"| bytes ≤ | {' | '.join(map(ways.title, compared))} |", "| --: |" + " --: |" * len(compared)]
    for asked in sizes(document, kind):
        rows = [row for row in at(document, kind, asked) if row["way"] in compared and not larger(row)]
        best = shown(name, extreme(name, rows))
        values = {row["way"]: shown(name, row["metrics"].get(name)) for row in rows}
        cells = [values.get(way) or "–" for way in compared]
        lines.append(f"| {asked:,} | {' | '.join(f'**{cell}**' if cell == best else cell for cell in cells)} |")
    return "\n".join(lines)


def larger(row: dict) -> str:
    """Says of a row that its file is larger than asked: then it is not compared."""
    return "" if row["bytes"] <= row["asked"] else ", larger than asked"


def extreme(name: str, rows: Sequence[dict]) -> float | None:
    """The best value of a metric."""
    values = [row["metrics"][name] for row in rows if not larger(row) and isinstance(row["metrics"].get(name), float)]
    return (min if METRICS[name].lower else max)(values, default=None)


def lead(document: dict, rows: Sequence[dict]) -> str:
    """A sentence for each metric: whether the best of our ways leads or loses against the best of the other codecs."""
    ours = [row for row in rows if row["way"] in ways.WAYS]
    others = [row for row in rows if row["way"] not in (*ways.WAYS, ways.EXPLICIT)]
    leads, loses = [], []
    for name in document["metrics"]:
        own, other = extreme(name, ours), extreme(name, others)
        if own is not None and other is not None:
            winner = next(row["way"] for row in others if row["metrics"].get(name) == other)
            difference = f"{own - other:+.{METRICS[name].digits}f}"
            text = f"{METRICS[name].label} ({difference} against {ways.title(winner)})"
            (leads if better(name, own, other) else loses).append(text)
    if not leads + loses:
        return ALONE if ours else "None of our ways was measured at this size."
    return " ".join([f"Ours leads in {', '.join(leads)}." if leads else "Ours leads in nothing.",
                     f"It loses in {', '.join(loses)}." if loses else "It loses in nothing."])


def bd_table(document: dict, kind: str) -> str:
    """BD-rates of a kind: a line for each way and metric, a column for each anchor."""
    found = [row for row in document["bd"] if row["kind"] == kind and row["way"] in
             (*ways.WAYS, ways.EXPLICIT)]
    anchors = [name for name in BD_ANCHORS[kind] if any(row["anchor"] == name for row in found)]
    order = [*ways.WAYS, ways.EXPLICIT]
    if not found:
        return "No way of ours has two sizes, and a BD-rate needs two."
    heads = ["", "metric", *map(ways.title, anchors)]
    lines = [f"| {' | '.join(heads)} |", "| :-- | :-- |" + " --: |" * len(anchors)]
    for way, name in sorted({(row["way"], row["metric"]) for row in found},
                            key=lambda one: (order.index(one[0]), list(METRICS).index(one[1]))):
        values = {row["anchor"]: row for row in found if (row["way"], row["metric"]) == (way, name)}
        cells = [f"{values[anchor]['bd_rate_percent']:+.1f} %" if anchor in values else "" if anchor == way else "n/a"
                 for anchor in anchors]
        lines.append(f"| {' | '.join([ways.title(way), METRICS[name].label, *cells])} |")
    return "\n".join(lines)


def made(document: dict) -> str:
    """When, on what and by which command."""
    dates = " to ".join(dict.fromkeys((document["dates"][0], document["dates"][-1])))
    words = [f"`{document['command']}`", dates, *document["devices"],
             f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}",
             f"torch {document['versions']['torch']}", *document["versions"]["packages"]]
    return f"{', '.join(words)}; {document['minutes']:.0f} minutes of encoding in all"


def sizes(document: dict, kind: str) -> list[int]:
    """The sizes of which there are means."""
    return sorted({row["asked"] for row in document["means"] if row["kind"] == kind})


def at(document: dict, kind: str, asked: int) -> list[dict]:
    """The means of a kind at a size."""
    return [row for row in document["means"] if (row["kind"], row["asked"]) == (kind, asked)]


def tables(document: dict) -> str:
    """tables.md."""
    parts = ["# Tables of results", "Written by `bash scripts/results.sh`; do not edit. Bytes are those of whole files "
             "(ours) and of elementary streams (the other codecs: the finest at full resolution that is not larger "
             "than asked; a codec without such a file for every original has no line). Metrics are of the decoded "
             "frames. Bold: the best of the column. Seconds are of encoding and decoding, for codecs of the search "
             "for the size; – where a run went on with a fit that was there.", made(document) + "."]
    for kind, words in ways.KINDS.items():
        for number, asked in enumerate(sizes(document, kind)):
            names = ", ".join(document["originals"][kind])
            parts += [f"## {words.capitalize()}", f"Mean of {names}.",
                      f"![quality against bytes]({kind}_curves.svg)"] if not number else []
            rows = at(document, kind, asked)
            parts += [f"### At most {asked:,} bytes", table(document, rows), lead(document, rows)]
        if sizes(document, kind):
            parts += ["### BD-rates", "Per cent of bytes at equal quality (less than zero: fewer), mean of the "
                      "originals; n/a where the curves of one of them share no range of quality.",
                      bd_table(document, kind)]
            parts += ["### One by one", *(one_by_one(document, kind, name) for name in document["originals"][kind])]
    parts += [f"- {METRICS[name].label}: n/a, {reason}" for name, reason in document["unavailable"].items()]
    parts += [f"- {note}" for note in document["notes"]]
    return "\n\n".join(parts) + "\n"


def one_by_one(document: dict, kind: str, name: str) -> str:
    """Every row of one original, with its command."""
    rows = [row for row in document["rows"] if (row["kind"], row["clip"]) == (kind, name)]
    commands = "\n".join(f"- {row['way']}, {row['asked']:,}: `{row['command']}`" for row in rows)
    return (f"**{name}**\n\n{table(document, sorted(rows, key=lambda row: row['asked']), False)}\n\n"
            f"<details><summary>commands</summary>\n\n{commands}\n\n</details>")


def side_by_side(document: dict, kind: str, name: str, made: Path) -> np.ndarray | None:
    """The original and everything at the size that most ways and codecs keep to, one of ours among them, labelled.

    Coded noise is, where there is any: a θ has sizes at which it stands alone against the codecs.

    None where no size is such, or where any of the pictures is not there (ADD keeps rows of another OUT).
    """
    from scripts.demo import label_columns

    rows = [row for row in document["rows"] if (row["kind"], row["clip"]) == (kind, name)]
    ours = [row for row in rows if row["way"] in ways.WAYS]
    leading = [row for row in ours if row["way"] == "frozen"] or ours
    counts = Counter(row["asked"] for row in rows)
    asked = max(sorted({row["asked"] for row in leading}), key=counts.get, default=0)
    rows = [row for row in rows if row["asked"] == asked]
    if not rows or not all((made / row["picture"]).is_file() for row in rows):
        return None
    original = next((made / "originals" / kind).glob(f"**/{name}{'.png' if kind == 'pictures' else ''}"))
    frames = media.read_image(original)[None] if kind == "pictures" else media.read_clip(original).frames
    first = frames[len(frames) // 2]
    tiles = [first, *(media.read_image(made / row["picture"]) for row in rows)]
    titles = ["original", *(f"{ways.title(row['way'])}\n{row['bytes']:,} bytes, "
                            f"{shown('psnr', row['metrics']['psnr'])} dB" for row in rows)]
    zoom, columns = -(-360 // first.shape[1]), 3
    strips = []
    for start in range(0, len(tiles), columns):
        row = [tile.repeat(zoom, 0).repeat(zoom, 1) for tile in tiles[start:start + columns]]
        row += [np.full_like(row[0], 255)] * (columns - len(row))
        names = titles[start:start + columns] + [""] * (columns - len(titles[start:start + columns]))
        strips.append(label_columns(np.concatenate(row, 1), names))
    return np.concatenate(strips)


def quoted(what: str, document: dict) -> str:
    """What a README shows for one expression; a figure that there is not is n/a."""
    match what.split():
        case ["made"]:
            return made(document)
        case ["bd", kind]:
            return f"\n{bd_table(document, kind)}\n"
        case ["table", kind, asked]:
            return f"\n{table(document, at(document, kind, int(asked)))}\n"
        case ["lead", kind, asked]:
            return f"\n{lead(document, at(document, kind, int(asked)))}\n"
        case ["sizes", kind, name, compared]:
            return f"\n{by_size(document, kind, name, compared.split(','))}\n"
        case [kind, way, asked, name]:
            kind, _, one = kind.partition("/")
            for row in document["rows"] if one else at(document, kind, int(asked)):
                if (row["kind"], row["way"], row["asked"], row.get("clip", "")) == (kind, way, int(asked), one):
                    return f"{row['bytes']:,.0f}" if name == "bytes" else shown(name, row["metrics"].get(name)) or "n/a"
    return "n/a"


def filled(text: str, document: dict) -> str:
    """A README with every quoted figure as it is in results.json."""
    return QUOTED.sub(lambda match: f"{match[1]}{quoted(match[2], document)}{match[4]}", text)
