"""State of a stopped run on disk: it comes back as it was, or the work is done again."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from vov.noise.resume import ResumableSearch
from vov.runtime.state import KEY, StateStore, read_state, write_state


def test_arrays_come_back_under_their_own_identity_alone(tmp_path):
    store, kept = StateStore(tmp_path / "chunks"), {"symbols": np.arange(9, dtype=np.int32)[::2], "step": np.array(0.5)}
    assert store.load("theta", "one") is None
    store.save("theta", "one", **kept)
    found = store.load("theta", "one")
    assert found.keys() == kept.keys() and all(np.array_equal(found[name], kept[name]) for name in kept)
    assert found["symbols"].dtype == np.int32 and float(found["step"]) == 0.5
    assert store.load("theta", "two") is None and store.load("other", "one") is None
    store.save("theta", "two", step=np.array(1.0))
    assert store.load("theta", "one") is None and store.load("theta", "two").keys() == {"step"}


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def emptied(path):
    path.write_bytes(b"")


def without_notes(path):
    save_file({"x": np.zeros(3)}, path)


def with_a_list_for_notes(path):
    save_file({"x": np.zeros(3)}, path, {KEY: json.dumps(["identity"])})


@pytest.mark.parametrize("damage", [cut, emptied, without_notes, with_a_list_for_notes])
def test_a_damaged_state_is_none(tmp_path, damage):
    store = StateStore(tmp_path)
    store.save("x", "same", x=np.zeros(3))
    damage(tmp_path / "x.safetensors")
    assert store.load("x", "same") is None


def test_notes_are_json_and_the_file_is_whole_or_not_there(tmp_path):
    write_state(tmp_path / "a/x.safetensors", {}, {"captions": ["größer", "猫"], "done": 3})
    arrays, notes = read_state(tmp_path / "a/x.safetensors")
    assert arrays == {} and notes == {"captions": ["größer", "猫"], "done": 3}
    with pytest.raises(TypeError):
        write_state(tmp_path / "b/x.safetensors", {}, {"bad": object()})
    assert not (tmp_path / "b").exists() or not list((tmp_path / "b").iterdir())


def chooser(steps, atoms):
    """What a search notes of its `Chooser`."""
    return SimpleNamespace(chosen=[np.full(atoms, step, np.int32) for step in range(steps)],
                           energy=np.full((steps, 2), 0.25), worth=np.full((steps, 2), 4.0))


def test_a_search_comes_back_with_its_finished_samplings_and_the_one_at_hand(tmp_path):
    path, x = tmp_path / "s.safetensors", torch.randn(1, 4, 1, 2, 2)
    search = ResumableSearch(path, "identity")
    assert search.begin() is None
    search.note(3, chooser(3, 2), x)
    search.end()
    assert search.begin() is None
    search.note(1, chooser(3, 5), 2 * x)
    search.save()
    again = ResumableSearch(path, "identity")
    first, second = again.begin(), again.begin()
    assert first.finished and first.done == 3 and torch.equal(first.x, x)
    assert not second.finished and second.done == 1 and torch.equal(second.x, 2 * x)
    assert [part.tolist() for part in second.chosen] == [[step] * 5 for step in range(3)]
    assert (second.energy == 0.25).all() and (second.worth == 4.0).all() and second.energy.shape == (3, 2)
    assert ResumableSearch(path, "another").begin() is None
    cut(path)
    assert ResumableSearch(path, "identity").begin() is None
    again.remove()
    again.remove()  # is gone already
    assert not path.exists()
