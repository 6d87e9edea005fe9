"""The report: right numbers in every form, one file that asks the network for nothing, and a page that works."""

import csv
import html
import io
import json
import re

import numpy as np
import pytest

from tests.browser import chromium, missing
from tests.clips import noisy, panning
from vov.evaluation import report
from vov.evaluation.evaluate import evaluate
from vov.evaluation.pairs import EvalConfig

HOSTILE = "</script><b>&\"'|"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Results of a real evaluation of two reproductions of a clip with an awkward name, and one anchor."""
    from vov import media

    folder = tmp_path_factory.mktemp("report")
    clip = panning(6, 64, 96)
    for name, frames in (("original", clip), ("good", noisy(clip, 4)), ("bad", noisy(clip, 24))):
        media.write_frames(folder / name, frames)
    rows = [["name", "codec", "clip", "original", "decoded", "bytes"],
            ["good", HOSTILE, "pan", "original", "good", 4000], ["bad", HOSTILE, "pan", "original", "bad", 900],
            ["same", "copy", "pan", "original", "original", 30000]]
    with (folder / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    (folder / "curves.csv").write_text("label,clip,metric,bpp,value\npublished,*,psnr,0.5,30\npublished,*,psnr,1,33\n")
    settings = EvalConfig(manifest=str(folder / "manifest.csv"), out_dir=str(folder / "out"),
                          work_dir=str(folder / "work"), anchors="x264=veryfast", anchor_rates="0.3,1", skip_fvd=True,
                          metrics="psnr,ssim,ms_ssim,lpips_vgg,warp,fvd",
                          bd_anchor=HOSTILE, reference_curves=str(folder / "curves.csv"), report_frames=2)
    return evaluate(settings, "video"), folder / "out"


def test_csv_has_every_item_with_full_precision(finished):
    results, out = finished
    rows = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [row["codec"] for row in rows] == [HOSTILE, HOSTILE, "copy", "x264", "x264"]
    assert float(rows[0]["psnr"]) == results["items"][0]["metrics"]["psnr"]
    assert float(rows[0]["bpp"]) == 8 * 4000 / (6 * 64 * 96)
    assert rows[2]["psnr"] == "inf" and rows[0]["lpips_vgg"] == ""
    assert rows[3]["command"].startswith("ffmpeg")


def test_markdown_table_is_well_formed_and_names_what_is_missing(finished):
    results, out = finished
    text = (out / "results.md").read_text()
    table = [line for line in text.split("\n\n")[0].splitlines()]
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in table}
    assert len(table) == 2 + 5 and len(widths) == 1
    assert "∞" in table[4] and f"{results['items'][0]['metrics']['psnr']:.2f}" in table[2]
    assert re.search(r"LPIPS-VGG: n/a, no vgg16.*WHAT=metrics bash scripts/fetch_models.sh", text)
    assert "skipped by SKIP_FVD" in text and "`ffmpeg -y" in text


def test_json_is_strict_and_has_no_machine_dependent_infinities(finished):
    text = (finished[1] / "results.json").read_text()
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert parsed["items"][2]["metrics"]["psnr"] == "inf"
    assert parsed["config"]["anchors"] == "x264=veryfast"


def test_bd_rates_are_of_the_named_anchor(finished):
    rows = {(row["metric"], row["codec"]): row for row in finished[0]["bd"]}
    assert rows["psnr", "x264"]["anchor"] == HOSTILE
    assert rows["psnr", "x264"]["bd_metric"] > 0 or rows["psnr", "x264"]["bd_rate_percent"] < 0


def test_the_page_contains_everything_and_points_nowhere(finished):
    page = (finished[1] / "report.html").read_text()
    script = page.split("<script>")[1]
    assert page.count("<script>") == 1 and page.count("</script>") == 1  # no data ends the script
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of SVG's vocabulary, which nobody fetches
    assert not re.search(r"<(link|iframe|img|video|source)[^>]+(src|href)=", html.unescape(page.split("<script>")[0]))
    assert script.count("data:image/webp;base64,") == 2 + 5 * 2 and script.count("data:video/mp4;base64,") == 1 + 5


def test_rd_figure_is_svg(finished):
    assert (finished[1] / "rd.svg").read_text().lstrip().startswith("<?xml")
    assert report.rd_figure({"items": [{"bpp": None}], "metrics": ["psnr"], "reference_curves": []}) is None


@pytest.fixture(scope="module")
def browser(finished, tmp_path_factory):
    """A real browser that has the report open."""
    if reason := missing():
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        browser.open(finished[1] / "report.html")
        yield browser


def test_in_a_browser_the_page_asks_the_network_for_nothing(browser, finished):
    assert browser.requests() == {(finished[1] / "report.html").as_uri()}
    assert browser.log("browser") == []  # errors, and whatever the content policy had to stop


def test_in_a_browser_the_slider_follows_the_mouse_and_the_keys(browser):
    left, top, width = browser.run("""const box = document.querySelector(".compare");
        box.scrollIntoView({ block: "center" });
        const r = box.getBoundingClientRect(); return [r.left, r.top, r.width];""")
    shown = """return [document.querySelector(".compare .top").style.clipPath,
        +document.querySelector(".compare").getAttribute("aria-valuenow")];"""
    assert browser.run(shown) == ["inset(0px 50% 0px 0px)", 50]
    browser.drag((left + width * 0.3, top + 20), (left + width * 0.6, top + 30), (left + width * 0.8, top + 90))
    clip, value = browser.run(shown)
    assert value == 80 and float(re.findall(r"[\d.]+", clip)[1]) == pytest.approx(20, abs=1)
    browser.drag((left + width * 0.5, top - 5), (left + width * 0.1, top + 30))  # began outside
    assert browser.run(shown) == [clip, value]
    for key, expected in (("Home", 0), ("ArrowRight", 2), ("End", 100)):
        browser.run("""document.querySelector(".compare").dispatchEvent(
            new KeyboardEvent("keydown", { key: arguments[0], bubbles: true }));""", key)
        assert browser.run(shown)[1] == expected


def test_in_a_browser_another_reproduction_can_be_chosen(browser):
    before, after, size = browser.run("""const under = document.querySelector(".compare img:not(.top)");
        const before = under.src, choice = document.querySelector(".clip select");
        choice.value = "1"; choice.dispatchEvent(new Event("change")); await under.decode();
        return [before, under.src, [under.naturalWidth, under.naturalHeight]];""")
    assert before != after and size == [96, 64]


def test_in_a_browser_the_table_sorts_both_ways_and_shows_names_as_text(browser):
    click = """const heads = [...document.querySelectorAll("#table th")];
        const place = heads.findIndex(h => h.textContent.startsWith("PSNR"));
        heads[place].querySelector("button").click();
        return [[...document.querySelectorAll("#table tbody tr")].map(r => r.children[place].textContent),
            heads[place].getAttribute("aria-sort")];"""
    up, order = browser.run(click)
    values = [float("inf") if text == "∞" else float(text) for text in up]
    assert values == sorted(values) and len(values) == 5 and order == "ascending"
    assert browser.run(click) == [up[::-1], "descending"]
    names = browser.run("return [...document.querySelectorAll('#table .name')].map(cell => cell.textContent);")
    assert any(HOSTILE in name for name in names)


def test_in_a_browser_plots_have_a_dot_per_measurement_and_videos_move_together(browser):
    dots, curves = browser.run("""return [document.querySelectorAll("#rd circle").length,
        document.querySelectorAll(".clip svg path").length];""")
    assert dots >= 5 * 2 and curves == 5
    sizes, times, playing = browser.run("""const videos = [...document.querySelectorAll("video")];
        await Promise.all(videos.map(v => v.readyState || new Promise(r => { v.onloadeddata = v.onerror = r; })));
        const sizes = videos.map(v => [v.videoWidth, v.videoHeight, Math.round(v.duration * 24)]);
        const seek = document.querySelector("input[type=range]");
        seek.value = 500; seek.dispatchEvent(new Event("input"));
        const times = videos.map(v => v.currentTime);
        document.querySelector("button.plain").click();
        return [sizes, times, videos.map(v => !v.paused)];""")
    assert sizes == [[96, 64, 6]] * 2 and times == pytest.approx([0.125] * 2, abs=0.02) and playing == [True, True]


def test_numbers_for_tables():
    assert report.shown(None) == "n/a" and report.shown("inf") == "∞" and report.shown(np.float64(1.236)) == "1.24"
