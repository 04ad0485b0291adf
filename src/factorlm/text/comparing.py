"""Texts as they are compared: normalised words, and the last number."""

import re
import string
from decimal import Decimal

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# A minus counts as a sign only where no digit, letter or bracket stands before it: 16-3 holds no -3.
NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(\d{1,3}(?:,\d{3})+(?!\d)|\d+)(\.\d+)?")


def normalized(text: str) -> str:
    """Text as answers are compared: lower case, without ASCII punctuation and articles, single blanks.

    Source: Rajpurkar et al. (2016).
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def last_number(text: str) -> Decimal | None:
    """The last number of a text; commas between thousands and a dollar sign are read over. None if there is none."""
    found = list(NUMBER.finditer(text))
    if not found:
        return None
    whole, fraction = found[-1].groups()
    number = Decimal(whole.replace(",", "") + (fraction or ""))
    return -number if found[-1][0].startswith("-") else number
