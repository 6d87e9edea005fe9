"""The report: right numbers in every form, one file that asks the network for nothing, and a page that works."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.clips import noisy, panning
from vov import report
from vov.evaluate import Tree, evaluate
from vov.pairs import EvalConfig

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
                          bd_anchor=HOSTILE, reference_curves=str(folder / "curves.csv"), report_frames=2)
    return evaluate(settings, Tree(False, "", None)), folder / "out"


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


PROBE = """
<script>
window.addEventListener("load", async () => {
  const out = { errors: window.probeErrors };
  const box = document.querySelector(".compare"), over = box.querySelector(".top");
  const area = box.getBoundingClientRect();
  const fire = (type, x, buttons) => box.dispatchEvent(new PointerEvent(type, { bubbles: true, pointerId: 1, buttons,
    clientX: area.left + area.width * x, clientY: area.top + 5 }));
  box.setPointerCapture = () => {};
  fire("pointerdown", 0.25, 1); out.down = over.style.clipPath;
  fire("pointermove", 0.8, 1); out.move = over.style.clipPath;
  fire("pointermove", 0.1, 0); out.hover = over.style.clipPath;
  box.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" })); out.home = box.getAttribute("aria-valuenow");
  const under = box.querySelector("img:not(.top)"), before = under.src, choice = document.querySelector(".clip select");
  choice.value = "1"; choice.dispatchEvent(new Event("change")); out.switched = under.src !== before;
  await under.decode(); out.natural = [under.naturalWidth, under.naturalHeight];
  const cells = column => [...document.querySelectorAll(`#table tbody tr`)].map(r => r.children[column].textContent);
  const heads = [...document.querySelectorAll("#table th")];
  const psnr = heads.findIndex(h => h.textContent.startsWith("PSNR")), sorter = heads[psnr].querySelector("button");
  sorter.click(); out.up = cells(psnr);
  sorter.click(); out.down2 = cells(psnr); out.sort = heads[psnr].getAttribute("aria-sort");
  out.codecs = cells(1);
  out.dots = document.querySelectorAll("#rd circle").length;
  const videos = [...document.querySelectorAll("video")];
  await Promise.all(videos.map(v => v.readyState || new Promise(done => { v.onloadedmetadata = v.onerror = done; })));
  out.videos = videos.map(v => [v.videoWidth, v.videoHeight, Math.round(v.duration * 24)]);
  const seek = document.querySelector("input[type=range]");
  seek.value = 500; seek.dispatchEvent(new Event("input")); out.times = videos.map(v => v.currentTime > 0.05);
  out.fetched = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
  const node = document.createElement("pre"); node.id = "probe"; node.textContent = JSON.stringify(out);
  document.body.append(node);
});
</script></body>"""
EARLY = '<script>window.probeErrors = []; window.onerror = m => probeErrors.push(String(m));</script></head>'


@pytest.mark.slow
def test_the_page_works_in_chromium(finished, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    page = (finished[1] / "report.html").read_text().replace("</head>", EARLY).replace("</body>", PROBE)
    path = tmp_path / "page.html"
    path.write_text(page)
    net = tmp_path / "net.json"
    dom = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={net}", "--virtual-time-budget=8000", "--dump-dom",
         path.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.S)
    assert found, dom[-2000:]
    out = json.loads(html.unescape(found[1]))
    assert out["errors"] == [] and out["fetched"] == []
    assert "75%" in out["down"] and "20%" in out["move"] and out["hover"] == out["move"] and out["home"] == "0"
    assert out["switched"] and out["natural"] == [96, 64]
    values = [float("inf") if text == "∞" else float(text) for text in out["up"]]
    assert values == sorted(values) and len(values) == 5
    assert out["down2"] == out["up"][::-1] and out["sort"] == "descending"
    assert any(HOSTILE in text for text in out["codecs"])  # shown as text, not obeyed
    assert out["dots"] >= 5 * 2
    assert out["videos"] == [[96, 64, 6]] * 2 and out["times"] == [True, True]
    requested = set(re.findall(r'"url":"(https?://[^"]+)"', Path(net).read_text())) if net.is_file() else set()
    own = ("google", "gvt1.com")  # what the browser itself asks for when it starts
    assert not {url for url in requested if not any(name in url for name in own)}


def test_numbers_for_tables():
    assert report.shown(None) == "n/a" and report.shown("inf") == "∞" and report.shown(np.float64(1.236)) == "1.24"
