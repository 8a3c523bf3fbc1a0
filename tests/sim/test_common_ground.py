"""The product's nodes in virtual time beside the Monte Carlo engine, on ground that both can stand on."""

from __future__ import annotations

import numpy as np
import pytest

from potsherd.simulations.validation.common_ground import Ground, compare, in_the_world, sampled

SMALL = Ground(nodes=8, segments=3, k=2, n=5, r=4, life_h=5.0, hours=6.0, patience_h=1.0)


@pytest.mark.slow
def test_a_small_town_lives_and_repairs() -> None:
    """Eight donors that live for five hours: about ten die within six, and their shards are made anew."""
    seed = 11
    print("seed", seed)
    town = in_the_world(SMALL, seed)
    assert 2 <= town.live <= 5
    assert town.made > 0, "holders repair without being told"
    engine = sampled(SMALL, 200)
    live = np.array([o.live for o in engine])
    assert abs(town.live - live.mean()) < 4 * live.std()


def test_the_engine_loses_more_when_loss_is_noticed_later() -> None:
    """So the comparison would see a town that repairs at another time than it should."""
    soon, late = (
        np.mean([o.lost for o in sampled(ground, 60)])
        for ground in (Ground(), Ground(patience_h=8.0))
    )
    assert late > 2 * soon > 0


@pytest.mark.nightly
def test_a_town_lies_within_the_engines_interval() -> None:
    """A town of two days (200 CPU seconds): live indices, losses and shards made anew, each within 95 % of the engine's."""
    found = compare(Ground(), [in_the_world(Ground(), 1)])
    print(found)
    assert all(w.inside for w in found)
