"""A recorded day of the scheduler: a refactor must plan exactly the same steps.

Where the policy itself is meant to change, run this file's `record` and read the difference before it is committed.
"""

import json
import random
from pathlib import Path

from inference_svc.engine.costs import StepCosts
from inference_svc.engine.plans import GenerationLimits
from inference_svc.engine.scheduler import GenerationScheduler
from inference_svc.requests import Context, Priority
from support.echo import EchoRunner, EchoTokenizer
from support.outlets import generation

RECORDED = Path(__file__).with_name("scheduler_trace.json")


def record() -> list[list[list[int]]]:
    """Each step as [key, start, tokens] of its rows."""
    draw = random.Random(20)
    runner = EchoRunner(slot_count=4, max_context_tokens=64, cache_token_count=180)
    limits = GenerationLimits(4, 180, 16, 12, 15, {"a": 2.0})
    scheduler = GenerationScheduler(limits, EchoTokenizer(), StepCosts(16))
    steps: list[list[list[int]]] = []
    for now in range(160):
        if now < 60 and draw.random() < 0.5:
            context = Context(
                priority=draw.choice(list(Priority)),
                tenant=draw.choice("ab"),
                deadline=now + draw.choice([15.0, 60.0, 1000.0]),
            )
            prompt = [97 + now % 20] * draw.randint(1, 40)
            owed = draw.choice([None, None, 4])
            work = generation(prompt, count=draw.randint(1, 20), seed=now, credits=owed, context=context)
            scheduler.submit(now, work, float(now))
        if draw.random() < 0.2:
            scheduler.grant(draw.randrange(60), 5)
        if draw.random() < 0.05:
            scheduler.remove(draw.randrange(60))
        scheduler.expire(float(now))
        placements, _ = scheduler.place(float(now))
        for slot in scheduler.take_closed():
            runner.close(slot)
        for placed in placements:
            scheduler.opened(placed.key, runner.open(placed.slot, placed.generation) or 0)
        step = scheduler.next_step(float(now))
        if step is None:
            continue
        rows = zip(step.keys, step.rows, strict=True)
        steps.append([[key, row.start, len(row.token_ids)] for key, row in rows])
        scheduler.commit(step, runner.step(step.rows), float(now))
    assert runner.misuse == []
    return steps


def test_the_recorded_steps_are_planned_again():
    assert record() == json.loads(RECORDED.read_text())
