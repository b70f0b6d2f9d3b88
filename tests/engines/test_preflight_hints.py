"""Hints about what to write instead of an argument that the engine refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engines.preflight_program.preflight_hints import (
    ELSEWHERE,
    REMOVED,
    as_json,
    better_key,
    better_value,
    crowded,
    misspelt,
    no_value,
    not_json,
    removed,
    suspicious,
)
from reconciler.engines.preflight_program.preflight_text import split

FLAGS = frozenset({"--max-model-len", "--dtype", "--enable-lora", "--no-enable-lora", "--hf-overrides", "-tp"})
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(categories=["L", "N"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["image=2"], '{"image": 2}'),
        (["image=2,video=1"], '{"image": 2, "video": 1}'),
        (["image=2", "video=1"], '{"image": 2, "video": 1}'),
        (["image:2"], '{"image": 2}'),
        (["""'{"image": 1}'"""], '{"image": 1}'),
        (['''"{'image': 1}"'''], '{"image": 1}'),
        ([r'"{\"image\": 1}"'], '{"image": 1}'),
        (["{\u201cimage\u201d: 1}"], '{"image": 1}'),
        (["{image: 1, mode: fast}"], '{"image": 1, "mode": "fast"}'),
        (["{'a': True, 'b': None}"], '{"a": true, "b": null}'),
        (["{enable_thinking: False}"], '{"enable_thinking": false}'),
        (['{"a": 1,}'], '{"a": 1}'),
        (["enable_thinking=False"], '{"enable_thinking": false}'),
        (['{"a": 1'], ""),
        (["ngram"], ""),
        (["a=b=c"], ""),
        (["__import__('os')"], ""),
        ([""], ""),
    ],
)
def test_value_becomes_json_where_its_meaning_is_plain(words: list[str], written: str) -> None:
    assert as_json(words) == written


@given(TREES, st.sampled_from(["{}", "'{}'", '"{}"']))
def test_python_and_quoted_json_keep_their_meaning(tree: object, quoting: str) -> None:
    for text in (json.dumps([tree]), repr([tree])):
        assert json.loads(as_json([quoting.format(text)])) == [tree]


def test_json_complaint_says_where_it_breaks_and_what_quotes_do() -> None:
    (option,) = split(["--hf-overrides", '{"a": 1'])
    assert not_json(option).startswith(
        "{\"a\": 1 is not JSON (Expecting ',' delimiter at character 8); write JSON such"
    )
    (option,) = split(["""--hf-overrides='{"a": 1}'"""])
    assert "the quotes around it are part of the value" in not_json(option)
    (option,) = split(["--allowed-origins=https://a,https://b"])
    assert not_json(option, like_list=True).endswith('write ["https://a", "https://b"]')


@pytest.mark.parametrize(
    ("word", "items"),
    [
        ("--max-model-len 4096", "--max-model-len=4096"),
        ("--max-model-len: 4096", "--max-model-len=4096"),
        ("--max-model-len = 4096", "--max-model-len=4096"),
        ("-tp 2", "-tp=2"),
        ("--dtype auto --enable-lora", "--dtype=auto, --enable-lora"),
        ("--enable-lora --dtype=auto", "--enable-lora, --dtype=auto"),
        ("--dtype=auto --enable-lora", "--dtype=auto, --enable-lora"),
        ('--hf-overrides {"a": 1, "b": 2}', '--hf-overrides={"a": 1, "b": 2}'),
        ("""--hf-overrides '{"a": 1}'""", '--hf-overrides={"a": 1}'),
        ("--unheard-of 1", "--unheard-of=1"),
        ("--max-model-len 4096\n--enable-lora\n", "--max-model-len=4096, --enable-lora"),
    ],
)
def test_words_in_one_item_become_an_item_for_each_flag(word: str, items: str) -> None:
    assert crowded(word, FLAGS).endswith(f"write an item for each flag: {items}")


def test_secret_among_words_in_one_item_is_not_shown() -> None:
    told = crowded("--dtype auto --api-key 'correct horse'", FLAGS)
    assert told.startswith("this is one item of the list")
    assert told.endswith("write an item for each flag: --dtype=auto, --api-key=VALUE")


@pytest.mark.parametrize("word", ["--dtype=auto", '--hf-overrides={"a": 1}', "--chat-template={{ a }} {% b %}", "a b"])
def test_item_with_a_space_in_its_value_is_one_word(word: str) -> None:
    assert crowded(word, FLAGS) == ""


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("max-model-len=4096", "--max-model-len=4096"),
        ("\u2013max-model-len=4096", "--max-model-len=4096"),
        ("\u2014max_model_len", "--max-model-len"),
        ("-max-model-len=1", "--max-model-len=1"),
        ("--max-model-len:4096", "--max-model-len=4096"),
        ("serve", ""),
        ("4096", ""),
    ],
)
def test_word_with_wrong_dashes_is_taken_for_its_flag(word: str, meant: str) -> None:
    assert misspelt(word, FLAGS) == meant


@pytest.mark.parametrize(
    ("value", "reads", "message", "hint"),
    [
        ("90", "float", "Input should be less than or equal to 1", "; write 0.9"),
        ("90 %", "float", "", "; write 0.9"),
        ("0,9", "float", "", "; write 0.9"),
        ("1.5", "float", "Input should be less than or equal to 1", ""),
        ("4,096", "int", "", "; write 4096"),
        ("4k", "int", "", "; write 4000"),
        ("8.0", "int", "", "; write 8"),
        ("0.5", "int", "", ""),
        ("32Mi", "whole", "", "; write 32M"),
        ("1 GiB", "whole", "", "; write 1G"),
        ("4096 # tokens", "whole", "", "; write 4096"),
        ('"4096"', "whole", "", "; write 4096"),
        ("256,", "int", "", "; write 256"),
        ("many", "whole", "", ""),
        ("'auto'", "", "", "; the quotes are part of the value: write auto"),
        ("$(LEN)", "int", "", "; $(LEN) was not filled in: the container has no env variable LEN"),
        ("${LEN}", "int", "", "; ${LEN} is a shell's: write $(LEN) for an env variable of the container"),
        ("{{ .Values.len }}", "int", "", "; {{ .Values.len }} was not filled in: commit the rendered manifest"),
    ],
)
def test_value_of_the_wrong_shape_gets_the_right_one(value: str, reads: str, message: str, hint: str) -> None:
    assert better_value(value, reads, message) == hint


def test_switch_with_a_value_is_told_how_to_turn_it_on_or_off() -> None:
    assert no_value("--enable-lora", "True", FLAGS) == "--enable-lora takes no value; write --enable-lora alone"
    assert no_value("--enable-lora", "false", FLAGS) == "--enable-lora takes no value; write --no-enable-lora"
    assert no_value("--no-enable-lora", "0", FLAGS) == "--no-enable-lora takes no value; write --enable-lora"
    assert no_value("--headless", "false", FLAGS) == "--headless takes no value; leave it out"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--swap-space=4"], "was removed in vLLM 0.18; requests are recomputed and not swapped: leave it out"),
        (["--guided_decoding_backend", "outlines"], "0.12; write --structured-outputs-config.backend=outlines"),
        (["--task=embed"], "0.13; write --runner=pooling --convert=embed, each in an item of its own"),
        (["--task"], "0.13; see --runner and --convert"),
        (["--rope-scaling", '{"factor": 4}'], 'write --hf-overrides={"rope_parameters": {"factor": 4}}'),
        (["--speculative-model=/m"], "vLLM 0.32.0 does not know it; write --speculative-config.model=/m"),
        (["--num-speculative-tokens"], "write --speculative-config.num_speculative_tokens=VALUE"),
    ],
)
def test_removed_flag_names_its_successor(words: list[str], told: str) -> None:
    (option,) = split(words)
    assert told in removed(option, "0.32.0")


def test_flag_that_vllm_never_had_was_not_removed() -> None:
    (option,) = split(["--no-such-flag"])
    assert removed(option, "0.32.0") == ""
    assert not REMOVED.keys() & ELSEWHERE.keys()


def test_json_with_spaces_and_lone_quotes_are_not_suspicious() -> None:
    for words in (['--hf-overrides={"a": "b --dtype"}'], ["--served-model-name='"], ["--dtype=auto"]):
        (option,) = split(words)
        assert suspicious(option, FLAGS) == ""


def test_unexpected_key_names_the_one_that_is_meant() -> None:
    assert better_key("level", ["mode", "backend"]) == "; did you mean mode?"
    assert better_key("cudagraph_mod", ["cudagraph_mode", "mode"]) == "; did you mean cudagraph_mode?"
    assert better_key("level", []) == better_key("other", ["mode"]) == ""


def test_json_flag_with_a_file_is_told_to_hold_the_json() -> None:
    for path in ("/mnt/models/x.json", "@x.yaml"):
        (option,) = split(["--kv-transfer-config", path])
        assert not_json(option) == f"{path} is not JSON, and vLLM reads no file here; write the JSON itself"
