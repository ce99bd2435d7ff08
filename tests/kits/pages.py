"""Reading pages that stages write: their tags, pictures and words."""

import io
from contextlib import contextmanager
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imsave


class Reader(HTMLParser):
    """Tags, pictures and words of a page; an unclosed tag is an error."""

    VOID = ("meta", "img", "br")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words, self.pictures = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.pictures += [value for name, value in attrs if name == "src"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@contextmanager
def undrawn():
    """Let pages hold one pixel for every picture: drawing takes seconds, and words are asked."""
    buffer = io.BytesIO()
    imsave(buffer, np.zeros((1, 1, 3)), format="png")
    with pytest.MonkeyPatch.context() as patch:
        for page in ("page", "verdict_page"):
            patch.setattr(f"scalespec.stages.{page}.to_png", lambda *_, **__: buffer.getvalue())
        yield
