"""Import every stub under a folder and send an empty message of each type through the wire format and back."""

import importlib
import sys
from pathlib import Path

from google.protobuf.message import Message


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    messages = 0
    for path in sorted(folder.rglob("*_pb2*.py")):
        module = importlib.import_module(".".join(path.relative_to(folder).with_suffix("").parts))
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Message)]
        for kind in kinds:
            kind.FromString(kind().SerializeToString())
        messages += len(kinds)
    if not messages:
        sys.exit(f"no stub found under {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
