"""The command `asr compare`: whether one system is really better than another."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli.inputs import read_speakers, read_systems
from asr.cli.options import add_profile_option
from asr.cli.output import to_json
from asr.errors import SOME_FAILED, AsrError
from asr.progress import say

if TYPE_CHECKING:
    from asr.scoring import Report
    from asr.significance import Difference, Interval

WORDS_SHOWN = 8


def declare(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add(
        "reference",
        metavar="REF",
        help="correct texts, in any format of `asr score`; a manifest names the speakers too",
    )
    add(
        "systems",
        metavar="HYP",
        nargs="+",
        help="recognized texts of two or more systems, in any "
        "format of `asr score`; the first is the one that the others are compared with",
    )
    add(
        "--format",
        choices=("kaldi", "lines"),
        help="format of files whose lines may begin with an id or not, as of `asr score`",
    )
    add_profile_option(command)
    add(
        "--require-better",
        type=level,
        metavar="P",
        help="exit with 1 unless each of the other systems "
        "has fewer errors than the first one and the matched-pairs test gives at most this p, such as "
        "0.05",
    )
    add("--json", action="store_true", help="print all figures as JSON")


def level(text: str) -> float:
    """Parse a level of significance."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability between 0 and 1")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return the exit code. Raises AsrError."""
    from asr.scoring import score
    from asr.significance import compare

    if len(arguments.systems) < 2:
        raise AsrError("only one system was given; a comparison needs at least two")
    paths = [Path(name) for name in arguments.systems]
    references, texts = read_systems(Path(arguments.reference), paths, arguments.format)
    speakers = read_speakers(Path(arguments.reference), references)
    reports = [score(references, hypotheses, arguments.profile) for hypotheses in texts]
    names = [str(path) for path in paths]
    differences = [compare(reports[0], other, speakers) for other in reports[1:]]
    if arguments.json:
        say(to_json(_to_dict(names, reports, differences, speakers), indent=1), verbatim=True)
    else:
        _print(names, reports, differences, speakers)
    if arguments.require_better is None:
        return 0
    is_better = all(d.wer < 0 and d.p <= arguments.require_better for d in differences)
    return 0 if is_better else SOME_FAILED


def _print(
    names: Sequence[str],
    reports: "Sequence[Report]",
    differences: "Sequence[Difference]",
    speakers: Mapping[str, str] | None,
) -> None:
    """Print the rates of all systems, and how each differs from the first one."""
    from asr.significance import mended_words, wer_interval

    utterances, words = len(reports[0].utterances), reports[0].words
    facts = f"{utterances:,} utterances, {words:,} words"
    if speakers:
        facts += f", {len(set(speakers.values())):,} speakers"
    say(f"{facts}; intervals are 95 %, by a bootstrap over {_unit(speakers)}")
    width = max(map(len, names)) + 2
    say(f"\n{'system':<{width}}{'WER':>9}{'interval':>18}{'CER':>9}{'sentences':>11}")
    for name, report in zip(names, reports, strict=True):
        interval = wer_interval(report.utterances, _list_groups(report, speakers))
        say(
            f"{name:<{width}}{100 * report.wer:>7.2f} %{_range(interval):>18}"
            f"{100 * report.cer:>7.2f} %{100 * report.sentence_error_rate:>9.1f} %"
        )
    for name, report, difference in zip(names[1:], reports[1:], differences, strict=True):
        say(f"\n{name} against {names[0]}")
        say(
            f"  WER {100 * difference.wer:+.2f} points, interval {_range(difference.interval, '+')}; "
            f"better in {100 * difference.probability:.1f} % of the resamples"
        )
        say(
            f"  matched pairs: {difference.segments:,} segments, z {difference.z:+.2f}, "
            f"p {difference.p:.4f} ({_judge(difference)})"
        )
        say(f"  utterances: {difference.wins:,} better, {difference.losses:,} worse")
        for verb, pairs in zip(
            ("mended", "broke"),
            (mended_words(reports[0], report), mended_words(report, reports[0])),
            strict=True,
        ):
            shown = ", ".join(f"{word} {count:,}" for word, count in pairs[:WORDS_SHOWN])
            total = sum(count for _, count in pairs)
            say(f"  words it {verb}: {total:,}" + (f" ({shown})" if shown else ""))


def _judge(difference: "Difference") -> str:
    if difference.p > 0.05:
        return "no significant difference at 0.05"
    return "significantly better" if difference.z > 0 else "significantly worse"


def _unit(speakers: Mapping[str, str] | None) -> str:
    return "speakers" if speakers else "utterances"


def _list_groups(report: "Report", speakers: Mapping[str, str] | None) -> list[str] | None:
    return (speakers and [speakers[utterance.id] for utterance in report.utterances]) or None


def _range(interval: "Interval", sign: str = "") -> str:
    return f"[{100 * interval.low:{sign}.2f}, {100 * interval.high:{sign}.2f}]"


def _to_dict(
    names: Sequence[str],
    reports: "Sequence[Report]",
    differences: "Sequence[Difference]",
    speakers: Mapping[str, str] | None,
) -> dict[str, object]:
    """All figures as JSON data."""
    from dataclasses import asdict

    from asr.significance import wer_interval

    systems = [
        {
            "system": name,
            "wer": report.wer,
            "interval": wer_interval(report.utterances, _list_groups(report, speakers)),
            "cer": report.cer,
            "sentence_error_rate": report.sentence_error_rate,
        }
        for name, report in zip(names, reports, strict=True)
    ]
    return {
        "utterances": len(reports[0].utterances),
        "words": reports[0].words,
        "resampled": _unit(speakers),
        "systems": systems,
        "differences": [
            {"system": name, "against": names[0], **asdict(difference)}
            for name, difference in zip(names[1:], differences, strict=True)
        ],
    }
