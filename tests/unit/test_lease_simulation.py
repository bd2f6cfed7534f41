import random

import pytest

from tests.unit.lease_simulation import Faults, World

INTERLEAVINGS = 100_000
STEPS = 60


def simulate(first_seed: int, interleavings: int, faults: Faults) -> tuple[list[str], int]:
    """Violations with the seed that shows each, and the number of answers from memory."""
    violations, hits = [], 0
    for seed in range(first_seed, first_seed + interleavings):
        world = World(seed, faults)
        world.run(STEPS)
        hits += world.hits
        violations += [f"seed {seed}: {violation}" for violation in world.violations]
    return violations, hits


@pytest.mark.timeout(300)
def test_no_interleaving_allows_a_key_from_memory_after_its_revocation_returned() -> None:
    first_seed = random.randrange(2**32)
    violations, hits = simulate(first_seed, INTERLEAVINGS, Faults())
    print(f"{INTERLEAVINGS} interleavings from seed {first_seed}: {hits} answers from memory")
    assert not violations, violations[:5]
    assert hits > INTERLEAVINGS / 10, "hardly ever answers from memory, so it shows nothing"


@pytest.mark.parametrize("fault", ["no_wait", "delete_only", "reads_extend_age", "early_clock", "grant_time"])
def test_the_simulation_catches_a_protection_that_is_switched_off(fault: str) -> None:
    violations, _ = simulate(0, 30_000, Faults(**{fault: True}))
    assert violations
