"""The pages that people read: markup and contrast here, the rest in a browser where there is one."""

import re
from html.parser import HTMLParser

import pytest
from conftest import PROJECT, sound_page
from manifest_helpers import make_manifest
from score_helpers import make_scores, make_video

from vadclip.compare.comparison import Side, compare
from vadclip.compare.show import write_html
from vadclip.config import EvaluateParams
from vadclip.evaluate.metrics import collect, evaluate
from vadclip.evaluate.report import write_plots, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report and a comparison with every part that they can have."""
    folder = tmp_path_factory.mktemp("pages")
    videos = [make_video(f"burning_house_{n}", 8, [(32, 64, "Fire")], untimed=n == 1) for n in range(2)]
    manifest = make_manifest([*videos, make_video("quiet_street", 8), make_video("tiny", 0, num_frames=9)])
    anomaly = {video.video_id: [0.1, 0.2, 0.9, 0.8, 0.2, 0.1, 0.3, 0.1] for video in manifest.videos[:3]}
    info = {"excluded": {"tiny": "too short"}, "lost_frames": {"quiet_street": 3}, "test_selected": True}
    scores = make_scores(anomaly, **info)
    evaluation = evaluate(scores, manifest, resamples=10)
    params = EvaluateParams(bootstrap_resamples=10, bootstrap_seed=0, timelines=1)
    written = write_plots(evaluation, manifest, folder / "plots", params, root=str(folder), decoder="pyav")
    report, comparison = folder / "report.html", folder / "compare.html"
    write_report(evaluation, written, folder / "plots", report, params={"train.seed": 1}, commit="0123abcd")
    worse = make_scores({name: score[::-1] for name, score in anomaly.items()}, **info)
    sides = [
        Side(name, manifest, (collect(one, manifest),)) for name, one in (("base", scores), ("worse", worse))
    ]
    write_html(compare(sides, draws=20), comparison)
    return report, comparison


class _Markup(HTMLParser):
    """Names what is wrong: tags that do not pair, images without words, tables and buttons without names."""

    def __init__(self, html):
        super().__init__()
        self.open, self.faults, self.seen = [], [], set()
        self.level = 0
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> stays open" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, holds in (
            ("html without lang", tag != "html" or given.get("lang")),
            ("img without alt", tag != "img" or given.get("alt")),
            ("th without scope", tag != "th" or given.get("scope")),
            ("region without a name", given.get("role") != "region" or given.get("aria-label")),
            (
                "scrolls, and no key reaches it",
                given.get("class") != "scroll" or given.get("tabindex") == "0",
            ),
        ):
            if not holds:
                self.faults.append(f"line {self.getpos()[0]}: {name}")
        if re.fullmatch("h[1-6]", tag):
            if int(tag[1]) > self.level + 1:
                self.faults.append(f"line {self.getpos()[0]}: {tag} follows h{self.level}")
            self.level = int(tag[1])

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"line {self.getpos()[0]}: </{tag}> closes nothing")


def test_markup(pages):
    for page in pages:
        markup = _Markup(page.read_text())
        assert markup.faults == []
        assert {"title", "main", "h1", "table", "th"} <= markup.seen


def _luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_light_and_dark():
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    css = (PROJECT / "vadclip" / "pages" / "base.html").read_text()
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root {[^}]*}", css)
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for text in ("ink", "faint", "link", "good", "bad"):  # WCAG AA
            assert _contrast(colours[text], colours["paper"]) >= 4.5, text
        assert _contrast(colours["ink"], colours["ground"]) >= 4.5
        assert _contrast(colours["ink"], colours["warn"]) >= 4.5
        assert _contrast(colours["focus"], colours["paper"]) >= 3


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious_and_nothing_is_cut(pages, browser, width, scheme):
    for page in pages:
        sound_page(browser, page, width, scheme).close()


@pytest.mark.browser
def test_the_table_of_videos_sorts_by_keyboard(pages, browser):
    opened = browser.new_page()
    opened.goto(pages[0].as_uri())

    def ids():
        return opened.locator("table.sort tbody td.id").all_inner_texts()

    names = ["burning_house_0", "burning_house_1", "quiet_street"]
    assert ids() == names
    heading = opened.locator("table.sort th button").first
    heading.focus()
    for expected, direction in ((names, "ascending"), (names[::-1], "descending")):
        opened.keyboard.press("Enter")
        assert ids() == expected
        assert opened.locator("th[aria-sort]").get_attribute("aria-sort") == direction
    opened.close()
