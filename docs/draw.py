#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Draws docs/chain.svg from docs/chain.txt: `make docs`.

usage: draw.py TEXT > SVG
Lines of the text, coordinates in pixels: size W H; area X Y W H TITLE; box KIND X Y W H TITLE LINE...;
arrow KIND X Y X Y...; text X Y WORDS. Words with blanks are quoted."""

import shlex
import sys
from html import escape

STYLE = """
text { font: 13px "DejaVu Sans", Verdana, sans-serif; fill: #1f2328 }
.title { font-weight: bold } .area-title { font-size: 15px; font-weight: bold; fill: #57606a } .note { font-size: 12px }
.area { fill: #f6f8fa; stroke: #8c959f; stroke-dasharray: 6 4 }
.box { stroke-width: 1.5 } .outside { fill: #fff; stroke: #57606a } .network { fill: #ddf4ff; stroke: #0969da }
.closed { fill: #fff1e5; stroke: #bc4c00 } .disk { fill: #eaeef2; stroke: #57606a }
.arrow { fill: none; stroke-width: 1.8; marker-end: url(#head) }
.cipher { stroke: #57606a; color: #57606a } .plain { stroke: #bc4c00; color: #bc4c00 } .key { stroke: #8250df; color: #8250df }
.request { stroke: #0969da; color: #0969da }
"""
HEAD = ('<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto" markerUnits="userSpaceOnUse">'
        '<path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker>')


def words(x, y, text, style, anchor="middle"):
    return f'<text x="{x}" y="{y}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def box(kind, x, y, w, h, title, *lines):
    x, y, w, h = map(int, (x, y, w, h))
    top = y + h // 2 - 8 * len(lines) + 4
    yield f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" class="box {kind}"/>'
    yield words(x + w // 2, top, title, "title")
    for n, line in enumerate(lines, 1):
        yield words(x + w // 2, top + 17 * n, line, "note")


def area(x, y, w, h, title):
    yield f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="10" class="area"/>'
    yield words(int(x) + 14, int(y) + 24, title, "area-title", "start")


def arrow(kind, *points):
    yield f'<path class="arrow {kind}" d="M{" ".join(points)}"/>'


def text(x, y, line):
    yield words(x, y, line, "note", "start")


SHAPES = {"area": area, "box": box, "arrow": arrow, "text": text}


def draw(source):
    lines = [shlex.split(line, comments=True) for line in source.splitlines()]
    (width, height), *shapes = [line[1:] if line[0] == "size" else line for line in lines if line]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
             f"<title>{escape('The chain of TrustBridge')}</title>", f"<style>{STYLE}</style>", f"<defs>{HEAD}</defs>",
             f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for name, *arguments in shapes:
        parts += SHAPES[name](*arguments)
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    sys.stdout.write(draw(open(sys.argv[1]).read()))
