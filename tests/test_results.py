"""scripts/results.sh: every way is coded by its command, once; tables say who leads; READMEs quote what is measured."""

import dataclasses
import json
import re

import pytest

from scripts.results import command, comparison, data, originals, page, ways
from scripts.results.settings import Results
from tests import readme
from tests.test_fit import ball
from tests.test_readme import TINY
from vov import VovError, media
from vov.runtime.files import REPO


def mean(way, asked, size, psnr, lpips, kind="clips"):
    return {"kind": kind, "way": way, "clip": "a", "asked": asked, "bytes": size, "seconds": 1.0, "frames": 5,
            "metrics": {"psnr": psnr, "stlpips_alex": lpips}}


ROWS = [mean("frozen", 740, 737, 24.65, 0.3), mean("frozen", 1237, 1235, 25.25, 0.2),
        mean("x264", 740, 719, 24.01, 0.2), mean("x265", 740, 760, 29.0, 0.1),
        mean("x264", 1237, 1172, 26.37, 0.1), mean("scaled", 740, 803, 30.0, 0.4)]
DOCUMENT = {"extent": "full", "metrics": ["psnr", "stlpips_alex"], "rows": ROWS, "bd": data.deltas(ROWS),
            "means": data.means(ROWS), "originals": {"clips": ["a"]}}


def at(asked):
    return page.at(DOCUMENT, "clips", asked)


def test_the_best_of_a_column_is_bold_and_files_larger_than_asked_do_not_compete():
    lines = page.table(DOCUMENT, at(740)).splitlines()
    assert lines[0] == "|  | bytes | PSNR ↑ | ST-LPIPS-Alex ↓ | seconds |"
    cells = {line.split(" | ")[0][2:]: line.split(" | ")[1:4] for line in lines[2:]}
    assert cells["coded noise, frozen model"] == ["737", "**24.65**", "0.3000"]
    assert cells["H.264 (x264)"] == ["719", "24.01", "**0.2000**"]
    assert cells["HEVC (x265), larger than asked"] == ["760", "29.00", "0.1000"]


def test_the_table_says_where_ours_leads_and_where_it_loses():
    assert page.lead(DOCUMENT, at(740)) == (
        "Ours leads in PSNR (+0.64 against H.264 (x264)). It loses in ST-LPIPS-Alex (+0.1000 against H.264 (x264)).")
    assert page.lead(DOCUMENT, at(1237)).startswith("Ours leads in nothing. It loses in PSNR (-1.12 against")
    assert page.lead(DOCUMENT, at(740)[:1]) == page.ALONE
    assert page.lead(DOCUMENT, at(740)[-1:]) == "None of our ways was measured at this size."


def test_a_metric_by_size_has_a_line_for_each_size_and_no_cell_for_a_larger_file():
    assert page.quoted("sizes clips psnr frozen,x264,x265,vvc", DOCUMENT).strip().splitlines() == [
        "| bytes ≤ | coded noise, frozen model | H.264 (x264) | HEVC (x265) | VVC (VVenC) |",
        "| --: | --: | --: | --: | --: |",
        "| 740 | **24.65** | 24.01 | – | – |",
        "| 1,237 | 25.25 | **26.37** | – | – |"]


def test_a_way_can_be_for_one_kind_alone():
    chosen = [ways.chosen("full", kind, "frozen,clips:random,explicit", "") for kind in ("clips", "pictures")]
    assert chosen == [["frozen", "random"], ["frozen"]]


def test_a_row_that_went_on_with_a_fit_has_no_seconds():
    rows = [ROWS[0], {**ROWS[0], "clip": "b", "seconds": None}]
    (one,) = data.means(rows)
    assert one["seconds"] is None
    assert page.table(DOCUMENT, [one]).splitlines()[-1].endswith("| – |")


def test_a_mean_is_of_all_originals_or_not_there():
    rows = [*ROWS, {**ROWS[0], "clip": "b", "bytes": 739}]
    (one,) = data.means(rows)
    assert (one["way"], one["originals"], one["bytes"]) == ("frozen", 2, 738.0)


def test_bd_rates_are_against_named_anchors_and_of_all_originals():
    [row] = [row for row in DOCUMENT["bd"] if (row["way"], row["anchor"], row["metric"]) == ("frozen", "x264", "psnr")]
    assert row["originals"] == 1 and row["bd_rate_percent"] > 0  # in 24.65…25.25 dB x264 needs fewer
    assert f"{row['bd_rate_percent']:+.1f} %" in page.bd_table(DOCUMENT, "clips")
    assert "needs two" in page.bd_table(DOCUMENT, "pictures")
    rows = ROWS + [{**row, "clip": "b", "metrics": {"psnr": row["metrics"]["psnr"] + 9 * (row["way"] == "x264")}}
                   for row in ROWS]  # on b no quality is common to both
    assert not [row for row in data.deltas(rows) if (row["way"], row["anchor"]) == ("frozen", "x264")]


def measured(rows, **changed):
    kinds = {kind: sorted({row["clip"] for row in rows if row["kind"] == kind}) for kind in ways.KINDS}
    return {"command": "A=1 bash scripts/results.sh full", "extent": "full", "dates": ["2026-11-28"], "devices": ["x"],
            "free": [], "originals": kinds, "metrics": ["psnr"], "unavailable": {}, "notes": [], "rows": rows,
            "versions": {"ffmpeg": "8", "packages": ["a 1"]}} | changed


def test_rows_of_before_stay_beside_those_that_are_added():
    cat = mean("frozen", 700, 699, 25.0, 0.2, "pictures")
    now = measured([mean("frozen", 740, 730, 26.0, 0.3), cat], command="B=1 bash scripts/results.sh full",
                   dates=["2026-11-29"], metrics=["psnr", "ssimulacra2"])
    both = data.added(measured(ROWS), now)
    found = {(row["kind"], row["way"], row["asked"]): row["bytes"] for row in both["rows"]}
    assert len(both["rows"]) == len(ROWS) + 1 and found["clips", "frozen", 740] == 730  # anew, and once
    assert both["originals"] == {"clips": ["a"], "sequences": [], "pictures": ["a"]}
    assert both["command"] == "A=1 bash scripts/results.sh full && B=1 bash scripts/results.sh full"
    assert both["metrics"] == ["psnr", "ssimulacra2"] and both["dates"] == ["2026-11-28", "2026-11-29"]
    again = data.added(both, now)
    assert again["command"] == both["command"] and len(again["rows"]) == len(both["rows"])
    assert again["means"] == data.means(both["rows"])


@pytest.mark.parametrize("changed", [{"extent": "quick"}, {"versions": {"ffmpeg": "7", "packages": ["a 1"]}}])
def test_rows_of_other_versions_are_not_mixed(changed, monkeypatch):
    monkeypatch.setattr(data, "versions", lambda suite: {"ffmpeg": "8", "packages": ["a 1"]})
    before = measured(ROWS)
    data.refuse_mixture(before, "full", None, "results.json")
    with pytest.raises(VovError, match=f"another {next(iter(changed)).replace('versions', 'ffmpeg')}.*without ADD"):
        data.refuse_mixture(before | changed, "full", None, "results.json")


def test_a_changed_figure_of_a_readme_is_found():
    text = "It has <!-- results: clips frozen 740 psnr -->24.65<!-- /results --> dB.\n<!-- results: lead clips 740 -->x"
    text += "<!-- /results -->, <!-- results: clips vvc 740 psnr --><!-- /results -->"
    filled = page.filled(text, DOCUMENT)
    assert page.quoted("clips/a x264 740 bytes", DOCUMENT) == "719"
    assert page.quoted("clips/b x264 740 bytes", DOCUMENT) == "n/a"
    assert "-->24.65<!--" in filled and "Ours leads in PSNR" in filled and "-->n/a<!--" in filled
    assert page.filled(filled, DOCUMENT) == filled
    assert page.filled(filled.replace("24.65", "24.66"), DOCUMENT) == filled


@pytest.mark.parametrize("path", page.READMES)
def test_every_figure_that_a_readme_quotes_is_that_of_the_results(path):
    document = data.read(REPO / "docs/results/results.json")
    text = (REPO / path).read_text(encoding="utf-8")
    assert page.QUOTED.search(text), "quotes nothing"
    assert text.count("<!-- results:") == text.count("<!-- /results -->") == len(page.QUOTED.findall(text))
    assert page.filled(text, document) == text, "bash scripts/results.sh --redraw 1 brings it up to date"


def test_the_tables_are_those_of_the_results():
    document = data.read(REPO / "docs/results/results.json")
    assert (REPO / "docs/results/tables.md").read_text(encoding="utf-8") == page.tables(document)
    assert document["means"] == data.means(document["rows"])
    assert document["bd"] == data.deltas(document["rows"])


@pytest.fixture
def settings(tiny_wan, tiny_qwen, tmp_path, monkeypatch):
    """A full run on untrained models, its commands in this process."""
    for name, value in (TINY | {"STEPS": "4", "SCORE": "pixel", "SCENE_STEPS": "2", "INIT_BITS": "4"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(originals, "SIZE", (32, 32))
    monkeypatch.setattr(command, "FRAMES", 5)
    for kind in ways.PAPER:
        monkeypatch.setitem(ways.PAPER, kind, "NOISE=random")
    for name in ("clip", "film"):
        media.write_frames(tmp_path / name, ball(9, 32, 32))
    media.write_image(tmp_path / "cat.png", ball(1, 64, 64)[0])
    return Results(extent="full", clips="clip", sequences="b=film", pictures="cat.png", sequence_frames=9,
                           media_dir=str(tmp_path), clip_bytes="540", sequence_rates="90", picture_bytes="540",
                           picture_side=32, anchors="x264,jpeg", metrics="psnr,xpsnr", show="cat", device="cpu",
                           video_model=str(tiny_wan), image_model=str(tiny_qwen), out=str(tmp_path / "out"),
                           results=str(tmp_path / "results"), cache_dir=str(tiny_wan.parent))


def test_every_way_is_coded_by_its_command_once_and_compared(settings, tmp_path, monkeypatch, capsys):
    ran = []

    def run(command, out, environ):
        ran.append(command)
        calls, _ = readme.record(command, tmp_path / f"run{len(ran)}", {**comparison.os.environ, **environ})
        for arguments, given in calls:
            readme.replay(arguments, given, monkeypatch)
        return ""

    monkeypatch.setattr(comparison, "run", run)
    command.main(settings)
    document = json.loads((tmp_path / "results/results.json").read_text())
    made = {kind: {row["way"] for row in document["means"] if row["kind"] == kind} for kind in ways.KINDS}
    assert made["clips"] == {"frozen", "anchored", "random", "scaled", "explicit", "x264"}, document["notes"]
    assert made["sequences"] == {"independent", "known", "scene", "explicit", "x264"}
    assert made["pictures"] == {"frozen", "anchored", "random", "scaled", "explicit", "x264", "jpeg"}
    assert all(row["bytes"] == (tmp_path / "out" / row["file"]).stat().st_size for row in document["rows"]
               if row["way"] in ways.WAYS)
    assert "WAN" not in document["command"] and str(tmp_path) not in document["command"]
    for name in ("tables.md", "clips_curves.svg", "pictures_curves.png", "pictures_cat.png"):
        assert (tmp_path / "results" / name).is_file()
    assert not (tmp_path / "results" / "clips_clip.png").exists()  # may not be shown
    first, count = (tmp_path / "results/results.json").read_bytes(), len(ran)
    command.main(settings)
    command.main(dataclasses.replace(settings, redraw=True))
    assert len(ran) == count and (tmp_path / "results/results.json").read_bytes() == first


def test_a_way_that_refuses_is_a_note_and_the_others_stand(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "run", lambda *_: "error: too small")
    command.main(dataclasses.replace(settings, sequences="none", pictures="none", ways="frozen"))
    document = json.loads((tmp_path / "results/results.json").read_text())
    assert document["notes"] == ["clip, frozen, 540 bytes: error: too small"]
    assert [row["way"] for row in document["rows"]] == ["x264"]


@pytest.mark.parametrize(("change", "message"), [
    ({"ways": "frozn"}, "no way called frozn"), ({"ways": "films:frozen"}, "no way called films:frozen"),
    ({"clips": "clip,clip"}, "clip is there twice"),
    ({"clips": "nosuch.mp4"}, "no such folder, video or image"), ({"clip_bytes": "1k"}, "CLIP_BYTES='1k'"),
    ({"clip_collection": "no.vovd"}, "no such θ of a collection"), ({"metrics": "psnrr"}, "`metrics`=psnrr"),
    ({"anchors": "x266"}, "`anchors`=x266")])
def test_mistakes_are_found_before_any_work(settings, change, message):
    with pytest.raises(VovError, match=message) as caught:
        command.main(dataclasses.replace(settings, **change))
    assert "\n" not in str(caught.value)


def test_quick_takes_less_than_full():
    sizes = [1, 2, 3, 4]
    for kind in ways.KINDS:
        quick, full = (ways.chosen(extent, kind, "", "") for extent in ("quick", "full"))
        assert set(quick) < set(full) and "collection" not in full
        count = {extent: sum(len(ways.sizes_of(way, kind, sizes, extent)) for way in chosen)
                 for extent, chosen in (("quick", quick), ("full", full))}
        assert count["quick"] < count["full"] / 2
    assert ways.sizes_of("anchored", "clips", sizes, "quick") == [4]
    assert re.search("150 . 100 steps", ways.title("anchored", quick=True))


def test_a_shared_theta_is_counted_in_each_file():
    shared = REPO / "tests/golden/things.vovd"
    settings = Results(clip_collection=str(shared), collection_files=100)
    more, share = settings.shared("clips")
    assert share == shared.stat().st_size / 100
    assert "collection" in ways.chosen("quick", "clips", "", str(shared))
    values = {"name": "a", "original": "a b", "out": "o", "fps": "24", "bytes": "700", "caption": "", "more": more}
    command = ways.commands("collection", "clips", values, quick=True)
    assert "FRAMES_DIR='a b'" in command and f"TARGET_BYTES=700 COLLECTION={shared} OUT_DIR=o" in command
