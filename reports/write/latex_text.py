"""Any text as LaTeX that pdflatex sets as it is, without further packages, whatever names hold."""

import re
import unicodedata

from pylatexenc.latexencode import (
    RULE_DICT,
    RULE_REGEX,
    UnicodeToLatexConversionRule,
    UnicodeToLatexEncoder,
)

_MATH_ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot"}
# What pylatexenc writes with commands of LaTeX's kernel; its other commands need fonts that may be missing.
_KNOWN = (
    "\x20-\x7e\xa0-\xaa\xac\xae-\xb7\xb9\xba\xbc-\xcf\xd1-\xdd\xdf-\xef\xf1-\xfd\xff-\u0103\u0106-\u010f"
    "\u0112-\u0117\u011a-\u012d\u0130-\u0148\u014c-\u0171\u0174-\u017e\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9"
    "\u2013\u2014\u2016\u2018\u2019\u201c\u201d\u2020-\u2022\u2026\u2032\u2070\u2074-\u2079\u207f\u2080-\u2089"
    "\u20ac\u2190-\u2194\u21d0-\u21d4\u2202\u2207\u2208\u220f\u2211-\u2213\u221a\u221d\u221e"
    "\u2248\u2260\u2261\u2264\u2265\u22c5"
)
_ENCODER = UnicodeToLatexEncoder(
    conversion_rules=[
        UnicodeToLatexConversionRule(
            RULE_REGEX,
            [
                (
                    re.compile(f"([α-ω])([{''.join(_MATH_ACCENTS)}])"),
                    lambda found: _accented(*found.groups()),
                ),
                (re.compile("-(?=-)"), r"-{}"),  # two hyphens would be set as a dash
                (re.compile(f"[^{_KNOWN}]"), lambda found: f"{{[}}U+{ord(found[0]):04X}]"),
            ],
        ),
        UnicodeToLatexConversionRule(
            RULE_DICT,
            # Behind a row's end, a bracket or an asterisk would be read as its argument.
            {ord("["): "{[}", ord("*"): "{*}", ord("|"): r"\textbar", ord("`"): r"\textasciigrave"}
            | {ord("√"): r"\ensuremath{\surd}"},
        ),
        "defaults",
    ]
)


def escape(text: str) -> str:
    """Text on one line. A character that LaTeX has no command for becomes its code point: [U+4E2D]."""
    flat = re.sub(r"[^\S\u00a0]+", " ", text).strip(" ")
    composed = unicodedata.normalize("NFC", re.sub(r"[\x00-\x1f\x7f]", "", flat))
    return str(_ENCODER.unicode_to_latex(composed))


def _accented(base: str, accent: str) -> str:
    return rf"\ensuremath{{\{_MATH_ACCENTS[accent]}{{{_ENCODER.unicode_to_latex(base)}}}}}"
