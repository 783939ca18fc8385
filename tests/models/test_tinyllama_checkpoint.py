"""Llama checkpoints and prompts that are refused, each in one line that names what is wrong."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from measurement.errors import InputError
from models import hub
from models.parameters import draw
from models.tinyllama import checkpoint, data
from models.tinyllama.config import SMOKE, Config
from tests.models.llama_stories import STORIES, needs_stories


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of the smoke sizes as transformers writes it."""
    stored = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512,
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}, "eos_token_id": [7, 8],
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "use_cache": True,
        "pretraining_tp": 1, "rope_scaling": None, "dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(stored))
    save_file(draw(SMOKE.parameters(), 5), tmp_path / "model.safetensors")
    return tmp_path


def change(folder, **changes):
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | changes))


def test_a_folder_or_its_file_loads(folder):
    found = checkpoint.sizes(str(folder), "auto")
    assert found["rope_theta"] == 5000.0 and found["vocabulary_matrices"] == 2
    config = Config(**found, prompt_tokens=4, decode_tokens=2)
    config.check()
    assert config.eos == 7 and not config.tied
    for path in (folder, folder / "model.safetensors"):
        assert checkpoint.sizes(str(path), "auto") == found
        weights = checkpoint.load(config, str(path), "auto", 0)
        np.testing.assert_array_equal(
            weights.values["lm_head.weight"], draw(SMOKE.parameters(), 5)["lm_head.weight"]
        )
    change(folder, rope_theta=20_000.0, rope_parameters=None, eos_token_id=None)
    found = checkpoint.sizes(str(folder), "auto")
    assert found["rope_theta"] == 20_000.0 and Config(**found).eos == 512  # of no token


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mistral"}, "'mistral'; expected 'llama'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}},
            "'llama3'",
        ),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary"),
        ({"attention_bias": True}, "attention_bias is True; expected none"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantization"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"head_dim": 16}, "head_dim is 16; expected 8"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ({"sliding_window": 64}, "sliding_window"),
        ({"a_new_setting": 3}, "a_new_setting is 3"),
        ({"vocab_size": "512"}, "vocabulary is '512'"),
        ({"num_attention_heads": 0}, "heads is 0"),
    ],
)
def test_what_this_decoder_does_not_compute_is_refused(folder, changes, said):
    change(folder, **changes)
    with pytest.raises(InputError, match=said) as error:
        checkpoint.sizes(str(folder), "auto")
    assert str(folder) in one_line(error)


def test_a_config_without_a_size_or_that_is_no_json_is_one_line(folder):
    stored = json.loads((folder / "config.json").read_text())
    del stored["rms_norm_eps"]
    for content, said in ((json.dumps(stored), "lacks rms_norm_eps"), ("{", "is not JSON")):
        (folder / "config.json").write_text(content)
        with pytest.raises(InputError, match=said) as error:
            checkpoint.sizes(str(folder), "auto")
        one_line(error)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json cannot be read") as error:
        checkpoint.sizes(str(folder), "auto")
    one_line(error)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda v: v.pop("lm_head.weight"), r"lm_head\.weight is missing"),
        (
            lambda v: v.update({"model.norm.weight": np.ones(65, np.float32)}),
            r"model\.norm\.weight has shape \(65,\); expected \(64,\)",
        ),
        (
            lambda v: v.update({"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}),
            r"q_proj\.bias, shape \(64,\), has no place",
        ),
        (
            lambda v: v.update(
                {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
            ),
            r"inv_freq differs from what config\.json makes it",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(folder, edit, said):
    config = Config(**checkpoint.sizes(str(folder), "auto"), prompt_tokens=4, decode_tokens=2)
    values = load_file(folder / "model.safetensors")
    edit(values)
    save_file(values, folder / "model.safetensors")
    with pytest.raises(InputError, match=said) as error:
        checkpoint.load(config, str(folder), "auto", 0)
    one_line(error)


def test_what_follows_from_the_rest_may_stand_in_the_file(folder):
    change(folder, tie_word_embeddings=True)
    config = Config(**checkpoint.sizes(str(folder), "auto"), prompt_tokens=4, decode_tokens=2)
    values = load_file(folder / "model.safetensors")
    values["model.layers.0.self_attn.rotary_emb.inv_freq"] = 1 / config.periods()
    values["lm_head.weight"] = values["model.embed_tokens.weight"].copy()
    save_file(values, folder / "model.safetensors")
    read = checkpoint.load(config, str(folder), "auto", 0).values
    assert read.keys() == config.parameters().keys()
    values["lm_head.weight"] = values["lm_head.weight"] + 1
    save_file(values, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head\.weight differs"):
        checkpoint.load(config, str(folder), "auto", 0)


def test_a_text_file_is_not_a_model(folder):
    config = Config(**checkpoint.sizes(str(folder), "auto"), prompt_tokens=4, decode_tokens=2)
    (folder / "model.safetensors").write_text("hello")
    with pytest.raises(InputError, match="is not a safetensors file") as error:
        checkpoint.load(config, str(folder), "auto", 0)
    one_line(error)


def test_a_tokenizer_that_is_missing_or_broken_is_one_line(folder):
    for content in (None, "{}"):
        if content:
            (folder / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match=r"tokenizer\.json") as error:
            checkpoint.encode("hello", str(folder), "auto")
        one_line(error)


@needs_stories
def test_a_tokenizer_of_another_vocabulary_is_one_line(tmp_path):
    for file in STORIES.glob("*.json"):
        shutil.copyfile(file, tmp_path / file.name)
    change(tmp_path, vocab_size=300)
    with pytest.raises(InputError, match=r"makes token \d+ .* one below 300") as error:
        checkpoint.encode("Once upon a time", str(tmp_path), "auto")
    one_line(error)


@pytest.mark.parametrize("given", ["", "nowhere", "/no/such/folder", "x/y.safetensors", "a/b/c"])
def test_a_checkpoint_that_is_nowhere_is_one_line(given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match="is no folder or file here" if given else "config.json cannot"
    ) as error:
        checkpoint.sizes(given, "auto")
    one_line(error)


def test_a_hub_id_is_fetched_with_its_revision_into_the_data_directory(
    folder, monkeypatch, tmp_path
):
    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert checkpoint.sizes("owner/name-1.1B@v1.0", str(tmp_path))["layers"] == 2
    assert asked[0][0] == "owner/name-1.1B"
    options = asked[0][1]
    assert options["revision"] == "v1.0" and options["cache_dir"] == tmp_path / "huggingface"
    assert options["allow_patterns"] == ["*.safetensors", "*.json"]


@pytest.mark.parametrize("kind", ["offline", "refused", "full"])
def test_a_hub_that_does_not_deliver_is_one_line(kind, monkeypatch):
    errors = importlib.import_module("huggingface_hub.errors")

    def fail(name, **options):
        if kind == "offline":
            raise errors.LocalEntryNotFoundError("two\nlines")
        if kind == "full":
            raise OSError(28, "No space left on device")
        response = type("Response", (), {"status_code": 404, "headers": {}, "request": None})()
        raise errors.HfHubHTTPError("not\nfound", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    said = {"offline": "cannot be reached", "refused": "answered 404", "full": "No space"}[kind]
    with pytest.raises(InputError, match=said) as error:
        hub.folder(f"owner/{kind}", "auto")
    one_line(error)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_tokens": 121}, "prompt of 121 tokens and 8 more .* context of 128"),
        ({"heads": 7}, "dimension 64 and heads 7"),
        ({"dimension": 72, "heads": 8}, "multiple of 16"),
        ({"key_value_heads": 3}, "key_value_heads 3 does not divide heads 8"),
        ({"layers": 0}, "layers is 0"),
        ({"norm_eps": -1e-5}, "norm_eps"),
        ({"vocabulary_matrices": 3}, "vocabulary_matrices is 3"),
        ({"decode_tokens": 1}, "decode_tokens is 1"),
        ({"end_token": 514}, "end_token is 514"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(changes, said):
    SMOKE.check()
    with pytest.raises(InputError, match=said) as error:
        replace(SMOKE, **changes).check()
    one_line(error)


def test_a_data_set_that_is_unknown_or_empty_is_one_line(tmp_path):
    own = tmp_path / "own.txt"
    with pytest.raises(InputError, match="no data set 'wiki'") as error:
        data.prepare("wiki", "auto")
    one_line(error)
    with pytest.raises(InputError, match="cannot be read") as error:
        data.prepare(str(own), "auto")
    one_line(error)
    for content, said in ((b" \n\n", "holds no prompt"), (b"\xff\xfe\x00", "no UTF-8 text")):
        own.write_bytes(content)
        with pytest.raises(InputError, match=said) as error:
            data.prepare(str(own), "auto")
        one_line(error)
