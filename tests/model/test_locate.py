"""Where a model is looked for, and what is said when it is not there."""

from pathlib import Path

import pytest

from fullbore.errors import CheckpointError
from fullbore.model import locate as module
from fullbore.model.locate import locate


def model_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_demo_is_the_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "assets")
    with pytest.raises(CheckpointError, match="reinstall"):
        locate("demo")
    model_in(tmp_path / "demo")
    bundled = model_in(tmp_path / "assets" / "demo")
    assert locate("demo") == bundled
    assert locate("./demo") == Path("demo")


def test_a_folder_goes_before_the_cache(tmp_path: Path) -> None:
    cached = model_in(tmp_path / "hub" / "models--org--name" / "snapshots" / "c1")
    assert locate("org/name@c1") == cached
    here = model_in(tmp_path / "org" / "name")
    assert locate("org/name") == here.relative_to(tmp_path)
    assert locate(str(here)) == here


def test_a_branch_of_the_cache_leads_to_its_commit(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--na.me"
    cached = model_in(repository / "snapshots" / "c1")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c1\n")
    assert locate("org/na.me") == cached
    (repository / "refs" / "evil").write_text("../../..")
    with pytest.raises(CheckpointError, match="revision evil"):
        locate("org/na.me@evil")


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub"), ("HOME", ".cache/huggingface/hub")],
)
def test_the_cache_is_where_the_hub_client_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    cached = model_in(tmp_path / below / "models--org--name" / "snapshots" / "c1")
    assert locate("org/name@c1") == cached


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/name", "hf download org/name"),
        ("org/name@v2", "hf download org/name --revision v2"),
        ("nothing", "no folder 'nothing'"),
        ("", "no config.json|no folder"),
        ("../org/name", "no folder"),
        ("a/b/c", "no folder"),
    ],
)
def test_what_is_not_there_is_explained(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        locate(name)


def test_a_file_or_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        locate("model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no config"):
        locate("empty")
