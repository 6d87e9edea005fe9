"""Claims about configuration: who wins, what is refused, and that every shipped preset is valid."""

from dataclasses import dataclass, replace

import pytest

from vov import VovError, config
from vov.commands.catalogue import COMMANDS
from vov.commands.decode import DecodePictures, DecodeVideo
from vov.commands.edit import EditPicture
from vov.commands.encode import EncodePictures, EncodeVideo
from vov.commands.options import ImageFit, VideoFit
from vov.config import cli, load, number_list, option, override
from vov.config.retired import MERGED, RETIRED, retired_lines, say
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


@pytest.mark.parametrize("old", sorted(MERGED))
def test_presets_for_noise_alone_are_their_models_presets_and_fit_nothing(old, caplog):
    new, medium = MERGED[old]
    cls = EncodePictures if medium == "image" else EncodeVideo
    say.cache_clear()
    assert load(cls, {"config": old}, {}, "encode") == load(cls, {"config": new}, {}, "encode")
    assert f"CONFIG={old} is CONFIG={new} now" in caplog.text
    with pytest.raises(VovError, match=rf"{old}: noise is coded without a fit; run CONFIG={new} with {medium}/encode"):
        load(classes_of(new), {"config": old}, {}, "stage1")


def test_coded_noise_has_the_defaults_that_were_measured_best():
    def found(cls, preset, *names):
        settings = load(cls, {"config": preset}, {}, "encode")
        return tuple(getattr(settings, name) for name in names)

    rate = "steps", "score", "lookahead_every", "usual_rate", "shift"
    assert found(EncodeVideo, "nano-video", *rate) == (40, "blend", 1, 60, 1)
    for preset in ("wan2.1-1.3b", "wan2.1-14b"):
        assert found(EncodeVideo, preset, *rate) == (40, "blend", 2, 148, 3)
    assert found(EncodeVideo, "wan2.2-ti2v-5b", *rate) == (40, "blend", 2, 200, 5)
    size = "steps", "score", "scaling_bytes", "shift"
    assert found(EncodePictures, "qwen-image", *size) == (40, "likelihood", 2000, 0)
    assert found(EncodePictures, "nano-image", *size) == (50, "blend", 2000, 1)


def test_an_encoder_without_config_reads_its_default_preset_and_a_fit_does_not():
    for cls, preset, steps in ((EncodeVideo, "wan2.1-1.3b", 40), (EncodePictures, "qwen-image", 40)):
        usual = load(cls, {}, {}, "encode")
        assert usual == load(cls, {"config": preset}, {}, "encode") != cls()
        assert (usual.config, usual.steps) == (preset, steps)
        assert load(cls, {}, {"STEPS": "7"}, "encode") == replace(usual, steps=7)
        assert load(cls, {}, {}, "encode", {"config": ""}) == replace(cls(), config="")  # as the parts of a data set
    for cls in (VideoFit, ImageFit):  # the published defaults, which are those of the class
        assert load(cls, {}, {}) == load(cls, {}, {}, "stage1") == cls()


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


@pytest.mark.parametrize("cls", COMMANDS.values(), ids=COMMANDS)
def test_no_two_settings_of_a_command_have_the_same_name(cls):
    names = [name for field in config.fields_of(cls).values() for name in config.environment_names(field)]
    assert len(names) == len(set(names))


OLD = {  # command: {name that users have typed: (what it sets now, an example)}, of /video and /image alike
    "video/encode.sh": {"FRAMES_DIR": "frames_dir", "NUM_FRAMES": "num_frames", "WAN_MODEL_ID": "model_id"},
    "image/encode.sh": {"IMAGE": "image", "SCALING_BYTES": "scaling_bytes"},
    "video/train/run_two_stage.sh": {
        "FRAMES_DIR": "frames_dir", "ORIGINAL_FRAMES_DIR": "frames_dir", "V_LENGTH": "theta_length",
        "THETA_D_LENGTH": "theta_length", "NUM_FRAMES": "num_frames", "TEST_STEPS": "decode_steps"},
    "image/train_multi.sh": {"IMAGE": "image", "GRAD_ACCUM_STEPS": "accum_step", "TEST_CFG": "guidance"},
    "video/scaling/sample.sh": {"ORIGINAL_FRAMES_DIR": "original_frames_dir", "FRAMES_DIR": "original_frames_dir",
                                "SCALING_BYTES": "scaling_bytes"},
    "video/reconstruct/reconstruct.sh": {"OUTPUT_DIR": "output_dir", "START_AT": "start_at",
                                         "COLLECTION_DIR": "collection"},
    "image/reconstruct_multi.sh": {"OUTPUT_DIR": "output_dir", "CFG": "guidance"},
    "video/edit/edit_caption.sh": {"OUTPUT_VIDEO": "output_video", "ORIGINAL_FRAMES_DIR": "original_frames_dir",
                                   "V_LENGTH": "theta_length", "NUM_FRAMES": "num_frames"},
    "image/edit_caption.sh": {"IMAGE": "original", "OUTPUT_IMAGE": "output"},
    "video/eval/eval.sh": {"NUM_FRAMES": "num_frames", "MEDIA": "media_dir", "MEDIA_DIR": "media_dir"},
}


@pytest.mark.parametrize(("command", "name", "field"), [
    (command, name, field) for command, names in OLD.items() for name, field in names.items()])
def test_names_that_users_have_typed_go_on_working_as_variable_flag_and_key(command, name, field, tmp_path):
    cls = COMMANDS[command]
    assert str(getattr(load(cls, {}, {name: "7"}), field)) in ("7", "7.0")
    given = cli.parse(cls, ["--" + name.lower().replace("_", "-"), "7"], "usage")
    assert given[field] == "7"
    if "config" in config.fields_of(cls):
        (tmp_path / "p.yaml").write_text(f"{name.lower()}: 7\n")
        assert str(getattr(load(cls, {}, {"CONFIG": str(tmp_path / "p.yaml")}), field)) in ("7", "7.0")


REFERENCE = {  # what the paper's own commands are driven by: (name, an example, the field that it sets)
    "image/train_multi.sh": """
        TRAIN_STEPS 7 train_steps BATCH_SIZE 7 batch_size GRAD_ACCUM_STEPS 7 accum_step LR 7 lr RANK 7 rank
        LAST_K 7 last_k CAPTION_START 7 caption_start CAPTION_END 7 caption_end WIDTH 7 width HEIGHT 7 height
        OUT_DIR 7 out_dir DESCRIPTION_FILE 7 description_file DATA_ROOT 7 data_root CACHE_DIR 7 cache_dir
        SAVE_EVERY 7 save_every TEST_STEPS 7 decode_steps TEST_CFG 7 guidance""",
    "image/reconstruct_multi.sh": """
        INIT_LORA_PATH 7 init_lora_path DESCRIPTION_FILE 7 description_file DATA_ROOT 7 data_root
        OUTPUT_DIR 7 output_dir CACHE_DIR 7 cache_dir THETA_D_LENGTH 7 theta_length PROJ_SEED 7 proj_seed
        LAST_K 7 last_k WIDTH 7 width HEIGHT 7 height RANK 7 rank LORA_PRESET qkv lora_preset CFG 7 guidance
        SEED 7 seed""",
    "video/train/run_two_stage.sh": """
        NAME 7 name RANK 7 rank V_LENGTH 7 theta_length THETA_D_LENGTH 7 theta_length ACCUM_STEP 7 accum_step
        BATCH_SIZE 7 batch_size LR 7 lr LAST_K 7 last_k WAN_MODEL_ID 7 model_id FRAMES_DIR 7 frames_dir
        CAPTION_FILE 7 caption_file OUT_DIR 7 out_dir CACHE_DIR 7 cache_dir TRAIN_STEPS 7 train_steps
        SAVE_EVERY 7 save_every SEED 7 seed LAMBDA_RATE 7 lambda_rate LAMBDA_RATE_WARMUP 7 lambda_rate_warmup
        INIT_LORA_PATH 7 init_lora_path""",
    "video/scaling/sample.sh": """
        WEIGHTS_DIR 7 weights_dir ORIGINAL_FRAMES_DIR 7 original_frames_dir CACHE_DIR 7 cache_dir
        WAN_MODEL_ID 7 model_id RANK 7 rank LAST_K 7 last_k SCALING true scaling NAME 7 name STEPS 7 steps""",
    "video/edit/edit_caption.sh": """
        WEIGHTS 7 weights CAPTION 7 caption NAME 7 name RANK 7 rank LAST_K 7 last_k V_LENGTH 7 theta_length
        STEPS 7 steps SEED 7 seed OUTPUT_VIDEO 7 output_video ORIGINAL_FRAMES_DIR 7 original_frames_dir
        CACHE_DIR 7 cache_dir""",
    "video/edit/edit_merge.sh": "WEIGHTS1 7 weights1 WEIGHTS2 7 weights2 OUTPUT_VIDEO 7 output_video",
    "video/eval/eval.sh, image/eval.sh": """
        REAL_DIR 7 real_dir FAKE_DIR 7 fake_dir NAME 7 name NUM_FRAMES 7 num_frames WORK_DIR 7 work_dir
        OUT_DIR 7 out_dir SKIP_METRICS 1 skip_metrics SKIP_FVD 1 skip_fvd DEVICE cpu device""",
}


@pytest.mark.parametrize("command", REFERENCE)
def test_every_variable_of_the_reference_is_read_and_listed(command):
    cls, words = COMMANDS[command.split(", ")[0]], REFERENCE[command].split()
    text = cli.help_text(cls, {}, "usage", [""])
    for name, value, field in zip(words[::3], words[1::3], words[2::3], strict=True):
        found = getattr(load(cls, {}, {name: value}), field)
        assert found is True or str(found) in (value, f"{value}.0"), name
        assert f"\n{name} " in text or f", {name}]" in text or f"[also {name}" in text or f" {name}," in text, name


def test_the_rank_of_a_process_is_not_that_of_the_lora():
    processes = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "VOV_RANK": "4"}
    assert load(VideoFit, {}, processes).rank == load(EncodeVideo, {}, processes).rank == 4
    assert load(VideoFit, {}, processes | {"VOV_RANK": ""}).rank == 1
    assert load(VideoFit, {}, {"RANK": "3"}).rank == 3


def test_the_first_name_of_a_setting_counts_over_its_older_ones():
    assert load(EncodeVideo, {}, {"FRAMES_DIR": "a", "INPUT": "b"}).frames_dir == "b"
    with pytest.raises(VovError, match="NUM_FRAMES: chunk_frames='x' is not a whole number"):
        load(EncodeVideo, {}, {"NUM_FRAMES": "x"})


@dataclass(frozen=True)
class Recipe:
    """A variable, a part of a recipe, and one that has no effect in the class below."""

    config: str = option("", "preset")
    steps: int = option(1, "steps", name="SAMPLER_STEPS", alias=("STEPS",))
    decay: float = option(0.5, "how fast", minimum=0, rare=True)
    idle: int = option(0, "of no use here")


@dataclass(frozen=True)
class Command(Recipe):
    """Has no use for one of them."""

    UNUSED = ("idle",)
    steps: int = override(Recipe, "steps", 3)


def test_a_rare_setting_is_set_by_a_preset_or_by_set_and_is_no_variable(tmp_path):
    (tmp_path / "p.yaml").write_text("decay: 0.25\nidle: 4\nsampler_steps: 5\n")
    preset = {"CONFIG": str(tmp_path / "p.yaml")}
    assert load(Command, {}, {"DECAY": "0.125"}).decay == 0.125  # as some commands were typed once
    assert (load(Command, {}, preset).decay, load(Command, {}, preset).steps) == (0.25, 5)
    given = cli.parse(Command, ["--set", "decay=2", "--set", "STEPS = 7"], "usage")
    assert load(Command, given, preset) == replace(load(Command, {}, preset), decay=2.0, steps=7)
    assert set(config.variables(Command)) == {"config", "steps"} and set(config.rare(Command)) == {"decay"}
    with pytest.raises(SystemExit):
        cli.parse(Command, ["--decay", "2"], "usage")
    with pytest.raises(VovError, match="decay='-1' must be at least 0"):
        load(Command, cli.parse(Command, ["--set", "decay=-1"], "usage"), {})


@pytest.mark.parametrize("text", ["decay", "dcay=1", "idle=1", "=1"])
def test_set_refuses_what_means_nothing(text):
    with pytest.raises(VovError, match=r"--set .*: not NAME=VALUE with a setting of this command; --help-all lists"):
        cli.parse(Command, ["--set", text], "usage")


def test_a_variable_that_is_none_any_more_gets_one_line(monkeypatch, capsys):
    typed = {"FIRST_STEP": "3", "STAGE2_DECAY": "1", "IDLE": "2", "STEPS": "9", "CODED_STEPS": "", "DECAY": "2"}
    for name, value in typed.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["x"])
    cli.run(Command, lambda *found: None, "usage", stages=("", "stage2"))
    assert capsys.readouterr().err.splitlines() == [
        "FIRST_STEP is no longer a variable: every step is coded",
        "STAGE2_DECAY is read, but is a part of recipes now: put decay into the stage2 section of a preset",
        "IDLE has no effect in this command",
        "DECAY is read, but is a part of recipes now: write --set decay=2, or put it into a preset"]
    assert retired_lines({"BRANCH": "main", "SHIFT": "1", "ETA": "1"}, {"ETA"}, (), ()) == []
    assert retired_lines({"BRANCH": "8", "CHOICE": "sample"}, (), (), ()) == [
        f"{name} is no longer a variable: {RETIRED[name]}" for name in ("BRANCH", "CHOICE")]


def test_a_preset_of_before_is_read_without_the_keys_that_are_gone(tmp_path, caplog):
    (tmp_path / "p.yaml").write_text("weight_decay: 0.0001\nsteps: 2\nstage1:\n  theta_init: 0.02\n")
    assert load(Command, {}, {"CONFIG": str(tmp_path / "p.yaml")}, "stage1").steps == 2
    assert "weight_decay is no longer a setting: it is the paper's, 1e-4" in caplog.text


def test_no_retired_name_is_a_name_of_any_setting():
    names = {name for cls in COMMANDS.values() for field in config.fields_of(cls).values()
             for name in config.environment_names(field)}
    assert not names & set(RETIRED)


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


@pytest.mark.parametrize("name", ["WIDTH", "HEIGHT", "RANK", "LAST_K", "THETA_D_LENGTH", "SEED"])
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
    rows = {line.split()[0] for line in text.splitlines() if line.split()}
    for name, field in config.variables(VideoFit).items():
        assert config.environment_names(field)[0] in rows and field.metadata["help"], name
    assert not {name for name in config.rare(VideoFit)} & rows and "--help-all" in text
    everything = cli.help_text(VideoFit, {}, "usage line", ["stage1"], everything=True)
    assert set(config.rare(VideoFit)) <= {line.split()[0] for line in everything.splitlines() if line.split()}
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


def test_an_error_names_a_setting_as_it_was_typed(monkeypatch):
    for given, environ, said in (
            ({}, {}, "START=9, OUT_DIR, TEXTURE"),
            ({}, {"START_AT": "9", "OUTPUT_DIR": "x"}, "START_AT=9, OUTPUT_DIR, TEXTURE"),
            ({"start_at": "9"}, {"START_AT": "9"}, "--start=9, OUT_DIR, TEXTURE"),
            ({"output_dir": "x"}, {}, "START=9, --out-dir, TEXTURE")):
        monkeypatch.setattr(cli, "typed", cli.words_of(DecodeVideo, given, environ))
        # By its field, or by its first variable: `start` and `out_dir` have other fields in commands that share them.
        for text in ("`start_at`=9, `output_dir`, `texture`", "`start`=9, `out_dir`, `texture`"):
            assert cli.in_words(text) == said
    monkeypatch.setattr(cli, "typed", cli.words_of(EncodeVideo, {"end_level": "2"}, {}))
    assert cli.in_words("`end_level`=2, `steps`") == "end_level=2, STEPS"  # as --set and presets have it
    assert cli.in_words("`use_fast`, a=`b c`, `1`, `width`") == "`use_fast`, a=`b c`, `1`, WIDTH"


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
