"""The public bucketing algorithm: other languages re-implement it, and golden vectors pin it."""

from collections.abc import Iterable
from decimal import Decimal

import mmh3

from app.experiments.allocation import BUCKETS, BUCKETS_PER_PERCENT
from app.experiments.values import Variant

_TRAFFIC_SALT_SUFFIX = "/traffic"


def bucket(user_id: str, salt: str) -> int:
    """Return the user's bucket, 0 to 9999.

    The 32-bit hash modulo 10,000 is off uniform by 2e-6 at most, which is accepted.

    Source: MurmurHash3_x86_32 (Appleby, 2011) with seed 0 of the UTF-8 bytes of `user_id:salt`.
    """
    return mmh3.hash(f"{user_id}:{salt}".encode(), signed=False) % BUCKETS


def variant_for(user_id: str, seed: str, variants: Iterable[Variant]) -> Variant:
    """Return the variant whose range holds the user's bucket; ranges cover all buckets."""
    own = bucket(user_id, seed)
    return next(variant for variant in variants if variant.bucket_start <= own < variant.bucket_end)


def in_traffic(user_id: str, seed: str, traffic_pct: Decimal) -> bool:
    """Tell whether the user enters at all. Independent of the variant, so that raising the share moves nobody."""
    return bucket(user_id, seed + _TRAFFIC_SALT_SUFFIX) < traffic_pct * BUCKETS_PER_PERCENT
