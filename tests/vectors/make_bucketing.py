"""Writes `bucketing.json`, the golden vectors of the bucketing algorithm: `python tests/vectors/make_bucketing.py`.

The hash is written here anew from its definition, so that the vectors do not repeat a mistake of the library
that the service uses. The file is part of the public contract: once released it never changes.
"""

import json
import random
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("bucketing.json")
BUCKETS = 10_000
SEEDS = ("checkout-2026", "A", "0", "a_b-C", "x" * 64)

# Half-open ranges in the order of the variants.
RANGES = {
    "50/50": [[0, 5000], [5000, 10000]],
    "33.33/33.33/33.34": [[0, 3333], [3333, 6666], [6666, 10000]],
    "0.01/99.99": [[0, 1], [1, 10000]],
    "10/0/60/30": [[0, 1000], [1000, 1000], [1000, 7000], [7000, 10000]],
}

_HANDPICKED = [
    *("a", "Z", "0", "~", "é", "ß", "中", "😀", "\U0010ffff", " ", "  ", "\u00a0", "\u2003", "\u2028", "\ufeff"),
    *(":", "::", "a:b", ":a", "a:", "user:1:checkout-2026", "a/traffic", "a:checkout-2026", "checkout-2026"),
    *("a b", " a", "a ", "a/b", "/", "..", "%2F", "%", "?q=1", "#", "&", "+", "\\", "'", '"', "<b>", "null", "true"),
    *(
        "e\u0301",
        "\u00e9",
        "A\u030a",
        "\u00c5",
        "\u1112\u1161\u11ab",
        "한",
        "\ufb01",
        "\u017f",
        "İ",
        "\u0131",
        "Ω",
        "\u2126",
    ),
    *("שלום", "مرحبا بالعالم", "\u202eabc", "\u200fabc\u200e", "abc שלום def", "فارسی\u200c\u0647\u0627"),
    *(
        "👨‍👩‍👧‍👦",
        "🏳️‍🌈",
        "🇩🇪",
        "👍🏽",
        "😀" * 10,
        "नमस्ते",
        "สวัสดี",
        "こんにちは世界",
        "Привет",
        "Ἑλλάς",
        "\U0001d4b3\U0001d4ce\U0001d4cf",
    ),
    *("1", "12", "123", "1234", "12345", "123456", "1234567", "12345678", "123456789"),
    *("00000000-0000-4000-8000-000000000000", "user@example.com", "+49 30 123456", "-1", "1e5", "0x1f"),
    *("x" * 255, "x" * 256, "é" * 256, "中" * 256, "😀" * 256, " " * 256, ":" * 256, "e\u0301" * 128),
]
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz0123456789-_",
    "äöüßéèçñøåæœ ŁłŻżĄą",
    "абвгдежзийклмнопрстуф",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "中文字符日本語漢字한국어",
    "😀😁😂🤣😃😄😅😆😉😊🚀🌍",
    "a\u0301e\u0308o\u0327:/ %",
)


def murmur3_x86_32(data: bytes) -> int:
    """Return MurmurHash3_x86_32 with seed 0, unsigned.

    Source: Austin Appleby, SMHasher, MurmurHash3.cpp (public domain), `MurmurHash3_x86_32`.
    """
    mask = 0xFFFFFFFF
    value = 0
    whole = len(data) - len(data) % 4
    for start in range(0, whole, 4):
        value ^= _mixed(int.from_bytes(data[start : start + 4], "little"))
        value = _rotated(value, 13)
        value = (value * 5 + 0xE6546B64) & mask
    if rest := data[whole:]:
        value ^= _mixed(int.from_bytes(rest, "little"))
    value ^= len(data)
    value ^= value >> 16
    value = (value * 0x85EBCA6B) & mask
    value ^= value >> 13
    value = (value * 0xC2B2AE35) & mask
    return value ^ (value >> 16)


def _mixed(block: int) -> int:
    block = (block * 0xCC9E2D51) & 0xFFFFFFFF
    return (_rotated(block, 15) * 0x1B873593) & 0xFFFFFFFF


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & 0xFFFFFFFF


def bucket(user_id: str, salt: str) -> int:
    return murmur3_x86_32((user_id + ":" + salt).encode("utf-8")) % BUCKETS


def variant_index(of_bucket: int, ranges: list[list[int]]) -> int:
    return next(index for index, (start, end) in enumerate(ranges) if start <= of_bucket < end)


def document() -> dict[str, Any]:
    """Return what the file holds."""
    user_ids = _user_ids()
    return {
        "algorithm": "murmur3_x86_32(utf8(user_id + ':' + salt), seed 0), unsigned, mod 10000; variant: salt = seed;"
        " traffic: salt = seed + '/traffic'; variants are numbered from 0 in the order of their ranges",
        "ranges": RANGES,
        "cases": [_case(user_id, seed) for seed in SEEDS for user_id in user_ids],
    }


def _user_ids() -> list[str]:
    generator = random.Random("bucketing")  # Fixed: the same vectors come out each time.
    made = [f"user-{number}" for number in range(60)]
    for alphabet in _ALPHABETS:
        made += ["".join(generator.choices(alphabet, k=generator.randint(1, 40))) for _ in range(12)]
    return list(dict.fromkeys([*_HANDPICKED, *made]))


def _case(user_id: str, seed: str) -> dict[str, Any]:
    own = bucket(user_id, seed)
    return {
        "user_id": user_id,
        "seed": seed,
        "bucket": own,
        "traffic_bucket": bucket(user_id, seed + "/traffic"),
        "variants": {name: variant_index(own, ranges) for name, ranges in RANGES.items()},
    }


def main() -> None:
    made = document()
    cases = ",\n".join(json.dumps(case) for case in made.pop("cases"))
    head = json.dumps(made, indent=1).removesuffix("\n}")
    TARGET.write_text(f'{head},\n "cases": [\n{cases}\n]\n}}\n', encoding="ascii")


if __name__ == "__main__":
    main()
