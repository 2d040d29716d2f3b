"""The report's page as a Jinja template: one file, no script, no font and no picture from elsewhere."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>coat: what thinking in sound adds</title>
<style>
:root { color-scheme: light dark; --paper: #fcfbf8; --card: #ffffff; --ink: #20242f; --muted: #6d7280; --line: #e4e1d9;
  --thought: #cf3f22; --sound: #2c3e73; --good: #2f7d4f; --wash: #f6f3ec; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171c; --card: #1d2027; --ink: #e9e7e2; --muted: #9a9fab; --line: #30343d;
  --thought: #ff7a5c; --sound: #9db1ea; --good: #74c493; --wash: #23262e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 56px 28px 96px; }
h1 { font-size: 2.3rem; line-height: 1.12; letter-spacing: -.02em; margin: 0 0 .4rem; }
h1 em { color: var(--thought); font-style: normal; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 3.6rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 2.2rem 0 .4rem; }
p { margin: .5rem 0; max-width: 76ch; }
.muted, figcaption, dt { color: var(--muted); }
.label { display: inline-block; margin-top: .8rem; padding: .2rem .7rem; border-radius: 99px; background: var(--wash); font-size: .86rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 16px; margin: 2.2rem 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 20px 22px; }
.card b { font-size: .92rem; }
.card .big { font-size: 2.5rem; font-weight: 700; letter-spacing: -.03em; line-height: 1.15; font-variant-numeric: tabular-nums; }
.card .big small { font-size: .9rem; font-weight: 400; letter-spacing: 0; color: var(--muted); }
.card.clear .big { color: var(--thought); }
.card p { font-size: .92rem; margin: .35rem 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .42rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 500; font-size: .82rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td small { display: block; color: var(--muted); font-size: .76rem; line-height: 1.2; }
td.none { color: var(--muted); }
tr.claim td { border-top: 2px solid var(--ink); font-weight: 600; }
tr.claim td small { font-weight: 400; }
table.words td:nth-child(2), table.words th:nth-child(2) { text-align: left; white-space: normal; }
.yes { color: var(--thought); }
figure { margin: 1.2rem 0; }
img { display: block; width: 100%; height: auto; border-radius: 12px; border: 1px solid var(--line); }
figcaption { font-size: .88rem; margin-top: .5rem; }
summary { cursor: pointer; font-weight: 600; padding: .5rem 0; }
dl { display: grid; grid-template-columns: minmax(150px, 220px) 1fr; gap: .3rem 1.2rem; font-size: .92rem; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .88em; }
</style>
</head>
<body><main>

<h1>What <em>thinking in sound</em> adds</h1>
<p class="muted">Every model below answered the same {{ n }} questions of the {{ measured.split }} split. <b>sft</b> is plain fine-tuning;
<b>coat</b> is the same fine-tuning with a block of think tokens that audio experts taught to hear.</p>
{% if results.brief %}
<span class="label">A brief run with {{ results.seeds | length }} seed{{ "s" if results.seeds | length != 1 }}: it shows that the chain
works, and is no evidence.</span>
{% endif %}

<div class="cards">
{% for card in cards %}
<div class="card{{ ' clear' if card.shown }}"><b>{{ card.name }}</b>
<div class="big">{{ card.points }} <small>points, coat \u2212 sft</small></div>
<p>{{ card.headline }}</p></div>
{% endfor %}
</div>

{% if heard %}
<h2>What it heard</h2>
<p>For the first {{ measured.split }} clip of each family: what the experts measured on the sound, and what the heads read from the
thinking block before a single word is answered. Nothing is picked. <i>r</i> is the correlation over time.</p>
{% for group in heard %}
{% if not loop.first %}<details><summary>{{ group.name }}</summary>{% else %}<h3>{{ group.name }}</h3>{% endif %}
{% for picture in group.pictures %}
<figure><img alt="{{ picture.alt }}" src="{{ picture.data }}"></figure>
{% endfor %}
{% if not loop.first %}</details>{% endif %}
{% endfor %}
{% endif %}

<h2>Accuracy</h2>
<figure><img alt="Accuracy by family and arm" src="{{ charts.accuracy }}">
<figcaption>Dots are accuracies, lines their {{ confidence }} bootstrap intervals, grey ticks what guessing earns.</figcaption></figure>
{% if charts.differences %}
<figure><img alt="Differences between coat and sft by family" src="{{ charts.differences }}">
<figcaption>coat \u2212 sft on the same questions, in points, with paired {{ confidence }} bootstrap intervals.</figcaption></figure>
{% endif %}
{% for table in tables %}
<h3>{{ table.name }}</h3>
<div class="scroll"><table>
<tr><th></th>{% for column in columns %}<th>{{ column }}</th>{% endfor %}<th>unscored</th></tr>
<tr><td class="none">questions</td>{% for n in table.counts %}<td class="none">{{ n }}</td>{% endfor %}<td></td></tr>
{% for row in table.arms %}
<tr><td>{{ row.name }}</td>
{% for cell in row.cells %}
<td>{% if cell %}{{ cell.value }}{{ " \u2020" if cell.at_chance }}<small>{{ cell.interval }}</small>{% endif %}</td>
{% endfor %}
<td>{{ row.unscored }}</td></tr>
{% endfor %}
<tr><td class="none">chance ({{ table.chance_arm }})</td>{% for c in table.chance %}<td class="none">{{ c }}</td>{% endfor %}<td></td></tr>
{% for row in table.differences %}
<tr{{ ' class=claim' if loop.first }}><td>{{ row.name }}</td>
{% for cell in row.cells %}
<td>{% if cell %}<span{{ ' class=yes' if cell.shown }}>{{ cell.value }}</span><small>{{ cell.interval }}</small>{% endif %}</td>
{% endfor %}
<td></td></tr>
{% endfor %}
<tr><td class="none">drawn by</td>{% for text in table.drawn %}<td class="none">{{ text }}</td>{% endfor %}<td></td></tr>
</table></div>
{% endfor %}
<p class="muted">\u2020 not clear of chance: the interval of accuracy \u2212 chance, question by question, reaches zero. Differences
in colour have intervals that exclude zero.</p>

{% if latency %}
<h2>Latency</h2>
<p>The thinking block stands in the prompt: it costs its tokens in the one prefill and no decoded token. Merged models, the two
trials in turn in one process, the same number of tokens forced.</p>
<div class="scroll"><table>
<tr><th></th><th></th>{% for label in latency_labels %}<th>{{ label }}</th>{% endfor %}<th>prompt tokens</th><th>tokens decoded</th></tr>
{% for row in latency %}
<tr><td>{{ row.name }}</td><td>{{ row.trial }}</td>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
<p class="muted">Medians; ratios are taken pair by pair, with the least and the greatest in brackets.</p>
{% endif %}

{% if charts.training %}
<h2>Training</h2>
<figure><img alt="Training curves" src="{{ charts.training }}">
<figcaption>Answer loss of each arm, and what the experts' losses became in coat, smoothed. The dashed line is where the first stage
(ground) ends.</figcaption></figure>
{% endif %}

<h2>The data and its contract</h2>
<div class="scroll"><table>
<tr><th>split</th><th>questions</th><th>clips</th><th>groups</th><th>minutes</th></tr>
{% for name, split in corpus.splits.items() %}
<tr><td>{{ name }}</td><td>{{ split.examples }}</td><td>{{ split.clips }}</td><td>{{ split.groups }}</td>
<td>{{ "%.1f" | format(split.minutes) }}</td></tr>
{% endfor %}
</table></div>
<dl>
<dt>sources</dt><dd>{{ corpus.sources | join(", ") }}</dd>
<dt>licences</dt><dd>{{ corpus.licences | join(", ") }}</dd>
</dl>
{% if contract %}
<h3>Contract: {{ "passed" if contract.passed else "broken" }}</h3>
<p>{{ contract.accepted }} of {{ contract.rows }} rows accepted, {{ contract.quarantined }} set aside (at most
{{ "%.1f%%" | format(100 * contract.max_bad_share) }} may be).{% for text in contract.table_failures %} {{ text }}{% endfor %}</p>
<details><summary>{{ contract.expectations | length }} expectations</summary>
<div class="scroll"><table class="words">
<tr><th>expectation</th><th>what it expects</th><th>checked</th><th>failed</th></tr>
{% for check in contract.expectations %}
<tr><td>{{ check.name }}</td><td>{{ check.expects }}</td><td>{{ check.checked }}</td><td>{{ check.failed }}</td></tr>
{% endfor %}
</table></div></details>
{% endif %}

<h2>How it was measured</h2>
<p>Responses are greedy, saved first, and scored afterwards. A multiple-choice answer counts when it is the option, its letter, or the
one option that stands in a short phrase; a number within {{ measured.numeric_tolerance }} of the right one; transcriptions by 1 \u2212 word
error rate after the Whisper normaliser (digit by digit, where digits are all there is). What cannot be read is <i>unscored</i>: it counts
as wrong, and is a column of its own. Chance is one over the number of choices; for open answers it is what the same model earns when it is
played another clip. Several seeds are averaged within each question. Intervals come from {{ measured.bootstrap_resamples }} bootstrap
resamples of whole groups (speakers, recordings), or of single questions where a family has fewer than {{ measured.min_groups }} groups; the
row <i>drawn by</i> says which. With few groups such intervals are rather too narrow than too wide.</p>
<dl>
<dt>evaluation set</dt><dd><code>{{ results.evaluation_set }}</code></dd>
<dt>seeds</dt><dd>{{ results.seeds | join(", ") or "none trained" }}</dd>
{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}
</dl>
</main></body>
</html>
"""
