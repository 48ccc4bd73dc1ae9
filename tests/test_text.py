"""Vocabulary and text normalization."""

import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import TextError
from asr.text import (
    BLANK,
    PROFILES,
    Vocabulary,
    count_changes,
    describe_characters,
    min_ctc_frames,
    normalize,
)

ENGLISH = Vocabulary.english()
CHARACTERS = " abcdefghijklmnopqrstuvwxyz'"

# Random strings rarely have punctuation, quotes and accents side by side; these do.
TRICKY = st.text(st.sampled_from("ab É´`'’‘\"“.,…-–—&/_\t\u00a0\u0301\u00ad?5%İßﬁ"), max_size=30)


class TestVocabulary:
    def test_english_has_the_29_symbols_in_order(self) -> None:
        assert ENGLISH.to_list() == [BLANK, *CHARACTERS]
        assert len(ENGLISH) == 29
        assert ENGLISH.space == 1
        assert ENGLISH.encode("it's a z") == [10, 21, 28, 20, 1, 2, 1, 27]

    @given(st.text(CHARACTERS, min_size=1))
    def test_decoding_undoes_encoding(self, text: str) -> None:
        ids = ENGLISH.encode(text)
        assert len(ids) == len(text)
        assert ENGLISH.decode(ids) == text

    @given(st.lists(st.text(st.characters(exclude_categories=["Zs", "Zl", "Zp", "Cc", "Cs"]))))
    @settings(deadline=None)
    def test_vocabulary_of_transcripts_has_exactly_their_characters(
        self, transcripts: list[str]
    ) -> None:
        characters = set().union(*transcripts)
        if not characters:
            return
        vocabulary = Vocabulary.from_transcripts(transcripts)
        assert vocabulary.symbols == (BLANK, *sorted(characters))
        assert vocabulary.space is None
        for transcript in filter(None, transcripts):
            assert vocabulary.decode(vocabulary.encode(transcript)) == transcript

    def test_json_and_pickle_keep_it_and_it_is_hashable(self) -> None:
        copy = Vocabulary.from_list(json.loads(json.dumps(ENGLISH.to_list())))
        unpickled = pickle.loads(pickle.dumps(ENGLISH))
        assert {ENGLISH: "same"}[copy] == "same"
        assert unpickled == ENGLISH
        assert unpickled.encode("ab") == [2, 3]
        assert Vocabulary.from_list([BLANK, "b", "a"]) != Vocabulary.from_list([BLANK, "a", "b"])

    def test_is_frozen(self) -> None:
        with pytest.raises(AttributeError):
            ENGLISH.symbols = ("a",)  # type: ignore[misc]

    def test_unknown_characters_raise_an_error_that_names_them(self) -> None:
        with pytest.raises(TextError) as error:
            ENGLISH.encode("room 101 at the café, café", where="84-121123-0007")
        message = str(error.value)
        assert message.startswith("84-121123-0007 contains ")
        for name in ["'1' (U+0031)", "'0' (U+0030)", "'é' (U+00E9)", "',' (U+002C)"]:
            assert message.count(name) == 1
        assert "29 symbols" in message
        assert "\n" not in message

    def test_only_five_unknown_characters_are_listed(self) -> None:
        with pytest.raises(TextError, match=r"'4' \(U\+0034\) and 5 more characters"):
            ENGLISH.encode("0123456789")

    def test_an_invisible_character_is_escaped_in_the_message(self) -> None:
        with pytest.raises(TextError, match=r"'a\\u200bb' contains '\\u200b' \(U\+200B\)"):
            ENGLISH.encode("a\u200bb")

    def test_empty_text_raises_an_error(self) -> None:
        with pytest.raises(TextError, match="utterance-3 has empty text"):
            ENGLISH.encode("", where="utterance-3")

    @pytest.mark.parametrize("wrong", [0, -1, 29])
    def test_ids_without_a_character_raise_an_error(self, wrong: int) -> None:
        with pytest.raises(TextError, match=f"id {wrong} is no character"):
            ENGLISH.decode([2, wrong])

    @pytest.mark.parametrize(
        ("symbols", "message"),
        [
            ([], "followed by at least one character"),
            ([BLANK], "followed by at least one character"),
            (["a", "b"], r"begins with \['a', 'b'\]"),
            ([BLANK, "a", "b", "a"], "symbols 1 and 3 of a vocabulary are both 'a'"),
            ([BLANK, "a", "th"], "symbol 2 of a vocabulary is 'th'"),
            ([BLANK, "a", ""], "symbol 2 of a vocabulary is ''"),
            ([BLANK, "a", 7], "symbol 2 of a vocabulary is 7"),
            ([BLANK, "\n"], r"white space '\\n' \(U\+000A\)"),
        ],
    )
    def test_invalid_lists_of_symbols_raise_an_error(
        self, symbols: list[str], message: str
    ) -> None:
        with pytest.raises(TextError, match=message):
            Vocabulary.from_list(symbols)

    @pytest.mark.parametrize("transcripts", [[], ["", ""]])
    def test_transcripts_without_a_character_raise_an_error(self, transcripts: list[str]) -> None:
        with pytest.raises(TextError, match="without a character"):
            Vocabulary.from_transcripts(transcripts)


@pytest.mark.parametrize(
    ("text", "frames"), [("a", 1), ("ab", 2), ("aa", 3), ("hello", 6), ("aaa", 5), ("aba", 3)]
)
def test_ctc_needs_a_frame_for_the_blank_in_each_repeat(text: str, frames: int) -> None:
    assert min_ctc_frames(ENGLISH.encode(text)) == frames
    assert min_ctc_frames(iter(ENGLISH.encode(text))) == frames


class TestNormalize:
    def test_plain_changes_case_and_white_space_only(self) -> None:
        assert normalize("  THE\tcat's\u00a0\n “MAT”, 3é-4 ") == "the cat's “mat”, 3é-4"

    def test_plain_composes_accented_letters(self) -> None:
        assert normalize("cafe\u0301") == normalize("CAFÉ") == "café"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("“I won’t,” she said.", "i won't she said"),
            ("Wait… what?—No – really!", "wait what no really"),
            ("wait...what", "wait what"),
            ("A well-known, twenty‑one year old", "a well known twenty one year old"),
            ("Café Zoë, naïve Señor Ångström", "cafe zoe naive senor angstrom"),
            ("Łódź, Søren, Œdipus, Straße, Trenle ﬁn", "lodz soren oedipus strasse trenle fin"),
            ("İstanbul IS big", "istanbul is big"),
            ("Smith & Sons, R&D", "smith and sons r and d"),
            ("The U.S. and Mr. Smith, e.g.", "the us and mr smith eg"),
            ("yes,sir;no:never café,bar", "yes sir no never cafe bar"),
            ("and/or snake_case", "and or snake case"),
            ("(highlighted [in bold])", "highlighted in bold"),
            ("co\u00adoperate \u200ehello", "cooperate hello"),
            ("don´t don`t donʼt don＇t", "don't don't don't don't"),
            ("한국 Seoul", "한국 seoul"),
            ("...", ""),
            ("", ""),
        ],
    )
    def test_english_normalizes_prompts(self, text: str, expected: str) -> None:
        assert normalize(text, "english") == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("The 'K' is silent.", "the k is silent"),
            ("‘Is there anybody in the kitchen?’ Not a soul.",
             "is there anybody in the kitchen not a soul"),
            ("Jaipur, 'the Pink City of India'.", "jaipur the pink city of india"),
            ("'Hello,' he said, 'don't go.'", "hello he said don't go"),
            ("``Hello,'' he said", "hello he said"),
            ("\"'Nested' quotes\"", "nested quotes"),
            ("only three hours' play", "only three hours' play"),
            ("'Tis the season", "'tis the season"),
            ("I'm tellin' you, they gon' lose", "i'm tellin' you they gon' lose"),
            ("the Corps' 'last' stand", "the corps' last stand"),
            ("a ' b '", "a b"),
        ],
    )  # fmt: skip
    def test_english_keeps_apostrophes_and_drops_single_quotes(
        self, text: str, expected: str
    ) -> None:
        assert normalize(text, "english") == expected

    @pytest.mark.parametrize("profile", ["english", "multilingual"])
    @pytest.mark.parametrize(
        ("number", "other"),
        [
            ("1.5", "15"),
            ("1,5", "15"),
            ("1..5", "15"),
            ("10:30", "1030"),
            ("-5", "5"),
            ("(-5)", "5"),
            (".5", "5"),
            ("1½", "11⁄2"),
            ("10²", "102"),
            ("3·4", "34"),
        ],
    )
    def test_different_numbers_stay_different(self, profile: str, number: str, other: str) -> None:
        assert normalize(f"about {number}.", profile) != normalize(f"about {other}.", profile)
        assert normalize("In 1999, (2000).", profile) == "in 1999 2000"

    def test_english_joins_thousands(self) -> None:
        assert normalize("1,234,567.89 and 12,34", "english") == "1234567.89 and 12,34"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("«Мой чай ещё горячий», — сказала Анна по-русски.",
             "мой чай ещё горячий сказала анна по русски"),
            ("Η ΟΔΟΣ είναι ωραία· «Ναι;» Κόσμος.", "η οδος είναι ωραία ναι κόσμος"),
            ("Tiếng Việt có sáu thanh điệu, phải không?",
             "tiếng việt có sáu thanh điệu phải không"),
            ("Das ist Öl für die Straße!", "das ist öl für die straße"),
            ("¿Qué? ¡Niño!", "qué niño"),
            ("П’ять п'ять пʼять", "п'ять п'ять п'ять"),
            ("L’eau, 'tis ‚gut‘.", "l'eau 'tis gut"),
            ("नमस्ते, दुनिया। हिन्दी", "नमस्ते दुनिया हिन्दी"),
            ("می‌خواهم بروم؟ کتـــاب", "می‌خواهم بروم کتاب"),
            ("你好，世界。", "你好 世界"),
            ('צה"ל, שלום־עולם', "צה״ל שלום עולם"),
            ("Ինչպե՞ս ես", "ինչպես ես"),
            ("Col·legi", "col·legi"),
            ("т.е. вот.Так", "те вот так"),
            ("Да ❤️‍🔥👍🏽 ♪ да", "да да"),
            ("50 % & 5 €", "50 % & 5 €"),
        ],
    )  # fmt: skip
    def test_multilingual_keeps_letters_and_marks_and_drops_punctuation(
        self, text: str, expected: str
    ) -> None:
        assert normalize(text, "multilingual") == expected
        assert normalize(unicodedata.normalize("NFD", text), "multilingual") == expected

    def test_multilingual_keeps_every_letter_and_mark(self) -> None:
        for code in range(0x30000):
            letter = chr(code)
            if unicodedata.category(letter) in ("Ll", "Lo", "Mc") or 0x300 <= code < 0x370:
                composed = unicodedata.normalize("NFC", f"ж{letter}ж".lower())
                if "'" not in normalize(letter, "multilingual"):
                    assert normalize(f"ж{letter}ж", "multilingual") == composed, hex(code)

    def test_turkish_has_its_own_lower_case(self) -> None:
        assert normalize("IŞIK, İstanbul'da!", "turkish") == "ışık istanbul'da"
        assert normalize("i\u0307zmir", "turkish") == "izmir"  # lower case of another program
        for text in ("İstanbul", "I\u0307stanbul"):
            assert normalize(text, "multilingual") == "istanbul"

    def test_changes_of_a_profile_are_counted(self) -> None:
        changes = count_changes("Мой чай ещё, ещё!", "english")
        assert changes == {"й": 2, "ё": 2, ",": 1, "!": 1}
        assert describe_characters(changes, 2) == "й (2), ё (2) and 2 other characters"
        assert count_changes("Мой чай ещё, ещё!", "multilingual") == {",": 1, "!": 1}
        assert not count_changes("IŞIK", "turkish")
        assert not count_changes(unicodedata.normalize("NFD", "Ещё ЧАЙ"), "multilingual")

    def test_symbols_that_are_read_aloud_are_kept_and_cannot_be_encoded(self) -> None:
        text = normalize("It costs $5, or 10%.", "english")
        assert text == "it costs $5 or 10%"
        with pytest.raises(TextError, match=r"'\$'.*'5'.*'1'.*'0'.*'%'"):
            ENGLISH.encode(text)

    @pytest.mark.parametrize("profile", PROFILES)
    @given(text=st.one_of(st.text(), TRICKY))
    @settings(deadline=None, max_examples=500)
    def test_normalization_is_idempotent(self, profile: str, text: str) -> None:
        once = normalize(text, profile)
        assert normalize(once, profile) == once
        assert once == " ".join(once.split())
        assert once == once.lower()

    @pytest.mark.parametrize("profile", PROFILES)
    def test_normalization_is_idempotent_for_every_character(self, profile: str) -> None:
        for code in range(0x30000):
            once = normalize(f"'{chr(code)}a {chr(code)}'", profile)
            assert normalize(once, profile) == once, hex(code)

    @given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1), min_size=1))
    def test_english_keeps_plain_words(self, words: list[str]) -> None:
        assert normalize(" ".join(words), "english") == " ".join(words)

    @given(TRICKY)
    @settings(deadline=None)
    def test_english_keeps_only_known_or_spoken_characters(self, text: str) -> None:
        assert set(normalize(text, "english")) <= set(CHARACTERS + "5%.,-")  # 1.5 and -5

    @given(TRICKY)
    @settings(deadline=None)
    def test_unicode_composition_does_not_matter(self, text: str) -> None:
        for profile in PROFILES:
            decomposed = unicodedata.normalize("NFD", text)
            assert normalize(unicodedata.normalize("NFC", text), profile) == normalize(
                decomposed, profile
            )

    def test_unknown_profile_raises_an_error_with_the_known_ones(self) -> None:
        with pytest.raises(TextError, match="'klingon'; use one of 'plain', 'english'"):
            normalize("text", "klingon")

    def test_every_common_voice_prompt_can_be_encoded(self, shared: Path) -> None:
        rows = (shared / "CommonVoice/en/train.tsv").read_text(encoding="utf-8").splitlines()
        prompts = [row.split("\t")[2] for row in rows[1:]]
        assert len(prompts) > 1000
        for prompt in prompts:
            ENGLISH.encode(normalize(prompt, "english"), where=prompt)
