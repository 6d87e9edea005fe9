"""Claims about configuration: who wins, what is refused, and that every shipped preset is valid."""

from dataclasses import fields

import pytest

from vov import VovError, config
from vov.commands.decode import DecodePictures
from vov.commands.edit import EditPicture
from vov.commands.options import ImageFit, VideoFit
from vov.config import cli, load, number_list
from vov.fitting.settings import FitConfig
from vov.runtime.files import REPO


def classes_of(preset):
    return ImageFit if "image" in preset else VideoFit


@pytest.mark.parametrize("preset", sorted(p.stem for p in (REPO / "configs").glob("*.yaml")))
@pytest.mark.parametrize("stage", ["", "stage1", "stage2"])
def test_every_shipped_preset_is_read_by_the_code_that_ships(preset, stage):
    settings = load(classes_of(preset), {"config": preset}, {}, stage)
    assert settings.config == preset
    if stage == "stage1":
        assert settings.lambda_rate == 0
    if stage == "stage2" and preset != "qwen-image-paper":  # published without a rate term
        assert settings.lambda_rate > 0


def test_command_line_beats_environment_beats_yaml_beats_default(tmp_path):
    (tmp_path / "p.yaml").write_text("rank: 5\nlr: 0.5\nseed: 7\nstage2:\n  lr: 0.25\n")
    environ = {"CONFIG": str(tmp_path / "p.yaml"), "LR": "0.125", "RANK": "6"}
    settings = load(FitConfig, {"rank": "7"}, environ)
    assert (settings.rank, settings.lr, settings.seed, settings.last_k) == (7, 0.125, 7, 30)
    del environ["LR"]
    assert load(FitConfig, {}, environ, "stage1").lr == 0.5
    assert load(FitConfig, {}, environ, "stage2").lr == 0.25
    assert load(FitConfig, {}, environ | {"STAGE2_LR": "1"}, "stage2").lr == 1
    assert load(FitConfig, {}, environ | {"STAGE2_LR": "1"}, "stage1").lr == 0.5


@pytest.mark.parametrize("name", ["V_LENGTH", "THETA_D_LENGTH", "THETA_LENGTH"])
def test_old_names_still_set_the_length(name):
    assert load(FitConfig, {}, {name: "77"}).theta_length == 77


@pytest.mark.parametrize(("environ", "message"), [
    ({"LR": "fast"}, "LR: lr='fast' is not a number"),
    ({"RANK": "1.5"}, "not a whole number"),
    ({"RANK": "0"}, "at least 1"),
    ({"NOISE": "pink"}, "not one of random, anchored, mix"),
    ({"LR": "nan"}, "not a number"),
    ({"LR": "inf"}, "not a number"),
    ({"SEED": str(2**64)}, "must be at most 18446744073709551615"),
    ({"THETA_D_LENGTH": str(10**30)}, "must be at most 16777216"),
    ({"DECODE_STEPS": "10001"}, "must be at most 10000"),
    ({"OVERWRITE": "maybe"}, "not 0 or 1"),
    ({"CONFIG": "no-such"}, "presets are nano-"),
])
def test_bad_values_name_the_variable_and_the_cure(environ, message):
    with pytest.raises(VovError, match=message):
        load(FitConfig, {}, environ)


def test_an_unknown_yaml_key_is_an_error(tmp_path):
    (tmp_path / "p.yaml").write_text("learning_rate: 1\n")
    with pytest.raises(VovError, match="unknown key 'learning_rate'"):
        load(FitConfig, {}, {"CONFIG": str(tmp_path / "p.yaml")})
    (tmp_path / "q.yaml").write_text("a: [\n")
    with pytest.raises(VovError, match="not valid YAML"):
        load(FitConfig, {}, {"CONFIG": str(tmp_path / "q.yaml")})


@pytest.mark.parametrize("name", ["WIDTH", "HEIGHT", "RANK", "LAST_K", "THETA_D_LENGTH", "PROJ_SEED", "SEED"])
def test_what_no_file_can_hold_no_command_takes(name):
    for cls in (ImageFit, VideoFit, DecodePictures, EditPicture):
        with pytest.raises(VovError, match="must be at most"):
            load(cls, {}, {name: str(10**20)})


@pytest.mark.parametrize(("text", "message"), [
    ("stage1: [1, 2]\n", "must be mappings"),
    ("stage2: fast\n", "must be mappings"),
    ("- lr\n", "must be mappings"),
    ("out_dir: [a, b]\n", "is not text"),
    ('out_dir: "a\\0b"\n', "is not text"),
    ("lr: 2001-99-99\n", "not valid YAML"),
    ("lr: " + "[" * 5000, "not valid YAML"),
    ("seed: &a [&b [x, x], *b, *b, *b]\n", "is not a whole number"),
])
def test_hostile_yaml_is_one_short_line(text, message, tmp_path):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(VovError, match=message) as found:
        load(FitConfig, {}, {"CONFIG": str(tmp_path / "p.yaml")})
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_a_preset_may_leave_a_value_empty_and_is_utf_8_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    (tmp_path / "p.yaml").write_bytes("# größer\nlr:\nname: ein größeres Bild\n".encode())
    found = load(VideoFit, {}, {"CONFIG": str(tmp_path / "p.yaml")})
    assert (found.lr, found.name) == (0.002, "ein größeres Bild")
    (tmp_path / "p.yaml").write_bytes("name: größer\n".encode("cp1252"))
    with pytest.raises(VovError, match="is not UTF-8; save it as UTF-8"):
        load(VideoFit, {}, {"CONFIG": str(tmp_path / "p.yaml")})


def test_the_resolved_copy_reads_back_the_same(tmp_path):
    settings = load(VideoFit, {"config": "nano-video", "lr": "0.1"}, {}, "stage2")
    config.save(settings, tmp_path / "config.yaml")
    again = load(VideoFit, {}, {"CONFIG": str(tmp_path / "config.yaml")})
    assert again.identity() == settings.identity()


def test_help_names_every_variable_with_its_value(monkeypatch):
    monkeypatch.setenv("LAST_K", "3")
    text = cli.help_text(VideoFit, {}, "usage line", ["", "stage1", "stage2"])
    assert "usage line" in text
    for field in fields(VideoFit):
        assert field.name.upper() in text and field.metadata["help"], field.name
    assert "WAN_MODEL_ID" in text and "V_LENGTH" in text
    row = next(line for line in text.splitlines() if line.startswith("LAST_K"))
    assert row.split()[1] == "3"


def test_lists_of_numbers():
    assert number_list("STRENGTH", "1,0.5", 2) == [1, 0.5] and number_list("STRENGTH", "2", 3) == [2, 2, 2]
    assert number_list("RATES", "-1, 2e3") == [-1, 2000]
    for wrong in ("1,2,3", "a", "", "nan,1", "1,inf"):
        with pytest.raises(VovError, match="STRENGTH"):
            number_list("STRENGTH", wrong, 2)
    with pytest.raises(VovError, match="RATES='1,0': must be positive numbers"):
        number_list("RATES", "1,0", positive=True)


@pytest.mark.parametrize("value", ["\n", "a\nb", "x\r\u2028y"])
def test_an_error_is_one_line_whatever_a_value_holds(value, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x"])
    monkeypatch.setenv("CONFIG", value)
    with pytest.raises(SystemExit) as ended:
        cli.run(VideoFit, print, "usage")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and len(said.splitlines()) == 1 and said.startswith("error: CONFIG=")


def test_a_number_may_be_said_by_a_word_where_the_option_knows_it():
    assert load(FitConfig, {}, {"LR": "auto", "THETA_D_LENGTH": "10000"}).learning_rate == pytest.approx(0.1)
    stage2 = load(FitConfig, {}, {"LR": "auto", "THETA_D_LENGTH": "131072", "LAMBDA_RATE": "0.003"}, "stage2")
    assert stage2.learning_rate == pytest.approx(10 / 131072**0.5 / 3)
    assert load(FitConfig, {}, {"LR": "0.01"}).learning_rate == 0.01
    with pytest.raises(VovError, match="LR: lr='automatic' is not a number or auto"):
        load(FitConfig, {}, {"LR": "automatic"})
