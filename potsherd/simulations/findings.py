"""What a simulation has found so far: sums over the replicates that are done, whichever they are."""

from __future__ import annotations

from dataclasses import field

from potsherd.classes import dataclass
from potsherd.durability import Chain
from potsherd.errors import UsageError
from potsherd.simulations.montecarlo.replicates import Estimate, Series, estimate_loss, series
from potsherd.simulations.montecarlo.scenario import Scenario
from potsherd.simulations.study import Study, Variant
from potsherd.simulations.sweep import Done

__all__ = ["Exact", "Findings", "Found", "exact"]


@dataclass
class Found:
    """One scenario: its replicates, by number, so that the order in which they came does not matter."""

    scenario: Scenario
    variant: Variant | None = None
    """None: the scenario itself."""
    outcomes: dict[int, Done] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Replicates."""
        return len(self.outcomes)

    @property
    def whole(self) -> bool:
        """Whether all are there."""
        return self.done == self.scenario.replicates

    def series(self) -> Series:
        """Raises UsageError before the first is done."""
        return series(self.outcomes[i][1] for i in sorted(self.outcomes))

    def loss_per_year(self) -> Estimate:
        """Of a segment; the horizon's losses over all segment-years."""
        lost = [self.outcomes[i][1].lost for i in sorted(self.outcomes)]
        return estimate_loss(lost, self.scenario.segments, self.scenario.years)

    def networks_with_loss(self) -> int:
        """Replicates in which any segment was lost."""
        return sum(outcome.lost > 0 for _, outcome in self.outcomes.values())

    def dark(self) -> tuple[int, int]:
        """Segments looked at in the moment after power cuts, and how many of them could not be read."""
        outcomes = [outcome for _, outcome in self.outcomes.values()]
        return sum(o.dark_looked for o in outcomes), sum(o.dark_unreadable for o in outcomes)

    def moved_per_node_year(self) -> float:
        """Bytes that repair sent, per node and year."""
        moved = sum(int(outcome.moved.sum()) for _, outcome in self.outcomes.values())
        node_years = sum(outcome.node_years for _, outcome in self.outcomes.values())
        return moved * self.scenario.shard_bytes / node_years if node_years else 0.0

    def shard_events(self) -> int:
        """Shards made anew, over all replicates."""
        return sum(outcome.shard_events for _, outcome in self.outcomes.values())


@dataclass(frozen=True)
class Exact:
    """The chain with the scenario's mean rates; no shared nodes, lines, habits or shapes."""

    loss: float
    """Of a segment within the horizon."""
    loss_rate: float
    repair_rate: float


@dataclass
class Findings:
    """All scenarios of a study."""

    study: Study
    engine: str
    found: list[Found] = field(default_factory=list)
    interrupted: bool = False

    def __post_init__(self) -> None:
        """One entry for each scenario, the study's own first."""
        self.found = [Found(self.study.scenario)]
        self.found += [Found(v.scenario, v) for v in self.study.variants]

    @property
    def scenarios(self) -> list[Scenario]:
        """In the order of `Task.place`."""
        return [one.scenario for one in self.found]

    @property
    def base(self) -> Found:
        """The scenario itself."""
        return self.found[0]

    def add(self, done: Done) -> None:
        """One more."""
        task, _ = done
        self.found[task.place].outcomes[task.number] = done

    def count(self) -> tuple[int, int]:
        """Replicates done, and all."""
        return sum(f.done for f in self.found), sum(f.scenario.replicates for f in self.found)

    def curves(self) -> dict[str, list[Found]]:
        """What-if points that have any replicate, by field."""
        curves: dict[str, list[Found]] = {}
        for one in self.found[1:]:
            if one.variant is not None and one.done:
                curves.setdefault(one.variant.field, []).append(one)
        return curves


def exact(scenario: Scenario) -> Exact | None:
    """The chain beside the sample; None where it does not apply (repair without any time)."""
    repair = scenario.repair
    years = repair.mean_years
    if repair.kind == "timed":
        years = repair.notice_years + scenario.transfer_years(scenario.n - scenario.r + 1)
    rate = scenario.loss_rate()
    if not (rate > 0 and years > 0):
        return None
    try:
        chain = Chain(scenario.n, scenario.k, scenario.r, rate, 1 / years)
        return Exact(chain.loss_probability(scenario.years), rate, 1 / years)
    except UsageError:
        return None
