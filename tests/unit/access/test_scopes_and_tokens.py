"""Scopes include each other as the contract says; tokens are random and kept as hashes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.errors import InvalidToken
from app.access.guard import _bearer
from app.access.scopes import Scope, granted_by
from app.access.tokens import hash_of, new_secret


@given(st.frozensets(st.sampled_from(Scope), min_size=1))
def test_granted__of_any_scopes__are_these_with_what_they_include(scopes: frozenset[Scope]) -> None:
    granted = granted_by(scopes)
    assert scopes <= granted
    assert (granted == frozenset(Scope)) == (Scope.ADMIN in scopes or granted == frozenset(Scope))
    if Scope.ADMIN not in scopes:
        assert granted - scopes <= {Scope.EXPERIMENTS_READ}
        assert (Scope.EXPERIMENTS_READ in granted) == bool(scopes & {Scope.EXPERIMENTS_READ, Scope.EXPERIMENTS_WRITE})
    assert granted_by(granted) == granted


def test_secrets__made_anew__are_long_and_never_alike() -> None:
    secrets = {new_secret() for _ in range(1000)}
    assert len(secrets) == 1000
    assert all(len(secret) > 40 and secret.startswith("exp_") and not secret.split()[1:] for secret in secrets)
    assert len({hash_of(secret) for secret in secrets}) == 1000
    assert len(hash_of("x")) == 32


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic x", "token", "Bearertoken", " Bearer token"])
def test_bearer__anything_else__is_an_invalid_token(header: str | None) -> None:
    with pytest.raises(InvalidToken):
        _bearer(header)


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1))
def test_bearer__of_a_header__is_its_token(token: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert _bearer(f"{scheme} {token}") == token
