"""The one style sheet of the report. It asks for nothing from anywhere."""

from app.reports.markup import Html

STYLE = Html("""
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --tint: #f3f5f7;
  --accent: #0b5cad; --wide: #c9dcf0; --near: #8db8e2; --ship: #1a7f37; --stop: #b3261e; --wait: #7a5d00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ed; --soft: #a3adb8; --rule: #3a424c;
  --tint: #1e242b; --accent: #7db7f2; --wide: #22384f; --near: #36618d; --ship: #58c97a; --stop: #ff8a80;
  --wait: #e3c04b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 2px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
p, ul, dl { margin: .5rem 0; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.verdict { border: 2px solid currentColor; border-radius: 6px; padding: .2rem 1rem .6rem; margin: 1rem 0; }
.verdict h2 { border: 0; padding: 0; margin: .5rem 0; font-size: 1.4rem; }
.verdict.ship h2 { color: var(--ship); } .verdict.stop h2 { color: var(--stop); }
.verdict.wait h2 { color: var(--wait); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; font-size: .88rem; }
caption { text-align: left; color: var(--soft); padding: .2rem 0; caption-side: top; }
th, td { text-align: left; vertical-align: top; padding: .3rem .5rem; border-bottom: 1px solid var(--rule); }
thead th { border-bottom: 2px solid var(--soft); white-space: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.text { overflow-wrap: anywhere; min-width: 7rem; }
td small, th small { display: block; color: var(--soft); font-weight: normal; }
tbody th { font-weight: 600; overflow-wrap: anywhere; min-width: 8rem; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1rem; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .86em; overflow-wrap: anywhere; }
.note { border-left: 4px solid var(--rule); padding-left: .7rem; }
.alarm { border-left: 4px solid var(--stop); padding-left: .7rem; font-weight: 600; }
figure { margin: .8rem 0 1.2rem; }
svg { display: block; width: 100%; max-width: 45rem; height: auto; background: var(--paper); }
svg text { font-size: 12px; fill: var(--ink); font-family: inherit; unicode-bidi: isolate; }
svg .tick { fill: var(--soft); } svg .strong { font-weight: 600; }
.axis { stroke: var(--soft); } .grid { stroke: var(--rule); stroke-width: .7; }
.zero { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 2 3; }
.thick { stroke: var(--accent); stroke-width: 4; } .thin { stroke: var(--ink); stroke-width: 1.2; }
.point { fill: var(--accent); stroke: var(--paper); stroke-width: .5; }
.band.always { fill: var(--wide); } .band.fixed { fill: var(--near); }
.edge { stroke: var(--ink); stroke-width: .9; } .edge.always { stroke-dasharray: 5 3; }
.cross { stroke: var(--ink); stroke-width: 1.4; fill: none; }
.curve { stroke: var(--accent); stroke-width: 2.2; }
.good { fill: var(--near); } .hatch { stroke: var(--ink); stroke-width: .8; }
.line { stroke-width: 2; } .leader { stroke: var(--soft); stroke-width: .6; }
.mark { stroke-width: 1.2; fill: var(--paper); }
.s0 { stroke: var(--ink); } .s1 { stroke: var(--accent); } .s2 { stroke: var(--ship); }
.s3 { stroke: var(--stop); } .s4 { stroke: var(--wait); } .s5 { stroke: var(--soft); }
.line.s1 { stroke-dasharray: 8 4; } .line.s2 { stroke-dasharray: 2 3; } .line.s3 { stroke-dasharray: 10 3 2 3; }
.line.s4 { stroke-dasharray: 5 5; } .line.s5 { stroke-dasharray: 1 2; }
@page { size: A4; margin: 14mm; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --tint: #fff; --accent: #0b5cad;
    --wide: #d5e4f3; --near: #9cc2e8; --ship: #1a6b30; --stop: #9c1f18; --wait: #6a5100; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  table { font-size: 8.5pt; } .scroll { overflow: visible; }
  h2, h3, caption { break-after: avoid; }
  figure, tr, .verdict, dl > div { break-inside: avoid; }
  thead { display: table-header-group; }
  section.sheet { break-before: page; }
}
""")
