"""How prompts share what a step has left for them."""

from inference_svc.engine.sequence import Sequence


def share_prompt_room(room: int, prompts: list[Sequence]) -> list[tuple[Sequence, int]]:
    """Tokens for each of `prompts`, which come in their order of service; those that get none are left out.

    The first in order is sure of half, so that everyone's turn comes; the rest goes to the shortest of the others, so
    that a short prompt need not wait for a long one to be through; what they leave is the first's again.
    """
    if room <= 0 or not prompts:
        return []
    first = prompts[0]
    shares = {first.key: min(first.pending, max(1, room // 2))}
    room -= shares[first.key]
    for prompt in [*sorted(prompts[1:], key=lambda prompt: prompt.pending), first]:
        more = min(room, prompt.pending - shares.get(prompt.key, 0))
        if more > 0:
            shares[prompt.key] = shares.get(prompt.key, 0) + more
            room -= more
    return [(prompt, shares[prompt.key]) for prompt in prompts if prompt.key in shares]
