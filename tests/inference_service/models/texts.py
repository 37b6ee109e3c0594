"""Texts for which tokenizers often differ."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

CORPUS = [
    "",
    " ",
    "The capital of France is Paris.",
    "I'll say it's what they've DON'T, WE'RE 'tis o'clock's",
    "def f(x):\n    return {k: v for k, v in x.items() if v >= 10}\n\n\n# done\n",
    '<a href="https://example.com/?q=1&r=%20">x</a> <!-- -->',
    "12345678901234567890 3.14159 1,000,000 0x1F ½ ² ٣٤ ⅷ 二〇",
    "Größe, naïve, señor; Ελληνικά, Привет мир",
    "你好，世界。こんにちは世界 안녕하세요 세계",
    "مرحبا بالعالم नमस्ते दुनिया ภาษาไทย",
    "😀😃 👩‍👩‍👧 👍🏽 🇫🇷 ☺️",
    "e\u0301 a\u0300\u0323 Z\u0351\u036b\u0343",
    "  two   three    four\t\ttabs\r\nlines\n\n\nmore \n ",
    "\u00a0nbsp\u2003em\u200bzero\ufeffbom\u2028line\x00nul\x01\x04\x7f",
    "<|im_start|>user\n<|im_end|><s></s>[INST]<0x41><unk><|eot_id|>",
    "<think>step</think>  x  ",
    "▁▁ ▁a ▁",
    "-" * 40 + "=" * 17 + "a" * 33 + " " * 29,
]

_FRAGMENTS = [fragment for text in CORPUS for fragment in (*text.split(" "), text[:7], text[-5:])]


def texts() -> st.SearchStrategy[str]:
    """Random texts: characters of any script and pieces of CORPUS, of at most some hundred characters.

    Digits beyond U+10D40 are left out, since some are newer than llama.cpp's table of characters.
    """
    characters = st.characters(exclude_categories=["Cs", "Cn"]).filter(_is_old)
    return st.one_of(
        st.text(characters, max_size=60),
        st.lists(st.sampled_from(_FRAGMENTS), max_size=20).map("".join),
        st.text(st.sampled_from("ab \n'1-"), max_size=60),
    )


def _is_old(character: str) -> bool:
    return unicodedata.category(character) != "Nd" or ord(character) < 0x10D40
