"""The templates, letter by letter: digests of the constants in the authors' repositories."""

import hashlib

import pytest

from disca_rt.encoders import templates

DIGESTS = {  # SHA-256 of UTF-8
    "VIDEO": "a52f68dde3637b127592fffe9e2483a5d0563987a49db6ddb9b06146f2ba7cb5",
    "IMAGE": "e6794c248e31c8efee73f33028bbb095324ec79e0b05dfae78b373b0abd4fb98",
    "IMAGE_TO_VIDEO": "7f45a330cc8fa70b613010c4fb6b4315a991c39eef7a405df46cb2591a547a21",
    "VIDEO_15": "547f3e99c78b2d9b0786a721b726d41be95ee2f52ebf90db55f381b1511c3905",
    "NEGATIVE": "3ffecf480d92c0bdb1a7f97e752a825405a499e3d7de97d50da0a7c65c0e887b",
    "NEGATIVE_IMAGE_TO_VIDEO": "48fba20107d6a61247cab197a4d7bf61f5ea7af6e49f831fbf2d6df350fdce6e",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_text_is_the_authors_own(name: str) -> None:
    template = getattr(templates, name)
    text = template if isinstance(template, str) else getattr(template, "text", None)
    text = template.system if text is None else text
    assert hashlib.sha256(text.encode()).hexdigest() == DIGESTS[name]


def test_items_of_the_system_text_are_eight_blanks_further_apart() -> None:
    assert templates.VIDEO_15.system.count(":         1. The main") == 1  # 1 + 8
    assert templates.VIDEO_15.system.count(".         ") == 4
