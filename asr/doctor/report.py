"""The doctor's report, in the terminal and as an HTML page."""

from html import escape

from asr.doctor.findings import (
    ERROR,
    INFORMATION,
    SEVERITIES,
    WARNING,
    Diagnosis,
    Finding,
    Histogram,
    Summary,
)

NAMES_SHOWN = 3  # cases of a finding that the terminal shows
PLURALS = {ERROR: "errors", WARNING: "warnings", INFORMATION: "information"}


def render_lines(diagnosis: Diagnosis) -> list[str]:
    """The report as lines of text: each finding with its first few cases and what to do."""
    lines = []
    for summary in diagnosis.summaries:
        lines.append(summary.split)
        lines += [f"  {name:<18}{value}" for name, value in summary.facts.items()]
    if diagnosis.cost:
        lines.append(f"an epoch on {diagnosis.summaries[0].split}, estimated")
        lines += [f"  {name:<18}{value}" for name, value in diagnosis.cost.items()]
    for severity in SEVERITIES:
        findings = [f for f in diagnosis.findings if f.severity == severity]
        if findings:
            lines += ["", PLURALS[severity].upper()]
        for finding in findings:
            lines += _render_finding(finding)
    return [*lines, "", _conclude(diagnosis)]


def _render_finding(finding: Finding) -> list[str]:
    where = f" in {finding.split}" if finding.split else ""
    lines = [f"  {finding.title}{where}: {finding.detail}"]
    cases = list(zip(finding.ids, finding.details, strict=True))
    lines += [f"    {_label(finding, name, detail)}" for name, detail in cases[:NAMES_SHOWN]]
    if len(cases) > NAMES_SHOWN:
        lines.append(f"    and {len(cases) - NAMES_SHOWN:,} more")
    return [*lines, f"    -> {finding.fix}"]


def _label(finding: Finding, name: str, detail: str) -> str:
    label = detail if finding.kind == "line" else f"{name}: {detail}"  # a line's detail names it
    return _printable(label)


def _printable(text: str) -> str:
    """A text whose control characters, which could steer a terminal, are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _conclude(diagnosis: Diagnosis) -> str:
    errors, warnings = diagnosis.count(ERROR), diagnosis.count(WARNING)
    if not errors and not warnings:
        return "Nothing is wrong with these manifests."
    return f"Utterances or lines with errors: {errors:,}, with warnings: {warnings:,}."


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4878a8; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.2rem .15rem 0; text-align: left;
  vertical-align: top; font-weight: normal; } th { opacity: .7; white-space: nowrap; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } .cases { font-size: 13px; margin: .5rem 0; }
.cases td:first-child { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.mark { display: inline-block; min-width: 6.2rem; font-size: 12px; border-radius: 4px; color: #fff;
  text-align: center; margin-right: .6rem; }
.error { background: #b3261e; } .warning { background: #9a6700; } .information { background: #57606a; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; }
figcaption { font-size: 13px; } rect { fill: var(--bar); }
svg text { font-size: 11px; fill: currentColor; }
"""
_CHART_WIDTH, _CHART_HEIGHT = 260, 80  # pixels of the columns


def render_page(diagnosis: Diagnosis) -> str:
    """The report as one HTML page that needs nothing else: all ids, and histograms."""
    findings = "".join(map(_render_details, diagnosis.findings))
    cost = ""
    if diagnosis.cost:
        name = escape(diagnosis.summaries[0].split)
        cost = f"<h2>An epoch on {name}, estimated</h2>{_render_facts(diagnosis.cost)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>asr doctor</title><style>{_STYLE}</style></head>\n<body><h1>asr doctor</h1>"
        f"<p>{escape(_conclude(diagnosis))}</p>\n<h2>Findings</h2>\n"
        f"{findings or '<p>None.</p>'}"
        f"{''.join(map(_render_summary, diagnosis.summaries))}{cost}</body></html>\n"
    )


def _render_details(finding: Finding) -> str:
    where = f" in {escape(finding.split)}" if finding.split else ""
    rows = "".join(
        f"<tr><td>{escape(_printable(name))}</td><td>{escape(_printable(detail))}</td></tr>\n"
        for name, detail in zip(finding.ids, finding.details, strict=True)
    )
    cases = f'<table class="cases">{rows}</table>' if rows else ""
    return (
        f'<details><summary><span class="mark {finding.severity}">{finding.severity}</span>'
        f"{escape(finding.title)}{where}: {escape(finding.detail)}</summary>"
        f"<p>{escape(finding.fix)}</p>{cases}</details>\n"
    )


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
    width = _CHART_WIDTH / len(histogram.counts)
    columns = "".join(
        f'<rect x="{number * width:.1f}" y="{_CHART_HEIGHT * (1 - count / highest):.1f}" '
        f'width="{width * 0.9:.1f}" height="{_CHART_HEIGHT * count / highest:.1f}">'
        f"<title>{low:.3g} to {high:.3g}: {count:,}</title></rect>"
        for number, (count, low, high) in enumerate(
            zip(histogram.counts, histogram.edges[:-1], histogram.edges[1:], strict=True)
        )
        if count
    )
    first, last = histogram.edges[0], histogram.edges[-1]
    return (
        f'<figure><svg width="{_CHART_WIDTH}" height="{_CHART_HEIGHT + 16}" role="img">{columns}'
        f'<text x="0" y="{_CHART_HEIGHT + 13}">{first:.3g}</text>'
        f'<text x="{_CHART_WIDTH}" y="{_CHART_HEIGHT + 13}" text-anchor="end">{last:.3g}</text>'
        f"</svg><figcaption>{escape(histogram.name)} ({escape(histogram.unit)})</figcaption></figure>"
    )
