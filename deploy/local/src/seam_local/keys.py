"""Which API keys open the door, and which one is shown."""

import secrets
from dataclasses import dataclass

HASH_MARK = "sha256="


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """`setting` is the business server's SEAM_API_KEYS; `shown` is a key that it accepts."""

    shown: str
    setting: str


def chosen_keys(option: str | None, variable: str) -> Keys:
    """The option's key, else those of the environment, else a new one. Where the environment holds hashes only, a new
    key is added: a key that nobody has in plain cannot be shown."""
    if option:
        return Keys(option, option)
    entries = [entry.strip() for entry in variable.split(",") if entry.strip()]
    for entry in entries:
        secret = entry.partition(":")[2] if ":" in entry else entry
        if not secret.startswith(HASH_MARK):
            return Keys(secret, ",".join(entries))
    new = f"sk-seam-{secrets.token_hex(16)}"
    return Keys(new, ",".join([*entries, new]))
