"""Numbers in words: recognizers such as Whisper write digits, and the model writes what is said.

Only numbers that nearly everyone reads in the same way are spelled out: 1905 is "nineteen oh five" in
almost every sentence, but 2015 and 101 have two readings each, and a label must not guess.
"""

import re

UNITS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = {100: "hundred", 1_000: "thousand", 1_000_000: "million", 1_000_000_000: "billion"}
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
CURRENCIES = {"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros")}
YEARS = range(1100, 2000)

# A currency, digits with marks between them, and what belongs to them. Letters, digits and marks next
# to all of it make it something else than a number: A4, 10:30, 3-1, 1.5.2.
_NUMBER = re.compile(
    r"(?<![\w.,:/+-])(?P<currency>[$£€])?(?P<digits>\d+(?:,\d{3})*)(?P<decimals>\.\d+)?"
    r"(?:(?P<percent>\s?%)|(?P<ordinal>st|nd|rd|th)|(?P<plural>'?s))?"
    r"(?P<scale>\s(?:hundred|thousand|million|billion))?(?![\w%]|[.,:/+-]\d)"
)


def spell_numbers(text: str) -> str:
    """Write the numbers of an English text in words, except those with more than one reading.

    Args:
        text: A sentence with any capitals and punctuation.

    Returns:
        The sentence, in which digits remain where the reading is not certain.

    Example:
        >>> spell_numbers("In 1905, 3 of 20% cost $5 million.")
        'In nineteen oh five, three of twenty percent cost five million dollars.'
    """
    return _NUMBER.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    """The words for a number, or the number as it stands."""
    digits = match["digits"]
    number = int(digits.replace(",", ""))
    scale, decimals = match["scale"] or "", match["decimals"] or ""
    words: str | None
    if match["ordinal"]:
        words = None if match["currency"] or decimals or scale else spell_ordinal(number)
    elif match["plural"]:
        words = None if match["currency"] or decimals or scale else spell_decade(number)
    else:
        is_year = number in YEARS and "," not in digits
        plain = not (match["currency"] or match["percent"] or decimals or scale)
        words = spell_year(number) if is_year and plain else spell_cardinal(number)
        if words and decimals:
            spoken = " ".join(UNITS[int(digit)] for digit in decimals[1:])
            # Dollars with decimals are dollars and cents.
            words = None if match["currency"] and not scale else f"{words} point {spoken}"
    if words is None or (len(digits) > 1 and digits[0] == "0"):
        return match[0]
    words += scale
    if match["percent"]:
        words += " percent"
    if match["currency"]:
        words += f" {CURRENCIES[match['currency']][words != 'one']}"
    return words


def spell_cardinal(number: int) -> str | None:
    """The words for a number up to 100 or a round larger one; None if it has two readings."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        tens, units = divmod(number, 10)
        return TENS[tens - 2] + (f" {UNITS[units]}" if units else "")
    for size, name in sorted(SCALES.items(), reverse=True):
        if number >= size:
            times, rest = divmod(number, size)
            return f"{UNITS[times]} {name}" if times < 20 and not rest else None
    return None


def spell_ordinal(number: int) -> str | None:
    """The words for the position 1 to 99, such as "twenty first"."""
    words = spell_cardinal(number) if 0 < number < 100 else None
    if words is None:
        return None
    *before, last = words.split()
    return " ".join([*before, ORDINALS.get(last) or f"{last.removesuffix('y')}{_ending(last)}"])


def _ending(word: str) -> str:
    return "ieth" if word.endswith("y") else "th"


def spell_year(number: int) -> str:
    """The words for a year of `YEARS`: "nineteen oh five", "twelve hundred"."""
    century, years = divmod(number, 100)
    if not years:
        return f"{UNITS[century]} hundred"
    rest = f"oh {UNITS[years]}" if years < 10 else spell_cardinal(years)
    return f"{UNITS[century]} {rest}"


def spell_decade(number: int) -> str | None:
    """The words for a decade such as 1920s or 80s; None for other plurals."""
    century, years = divmod(number, 100)
    if number % 10 or years < 20 or (century and number not in YEARS):
        return None
    decade = f"{TENS[years // 10 - 2].removesuffix('y')}ies"
    return f"{UNITS[century]} {decade}" if century else decade
