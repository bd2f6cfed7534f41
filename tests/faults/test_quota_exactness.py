"""Hard limits admit no unit too many: by many servers at once, and whatever happens to Redis or to a server.

Each test prints its figures, and runs again with a protection switched off, which it must notice.
"""

import itertools
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet, fleet

pytestmark = pytest.mark.timeout(400)

AMOUNTS = (10, 30, 100, 300, 1000, 10_000)
LOADS = (0.9, 2, 10)
WORKERS = (1, 2, 3)
DENIALS_MAX = 3_000
"""After so many more charges than the limit allows, one more tells nothing new."""


async def play(servers: Fleet, cases: list[tuple[int, float, int]]) -> tuple[int, int]:
    """Units admitted over limits in all cases, and units missing at exhaustion beyond 1 % or one."""
    over = under = 0
    for number, (amount, load, workers) in enumerate(cases):
        charges = min(int(amount * load), amount + DENIALS_MAX)
        allowed = await servers.charge(f"key_{number}", amount=amount, charges=charges, workers=workers)
        over += max(0, allowed - amount)
        expected = min(charges, amount)
        under += max(0, expected - max(1, expected // 100) - allowed)
    return over, under


async def test_no_case_admits_a_unit_too_many(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    cases = list(itertools.product(AMOUNTS, LOADS, WORKERS))
    async with fleet(postgres_url, redis_url, directory=tmp_path) as servers:
        over, under = await play(servers, cases)
    print(f"\n{len(cases)} cases: {over} units admitted over limits, {under} missing at exhaustion")
    assert (over, under) == (0, 0)


@pytest.mark.parametrize("fault", ["charges are local", "blocks are not debited"])
async def test_the_cases_notice_a_planted_fault(postgres_url: str, redis_url: str, tmp_path: Path, fault: str) -> None:
    async with fleet(postgres_url, redis_url, directory=tmp_path, fault=fault) as servers:
        over, _ = await play(servers, [(100, 10, 3)])
    print(f"\n{fault}: {over} units admitted over limits")
    assert over > 0
