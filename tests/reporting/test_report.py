"""The report of a tiny run: its parts, names that try to break out, and the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segrefinery as api
from runs import DAY, TEST, TINY, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.reporting import write_report
from segrefinery.stages.target_guided import RoundRecord

HOSTILE = 'näme "it\'s" <script>alert(1)</script> & 名'.replace("/", "\N{DIVISION SLASH}")
ABOUT = "</pre><script>alert(2)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose target is a folder with names of the worst kind, and whose recipe text is no better."""
    images = tmp_path_factory.mktemp("images") / HOSTILE
    images.mkdir()
    for place in range(3):
        pixels = np.random.default_rng(place).integers(0, 255, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{HOSTILE} {place}.png")
    steps = ("stages.source.steps=4", "stages.adapt.steps=4", f"about='{ABOUT}'")
    folder = tmp_path_factory.mktemp("run") / "run"
    return api.adapt(
        "self_training", DAY, str(images), folder, evaluation=TEST, scale="small", seed=3, overrides=(*TINY, *steps)
    )


@pytest.fixture(scope="module")
def page(run) -> str:
    return write_report(run).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects tags with their attributes, and refuses what does not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("br", "hr", "img", "input", "link", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_has_its_parts(page, run):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["Class by class", "Pictures", "Curves", "The labels", "What was run"]
    assert page.count('class="compare"') == 5  # three evaluation images, two of the target
    results = json.loads((run / "results.json").read_text())
    for part in ("source_only", "adapted"):
        assert f"{100 * results[part]['miou']:.1f} mIoU" in page
    assert "absent" in page
    for name in results["classes"]:
        assert f'<th scope="row">{name}</th>' in page
    for alt in ("reference", "pseudo-label", "weight of the pseudo-label"):
        assert f'alt="{alt}"' in page


def test_the_verdict_leads_the_page(page, run):
    word = json.loads((run / "results.json").read_text())["verdict"]["word"]
    lead = re.search(r'<p class="sentence">(.*?)</p>', page)
    assert lead
    assert lead[1].casefold().startswith(word)
    assert page.index('id="verdict"') < page.index("Class by class")


def test_names_and_texts_cannot_break_out(page):
    reader = Reader(page)
    assert not reader.open
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert "<script>alert" not in page
    assert html.escape(HOSTILE) in page
    assert html.escape(ABOUT) in page
    for tag, given in reader.tags:
        assert not [attribute for attribute in given if attribute.startswith("on")], tag
        assert "alert" not in (given.get("style") or ""), tag


def test_the_page_needs_nothing_else(page, run):
    for tag, given in Reader(page).tags:
        for attribute in ("src", "href", "data", "srcset", "action"):
            assert (given.get(attribute) or "data:").startswith("data:"), (tag, given)
    assert not re.search(r"url\(|@import|fetch\(|https?://", page)
    assert (run / "report.html").stat().st_size < 5e6


def test_the_same_run_gives_the_same_page(page, run):
    assert write_report(run).read_text(encoding="utf-8") == page


def test_a_run_without_results_says_there_is_no_evidence(run, tmp_path):
    for name in ("recipe.yaml", "environment.json"):
        shutil.copy(run / name, tmp_path / name)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "no evidence yet" in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["What was run"]


def test_images_that_are_gone_cost_only_the_pictures(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    recipe = (copy / "recipe.yaml").read_text(encoding="utf-8")
    (copy / "recipe.yaml").write_text(re.sub(r"(?m)^target: .*(\n  .*)*", "target: /gone", recipe), encoding="utf-8")
    page = write_report(copy).read_text(encoding="utf-8")
    assert "cannot be read any more" in page
    assert "<h2>Pictures</h2>" not in page
    assert "<h2>Class by class</h2>" in page


def test_a_folder_without_a_run_is_the_users_error(tmp_path):
    with pytest.raises(SegRefineryError, match=r"recipe\.yaml is missing"):
        write_report(tmp_path)


def test_rounds_are_drawn(run, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(run / "recipe.yaml", copy)
    classes = ["road", "<b>sky</b>", "car"]
    RoundRecord(1, classes, [], [], "uniform").save(copy / "stages" / "align-1")
    RoundRecord(2, classes, [0.2, 0.9, 0.5], [1, 2], "target_guided", [0.5, 0.3, 0.2], [1.0, 2.5, None]).save(
        copy / "stages" / "align-2"
    )
    page = write_report(copy).read_text(encoding="utf-8")
    assert "<h2>Rounds</h2>" in page
    assert "&lt;b&gt;sky&lt;/b&gt;, car" in page
    assert "--share: 1.0000" in page  # the highest entropy sets the scale
    assert f"--share: {0.2 / 0.9:.4f}" in page
    assert "0.533" in page  # their mean


# -- in the browser ----------------------------------------------------------------------------------------------------

CHECK = """<script>
window.addEventListener("load", () => {
  const box = document.querySelector(".compare"), input = box.querySelector("input");
  const clip = () => getComputedStyle(box.querySelector(".after")).clipPath;
  const said = { start: clip() };
  input.value = 20;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  said.moved = clip();
  input.focus();
  said.focused = document.activeElement === input;
  const blend = document.getElementById("blend");
  blend.value = 30;
  blend.dispatchEvent(new Event("input", { bubbles: true }));
  said.opacity = getComputedStyle(box.querySelector(".after")).opacity;
  said.loaded = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
  said.wide = document.documentElement.scrollWidth <= window.innerWidth;
  document.body.dataset.said = JSON.stringify(said);
});
</script>"""


def in_browser(page: str, folder: Path, size: str) -> tuple[dict, str]:
    """What the page says of itself in headless Chromium, and what the browser complained about."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt install chromium")
    copy = folder / "page.html"
    copy.write_text(page.replace("</body>", f"{CHECK}</body>"), encoding="utf-8")
    options = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={size}", "--enable-logging=stderr", "--dump-dom",
    )  # fmt: skip
    done = subprocess.run([chromium, *options, copy.as_uri()], capture_output=True, text=True, timeout=60)
    found = re.search(r'data-said="(.*?)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), done.stderr


@pytest.mark.parametrize("size", ["1200,900", "500,800"])
def test_in_the_browser_the_slider_moves_without_an_error(page, tmp_path, size):
    said, log = in_browser(page, tmp_path, size)
    assert "CONSOLE" not in log
    assert said == {
        "start": "inset(0px 0px 0px 50%)",
        "moved": "inset(0px 0px 0px 20%)",
        "focused": True,
        "opacity": "0.3",
        "loaded": True,
        "wide": True,
    }


def test_an_error_in_the_page_would_be_seen(page, tmp_path):
    _, log = in_browser(page.replace("</body>", "<script>missing()</script></body>"), tmp_path, "800,600")
    assert "CONSOLE" in log


def test_pictures_of_a_run_with_merged_classes(tmp_path):
    merged = tiny_run(tmp_path / "run", overrides=("merge={bus: vehicle, car: vehicle}",))
    page = write_report(merged).read_text(encoding="utf-8")
    assert "No pictures" not in page
    assert "vehicle" in page
