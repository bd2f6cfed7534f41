import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper_server.core.credential import (
    LENGTH_MAX,
    PREFIX_PATTERN,
    Keyring,
    default_length,
    fingerprint,
    hint,
    length_bounds,
)

SEED = bytes(range(32))
PREFIXES = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,5}([_-][A-Za-z0-9]{1,4}){0,2}", fullmatch=True)


def keyring(*, peppers: tuple[int, ...] = (1,), tag_keys: tuple[int, ...] = (1,)) -> Keyring:
    return Keyring(
        peppers={version: bytes([version]) * 32 for version in peppers},
        tag_keys={version: bytes([100 + version]) * 32 for version in tag_keys},
    )


def mint(ring: Keyring, *, prefix: str = "tk", length: int = 43, randomness: bytes = SEED) -> str:
    return ring.mint(prefix=prefix, length=length, seed=ring.new_seed(randomness))


@given(prefix=PREFIXES, data=st.data(), randomness=st.binary(min_size=32, max_size=32))
def test_every_minted_api_key_has_the_asked_shape_and_is_recognized(
    prefix: str, data: st.DataObject, randomness: bytes
) -> None:
    shortest, longest = length_bounds(prefix)
    length = data.draw(st.integers(shortest, longest))
    api_key = mint(keyring(), prefix=prefix, length=length, randomness=randomness)
    assert len(api_key) == length
    assert re.fullmatch(re.escape(prefix) + "_[0-9A-Za-z]+", api_key)
    assert keyring().is_well_formed(api_key)


def test_a_prefix_with_72_characters_behind_it_is_possible() -> None:
    assert re.fullmatch("ila_[0-9A-Za-z]{72}", mint(keyring(), prefix="ila", length=76))


def test_the_shortest_api_key_still_carries_160_random_bits() -> None:
    shortest, _ = length_bounds("tk")
    assert 62 ** (shortest - len("tk_") - 7) >= 2**160


@given(position=st.integers(0, 42), replacement=st.sampled_from("0aZ_-é"))
def test_an_api_key_with_one_changed_character_is_not_recognized(position: int, replacement: str) -> None:
    api_key = mint(keyring())
    changed = api_key[:position] + replacement + api_key[position + 1 :]
    assert changed == api_key or not keyring().is_well_formed(changed)


@given(st.text(max_size=200))
def test_arbitrary_text_is_never_recognized_and_never_breaks_the_check(text: str) -> None:
    assert not keyring().is_well_formed(text)


def test_a_tag_made_without_the_tag_key_is_not_recognized() -> None:
    assert not keyring(tag_keys=(2,)).is_well_formed(mint(keyring(tag_keys=(1,))))


def test_the_same_seed_gives_the_same_api_key_even_after_the_tag_key_was_rotated() -> None:
    before, after = keyring(tag_keys=(1,)), keyring(tag_keys=(1, 2))
    seed = before.new_seed(SEED)
    assert after.mint(prefix="tk", length=43, seed=seed) == before.mint(prefix="tk", length=43, seed=seed)
    assert after.new_seed(SEED) != seed


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=20, unique=True))
def test_different_seeds_give_different_api_keys(seeds: list[bytes]) -> None:
    assert len({mint(keyring(), randomness=seed) for seed in seeds}) == len(seeds)


def test_rotating_pepper_and_tag_key_invalidates_nothing() -> None:
    old, new = keyring(peppers=(1,), tag_keys=(1,)), keyring(peppers=(1, 2), tag_keys=(1, 2))
    api_key = mint(old)
    assert new.is_well_formed(api_key)
    assert old.digest(api_key) in new.digests(api_key)
    assert new.current_pepper_version == 2
    assert new.digests(api_key)[0] == new.digest(api_key) != old.digest(api_key)


def test_the_digest_is_an_hmac_and_not_a_plain_hash() -> None:
    api_key = mint(keyring())
    digest = keyring().digest(api_key)
    assert len(digest) == 32
    assert digest != hashlib.sha256(api_key.encode()).digest()
    assert digest != keyring(peppers=(2,)).digest(api_key)


def test_fingerprint_and_hint_tell_nothing_but_what_they_say() -> None:
    api_key = mint(keyring(), prefix="sk_live", length=default_length("sk_live"))
    assert fingerprint(api_key) == hashlib.sha256(api_key.encode()).hexdigest()
    assert hint(api_key, prefix="sk_live") == f"sk_live_…{api_key[-4:]}"


@pytest.mark.parametrize("prefix", ["tk", "ila", "sk_live", "sk-or-v1", "A1", "a" * 20])
def test_prefixes_of_the_field_are_possible(prefix: str) -> None:
    assert PREFIX_PATTERN.match(prefix)


@pytest.mark.parametrize("prefix", ["", "1a", "_a", "a_", "a__b", "a b", "é", "a" * 21, "tk\n"])
def test_other_prefixes_are_not(prefix: str) -> None:
    assert not PREFIX_PATTERN.match(prefix)


@pytest.mark.parametrize("length", [0, length_bounds("tk")[0] - 1, LENGTH_MAX + 1])
def test_lengths_out_of_bounds_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="length must be"):
        mint(keyring(), length=length)


@pytest.mark.parametrize("secrets", [{}, {0: b"x" * 32}, {65_536: b"x" * 32}, {1: b"short"}])
def test_a_keyring_refuses_missing_and_weak_secrets(secrets: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="peppers"):
        Keyring(peppers=secrets, tag_keys={1: b"x" * 32})
    with pytest.raises(ValueError, match="tag keys"):
        Keyring(peppers={1: b"x" * 32}, tag_keys=secrets)
