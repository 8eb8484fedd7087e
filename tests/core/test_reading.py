"""Every way in which a file can be wrong gives one line that names the file."""

import os
from pathlib import Path

import pytest

from toddle.core.errors import InputError
from toddle.core.reading import inside, read_json, read_json_lines, read_yaml
from toddle.runs.metrics import read_metrics

JSON_DAMAGE = {
    "empty": b"",
    "cut short": b'{"a": 1, "b',
    "binary": bytes(range(128, 256)),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "key twice": b'{"a": 1, "a": 2}',
    "deep": b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
    "very deep": b"[" * 200_000,
    "a list": b"[1, 2]",
    "null": b"null",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "huge integer": b'{"a": ' + b"1" * 10_000 + b"}",
    "wrong type": b'{"a": "one"}',
    "a truth value": b'{"a": true}',
    "no key": b'{"b": 1}',
}
YAML_DAMAGE = {
    "binary": bytes(range(128, 256)),
    "aliases": b"a: &x [1, 2]\nb: [*x, *x]\n",
    "key twice": b"a: 1\na: 2\n",
    "deep": b"a: " + b"[" * 100 + b"]" * 100,
    "very deep": b"a: " + b"[" * 20_000 + b"]" * 20_000,
    "a list": b"- 1\n- 2\n",
    "code": b"a: !!python/object/apply:os.getcwd []\n",
    "a number as key": b"1: 2\n",
    "list as key": b"? [1, 2]\n: 3\n",
    "no date": b"a: 2020-99-99\n",
    "control character": b"a: \x00\n",
    "too large": b"a: 1\n#" + b"x" * 2**20,
}


def one_line(error: InputError, path: Path) -> bool:
    return str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("damage", JSON_DAMAGE)
def test_damaged_json(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(JSON_DAMAGE[damage])
    with pytest.raises(InputError) as raised:
        read_json(path, {"a": int})
    assert one_line(raised.value, path)


@pytest.mark.parametrize("damage", YAML_DAMAGE)
def test_damaged_yaml(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(YAML_DAMAGE[damage])
    with pytest.raises(InputError) as raised:
        read_yaml(path)
    assert one_line(raised.value, path)


@pytest.mark.parametrize("kind", ["none", "folder", "pipe", "loop", "null device"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "facts.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # opened without care, reading it waits for ever
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "null device":
        path.symlink_to("/dev/zero")
    for read in (read_json, read_yaml):
        with pytest.raises(InputError) as raised:
            read(path)
        assert one_line(raised.value, path)


def test_good_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('\ufeff{"a": 1, "b": {"c": [1.5, null]}}', encoding="utf-8")  # with a byte order mark
    assert read_json(path, {"a": int, "b": dict}) == {"a": 1, "b": {"c": [1.5, None]}}
    assert read_yaml(path) == {"a": 1, "b": {"c": [1.5, None]}}
    path.write_text('{"a": NaN}')
    assert read_json(path, finite=False)["a"] != 0


def test_only_the_last_line_may_be_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        read_metrics(path)


def test_a_path_of_a_file_stays_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "out").symlink_to("/etc")
    assert inside(folder, "videos/0.mp4") == folder.resolve() / "videos" / "0.mp4"
    for name in ("../other", "/etc/hostname", "out/hostname", "a/../../b"):
        with pytest.raises(InputError, match="inside"):
            inside(folder, name)
