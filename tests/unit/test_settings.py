"""Settings: what is read, what is refused and with which words, and that the page is up to date."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs import settings
from resultsfs.errors import InvalidSetting
from resultsfs.settings import Settings

ROOT = Path(__file__).parents[2]


def test_all_kinds_of_values_are_read() -> None:
    """Sizes, durations, counts, flags, texts and names are read from text."""
    found = settings.from_mapping(
        {
            "result-size-threshold": "1KiB",
            "spill-delay": "250ms",
            "store-concurrency": "8",
            "params-as-path": "True",
            "store": "s3://bucket/prefix",
            "chains-results": "A, B  *_C",
        }
    )
    assert found.result_size_threshold == 1024
    assert found.spill_delay == 0.25
    assert found.store_concurrency == 8
    assert found.params_as_path is True
    assert found.store == "s3://bucket/prefix"
    assert found.chains_results == ("A", "B", "*_C")


def test_yaml_scalars_are_taken() -> None:
    """A number or a truth value that YAML has already read counts as its text."""
    found = settings.from_mapping({"result-size-threshold": 2048, "params-as-path": True})
    assert (found.result_size_threshold, found.params_as_path) == (2048, True)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("result-size-treshold", "1", ["unknown setting 'result-size-treshold'", "result-size-threshold"]),
        ("result-size-threshold", "86", ["result-size-threshold", "'86'", "at least 87 B"]),
        ("result-size-threshold", "big", ["result-size-threshold", "'big'", "90KiB"]),
        ("store-part-size", "5242879", ["store-part-size is '5242879'", "at least 5 MiB"]),
        ("store-part-size", "4.5MiB", ["store-part-size is '4.5MiB'", "at least 5 MiB"]),
        ("spill-delay", "5", ["spill-delay", "'5'", "500ms"]),
        ("store-concurrency", "x", ["store-concurrency", "'x'", "whole number"]),
        ("params-as-path", "yes", ["params-as-path", "'yes'", "true"]),
        ("s3-sse", "aws", ["s3-sse", "'aws'", "AES256", "aws:kms"]),
        ("store", "bucket/prefix", ["store", "'bucket/prefix'", "s3://bucket/prefix"]),
        ("store", ["s3://bucket"], ["store", "expected text"]),
        ("s3-sse-kms-key-id", "key", ["s3-sse-kms-key-id", "'key'", "set s3-sse to aws:kms"]),
    ],
)
def test_bad_settings_are_named(key: str, value: object, words: list[str]) -> None:
    """The error names source, key, value and what is allowed."""
    with pytest.raises(InvalidSetting) as caught:
        settings.from_mapping({key: value}, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    for word in words:
        assert word in str(caught.value)


def test_a_config_map_and_its_data_are_both_files(tmp_path: Path) -> None:
    """`load` takes the ConfigMap's manifest as well as its data alone, and an empty file."""
    data = tmp_path / "data.yaml"
    data.write_text("result-size-threshold: 1Ki\n")
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("kind: ConfigMap\nmetadata: {name: resultsfs}\ndata:\n  result-size-threshold: 1Ki\n")
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert settings.load(data) == settings.load(manifest) == Settings(result_size_threshold=1024)
    assert settings.load(empty) == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spill-delay: 1s\nspill-delay: 2s\n", ["'spill-delay'", "more than once", "line 2"]),
        ("data: {}\nkind: ConfigMap\ndata: {}\n", ["'data'", "more than once"]),
        ("? [a]\n: b\n", ["a key is no text"]),
        ("a: 1\n---\nb: 1\n", ["2 YAML documents"]),
        ("[" * 5000, ["nested too deep"]),
    ],
)
def test_files_that_could_be_read_in_two_ways_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    """A key that appears twice, and what else has no one meaning, is refused by name and place."""
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSetting) as caught:
        settings.load(path)
    for word in ["twice.yaml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- a\n", "just text"])
def test_files_that_hold_no_settings_are_named(tmp_path: Path, text: str) -> None:
    """A file that is no YAML or no mapping is refused by name."""
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSetting, match=r"broken\.yaml"):
        settings.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that cannot be read is refused by name and reason."""
    with pytest.raises(InvalidSetting, match=r"none\.yaml: No such file"):
        settings.load(tmp_path / "none.yaml")


def test_annotations_narrow_what_they_may() -> None:
    """Annotations of ours that may be set are applied; those of others, and ours that are no settings, are left alone."""
    narrowed = Settings().narrowed(
        {"resultsfs.dev/result-size-threshold": "1Ki", "resultsfs.dev/hold": "true", "example.com/store": "y"}
    )
    assert narrowed == Settings(result_size_threshold=1024)
    written = ("inject", "resolved", "references")
    assert Settings().narrowed({f"resultsfs.dev/{name}": "x" for name in written}) == Settings()


@pytest.mark.parametrize("text", ["True", "yes", "", "1", " true"])
def test_a_hold_is_true_or_false(text: str) -> None:
    """Another spelling is no hold and no release: refused by its name and value."""
    assert Settings().narrowed({"resultsfs.dev/hold": "false"}) == Settings()
    with pytest.raises(InvalidSetting, match=f'resultsfs.dev/hold is \'{text}\': expected "true" or "false"'):
        Settings().narrowed({"resultsfs.dev/hold": text})


def test_an_annotation_that_means_nothing_is_refused() -> None:
    """A typo is an error that names it, and the annotations that there are, but those that admission writes."""
    with pytest.raises(InvalidSetting) as caught:
        Settings().narrowed({"resultsfs.dev/param-as-path": "true"})
    for word in (
        "resultsfs.dev/param-as-path ('true') is unknown",
        "resultsfs.dev/params-as-path",
        "resultsfs.dev/hold",
    ):
        assert word in str(caught.value)
    assert "resolved" not in str(caught.value) and "resultsfs.dev/store" not in str(caught.value)


def test_the_administrators_settings_stay_his() -> None:
    """An annotation for a setting that only the administrator may set is refused."""
    with pytest.raises(InvalidSetting, match=r"resultsfs\.dev/store is not allowed"):
        Settings().narrowed({"resultsfs.dev/store": "s3://other"})


def test_a_bad_annotation_is_named() -> None:
    """A bad value in an annotation is refused by the annotation's whole name."""
    for value in ("much", "2MiB"):
        with pytest.raises(InvalidSetting, match=rf"resultsfs\.dev/param-inline-limit is '{value}'"):
            Settings().narrowed({"resultsfs.dev/param-inline-limit": value})


def test_a_value_in_code_is_named_to_the_byte() -> None:
    """A value that came from no text is named exactly."""
    with pytest.raises(InvalidSetting, match="store-part-size is '5242879'"):
        Settings(store_part_size=(5 << 20) - 1)


@given(
    threshold=st.integers(87, 1_572_864),
    delay=st.integers(0, 3_600_000),
    names=st.lists(st.from_regex(r"[A-Z*_]{1,10}", fullmatch=True)),
    as_path=st.booleans(),
)
def test_settings_survive_their_mapping(threshold: int, delay: int, names: list[str], as_path: bool) -> None:
    """`from_mapping` reads back exactly what `to_mapping` wrote."""
    made = Settings(
        result_size_threshold=threshold, spill_delay=delay / 1000, chains_results=tuple(names), params_as_path=as_path
    )
    read = settings.from_mapping(settings.to_mapping(made))
    assert dataclasses.replace(read, spill_delay=0) == dataclasses.replace(made, spill_delay=0)
    assert read.spill_delay == pytest.approx(made.spill_delay)


@pytest.mark.parametrize(
    ("name", "chains"),
    [("IMAGES", True), ("my_IMAGE_URL", True), ("IMAGE_DIGEST", True), ("images", False), ("IMAGES2", False)],
)
def test_names_of_chains_are_known(name: str, chains: bool) -> None:
    """Names that Tekton Chains reads match by their pattern, with upper and lower case told apart."""
    assert Settings().is_chains_name(name) is chains


def test_the_page_is_up_to_date() -> None:
    """docs/settings.md is what `make docs` would write now."""
    script = ROOT / "scripts" / "settings_doc.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_names_every_setting() -> None:
    """Each setting has its row, with its default."""
    page = (ROOT / "docs" / "settings.md").read_text()
    for spec in dataclasses.fields(Settings):
        assert f"| `{settings.key_of(spec)}` |" in page


def test_a_mounted_config_map_is_read(tmp_path: Path) -> None:
    """A directory with one file a key is read as Kubernetes mounts it, and a bad file is named."""
    data = tmp_path / "..data"
    data.mkdir()
    (data / "spill-delay").write_text("2s\n")
    (tmp_path / "spill-delay").symlink_to("..data/spill-delay")
    assert settings.load(tmp_path).spill_delay == 2
    (tmp_path / "spill-dealy").write_text("2s")
    with pytest.raises(InvalidSetting, match=f"{tmp_path}: unknown setting 'spill-dealy'"):
        settings.load(tmp_path)
