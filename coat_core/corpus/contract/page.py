"""The contract's result as one HTML page: no scripts, no fonts, nothing loaded from anywhere; light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5c6675;--line:#d9dee6;--page:#fff;--card:#f5f7fa;--good:#137a4b;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#9aa5b4;--line:#323a47;--page:#14181f;--card:#1c222c;--good:#5fd39b;--bad:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:62rem;margin:2.5rem auto;padding:0 1.2rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}
.verdict{font-weight:650}.good{color:var(--good)}.bad{color:var(--bad)}.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.38rem .7rem .38rem 0;
  border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.cards{display:flex;gap:.8rem;flex-wrap:wrap;margin:1.2rem 0}
.card{background:var(--card);border-radius:.5rem;padding:.6rem 1rem;min-width:7rem}
.card b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}code{font-size:.92em;overflow-wrap:anywhere}
"""


def contract_page(result: Mapping[str, Any]) -> str:
    """Return the page for a contract result in its JSON form."""
    passed = bool(result["passed"])
    verdict = f'<span class="verdict {"good" if passed else "bad"}">{"passed" if passed else "failed"}</span>'
    audio = result["audio"]
    cards = [
        (f"{result['rows']:,}", "rows"),
        (f"{result['accepted']:,}", "accepted"),
        (f"{result['quarantined']:,}", f"set aside ({result['bad_share']:.2%}, allowed {result['max_bad_share']:.2%})"),
        (f"{audio['files']:,.0f}", "audio files"),
        (f"{audio['seconds'] / 60:,.1f}", "minutes of audio"),
    ]
    shown = "".join(f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(label)}</span></div>' for value, label in cards)
    failures = "".join(f'<p class="bad">{escape(failure)}</p>' for failure in result["table_failures"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Data contract: {'passed' if passed else 'failed'}</title><style>{_STYLE}</style></head><body>"
        f'<h1>Data contract: {verdict}</h1><p class="soft">What every row must hold before anything is trained on it.</p>'
        f'<div class="cards">{shown}</div>{failures}'
        f"<h2>Expectations</h2>{_expectations(result)}<h2>Accepted rows</h2>{_counts(result['counts'])}"
        f"<h2>Limits</h2>{_limits(result['limits'])}</body></html>\n"
    )


def _expectations(result: Mapping[str, Any]) -> str:
    rows = []
    for entry in result["expectations"]:
        mark = '<span class="bad">✗</span>' if entry["failed"] else '<span class="good">✓</span>'
        first = "".join(f"<br><code>{escape(row['id'])}</code> <span class='soft'>{escape(row['reason'])}</span>" for row in entry["first"])
        rows.append(
            f"<tr><td>{mark}</td><td><code>{escape(entry['name'])}</code></td><td>{escape(entry['expects'])}{first}</td>"
            f'<td class="n">{entry["checked"]:,}</td><td class="n">{entry["failed"]:,}</td></tr>'
        )
    head = '<tr><th></th><th>expectation</th><th>what is expected</th><th class="n">checked</th><th class="n">broken</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def _counts(counts: Mapping[str, Mapping[str, int]]) -> str:
    families = sorted({family for split in counts.values() for family in split})
    head = "".join(f'<th class="n">{escape(family)}</th>' for family in families)
    rows = "".join(
        f"<tr><td>{escape(split)}</td>{''.join(f'<td class=n>{found.get(family, 0):,}</td>' for family in families)}</tr>"
        for split, found in counts.items()
    )
    return f"<table><tr><th>split</th>{head}</tr>{rows}</table>"


def _limits(limits: Mapping[str, Any]) -> str:
    rows = "".join(f'<tr><td><code>{escape(name)}</code></td><td class="n">{value:g}</td></tr>' for name, value in limits.items())
    return f"<table>{rows}</table>"
