"""The pieces of a self-contained page: one file, no script, no outside resource, readable and printable."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

__all__ = [
    "Html",
    "card",
    "chips",
    "columns",
    "data_url",
    "details",
    "figure",
    "fold",
    "pair",
    "paragraph",
    "render",
    "section",
    "table",
    "video",
]

Html = str
"""Markup; plain text becomes Html through `escape`."""

CSS = """
:root { --ink: #1c2430; --faint: #667085; --line: #e4e7ee; --paper: #ffffff; --ground: #f6f7f9; --good: #00734f;
  --bad: #a63f00; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.55; font-size: 16px;
  font-family: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans",
  sans-serif; -webkit-font-smoothing: antialiased; }
main { max-width: 1080px; margin: 0 auto; padding: 44px 28px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 8px; text-wrap: balance; }
h2 { font-size: 19px; letter-spacing: -0.005em; margin: 0 0 4px; }
h3 { font-size: 14px; margin: 22px 0 6px; color: var(--ink); }
p { margin: 6px 0 10px; max-width: 74ch; }
.lead { color: var(--faint); font-size: 16.5px; max-width: 74ch; margin: 0; }
.note, .meta { color: var(--faint); font-size: 13.5px; }
nav { margin: 18px 0 0; font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 18px; }
nav a { color: var(--faint); text-decoration: none; border-bottom: 1px solid var(--line); }
nav a:hover { color: var(--ink); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 22px 26px 24px;
  margin-top: 22px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 420px)); gap: 16px; margin-top: 26px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 16px 20px;
  border-top: 4px solid var(--accent, #c3c9d4); }
.card b { display: block; font-size: 30px; letter-spacing: -0.02em; line-height: 1.15;
  font-variant-numeric: tabular-nums; }
.card .label { font-size: 14px; font-weight: 600; }
.card .note { margin: 2px 0 0; }
.chips { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13.5px; margin: 8px 0 10px; }
.chip { display: inline-flex; align-items: center; gap: 7px; white-space: nowrap; }
.dot { width: 11px; height: 11px; border-radius: 3px; background: var(--accent); display: inline-block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; margin: 10px 0 4px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--faint); font-size: 12.5px; border-bottom: 1.5px solid var(--line);
  padding: 6px 14px 6px 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 7px 14px 7px 0; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th.n, td.n { text-align: right; }
td:first-child { white-space: nowrap; }
td small { color: var(--faint); font-size: 12px; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.pair { display: flex; flex-wrap: wrap; gap: 8px 40px; } .pair > div { flex: 0 1 auto; min-width: 0; }
figure { margin: 10px 0 0; } figure svg { max-width: 100%; height: auto; display: block;
  font-family: inherit; }
figcaption { color: var(--faint); font-size: 13px; margin-top: 4px; max-width: 80ch; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 16px; margin-top: 12px; }
.film video { width: 100%; border-radius: 8px; background: #10151d; display: block; aspect-ratio: 1; }
.film p { font-size: 13px; margin: 6px 0 0; line-height: 1.4; }
details { border-top: 1px solid var(--line); padding: 9px 0; } details:first-of-type { border-top: 0; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; }
pre { background: var(--ground); border-radius: 8px; padding: 12px 14px; font-size: 12.5px; overflow-x: auto;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.92em; }
ul { margin: 6px 0; padding-left: 20px; } li { margin: 4px 0; max-width: 80ch; }
footer { color: var(--faint); font-size: 13px; margin-top: 26px; }
@media print { body { background: #fff; } section { break-inside: avoid; } nav { display: none; } }
@media (max-width: 640px) { main { padding: 26px 14px 48px; } section { padding: 16px; } h1 { font-size: 25px; } }
"""


def render(title: str, lead: str, body: Sequence[tuple[str, Html]], *, top: Html = "", foot: str = "") -> str:
    """Return the whole page; `body` holds (heading, content) of each section, empty ones are left out."""
    kept = [(heading, content) for heading, content in body if content]
    links = "".join(f'<a href="#s{i}">{escape(heading)}</a>' for i, (heading, _) in enumerate(kept))
    sections = "".join(
        f'<section id="s{i}"><h2>{escape(heading)}</h2>{content}</section>\n'
        for i, (heading, content) in enumerate(kept)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav></header>\n'
        f"{top}\n{sections}<footer>{escape(foot)}</footer>\n</main></body></html>\n"
    )


def section(*parts: Html) -> Html:
    """Return the parts one below the other."""
    return "\n".join(part for part in parts if part)


def paragraph(text: str, *, faint: bool = False) -> Html:
    """Return a paragraph of plain text."""
    return f"<p{' class=note' if faint else ''}>{escape(text)}</p>"


def card(label: str, value: str, note: str, colour: str | None = None) -> Html:
    """Return a card with one large number."""
    accent = f' style="--accent: {colour}"' if colour else ""
    return (
        f'<div class="card"{accent}><span class="label">{escape(label)}</span><b>{escape(value)}</b>'
        f'<p class="note">{escape(note)}</p></div>'
    )


def columns(cards: Iterable[Html]) -> Html:
    """Return cards side by side."""
    inner = "".join(cards)
    return f'<div class="cards">{inner}</div>' if inner else ""


def chips(colours: Mapping[str, str]) -> Html:
    """Return a legend: one coloured mark a name."""
    marks = (
        f'<span class="chip"><i class="dot" style="--accent: {colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<div class="chips">{"".join(marks)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str | Html]], *, numbers: Sequence[int] = ()) -> Html:
    """Return a table; cells are Html; the columns in `numbers` are set flush right."""
    marks = ['class="n"' if index in numbers else "" for index in range(len(head))]
    top = "".join(f"<th {mark}>{escape(name)}</th>" for name, mark in zip(head, marks))
    lines = "".join(
        "<tr>" + "".join(f"<td {mark}>{cell}</td>" for cell, mark in zip(row, marks)) + "</tr>\n" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def figure(svg: Html, caption: str = "") -> Html:
    """Return a plot with its caption."""
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{text}</figure>"


def pair(parts: Iterable[Html]) -> Html:
    """Return parts side by side where there is room."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def details(summary: str, text: str) -> Html:
    """Return a folded block of preformatted text."""
    return fold(summary, f"<pre>{escape(text)}</pre>")


def fold(summary: str, content: Html) -> Html:
    """Return content that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def video(source: str, label: Html) -> Html:
    """Return a video with its label; `source` is a URL (relative, or a data: URL)."""
    return (
        f'<div class="film"><video src="{escape(source, quote=True)}" controls muted loop playsinline '
        f'preload="metadata"></video><p>{label}</p></div>'
    )


def data_url(path: Path, kind: str = "video/mp4") -> str:
    """Return the file as a data: URL, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
