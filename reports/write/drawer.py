"""A program of its own that draws: `drawer.py bundle VERSION`, or `drawer.py figures VERSION`.

V8 keeps Python's lock while it works, so what it draws is drawn beside the report's process. The version is
Vega-Lite's. `bundle` prints Vega as one script. `figures` answers each line of its input, a specification as
JSON, with a line of JSON: the SVG's text and the PDF in base64.
"""

import base64
import json
import re
import sys

import vl_convert


def main(what: str, version: str) -> None:
    """Do what the arguments say."""
    if what == "bundle":
        script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
        sys.stdout.write(script)
        return
    for line in sys.stdin:
        svg = _numbered(vl_convert.vegalite_to_svg(json.loads(line), vl_version=version))
        pdf = base64.b64encode(vl_convert.svg_to_pdf(svg)).decode()
        print(json.dumps({"svg": svg, "pdf": pdf}), flush=True)


def _numbered(svg: str) -> str:
    """The same with its clip paths numbered from one: V8 goes on counting over all that it draws."""
    found = dict.fromkeys(re.findall(r'id="(clip\d+)"', svg))
    new = {name: f"clip{place}" for place, name in enumerate(found, start=1)}
    return re.sub(r'(?<=id=")clip\d+(?=")|(?<=url\(#)clip\d+(?=\))', lambda at: new.get(at[0], at[0]), svg)


if __name__ == "__main__":
    main(*sys.argv[1:])
