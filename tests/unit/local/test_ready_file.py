"""The ready file is whole whenever it is there."""

import json
import stat

from seam_local.ready import Ready, read_ready, write_ready

READY = Ready("127.0.0.1:1", "127.0.0.1:2", ("127.0.0.1:3",), 4, (5,), "key")


def test_it_says_where_everything_is_and_who_runs_it():
    assert READY.to_json() == {
        "grpc": "127.0.0.1:1",
        "http": "127.0.0.1:2",
        "inference": ["127.0.0.1:3"],
        "pids": {"business": 4, "inference": [5]},
        "api_key": "key",
        "metrics": [],
    }


def test_it_appears_whole_is_replaced_whole_and_leaves_no_draft(tmp_path):
    path = tmp_path / "ready.json"
    for key in ("first", "second"):
        write_ready(path, {"api_key": key})
        assert json.loads(path.read_text()) == {"api_key": key}
    assert [each.name for each in tmp_path.iterdir()] == ["ready.json"]


def test_only_its_owner_may_read_it_since_it_holds_a_key(tmp_path):
    path = tmp_path / "ready.json"
    write_ready(path, READY.to_json())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_child_that_has_not_written_is_not_ready(tmp_path):
    assert read_ready(tmp_path / "ready.json") is None
