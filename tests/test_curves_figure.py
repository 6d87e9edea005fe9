"""The rate-distortion figure: from JSON alone, the same file every time, with the lines that a reader expects."""

import json

import pytest

from scripts.experiments import anchors_curve, curves_figure
from vov import VovError
from vov.runtime.files import REPO

POINTS = (("frozen", "none", 200), ("frozen", "atoms:100:500", 700), ("frozen", "atoms:100:1000", 1200),
          ("random", "none", 4000), ("random", "paper:50", 4100), ("random", "blocks:50:4096", 5000),
          ("x264", "veryslow: at most 750", 720))
ROWS = [{"fit": fit, "scheme": scheme, "bytes": size, "psnr": 20.0 + size / 1000, "ms_ssim": 0.8}
        for fit, scheme, size in POINTS]
DOCUMENT = {"clips": ["a", "b"], "rows": ROWS}


def test_lines_of_the_figure():
    lines = curves_figure.lines([*ROWS, {"fit": "new codec", "scheme": "", "bytes": 1}])
    assert [*lines] == ["frozen", "random", "random+", "x264", "new codec"]
    assert [row["bytes"] for row in lines["frozen"]] == [700, 1200]  # no θ and no noise is no point of the codec
    assert [row["bytes"] for row in lines["random"]] == [4000, 4100]


def test_a_figure_is_drawn_from_its_json_alone_and_always_the_same(tmp_path):
    curves_figure.save(tmp_path / "one", DOCUMENT)
    first = (tmp_path / "one.svg").read_bytes()
    curves_figure.redraw(tmp_path / "one")
    assert (tmp_path / "one.svg").read_bytes() == first
    assert (tmp_path / "one.png").stat().st_size > 1000


@pytest.mark.parametrize("text", [None, "{", "{}", '{"clips": ["a"], "rows": [{}]}'])
def test_no_or_damaged_json_is_one_line(text, tmp_path):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(VovError, match=r"x\.json: no curves to draw"):
        curves_figure.redraw(tmp_path / "x")


def test_the_figure_of_the_readme_is_that_of_its_data():
    document = json.loads((REPO / "docs/results/video_curves.json").read_text())
    kinds = set(curves_figure.lines(document["rows"]))
    assert {"frozen", "anchored", "random", "explicit", "x264", "x265", "svtav1"} <= kinds
    assert all(row["clips"] == len(document["clips"]) for row in document["rows"])


@pytest.mark.parametrize(("field", "value", "message"), [("anchors", "x266", "ANCHORS=x266"),
                                                         ("anchor_bytes", "1k", "ANCHOR_BYTES='1k'")])
def test_mistakes_are_found_before_any_work(field, value, message):
    with pytest.raises(VovError, match=message):
        anchors_curve.main(anchors_curve.AnchoredCurves(**{"fits": "a.vov", "originals": "a", field: value}))
