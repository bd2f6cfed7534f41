import random

import pytest

from tests.unit.near_cache_simulation import ClientFaults, ClientWorld

INTERLEAVINGS = 100_000
STEPS = 80

FAULTS = list(ClientFaults.__dataclass_fields__)


def simulate(first_seed: int, interleavings: int, faults: ClientFaults) -> tuple[list[str], int]:
    """Violations with the seed that shows each, and the number of answers from memory."""
    violations, hits = [], 0
    for seed in range(first_seed, first_seed + interleavings):
        world = ClientWorld(seed, faults)
        world.run(STEPS)
        hits += world.client_hits
        violations += [f"seed {seed}: {violation}" for violation in world.violations]
    return violations, hits


@pytest.mark.timeout(600)
def test_no_interleaving_allows_a_key_from_a_clients_memory_after_its_revocation_returned() -> None:
    first_seed = random.randrange(2**32)
    violations, hits = simulate(first_seed, INTERLEAVINGS, ClientFaults())
    print(f"{INTERLEAVINGS} interleavings from seed {first_seed}: {hits} answers from memory")
    assert not violations, violations[:5]
    assert hits > INTERLEAVINGS / 10, "hardly ever answers from memory, so it shows nothing"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_simulation_catches_a_protection_of_clients_that_is_switched_off(fault: str) -> None:
    for seed in range(0, 50_000, 1_000):
        violations, _ = simulate(seed, 1_000, ClientFaults(**{fault: True}))
        if violations:
            return
    pytest.fail(f"{fault} was not noticed")
