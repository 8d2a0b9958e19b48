"""Which model takes the next step: laws of the share, whatever the work and the steps' lengths."""

import math

from hypothesis import given
from hypothesis import strategies as st
from inference_svc.engine.device_share import DeviceShare

MODELS = ("chat", "embed", "score")


@given(
    works=st.fixed_dictionaries({name: st.integers(1, 500) for name in MODELS}),
    lengths=st.fixed_dictionaries({name: st.floats(0.001, 0.2) for name in MODELS}),
    late=st.sampled_from(MODELS),
)
def test_time_follows_work_and_none_starves_though_one_comes_late(
    works: dict[str, int], lengths: dict[str, float], late: str
) -> None:
    share = DeviceShare()
    weight = {name: 1 + math.log2(1 + works[name]) for name in MODELS}

    def run(names: tuple[str, ...], steps: int) -> dict[str, float]:
        used = dict.fromkeys(names, 0.0)
        for _ in range(steps):
            name = share.next({one: works[one] for one in names})
            assert name is not None
            share.used(name, lengths[name], works[name])
            used[name] += lengths[name] / weight[name]
        return used

    one_step = max(lengths[name] / weight[name] for name in MODELS)
    run(tuple(name for name in MODELS if name != late), 100)
    together = run(MODELS, 400)
    # Each has had its due, but for the step it is in and the step by which it began behind or ahead.
    assert max(together.values()) - min(together.values()) <= 2 * one_step + 1e-9
