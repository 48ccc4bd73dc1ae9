"""Vocabulary and text normalization."""

import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import TextError
from asr.text import BLANK, PROFILES, Vocabulary, min_ctc_frames, normalize

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
        assert set(normalize(text, "english")) <= set(CHARACTERS + "5%")

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
