"""How the page looks, by day and by night; everything within its own class, for notebooks."""

STYLE = """
.neva-stats {
  --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #59636e; --line: #d5dae0;
  --bar: #2f6fb5; --rest: #9db8d6; --track: #e6e9ee; --warning: #9a4d00;
  background: var(--paper); color: var(--ink); box-sizing: border-box; color-scheme: light;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  padding: 24px max(16px, calc((100% - 1200px) / 2));
}
body > .neva-stats { min-height: 100vh; }
@media (prefers-color-scheme: dark) {
  .neva-stats {
    --paper: #14171b; --card: #1d2127; --ink: #e6e9ed; --quiet: #9ba6b2; --line: #39414b;
    --bar: #6ea8e6; --rest: #41618a; --track: #2a3038; --warning: #f0b070; color-scheme: dark;
  }
}
.neva-stats * { box-sizing: border-box; }
.neva-stats h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
.neva-stats h2 { font-size: 19px; margin: 32px 0 10px; }
.neva-stats h3 { font-size: 15px; margin: 16px 0 6px; }
.neva-stats p { margin: 4px 0 10px; overflow-wrap: anywhere; }
.neva-stats .quiet, .neva-stats small { color: var(--quiet); }
.neva-stats .warning { color: var(--warning); font-weight: 600; }
.neva-stats .hint { border-left: 4px solid var(--rest); margin: 24px 0; padding: 4px 12px; }
.neva-stats small { display: block; font-size: 12.5px; font-weight: 400; }
.neva-stats code { font-size: 13px; }
.neva-stats .totals {
  display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr));
  margin: 18px 0 0;
}
.neva-stats .totals > div { background: var(--card); border-radius: 8px; padding: 10px 14px; }
.neva-stats dt { color: var(--quiet); font-size: 13px; }
.neva-stats dd { font-size: 18px; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.neva-stats .cards {
  display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr));
}
.neva-stats figure { background: var(--card); border-radius: 8px; margin: 0; padding: 12px 14px; }
.neva-stats figcaption { font-weight: 600; margin-bottom: 8px; }
.neva-stats svg { display: block; height: auto; max-width: 420px; width: 100%; }
.neva-stats svg text { fill: var(--quiet); font-size: 11px; }
.neva-stats svg text.name { fill: var(--ink); font-size: 12px; }
.neva-stats svg .bar { fill: var(--bar); }
.neva-stats svg .rest { fill: var(--rest); }
.neva-stats svg .track { fill: var(--track); }
.neva-stats svg line { stroke: var(--line); stroke-width: 1; }
.neva-stats svg line.axis { stroke: var(--quiet); }
.neva-stats .wide { overflow-x: auto; }
.neva-stats table { border-collapse: collapse; font-size: 14px; margin: 6px 0; }
.neva-stats th, .neva-stats td {
  background: none; border-bottom: 1px solid var(--line); color: inherit; padding: 5px 12px 5px 0;
  text-align: left; vertical-align: top;
}
.neva-stats th { color: var(--quiet); font-size: 12.5px; font-weight: 400; }
.neva-stats .text { overflow-wrap: anywhere; }
.neva-stats .pair {
  align-items: start; display: grid; gap: 14px 32px;
  grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr));
}
.neva-stats .pair > * { min-width: 0; }
.neva-stats .number { font-variant-numeric: tabular-nums; text-align: right; }
.neva-stats td.number { white-space: nowrap; }
.neva-stats figcaption::first-letter { text-transform: uppercase; }
"""
