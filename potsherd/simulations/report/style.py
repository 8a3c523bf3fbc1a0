"""How the report looks: one style sheet, light and dark, nothing loaded from elsewhere."""

__all__ = ["STYLE"]

STYLE = """
:root { --ink: #1c1b19; --soft: #6b665f; --paper: #fbfaf7; --card: #ffffff; --rule: #e4dfd6;
  --c0: #b4552d; --c1: #2f6f8f; --c2: #6b8e3d; --c3: #8a6fb0; }
@media (prefers-color-scheme: dark) { :root { --ink: #ece8e1; --soft: #a39c92; --paper: #191816; --card: #22201d;
  --rule: #3a362f; --c0: #e08a5e; --c1: #6fb2d2; --c2: #a3c470; --c3: #b9a2dc; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft, figcaption { color: var(--soft); }
.warning { border-left: 4px solid var(--c0); padding: .5rem .9rem; background: var(--card); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.3rem; font-weight: 600; } .card span { color: var(--soft); font-size: .87rem; }
figure { margin: .6rem 0 1.4rem; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 1rem; }
figure > strong { display: block; margin-bottom: .3rem; } figcaption { font-size: .87rem; margin-top: .4rem; }
svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); } .level { stroke: var(--soft); stroke-dasharray: 2 4; }
.tick, .label { fill: var(--soft); font-size: 12px; }
.line { fill: none; stroke-width: 2; } .line.dashed { stroke-dasharray: 6 4; } .bar { stroke-width: 2; fill: none; }
.line.c0, .bar.c0 { stroke: var(--c0); } .dot.c0 { fill: var(--c0); } .line.c1, .bar.c1 { stroke: var(--c1); } .dot.c1 { fill: var(--c1); }
.line.c2, .bar.c2 { stroke: var(--c2); } .dot.c2 { fill: var(--c2); } .line.c3, .bar.c3 { stroke: var(--c3); } .dot.c3 { fill: var(--c3); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .87rem; } .key { display: inline-flex; align-items: center; gap: .4rem; }
.mark { width: 1.2rem; height: 0; border-top: 3px solid; } .mark.dashed { border-top-style: dashed; }
.mark.c0 { color: var(--c0); } .mark.c1 { color: var(--c1); } .mark.c2 { color: var(--c2); } .mark.c3 { color: var(--c3); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 1rem; overflow-x: auto; font-size: .85rem; }
"""
