"""The laws of choosing a replica."""

from dataclasses import replace

from business_svc.domain.inference import Message
from business_svc.link.outliers import OutlierSettings
from business_svc.link.picker import Chosen, Nobody, Overloaded, Picker, Standing
from business_svc.link.prefix import prefixes_of
from hypothesis import given
from hypothesis import strategies as st

waits = st.floats(0, 5)
standings = st.lists(
    st.builds(
        Standing,
        address=st.sampled_from("abcdefgh"),
        open=st.booleans(),
        full=st.booleans(),
        hop=st.sampled_from([0.0, 0.001]),
        predicted_wait=waits,
        running=st.integers(0, 64),
        waiting=st.integers(0, 64),
        step_duration=st.floats(0, 0.1),
        unseen=st.integers(0, 10),
    ),
    max_size=8,
    unique_by=lambda one: one.address,
)


@given(
    standings=standings, avoided=st.sets(st.sampled_from("abcdefgh")), failures=st.lists(st.sampled_from("abcdefgh"))
)
def test_only_a_replica_that_can_take_it_is_chosen(
    standings: list[Standing], avoided: set[str], failures: list[str]
) -> None:
    picker = Picker(OutlierSettings(failures=2))
    for address in failures:
        picker.failed(address, 0.0)
    decision = picker.choose("chat", standings, 0.5, avoided=avoided)
    opened = [one for one in standings if one.open and one.address not in avoided]
    able = [one for one in opened if not one.full]
    match decision:
        case Chosen(address):
            assert address in {one.address for one in able}
        case Overloaded(retry_after):
            assert opened
            assert not able
            assert retry_after > 0
        case Nobody():
            assert not opened


@given(standings=standings)
def test_no_able_replica_would_have_answered_much_sooner(standings: list[Standing]) -> None:
    decision = Picker().choose("chat", standings, 0.0)
    if isinstance(decision, Chosen):
        chosen = next(one for one in standings if one.address == decision.address)
        able = [one for one in standings if one.open and not one.full]
        assert chosen.wait + chosen.hop <= min(one.wait + one.hop for one in able) + 0.0006


def test_equal_replicas_share_what_is_sent_before_any_load_comes_back() -> None:
    picker = Picker()
    unseen = {"a": 0, "b": 0, "c": 0}
    for _ in range(30):
        facts = [Standing(name, predicted_wait=0.0, step_duration=0.01, unseen=sent) for name, sent in unseen.items()]
        decision = picker.choose("chat", facts, 0.0)
        assert isinstance(decision, Chosen)
        unseen[decision.address] += 1
    assert unseen == {"a": 10, "b": 10, "c": 10}


def test_a_local_replica_takes_all_until_waiting_there_costs_more_than_the_hop() -> None:
    picker = Picker()
    local, remote = Standing("local", running=8, step_duration=0.01), Standing("remote", hop=0.0005)
    assert picker.choose("chat", [remote, local], 0.0) == Chosen("local")
    busy = replace(local, predicted_wait=0.2, waiting=4)
    assert picker.choose("chat", [remote, busy], 0.0) == Chosen("remote")
    assert picker.choose("chat", [replace(remote, predicted_wait=0.3, waiting=4), busy], 0.0) == Chosen("local")


def test_a_conversation_goes_where_its_beginning_is_cached_unless_that_costs_more() -> None:
    picker = Picker()
    first = prefixes_of("chat", "tenant", [Message("system", "x" * 8000), Message("user", "hello")])
    second = prefixes_of("chat", "tenant", [Message("system", "x" * 8000), Message("user", "other")])
    idle = [Standing("a"), Standing("b"), Standing("c")]
    home = picker.choose("chat", idle, 0.0, prefixes=first)
    assert isinstance(home, Chosen)
    for _ in range(5):
        assert picker.choose("chat", idle, 0.0, prefixes=second) == home
    busy = [replace(one, predicted_wait=3.0, waiting=3) if one.address == home.address else one for one in idle]
    assert picker.choose("chat", busy, 0.0, prefixes=second) != home


def test_a_prompt_that_all_share_does_not_crowd_one_replica() -> None:
    picker = Picker()
    prefixes = prefixes_of("chat", "tenant", [Message("system", "x" * 8000)])
    live = {"a": 0, "b": 0, "c": 0}
    for _ in range(90):
        facts = [Standing(name, running=count, step_duration=0.01) for name, count in live.items()]
        decision = picker.choose("chat", facts, 0.0, prefixes=prefixes)
        assert isinstance(decision, Chosen)
        live[decision.address] += 1
    assert max(live.values()) <= 1.25 * 30 + 5


def test_another_tenants_equal_prompt_has_no_cache_anywhere() -> None:
    messages = [Message("system", "x" * 100)]
    mine, theirs = prefixes_of("chat", "a", messages), prefixes_of("chat", "b", messages)
    assert mine[0].key != theirs[0].key


def test_a_replica_that_keeps_failing_stands_aside_and_comes_back_gradually() -> None:
    picker = Picker(OutlierSettings(failures=3, first_pause=1.0, return_time=10.0))
    both = [Standing("good", running=5), Standing("bad")]
    assert picker.choose("chat", both, 0.0) == Chosen("bad")
    for _ in range(3):
        picker.failed("bad", 0.0)
    assert picker.choose("chat", both, 0.5) == Chosen("good")
    shares = []
    for moment in (1.5, 6.0, 12.0):
        chosen = [picker.choose("chat", both, moment, chance=one / 100) for one in range(100)]
        shares.append(chosen.count(Chosen("bad")))
    assert 5 <= shares[0] < shares[1] < shares[2] == 100


def test_an_ejected_replica_still_serves_when_it_is_the_last() -> None:
    picker = Picker(OutlierSettings(failures=1))
    picker.failed("only", 0.0)
    assert picker.choose("chat", [Standing("only")], 0.1) == Chosen("only")


def test_a_replica_that_refused_is_left_alone_until_its_queue_is_shorter_or_its_time_is_up() -> None:
    picker = Picker(longest_refusal=0.25)
    full = Standing("only", waiting=10)
    picker.refused("chat", full, 0.0, retry_after=1.0)
    assert isinstance(picker.choose("chat", [full], 0.1), Overloaded)
    assert picker.choose("embed", [full], 0.1) == Chosen("only")
    assert picker.choose("chat", [replace(full, waiting=9)], 0.1) == Chosen("only")
    picker.refused("chat", full, 0.2, retry_after=1.0)
    assert picker.choose("chat", [full], 0.5) == Chosen("only")


def test_a_replica_much_slower_than_the_others_keeps_a_tenth_by_which_to_show_that_it_is_quick_again() -> None:
    picker = Picker()
    quick = [Standing(name, running=8, step_duration=0.01) for name in "ab"]
    slow = Standing("slow", step_duration=0.5)
    chosen = [picker.choose("chat", [*quick, slow], 0.0, chance=one / 100) for one in range(100)]
    assert chosen.count(Chosen("slow")) == 10
    assert picker.choose("chat", [quick[0], slow], 0.0, chance=0.9) == Chosen("slow")  # of two, which is the slow one?
