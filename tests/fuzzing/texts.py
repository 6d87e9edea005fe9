"""Targets: what users write as text: descriptions, captions, manifests, published curves."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from tests.fuzzing import edits
from tests.fuzzing.judge import Target
from vov.bitstream import Item
from vov.commands.options import VideoFit
from vov.commands.pictures import described
from vov.evaluation.manifest import COLUMNS, read_curves, read_manifest
from vov.evaluation.pairs import EvalConfig

CODINGS = st.sampled_from(
    [
        "utf-8",
        "utf-8",
        "utf-8",
        "utf-8",
        "utf-8",
        "utf-8",
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-32",
        "cp1252",
        "latin-1",
        "utf-7",
    ]
)
ENDS = st.sampled_from(["\n"] * 10 + ["\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\0"])
CELL = edits.TEXT | st.sampled_from(["a.png", "b/c.png", "decoded", "in.vov", "1e-3", "0", "inf", "100", '"a,b"', '"x'])


@st.composite
def encoded(draw, lines: st.SearchStrategy[str]) -> bytes:
    """Lines as some editor on some system would save them, a few bytes of it changed now and then."""
    text = draw(ENDS).join(draw(st.lists(lines, max_size=6)))
    data = text.encode(draw(CODINGS), "replace" if draw(st.booleans()) else "ignore")
    return draw(edits.changed(data, 3)) if draw(st.integers(0, 4)) == 0 else data


def _line(draw_name: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("".join, st.tuples(draw_name, st.sampled_from(["|", "|", "|", "", "||", " | "]), edits.TEXT))


def _with(name: str, data: bytes, folder: Path, read) -> None:
    """Writes the input, reads it, takes it away again."""
    path = folder / name
    path.write_bytes(data)
    try:
        read(path)
    finally:
        path.unlink()


def description(case: tuple[bytes, int, int], folder: Path) -> None:
    """Every entry that is accepted can be an item of a file."""
    data, start, end = case

    def read(path: Path) -> None:
        for name, caption in described(str(path), start, end):
            Item(caption, 1, 1, name)

    _with("descriptions.txt", data, folder, read)


def caption(data: bytes, folder: Path) -> None:
    """A caption that is accepted can be an item of a file; it is one line."""

    def read(path: Path) -> None:
        text = VideoFit(config="", caption_file=str(path)).read_caption()
        Item(text, 1, 1)
        assert text == " ".join(text.split()) and text

    _with("caption.txt", data, folder, read)


def manifest(data: bytes, folder: Path) -> None:
    """Reads the pairs of a manifest; what they name is elsewhere."""
    _with(
        "manifest.csv",
        data,
        folder,
        lambda path: read_manifest(EvalConfig(manifest=str(path), media_dir=str(Path(__file__).parents[1] / "golden"))),
    )


def curves(data: bytes, folder: Path) -> None:
    """Reads published curves."""
    _with("curves.csv", data, folder, lambda path: read_curves(str(path)))


PLAIN = st.sampled_from(
    ["a.png|a ramp", "b/c.jpg|another ramp", "# no", "", "d.png|two | bars", "x/y/z.tif | words  words"]
)
ROWS = st.sampled_from(
    [
        "x,video_theta.png,video_theta.vov",
        "y,video_theta.png,image_noise.png,c,d,,100",
        "z,README.md,README.md,,,video_noise.vov",
        'q,"video_theta.png",README.md,"a, b",c,,,0.1',
    ]
)


def table(
    columns: tuple[str, ...], cells: st.SearchStrategy[str], rows: st.SearchStrategy[str]
) -> st.SearchStrategy[bytes]:
    """A CSV file with mostly these columns."""
    row = st.lists(cells, max_size=len(columns) + 1).map(",".join) | rows
    full = ",".join(columns)
    head = st.sampled_from([full] * 8 + [",".join(columns[:3]), f"{full},odd", ""]) | st.just(full) | row
    return st.builds(lambda top, rest: top.encode("utf-8", "replace") + b"\n" + rest, head, encoded(row))


VOV = st.sampled_from(["video_theta.vov", "video_theta.png", "README.md", ".", "nothing.vov", "\0", "x" * 300])
TARGETS = [
    Target(
        "description file",
        st.tuples(
            encoded(_line(CELL) | PLAIN),
            st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2, -1, 10**9]),
            st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, -1, 10**9]),
        ),
        description,
        100,
        edits.text_beside,
    ),
    Target("caption file", encoded(edits.TEXT | st.just("word " * 4000)), caption, 60, edits.text_beside),
    Target("manifest", table(COLUMNS, CELL | VOV, ROWS), manifest, 80, edits.text_beside),
    Target(
        "curves",
        table(("label", "clip", "metric", "bpp", "value"), CELL, st.just("us,a,psnr,0.1,30")),
        curves,
        40,
        edits.text_beside,
    ),
]
