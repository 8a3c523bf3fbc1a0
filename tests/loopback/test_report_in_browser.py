"""The report of a simulation in a real browser: every plot is drawn, nothing runs out of the page, nothing is fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from potsherd.simulations.findings import Findings
from potsherd.simulations.report.page import report
from potsherd.simulations.study import read_study
from potsherd.simulations.sweep import run_tasks, tasks

SCENARIO = """
name = "small"
years = 2
replicates = 2
[data]
segments = 30
[code]
k = 2
n = 5
r = 4
[[nodes]]
count = 30
turnover = "60%/y"
[[what_if]]
field = "code.r"
values = [3, 5]
"""
PROBE = """<script>
addEventListener("load", () => {
  const plots = [...document.querySelectorAll("svg")].map(svg => {
    const box = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll("path, polyline, line, circle")];
    const inked = marks.filter(mark => getComputedStyle(mark).stroke !== "none" && mark.getTotalLength() > 0);
    return {title: svg.querySelector("title").textContent, width: box.width, height: box.height, marks: inked.length};
  });
  const found = {plots, wide: document.documentElement.scrollWidth, window: innerWidth,
                 fetched: performance.getEntriesByType("resource").length};
  document.body.insertAdjacentHTML("beforeend", "<pre id=found></pre>");
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_TIMEOUT_S = 120


@pytest.mark.slow
def test_every_plot_is_drawn(tmp_path: Path) -> None:
    browser = next((b for name in BROWSERS if (b := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)}")
    (tmp_path / "small.toml").write_text(SCENARIO)
    findings = Findings(read_study(tmp_path / "small.toml"), "numpy")
    for done in run_tasks(tasks(findings.scenarios, "numpy"), processes=1):
        findings.add(done)
    page = tmp_path / "report.html"
    page.write_text(report(findings, "1.2.3").replace("</body>", PROBE + "</body>"))
    shown = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,900"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=BROWSER_TIMEOUT_S,
        check=True,
    ).stdout
    text = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert text is not None, shown[-500:]
    found = json.loads(unescape(text[1]))
    assert len(found["plots"]) == 5
    for plot in found["plots"]:
        assert plot["width"] > 300 and plot["height"] > 150, plot
        assert plot["marks"] >= 5, plot
    assert found["wide"] <= found["window"], "nothing to scroll sideways"
    assert found["fetched"] == 0
