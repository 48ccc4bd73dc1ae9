"""The README's table of results, written from what was measured.

    python scripts/results.py             # writes it
    python scripts/results.py --check     # fails if the README says something else

It stands between two comments, `<!-- results -->` and `<!-- end of results -->`, and is made of the
`results.json` in the folders of released models, which recipes/english/evaluate.py wrote.
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
        "models", nargs="*", type=Path, metavar="MODEL", help="folders of released models (ours)"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if it differs"
    )
    return parser.parse_args(arguments)


def update(options: argparse.Namespace) -> int:
    """Write the table, or tell whether it is up to date; the exit code."""
    text = read_text(options.readme)
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not (begin and end):
        raise DataError(f"{options.readme} has no lines {BEGIN!r} and {END!r}: put them in")
    tables = [write_tables(folder) for folder in options.models or [RELEASED]]
    lines = [line for table in tables for line in table]
    new = "".join((before, begin, "\n".join(["", *lines]), "\n", end, after))
    if options.check:
        changes = difflib.unified_diff(text.splitlines(), new.splitlines(), "as it is", "measured")
        for line in changes:
            say(line)
        if new != text:
            complain(f"{options.readme} is not what was measured: run scripts/results.py")
        return DIFFERS if new != text else 0
    if new != text:
        write_atomically(options.readme, lambda file: file.write(new.encode()))
    return 0


def write_tables(folder: Path) -> Iterator[str]:
    """What a released model achieves, in Markdown, line by line. Raises DataError."""
    results = read_results(folder / RESULTS)
    try:
        yield f"The model `{folder.name}`, in brackets 95 % intervals:"
        yield ""
        yield from write_table(results)
        yield ""
        yield from write_rest(results)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / RESULTS} lacks what the table is made of ({error!r}); evaluate again"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
