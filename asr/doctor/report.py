"""The doctor's report, as lines for the terminal and as an HTML page."""

import json
from html import escape
from itertools import islice, pairwise
from pathlib import Path
from string import Template

from asr.doctor.findings import ERROR, SEVERITIES, WARNING, Diagnosis, Finding, Histogram, Summary

# The terminal shows this many cases of each finding.
CASES_SHOWN = 3
HEADINGS = dict(zip(SEVERITIES, ("ERRORS", "WARNINGS", "INFORMATION"), strict=True))


def render_lines(diagnosis: Diagnosis) -> list[str]:
    """The report as lines of text: each finding with a few of its cases and what to do about it."""
    sections = {summary.split: summary.facts for summary in diagnosis.summaries}
    if diagnosis.cost:
        first = diagnosis.summaries[0].split
        sections[f"estimated cost of an epoch on {first}"] = diagnosis.cost
    lines = []
    for title, facts in sections.items():
        lines += [title, *(f"  {name:<18}{value}" for name, value in facts.items())]
    for severity in SEVERITIES:
        findings = [f for f in diagnosis.findings if f.severity == severity]
        if findings:
            lines += ["", HEADINGS[severity]]
        for finding in findings:
            lines += _render_finding(finding)
    return [*lines, "", _summarize_counts(diagnosis)]


def render_json(diagnosis: Diagnosis) -> str:
    """The report as a JSON document."""
    return json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False) + "\n"


def _render_finding(finding: Finding) -> list[str]:
    lines = [f"  {finding.title}{finding.where}: {finding.detail}"]
    for name, detail in islice(finding.cases.items(), CASES_SHOWN):
        # The detail of a line begins with its number, which is its name.
        case = detail if finding.kind == "line" else f"{name}: {detail}"
        lines.append(f"    {_escape_controls(case)}")
    if len(finding.ids) > CASES_SHOWN:
        lines.append(f"    and {len(finding.ids) - CASES_SHOWN:,} more")
    return [*lines, f"    -> {finding.fix}"]


def _escape_controls(text: str) -> str:
    """A text with escape sequences in place of control characters, which can steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _summarize_counts(diagnosis: Diagnosis) -> str:
    errors, warnings = diagnosis.count(ERROR), diagnosis.count(WARNING)
    if not errors and not warnings:
        return "These manifests have no errors and no warnings."
    return f"Utterances or lines with errors: {errors:,}, with warnings: {warnings:,}."


# The size of a histogram in pixels, without the numbers and the caption below it.
CHART_WIDTH = 260
CHART_HEIGHT = 80


def render_page(diagnosis: Diagnosis) -> str:
    """The report as a single HTML page without links to other files: all ids, and histograms."""
    findings = "".join(map(_render_details, diagnosis.findings))
    cost = ""
    if diagnosis.cost:
        name = escape(diagnosis.summaries[0].split)
        cost = f"<h2>Estimated cost of an epoch on {name}</h2>{_render_facts(diagnosis.cost)}"
    template = Template(Path(__file__).with_name("report.html").read_text("utf-8"))
    return template.substitute(
        conclusion=escape(_summarize_counts(diagnosis)),
        findings=findings or "<p>None.</p>",
        summaries="".join(map(_render_summary, diagnosis.summaries)),
        cost=cost,
    )


def _render_details(finding: Finding) -> str:
    cells = (map(_render_cell, case) for case in finding.cases.items())
    rows = "".join(f"<tr>{name}{detail}</tr>\n" for name, detail in cells)
    cases = f'<table class="cases">{rows}</table>' if rows else ""
    return (
        f'<details><summary><span class="mark {finding.severity}">{finding.severity}</span>'
        f"{escape(finding.title + finding.where)}: {escape(finding.detail)}</summary>"
        f"<p>{escape(finding.fix)}</p>{cases}</details>\n"
    )


def _render_cell(text: str) -> str:
    return f"<td>{escape(_escape_controls(text))}</td>"


def _render_summary(summary: Summary) -> str:
    charts = "".join(map(_render_histogram, summary.histograms))
    return (
        f"<h2>{escape(summary.split)}</h2>{_render_facts(summary.facts)}"
        f'<div class="charts">{charts}</div>\n'
    )


def _render_facts(facts: dict[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


def _render_histogram(histogram: Histogram) -> str:
    highest = max(histogram.counts)
    width = CHART_WIDTH / len(histogram.counts)
    bars = enumerate(zip(histogram.counts, pairwise(histogram.edges), strict=True))
    columns = "".join(
        f'<rect x="{number * width:.1f}" y="{CHART_HEIGHT * (1 - count / highest):.1f}" '
        f'width="{width * 0.9:.1f}" height="{CHART_HEIGHT * count / highest:.1f}">'
        f"<title>{low:.3g} to {high:.3g}: {count:,}</title></rect>"
        for number, (count, (low, high)) in bars
        if count
    )
    first, last = histogram.edges[0], histogram.edges[-1]
    caption = escape(f"{histogram.name} ({histogram.unit})")
    return (
        f'<figure><svg width="{CHART_WIDTH}" height="{CHART_HEIGHT + 16}" role="img">{columns}'
        f'<text x="0" y="{CHART_HEIGHT + 13}">{first:.3g}</text>'
        f'<text x="{CHART_WIDTH}" y="{CHART_HEIGHT + 13}" text-anchor="end">{last:.3g}</text>'
        f"</svg><figcaption>{caption}</figcaption></figure>"
    )
