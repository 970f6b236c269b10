"""The report's page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fairseq_dsp.report.figures import look
from fairseq_dsp.report.pages import _curves_of, _pictures, write_report
from fairseq_dsp.study.results import Results, read_results

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LOOK = """<script>
addEventListener("load", () => {
  const all = (what) => [...document.querySelectorAll(what)];
  const ids = all("[id]").map((e) => e.id);
  const links = all("use").map((e) => (e.getAttribute("href") || e.getAttribute("xlink:href")).slice(1));
  parent.postMessage({
    width: document.documentElement.scrollWidth,
    pictures: all("svg").map((e) => Math.min(e.getBBox().width, e.getBoundingClientRect().width)),
    cut: all("svg, table").filter((e) => !e.closest(".wide, figure")).length,
    twice: ids.length - new Set(ids).size,
    lost: links.filter((id) => !document.getElementById(id)),
    links: links.length,
  }, "*");
});
</script>"""
WRAPPER = """<!DOCTYPE html><body><script>
const found = {};
addEventListener("message", (event) => {
  const frame = [...document.querySelectorAll("iframe")].find((e) => e.contentWindow === event.source);
  found[frame.width] = event.data;
  document.querySelector("pre").textContent = JSON.stringify(found);
});
</script><pre></pre>
<iframe src="page.html" width="1280" height="800" style="border: 0"></iframe>
<iframe src="page.html" width="390" height="800" style="border: 0"></iframe>
</body>"""


def test_the_page_fits_and_shows_its_pictures(made_up: Results, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip(f"none of the browsers {', '.join(BROWSERS)} is installed")
    write_report(made_up, tmp_path / "report", "paper")
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    (tmp_path / "page.html").write_text(page.replace("</head>", LOOK + "</head>"), encoding="utf-8")
    (tmp_path / "wrapper.html").write_text(WRAPPER, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "wrapper.html").as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = json.loads(html.unescape(re.findall("<pre>(.*)</pre>", done.stdout)[0]))
    assert sorted(found) == ["1280", "390"]
    for width, of_page in found.items():
        assert of_page["width"] <= int(width)  # nothing but tables and pictures has to be moved sideways
        assert len(of_page["pictures"]) == 6  # BLEU, two maps of heads, two of learning curves, cost
        assert min(of_page["pictures"]) > 300
        assert of_page["cut"] == of_page["twice"] == 0
        assert of_page["links"] > 50
        assert not of_page["lost"]
    assert "CONSOLE" not in done.stderr  # where errors of scripts and of loading are told


def test_a_method_that_nothing_can_be_compared_with(
    made_up: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run for run in made_up.runs if run["label"] != "paper" or run["heads"] == 6]
    runs = [run for run in runs if run["label"] != "joint" or run["heads"] == 3]
    write_report(Results(made_up.folder, made_up.study, runs), tmp_path, "paper")
    told = f"no method has as many heads as {made_up.titles['paper']}: nothing is compared with it"
    assert told in capsys.readouterr().err
    assert "Against" not in (tmp_path / "report.md").read_text()


def test_methods_look_different() -> None:
    assert len({look(i) for i in range(49)}) == 49


def test_learning_curves_are_of_a_seed_that_the_method_has(made_up: Results, tmp_path: Path) -> None:
    """As of a method with seeds of its own, or of several on a given model."""
    shutil.copytree(made_up.folder, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("runs/joint-k6-*"):
        shutil.rmtree(path)
    results = read_results(tmp_path)
    for runs in (results.runs, results.runs[::-1]):  # the order of the study says nothing
        pictures = _pictures(Results(tmp_path, results.study, runs), 1.0)
        titles = [title for name, (title, _) in pictures.items() if name.startswith("learning-")]
        of_paper = f"Learning curves: {results.titles['paper']}, seed 1"
        assert titles == ["Learning curves: exact subsets, seed 3", of_paper]


def test_learning_curves_are_of_one_method(made_up: Results) -> None:
    """Their names say what each training was asked for, and the study whose each is."""
    names = ["joint-k6-s1", "joint-l0.01-s1", "joint-p0.5-s1", "joint-f0.5-s1", "joint-k6-s2", "joint-more-k6-s1"]
    labels = dict.fromkeys(names, "joint") | {names[-1]: "joint-more"}
    labels |= {"joint-l2-2-s1": "joint-l2-2", "joint-k3-s1": "joint-k3"}  # unpruned models of these names
    results = Results(made_up.folder, {**made_up.study, "labels": labels}, made_up.runs)
    found = _curves_of(results, {name: {} for name in labels}, "joint", 1)
    assert list(found) == ["6 heads", "0.5 of the parameters", "0.5 of the FLOPs", "λ = 0.01"]


@pytest.mark.parametrize("noted", [True, False], ids=["this version", "an earlier one"])
def test_learning_curves_are_of_runs_of_the_study(noted: bool, made_up: Results, tmp_path: Path) -> None:
    """A folder may be left of a study that has been changed since."""
    shutil.copytree(made_up.folder, tmp_path, dirs_exist_ok=True)
    for other in ("joint-k9-s1", "joint-training-s1"):
        shutil.copytree(tmp_path / "runs/joint-k6-s1", tmp_path / "runs" / other)
    (tmp_path / "runs/joint-k9-s1/result.json").unlink()
    study = json.loads((tmp_path / "study.json").read_text())
    if noted:
        study["labels"] = {run["run"]: run["label"] for run in made_up.runs} | {"joint-training-s1": "joint"}
    curves = Results(tmp_path, study, made_up.runs).curves()
    assert sorted(curves) == sorted([*study["runs"], "joint-training-s1"])
