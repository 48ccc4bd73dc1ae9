"""Write the README's table of results from the measurements.

    python scripts/results.py             # writes the table
    python scripts/results.py --check     # fails if the table is out of date

The table is the text between the comments `<!-- results -->` and `<!-- end of results -->`. Its
figures come from `results.json` in the folders of released models, which recipes/english/evaluate.py
writes.
"""

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr.errors import EXIT_CODE, AsrError, DataError
from asr.files import write_atomically
from asr.progress import complain, say
from asr.release import RELEASED, RESULTS, read_results, read_text, write_rest, write_table

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
ROOT = Path(__file__).resolve().parents[1]
# Exit code of --check if the table is out of date.
DIFFERS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return update(parse(arguments))
    except AsrError as error:
        complain(f"results.py: {error}")
        return EXIT_CODE


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL", help="released models (the bundled one)"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 if the table is out of date",
    )
    return parser.parse_args(arguments)


def update(options: argparse.Namespace) -> int:
    """Write or check the table; returns the exit code."""
    text = read_text(options.readme)
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (begin and end):
        raise DataError(f"{options.readme} has no lines {BEGIN!r} and {END!r}; add them")
    tables = [write_tables(folder) for folder in options.models or [RELEASED]]
    lines = [line for table in tables for line in table]
    new = "".join((before, begin, "\n".join(["", *lines]), "\n", end, after))
    if options.check:
        changes = difflib.unified_diff(text.splitlines(), new.splitlines(), "current", "measured")
        for line in changes:
            say(line)
        if new != text:
            complain(f"{options.readme} does not match the results; run scripts/results.py")
        return DIFFERS if new != text else 0
    if new != text:
        write_atomically(options.readme, lambda file: file.write(new.encode()))
    return 0


def write_tables(folder: Path) -> Iterator[str]:
    """The results of a released model as lines of Markdown. Raises DataError if any are missing."""
    results = read_results(folder / RESULTS)
    try:
        yield f"The model `{folder.name}`, with 95 % confidence intervals in brackets:"
        yield ""
        yield from write_table(results)
        yield ""
        yield from write_rest(results)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / RESULTS} lacks figures of the table ({error!r}); evaluate the model again"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
