"""How the pages are laid out: templates around Bokeh's models, and style sheets."""

HERE = """
main.viewer { max-width: 1560px; }
header { padding: 22px 0 4px; }
.two { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0 18px; align-items: start; }
.two > section, .pair > div { min-width: 0; }
@media (min-width: 1080px) { .two { grid-template-columns: minmax(0, 5fr) minmax(0, 8fr); }
  .two > section:first-child { position: sticky; top: 0; } }
@media (min-width: 1320px) { .pair { display: grid; gap: 0 28px; align-items: start;
  grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } }
.controls { display: grid; gap: 10px 14px; align-items: end; margin: 6px 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(150px, 100%), 1fr)); }
"""
"""Of the page, beside the report's."""
IN_WIDGET = """
:host { font-size: 15px; }
label { font-size: 14px; color: #1f2430; }
.bk-input { font-size: 15px; min-height: 38px; color: #1f2430; border-color: #6b7280; }
.bk-btn { font-size: 15px; min-height: 38px; color: #1f2430; border-color: #6b7280; }
.bk-btn:focus-visible, .bk-input:focus-visible { outline: 3px solid #0072b2; outline-offset: 1px; }
"""
"""Of a field or button: each has a style of its own."""
IN_DIV = """
:host { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial,
  sans-serif; color: #1f2430; }
.bk-clearfix { width: 100%; }
h3 { margin-top: 14px; }
th, td { padding-right: 18px; }
@media (max-width: 560px) { th, td { padding-right: 11px; } }
.told td:not(:last-child), .labels td:not(:nth-child(3)) { white-space: nowrap; }
.labels td:nth-child(3) { min-width: 12ch; }
.told td:last-child { min-width: 14ch; }
.facts td:last-child { overflow-wrap: anywhere; }
"""
"""Of a text, beside the report's."""

_HEAD = """
{% block preamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
{% endblock %}
{% block postamble %}<style>{{ style }}</style>{% endblock %}
"""
_TITLE = "<header><h1>{{ name | e }}</h1><p>{{ lead | e }}</p></header>"
_STAR = """
<section aria-label="Star">
<div class="controls">
{{ embed(roots.obsid) }}{{ embed(roots.previous) }}{{ embed(roots.next) }}{{ embed(roots.region) }}
</div>
{{ embed(roots.message) }}{{ embed(roots.head) }}
{{ embed(roots.spectrum) }}{{ embed(roots.residual) }}{{ embed(roots.masks) }}
{{ embed(roots.labels) }}
<div class="pair">
<div>{{ embed(roots.masked) }}{{ embed(roots.neighbors) }}</div>
<div>{{ embed(roots.facts) }}</div>
</div>
</section>
"""
CATALOG = (
    _HEAD
    + '{% block contents %}<main class="viewer">'
    + _TITLE
    + """
<div class="two">
<section aria-label="Catalog">
<h2>Catalog</h2>
<div class="controls">{{ embed(roots.kind) }}{{ embed(roots.example) }}</div>
<div class="controls">
{{ embed(roots.across) }}{{ embed(roots.up) }}{{ embed(roots.color) }}
</div>
{{ embed(roots.diagram) }}{{ embed(roots.count) }}{{ embed(roots.own) }}
</section>
"""
    + _STAR
    + "</div></main>{% endblock %}"
)
"""The diagram, and a star beside it or, where the screen is narrow, below."""
STAR = (
    _HEAD
    + '{% block contents %}<main class="viewer">'
    + _TITLE
    + "{{ embed(roots.there) }}"
    + _STAR
    + "</main>{% endblock %}"
)
"""A star alone."""
