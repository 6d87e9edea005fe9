"""The study of learning rates: its models are whole pipelines, made once for equal training settings."""

import dataclasses

import numpy as np
import pytest

from scripts.experiments import lr_study
from vov import VovError, media
from vov.model.wan import WanBackbone


@pytest.fixture
def study(tmp_path):
    """Settings under which one tiny model is trained for two steps."""
    frames = np.random.default_rng(0).integers(0, 256, (17, 112, 192, 3), np.uint8)
    media.write_frames(tmp_path / "noise", frames)
    return lr_study.Study(sizes="64x1", train=str(tmp_path / "noise"), windows=1, train_steps=2, train_batch=1,
                          out=str(tmp_path / "study"), device="cpu")


def test_a_model_is_trained_once_and_loads_as_any_other(study, tmp_path, monkeypatch):
    lr_study.main(study)
    (folder,) = (tmp_path / "study").iterdir()
    backbone = WanBackbone.load(str(folder), "", "cpu", "float32")
    assert len(backbone.transformer.blocks) == 1 and backbone.transformer.config.num_attention_heads == 1
    trained = []
    monkeypatch.setattr(lr_study, "train", lambda *given: trained.append(given[2:4]))
    lr_study.main(study)
    assert not trained
    lr_study.main(dataclasses.replace(study, train_lr=0.5))
    assert trained == [(64, 1)], "other training settings, another model"


@pytest.mark.parametrize("change", [{"sizes": "64"}, {"sizes": "65x1"}, {"train": ""}, {"kinds": "all"}])
def test_what_cannot_be_studied_is_refused(study, change):
    with pytest.raises(VovError, match=next(iter(change)).upper()):
        lr_study.main(dataclasses.replace(study, **change))


def test_every_kind_of_fit_reaches_the_sweep_with_its_own_model_and_rows(study, tmp_path, monkeypatch):
    started = []

    class Done:
        returncode = 0

    def run(command, env):
        started.append((command[-1], env["NOISE"], env["LAST_K"], env["OUT"], env["WAN_MODEL_ID"]))
        return Done

    monkeypatch.setattr(lr_study.subprocess, "run", run)
    lr_study.main(dataclasses.replace(study, clips="a"))
    (folder,) = (tmp_path / "study").iterdir()
    assert started == [("scripts.experiments.sweep", kind, "1", f"{study.out}/64x1-{kind}.jsonl", str(folder))
                       for kind in ("anchored", "random")]
