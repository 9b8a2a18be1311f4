from html.parser import HTMLParser

from astrid_dist.figures import page
from astrid_dist.figures.canvas import new_figure

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects text and addresses, and checks that what opens closes."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def test_a_page_is_whole_closed_and_points_nowhere_outside():
    drawing, _ = new_figure(2, 1)
    html = page.page(
        "Night & field <1>",
        "what was found",
        [
            page.cards([("12 px", "a figure")]),
            page.section("Part one", "text", page.row(page.figure(drawing, "caption", "alt text"))),
            page.section("Pictures", "", page.gallery([(b"\x89PNG", "f0 <a>", "SNR 7")])),
            page.table(["epoch", "seeing (pixel)"], [["0", "2.9"], ["1", "3.4"]]),
            page.code("x < 3"),
        ],
    )
    reader = read(html)
    text = "".join(reader.text)
    for words in ("Night & field <1>", "12 px", "caption", "f0 <a>", "seeing (pixel)", "x < 3"):
        assert words in text
    assert len(reader.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert "http" not in html
    assert "prefers-color-scheme: dark" in html


def test_an_empty_gallery_says_so():
    assert "None." in page.gallery([])
