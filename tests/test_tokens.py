from __future__ import annotations

import pytest

from kluster_integrations.core import tokens

# Words and runs that are one token of Llama 3's or Qwen's vocabulary.
SINGLE = ("the", " hello", "IllegalArgumentException", " NotImplementedError", "=" * 64, "-" * 64, " " * 64, "\n\n")


class TestAtLeast:
    @pytest.mark.parametrize("text", SINGLE)
    def test_a_token_counts_once_at_most(self, text: str) -> None:
        assert tokens.at_least(text) <= 1

    @pytest.mark.parametrize(
        ("text", "least"),
        [("", 0), ("   \n\t ", 0), ("hello", 1), ("hello world", 2), (" a\nb\tc  d ", 4), ("\u4f60\u597d", 1)],
    )
    def test_a_token_holds_one_word_at_most(self, text: str, least: int) -> None:
        assert tokens.at_least(text) == least

    @pytest.mark.parametrize("text", ["a" * 100_000, "\u4e16" * 100_000, "\U0001f600" * 100_000])
    def test_a_text_without_spaces_counts_too(self, text: str) -> None:
        assert tokens.at_least(text) >= 100

    @pytest.mark.parametrize("text", [*SINGLE, "", "a b c " * 100, "\ud800", "\x00", "\u200b", "\U0001f600 " * 9])
    def test_is_no_more_than_the_characters(self, text: str) -> None:
        assert 0 <= tokens.at_least(text) <= len(text)

    def test_joining_never_makes_more(self) -> None:
        left, right = "one two thr", "ee four"
        assert tokens.at_least(left + right) <= tokens.at_least(left) + tokens.at_least(right)


class TestEstimate:
    @pytest.mark.parametrize(
        ("text", "about"),
        [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("x" * 400, 100), ("\u00e4" * 4, 2), ("\U0001f600", 1)],
    )
    def test_a_quarter_of_the_bytes(self, text: str, about: int) -> None:
        assert tokens.estimate(text) == about

    def test_text_that_is_not_valid_unicode_is_counted(self) -> None:
        assert tokens.estimate("\ud800" * 4) == 3

    def test_english_is_about_right(self) -> None:
        text = "The quick brown fox jumps over the lazy dog, and then it goes home to have a cup of tea. "
        assert 15 <= tokens.estimate(text) <= 30  # 22 tokens with Llama 3's tokenizer
