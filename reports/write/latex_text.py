"""Any text as LaTeX that pdflatex sets as it stands, with no package and whatever names hold."""

import re
import unicodedata

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "[": "{[}",  # else an argument of the row's end before it, as the asterisk
    "*": "{*}",
    "\u00a0": "~",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
    "°": r"\textdegree{}",
    "€": r"\texteuro{}",
    "£": r"\pounds{}",
    "§": r"\S{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "œ": r"\oe{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
_MATH = {
    "−": "-",
    "±": r"\pm",
    "×": r"\times",
    "÷": r"\div",
    "√": r"\surd",
    "‖": r"\Vert",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "≈": r"\approx",
    "→": r"\to",
    "∞": r"\infty",
    "∑": r"\sum",
    "∈": r"\in",
    "Δ": r"\Delta",
    "Σ": r"\Sigma",
    "Ω": r"\Omega",
} | {
    unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}"): rf"\{name}"
    for name in ("alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "kappa", "mu", "pi", "rho")
}
_MATH |= {"λ": r"\lambda", "σ": r"\sigma", "τ": r"\tau", "φ": r"\varphi", "χ": r"\chi", "ω": r"\omega"}
_MATH |= {"µ": r"\mu"}  # the micro sign, which keyboards have
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}
_MATH_ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot"}


def escape(text: str) -> str:
    """Text on one line. What LaTeX has no sign for stands as its code point, such as [U+4E2D]."""
    flat = re.sub(r"[^\S\u00a0]+", " ", text).strip(" ")
    decomposed = "".join(c if c in _MATH else unicodedata.normalize("NFD", c) for c in flat)
    letters = re.findall(r"([\s\S])([\u0300-\u036f]?)", decomposed)
    # Two hyphens would be set as a dash, and ?` as an inverted question mark.
    return re.sub(r"-(?=-)", "-{}", "".join(_letter(*letter) for letter in letters))


def _letter(base: str, accent: str) -> str:
    sign = _sign(base)
    if not accent:
        return sign
    if base in _MATH and accent in _MATH_ACCENTS:
        return rf"\ensuremath{{\{_MATH_ACCENTS[accent]}{{{_MATH[base]}}}}}"
    if accent in _ACCENTS and base.isascii() and base.isalpha():
        return rf"\{_ACCENTS[accent]}{{{base}}}"
    return sign + _code_point(accent)


def _sign(base: str) -> str:
    if base in _SPECIAL:
        return _SPECIAL[base]
    if base in _MATH:
        return rf"\ensuremath{{{_MATH[base]}}}"
    if base.isascii():
        return base if base.isprintable() else ""
    kind, _, plain = unicodedata.decomposition(base).partition(" ")
    if kind in ("<super>", "<sub>") and len(plain) == 4:
        where = {"<super>": "textsuperscript", "<sub>": "textsubscript"}[kind]
        return rf"\{where}{{{_sign(chr(int(plain, 16)))}}}"
    return _code_point(base)


def _code_point(sign: str) -> str:
    return f"{{[}}U+{ord(sign):04X}]"
