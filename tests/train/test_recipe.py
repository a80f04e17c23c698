import pytest
import yaml

from mien.files.errors import ConfigError
from mien.train import recipe as recipes
from mien.train.recipe import Recipe, find_recipe, load_recipe, recipe_names


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "a.yaml", "method: tiny\nsteps: 100\nconfig: {width: 4}\n")


def test_overrides_replace_add_and_reach_into_config(file):
    made = load_recipe(file, ["config.width=32", "learning_rate=2e-3", "tables=[a, b]", "clip=1"])
    assert made.config == {"width": 32}
    assert made.learning_rate == 0.002
    assert made.tables == ("a", "b")
    assert made.clip == 1.0
    assert load_recipe(file, {"config.depth": 2}).config == {"width": 4, "depth": 2}


def test_round_trip_through_yaml(file, tmp_path):
    made = load_recipe(file, {"schedule": [[10, 0.5], [20, 0.1]], "tables": "faces"})
    again = load_recipe(write(tmp_path / "b.yaml", yaml.safe_dump(made.as_dict())))
    assert again == made
    assert made.tables == ("faces",)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learning_rat=1", "did you mean 'learning_rate'"),
        ("steps", "key=value"),
        ("=3", "key=value"),
        ("steps=many", "steps is int"),
        ("steps=0", "steps and images"),
        ("images=100", "steps and images"),
        ("batch_size=0", "batch_size is at least 1"),
        ("ema=1.0", "ema is a decay"),
        ("warmup=-1", "warmup cannot be negative"),
        ("learning_rate=0", "learning_rate is above 0"),
        ("learning_rate=.nan", "learning_rate is above 0"),
        ("schedule=cosin", "did you mean 'cosine'"),
        ("schedule=[1, 2]", "list of"),
        ("schedule=[[20, 0.1], [10, 1]]", "must grow"),
        ("precision=bf16-mixd", "did you mean 'bf16-mixed'"),
        ("tables=[1]", "list of folders"),
        ("steps.inner=1", "steps holds no settings"),
        ("method=", "method"),
        ("config=[", "not YAML"),
    ],
)
def test_bad_overrides_end_in_one_sentence(file, override, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(file, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "a: [", "\tmethod: x", "!!python/object:x {}"])
def test_bad_files(tmp_path, text):
    with pytest.raises(ConfigError):
        load_recipe(write(tmp_path / "bad.yaml", text))


def test_binary_file(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "bad.yaml")


def test_length_in_images_counts_all_processes(file):
    made = load_recipe(file, {"steps": 0, "images": 1000, "batch_size": 8}, processes=2)
    assert (made.steps, made.images) == (63, 0)


def test_short_names(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    (folder / "tiny").mkdir(parents=True)
    target = write(folder / "tiny" / "laptop.yaml", "method: tiny\nsteps: 1\n")
    monkeypatch.setattr(recipes, "FOLDERS", (tmp_path / "absent", folder))
    assert recipe_names() == ["tiny/laptop"]
    assert find_recipe("tiny/laptop") == target
    assert find_recipe("tiny/laptop.yaml") == target
    assert find_recipe(target) == target
    with pytest.raises(ConfigError, match="did you mean 'tiny/laptop'"):
        find_recipe("tiny/laptp")


def test_recipes_of_the_repository_load():
    for name in recipe_names():
        assert load_recipe(name).method == name.split("/")[0]


def test_schedules():
    constant = Recipe(method="tiny", steps=10)
    assert [constant.factor(s) for s in (0, 9)] == [1, 1]
    cosine = Recipe(method="tiny", steps=110, warmup=10, schedule="cosine")
    assert cosine.factor(0) == pytest.approx(0.1)
    assert cosine.factor(10) == 1
    assert cosine.factor(60) == pytest.approx(0.5)
    assert 0 < cosine.factor(109) < 0.001
    factors = [cosine.factor(s) for s in range(10, 110)]
    assert factors == sorted(factors, reverse=True)
    steps = Recipe(method="tiny", steps=30, schedule=((10, 0.5), (20, 0.1)))
    assert [steps.factor(s) for s in (0, 9, 10, 19, 20, 29)] == [1, 1, 0.5, 0.5, 0.1, 0.1]
