"""The text encoder: equal to transformers' BERT, batched = alone, blank = zero."""

import pytest
import torch

from foley_lab.encoders.text import MiniLMText, hidden_states
from foley_lab.training.text import convert

PROMPTS = ["a glass ball bouncing on wood", "rain", "", "Café, two doors; slam!", "a steel ball"]


@pytest.fixture(scope="module")
def encoder():
    return MiniLMText.load()


def test_words_become_the_known_pieces(encoder):
    # [CLS] a glass ball [SEP] in the vocabulary of bert-base-uncased
    assert encoder.tokenizer.encode("A GLASS ball").ids == [101, 1037, 3221, 3608, 102]


def test_agrees_with_transformers(encoder):
    transformers = pytest.importorskip("transformers")
    c = encoder.config
    config = transformers.BertConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.width,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        intermediate_size=c.mlp_width,
        max_position_embeddings=c.max_positions,
        layer_norm_eps=c.eps,
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    bert.load_state_dict(encoder.weights, strict=True)
    ids = torch.randint(1000, 30_000, (3, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = bert(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        found = hidden_states(encoder.weights, c, ids)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_shape_scale_and_zeros(encoder):
    tokens = encoder.encode(PROMPTS)
    assert tokens.shape == (5, 32, 384) and tokens.dtype == torch.float32
    for row, prompt in zip(tokens, PROMPTS, strict=True):
        count = len(encoder.tokenizer.encode(prompt).ids) if prompt else 0
        rms = row.square().mean(-1).sqrt()
        torch.testing.assert_close(rms[:count], torch.ones(count), atol=1e-3, rtol=0)
        assert not row[count:].any()


@pytest.mark.parametrize("blank", ["", None, " \n\t"])
def test_no_words_no_tokens(encoder, blank):
    assert not encoder.encode([blank]).any()
    assert encoder.encode([]).shape == (0, 32, 384)


def test_batched_is_alone_and_cached_is_fresh():
    together = MiniLMText.load().encode(PROMPTS)
    encoder = MiniLMText.load()
    for row, prompt in zip(together, PROMPTS, strict=True):
        fresh, cached = encoder.encode([prompt]), encoder.encode([prompt])
        torch.testing.assert_close(row[None], fresh, atol=1e-5, rtol=0)
        assert torch.equal(fresh, cached)


def test_what_is_handed_out_does_not_change_the_cache(encoder):
    first = encoder.encode(["a wooden box"])
    wanted = first.clone()
    first.zero_()
    assert torch.equal(encoder.encode(["a wooden box"]), wanted)


def test_the_cache_forgets_the_oldest(encoder):
    small = MiniLMText(encoder.weights, encoder.tokenizer, encoder.config, cache_size=2)
    small.encode(["one", "two"])
    small.encode(["one"])
    small.encode(["three"])
    calls = []
    plain = small._encode_new
    small._encode_new = lambda texts: calls.extend(texts) or plain(texts)
    small.encode(["one", "three"])
    assert calls == []
    small.encode(["two"])
    assert calls == ["two"]


def test_long_text_is_cut_where_it_says(encoder):
    long = " ".join(["stone"] * 29 + ["glass", "rubber", "metal"])  # 32 words and two marks
    assert encoder.truncated(long) == "rubber metal"
    kept = encoder.encode([long])
    assert kept[0, 31].any()
    assert torch.equal(kept, encoder.encode([long.replace("metal", "plastic")]))
    assert not torch.equal(kept, encoder.encode([long.replace("glass", "wood")]))
    assert encoder.truncated(" ".join(["stone"] * 30)) == ""
    assert encoder.truncated(None) == ""


def test_materials_are_told_apart(encoder):
    materials = ["wood", "metal", "glass", "rubber", "stone", "plastic", "gravel"]
    tokens = encoder.encode([f"a {m} ball bounces" for m in materials]).flatten(1)
    gap = torch.cdist(tokens, tokens) + torch.eye(len(materials)) * 1e9
    assert gap.min() > 5


def test_one_string_is_refused(encoder):
    with pytest.raises(ValueError, match=r"write \[prompt\]"):
        encoder.encode("a glass ball")


def test_another_model_is_refused_by_the_conversion(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,'
        ' "intermediate_size": 8, "max_position_embeddings": 8, "layer_norm_eps": 1e-12}'
    )
    with pytest.raises(ValueError, match="wanted all-MiniLM-L6-v2"):
        convert(tmp_path, tmp_path / "out")
