"""Habits, away and gone, frozen timers, isolation: the pure core, driven through weeks of virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import DAY, HOUR, MONDAY, WEEK, Up, always, key

from potsherd.errors import MalformedError
from potsherd.node.churn import ChurnCounts, ChurnSeen
from potsherd.node.habits import ABSENCES_MAX, COUNT_MAX, Habits, LossPolicy, hour_of_week
from potsherd.node.liveness import HEARSAY_FACTOR, FreezePolicy, PeerTable
from potsherd.node.liveness_state import PeerState, state_of, watched_of

STEP = 600.0


def office_hours(t: float) -> bool:
    """Monday to Friday, 9 to 17: 64 hours from Friday evening to Monday morning."""
    day, hour = int(t % WEEK // DAY), t % DAY / HOUR
    return day < 5 and 9 <= hour < 17


class Life:
    """A table and what its peers do; time in seconds since MONDAY."""

    def __init__(self, peers: Iterable[Up], *, freeze: FreezePolicy | None = None) -> None:
        self.up = dict(enumerate(peers))
        self.table = PeerTable(interval_s=STEP, away_after_s=1800, peers_max=1000, freeze=freeze)
        self.now = 0.0
        for number in self.up:
            self.table.watch(key(number), 0.0)

    def step(self) -> None:
        self.now += STEP
        for due in self.table.due(self.now, 1000):
            utc = MONDAY + self.now
            if self.up[int.from_bytes(due, "big")](self.now):
                self.table.seen(due, self.now, utc)
            else:
                self.table.failed(due, self.now, utc)
        self.table.advance(self.now, MONDAY + self.now, step_max_s=2 * STEP)

    def until(self, end: float) -> None:
        while self.now < end:
            self.step()

    def given_up_after(self, number: int, limit: float) -> float:
        """Seconds from now until the peer is given up; `limit` if it is not."""
        start = self.now
        while self.now < start + limit and not self.table.lost(key(number)):
            self.step()
        return self.now - start


def with_company(peer: Up, others: int = 8) -> Life:
    """One peer to look at, number 0, and some that are always there."""
    return Life([peer, *[always] * others])


# --- time-outs are learned ------------------------------------------------------------------------


def test_a_habitual_sleeper_is_not_given_up_after_64_hours() -> None:
    gone_at = 4 * WEEK + 17 * HOUR
    life = with_company(lambda t: office_hours(t) and t < gone_at)
    life.until(gone_at)
    assert life.given_up_after(0, 64 * HOUR) == 64 * HOUR
    assert life.given_up_after(0, 14 * DAY) + 64 * HOUR < 9 * DAY, "but it is given up in the end"


def test_a_sleeper_that_only_sleeps_at_night_may_take_a_long_weekend() -> None:
    gone_at = 4 * WEEK + 20 * HOUR
    life = with_company(lambda t: t % DAY >= 10 * HOUR and t < gone_at)
    life.until(gone_at)
    assert life.given_up_after(0, 64 * HOUR) == 64 * HOUR


def test_a_server_with_three_nines_is_given_up_within_a_day() -> None:
    """40 minutes down in four weeks."""
    gone_at = 4 * WEEK
    down = 13 * DAY + 5 * HOUR
    life = with_company(lambda t: t < gone_at and not down <= t < down + 2400)
    life.until(gone_at)
    after = life.given_up_after(0, 3 * DAY)
    assert 12 * HOUR < after <= 24 * HOUR


def test_a_newcomer_follows_the_stated_prior() -> None:
    life = with_company(lambda t: t < HOUR)
    after = life.given_up_after(0, 20 * DAY)
    assert abs(after - LossPolicy().prior_s) < 0.03 * LossPolicy().prior_s


def test_habits_gain_weight_evenly() -> None:
    waits = []
    for days in (1, 5, 10, 21):
        end = days * DAY
        life = with_company(lambda t, end=end: t < end)  # type: ignore[misc] # mypy infers no default
        life.until(end)
        waits.append(life.given_up_after(0, 20 * DAY))
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 11 * DAY
    assert waits[-1] <= 20 * HOUR


def test_a_long_absence_is_remembered_for_half_a_year() -> None:
    habits = Habits(observed_s=10 * WEEK)
    policy = LossPolicy()
    before = habits.patience_s(policy, 100)
    habits.returned(6 * DAY, 100 * WEEK)
    assert habits.patience_s(policy, 101) == policy.longest_absences * 6 * DAY
    assert habits.patience_s(policy, 100 + 27) == before
    habits.returned(300 * DAY, 101 * WEEK)
    assert habits.patience_s(policy, 101) == policy.ceiling_s


def test_the_silence_that_is_judged_does_not_teach_patience() -> None:
    """A dead server must not look like a sleeper because it has been dead for a while."""
    life = with_company(lambda t: t < 4 * WEEK)
    life.until(4 * WEEK)
    assert life.given_up_after(0, 10 * DAY) < 24 * HOUR


def test_coming_back_ends_it() -> None:
    life = with_company(lambda t: t < 4 * WEEK or t > 4 * WEEK + 3 * DAY)
    life.until(4 * WEEK + 2 * DAY)
    assert life.table.gone() == {key(0)}
    life.until(4 * WEEK + 3 * DAY + 2 * HOUR)
    assert life.table.gone() == frozenset()
    assert life.table.alive(key(0), life.now)
    absence = life.table.items()[0][1].habits.absences[0]
    assert abs(absence.length_s - 3 * DAY) < 2 * HOUR


@given(st.lists(st.tuples(st.floats(0, 1e9), st.booleans()), max_size=300))
def test_the_sketch_is_bounded(beats: list[tuple[float, bool]]) -> None:
    habits = Habits()
    for utc, up in beats:
        for _ in range(5):
            habits.answered(utc) if up else habits.missed(utc)
        assert 0 <= habits.availability(utc) <= 1
        assert habits.tries[hour_of_week(utc)] <= COUNT_MAX
        habits.returned(utc, utc)
    assert all(u <= t for u, t in zip(habits.up, habits.tries, strict=True))
    assert len(habits.absences) <= ABSENCES_MAX
    assert 0 < habits.overall() <= 1


# --- away, and who exists -------------------------------------------------------------------------


def test_nobody_is_away_before_it_was_asked() -> None:
    """After a night in standby everybody has been silent for hours: nobody was asked."""
    life = with_company(always)
    life.until(DAY)
    life.now += 10 * HOUR
    life.table.advance(life.now, MONDAY + life.now, step_max_s=2 * STEP)
    assert not life.table.away(life.now)
    life.step()
    assert not life.table.away(life.now)


def test_our_own_sleep_is_nobodys_silence() -> None:
    """The node is stopped for 20 days; its peer left just before. It begins to wait when it is back."""
    life = with_company(lambda t: t < 4 * WEEK)
    life.until(4 * WEEK + HOUR)
    life.now += 20 * DAY
    assert life.given_up_after(0, 3 * DAY) > 16 * HOUR
    assert not life.table.lost(key(1))


def test_a_holder_that_never_answered_is_lost_as_soon_as_it_is_away() -> None:
    life = with_company(lambda _: False)
    assert not life.table.lost(key(0))
    assert not life.table.proven(key(0))
    life.until(HOUR)
    assert life.table.lost(key(0))
    assert life.table.proven(key(1))
    assert not life.table.lost(key(99)), "whoever is not watched gets the benefit of the doubt"


# --- many at once ---------------------------------------------------------------------------------


def dark(start: float, end: float) -> Up:
    return lambda t: not start <= t < end


def test_a_quarter_dark_for_two_days_is_no_loss() -> None:
    start = 4 * WEEK
    site = [dark(start, start + 2 * DAY)] * 5
    life = Life([*site, *[always] * 15])
    life.until(start + 2 * DAY)
    assert life.table.counts(life.now).away == 5
    assert life.table.counts(life.now).frozen == 5
    assert life.table.gone() == frozenset()
    assert all(life.table.lost(key(i), urgent=True) for i in range(5)), "for weak segments they are"
    life.until(start + 3 * DAY)
    assert life.table.counts(life.now) == (20, 0, 0, 0, False)


def test_the_freeze_has_an_end() -> None:
    start = 4 * WEEK
    life = Life([*[dark(start, 1e12)] * 5, *[always] * 15])
    life.until(start)
    after = life.given_up_after(0, 10 * DAY)
    freeze = FreezePolicy().freeze_max_s
    assert freeze + 16 * HOUR < after < freeze + 24 * HOUR


def test_a_fifth_or_less_is_not_frozen_nor_losses_that_come_one_by_one() -> None:
    start = 4 * WEEK
    few = Life([*[dark(start, 1e12)] * 4, *[always] * 16])
    few.until(start)
    assert few.given_up_after(0, 10 * DAY) < 24 * HOUR
    slowly = Life([*[dark(start + i * 3 * HOUR, 1e12) for i in range(8)], *[always] * 12])
    slowly.until(start)
    assert slowly.given_up_after(0, 10 * DAY) < 24 * HOUR


def test_a_whole_failure_domain_is_frozen_and_half_of_one_is_not() -> None:
    start = 4 * WEEK
    for left, frozen in ((3, 3), (2, 0)):
        life = Life([*[dark(start, 1e12)] * left, *[always] * (30 - left)])
        for number in range(3):
            life.table.describe(key(number), None, [("site", "cellar")])
        life.until(start + 4 * HOUR)
        assert life.table.counts(life.now).frozen == frozen


def test_colleagues_who_go_home_together_freeze_nothing() -> None:
    """They were expected to leave; a server that dies on the same evening is not protected by them."""
    evening = 4 * WEEK + 17 * HOUR
    life = Life([lambda t: t < evening, *[office_hours] * 12, *[always] * 15])
    life.until(evening + 2 * HOUR)
    assert life.table.counts(life.now) == (28, 13, 0, 0, False)
    assert life.given_up_after(0, 2 * DAY) < 24 * HOUR


def test_a_node_that_is_cut_off_gives_nobody_up_for_a_week() -> None:
    start = 4 * WEEK
    life = Life([*[dark(start, start + 6 * DAY)] * 13, *[always] * 7])
    life.until(start + 6 * DAY - HOUR)
    counts = life.table.counts(life.now)
    assert (counts.away, counts.gone, counts.isolated) == (13, 0, True)
    assert not any(life.table.lost(key(i), urgent=True) for i in range(20))
    life.until(start + 7 * DAY)
    assert life.table.counts(life.now) == (20, 0, 0, 0, False)


def test_cut_off_ends_when_the_silent_have_been_so_for_a_week() -> None:
    start = 4 * WEEK
    life = Life([*[dark(start, 1e12)] * 13, *[always] * 7])
    life.until(start + 8 * DAY)
    assert not life.table.isolated
    life.until(start + 14 * DAY)
    assert life.table.counts(life.now).gone == 13


def test_strangers_that_answer_show_that_it_is_not_us() -> None:
    start = 4 * WEEK
    life = Life([*[dark(start, 1e12)] * 13, *[always] * 7])
    life.until(start)
    for _ in range(int(4 * HOUR / STEP)):
        life.table.acquaint([key(1000 + i) for i in range(10)], life.now)
        life.step()
    assert not life.table.isolated
    life.until(life.now + 2 * HOUR)
    assert life.table.isolated, "now they are silent too"


def test_who_is_watched_by_now_is_no_stranger_any_more() -> None:
    life = with_company(always)
    life.table.acquaint([key(i) for i in range(100, 130)], 0.0)
    for number in range(100, 130):
        life.up[number] = always
        life.table.watch(key(number), 0.0)
    life.until(3 * HOUR)
    assert not life.table.isolated, "they are counted once, and as what they are now"


def test_alone_in_the_dark() -> None:
    life = Life([dark(DAY, 1e12)] * 9)
    life.until(40 * DAY)
    assert life.table.counts(life.now) == (9, 9, 0, 9, True)


# --- hearsay --------------------------------------------------------------------------------------


def test_the_newest_sighting_decides() -> None:
    life = with_company(lambda t: t < 4 * WEEK)
    life.until(4 * WEEK + 12 * HOUR)
    assert life.table.vouched(key(0), 2 * HOUR)
    assert not life.table.vouched(key(0), 3 * HOUR), "older than what we know"
    assert 14 * HOUR < life.given_up_after(0, 3 * DAY) < 20 * HOUR
    assert life.table.vouched(key(0), HOUR)
    assert not life.table.lost(key(0)), "a sighting takes it back"


def test_a_liar_delays_a_loss_but_does_not_prevent_it() -> None:
    life = with_company(lambda t: t < 4 * WEEK)
    life.until(4 * WEEK)
    start = life.now
    while life.now < start + 10 * DAY and not life.table.lost(key(0)):
        life.step()
        life.table.vouched(key(0), 0.0)
    waited = life.now - start
    patience = life.table.items()[0][1].patience_s
    assert waited <= (HEARSAY_FACTOR + 1) * patience + HOUR
    assert waited > patience


# --- records and persistence ----------------------------------------------------------------------


def test_a_proven_record_takes_two_weeks_and_an_audit() -> None:
    life = with_company(always)
    life.until(15 * DAY)
    assert not life.table.has_record(key(0))
    life.table.audited(key(0), True)
    assert life.table.has_record(key(0))
    life.table.audited(key(99), True)
    young = with_company(always)
    young.table.audited(key(0), True)
    young.until(13 * DAY)
    assert not young.table.has_record(key(0))


def test_a_restart_forgets_nothing_and_counts_no_time() -> None:
    life = with_company(lambda t: t < 4 * WEEK)
    life.until(4 * WEEK + 10 * HOUR)
    states = {k: state_of(peer).encode() for k, peer in life.table.items()}
    assert all(len(data) < 640 for data in states.values())
    again = Life([])
    again.up, again.now = life.up, life.now + 5 * DAY
    for k, data in states.items():
        peer = watched_of(PeerState.decode(data), again.now, MONDAY + again.now, STEP)
        assert state_of(peer).encode() == data
        again.table.restore(k, peer)
    assert 5 * HOUR < again.given_up_after(0, 3 * DAY) < 12 * HOUR
    assert not again.table.lost(key(1))
    assert again.table.age_s(key(1), again.now) is not None


def test_states_that_contradict_themselves_are_refused() -> None:
    life = with_company(always)
    life.until(DAY)
    state = state_of(life.table.items()[0][1])
    with pytest.raises(MalformedError):
        PeerState(**{**vars(state), "up": bytes([9] * 168)}).encode()


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_whatever_happens_the_rules_hold(seed: int) -> None:
    """Random lives, stops, clock jumps and hearsay: nobody is given up early, counters stay in bounds."""
    rng = random.Random(seed)
    flips = [sorted(rng.uniform(0, 60 * DAY) for _ in range(rng.randrange(6))) for _ in range(9)]
    life = Life([lambda t, f=f: sum(x < t for x in f) % 2 == 0 for f in flips])  # type: ignore[misc]
    silent = dict.fromkeys(range(9), 0.0)
    floor = LossPolicy().floor_s
    while life.now < 60 * DAY:
        life.now += rng.choice((0.0, 0.0, STEP, 6 * HOUR, 3 * DAY))
        before = life.now
        life.step()
        for number, up in life.up.items():
            silent[number] = 0.0 if up(life.now) else silent[number] + life.now - before + STEP
        if rng.random() < 0.1:
            life.table.vouched(key(rng.randrange(10)), rng.uniform(0, DAY))
        for k, peer in life.table.items():
            assert state_of(peer).encode()
            assert peer.silence_s() <= peer.silence_s(urgent=True) <= peer.silent_s + 1e-6
            lost = life.table.lost(k, urgent=True)
            assert not lost or not peer.answered or peer.silent_s >= floor
            assert not lost or not life.table.alive(k, life.now)


# --- what is counted for forecasts ----------------------------------------------------------------


def dead_from(start: float) -> Up:
    return lambda t: t < start


def test_coming_and_going_is_counted() -> None:
    """Six servers for 60 days; one dies on day 30, one is away for three days."""

    def three_days_away(t: float) -> bool:
        return not 20 * DAY <= t < 23 * DAY

    life = Life([always] * 4 + [dead_from(30 * DAY), three_days_away])
    life.until(60 * DAY)
    counts = life.table.churn
    assert counts.gone == 1
    assert counts.returned == 1, "three days are longer than the least that gives somebody up"
    years = counts.watched / (365.25 * DAY)
    assert years == pytest.approx((5 * 60 + 31) / 365.25, rel=0.02), (
        "the dead one until it was given up"
    )


def test_short_absences_are_not_counted_as_returns() -> None:
    life = Life([always] * 4 + [lambda t: t % DAY > 5 * HOUR])
    life.until(20 * DAY)
    assert (life.table.churn.gone, life.table.churn.returned) == (0, 0)


def test_who_comes_back_after_all_has_not_left() -> None:
    life = Life([always] * 4 + [lambda t: not 30 * DAY <= t < 40 * DAY])
    life.until(35 * DAY)
    assert life.table.churn.gone == 1
    life.until(45 * DAY)
    assert (life.table.churn.gone, life.table.churn.returned) == (0, 1)


def test_counting_goes_on_after_a_restart_and_when_peers_are_forgotten() -> None:
    life = Life([always] * 4 + [dead_from(30 * DAY)])
    life.until(50 * DAY)
    before = life.table.churn
    life.table.keep_only([key(0)])
    assert life.table.churn == before
    again = Life([always] * 3)
    again.table.go_on(ChurnCounts.decode(before.encode()))
    again.until(10 * DAY)
    after = again.table.churn
    assert after.gone == before.gone == 1
    assert after.watched - before.watched == pytest.approx(30 * DAY, rel=0.02)


def test_a_report_names_availabilities_and_how_soon_loss_is_noticed() -> None:
    life = Life([always] * 4 + [office_hours])
    life.until(1 * DAY)
    fresh = life.table.report([], MONDAY + life.now, HOUR)
    assert fresh.noticed == pytest.approx(13.5 * DAY, rel=0.1), "the prior counts at first"
    life.until(28 * DAY)
    nodes = [key(0), key(4), key(99)]
    found = life.table.report(nodes, MONDAY + life.now, HOUR)
    assert found.noticed == pytest.approx(18.5 * HOUR, rel=0.02)
    there, sometimes, unknown = found.availability
    assert there is not None and there > 990
    assert sometimes is not None and 200 < sometimes < 350
    assert unknown is None
    assert ChurnSeen.decode(found.encode()) == found
