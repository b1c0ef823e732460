"""Models of tokens: padding has no part in answers and relevance, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

import feedprop
from feedprop.errors import FeedpropError
from feedprop.training.models.text import HuggingFaceText, TextMLP


def _check_padding(model, *, padding_idx):
    model.eval()
    tokens = torch.tensor([[4, 7, 5, 6]])
    filled = torch.cat([tokens, torch.full((1, 3), padding_idx)], 1)
    torch.testing.assert_close(model(filled), model(tokens))
    short, long = (feedprop.relevance(model, given, 1, only_inputs=True).inputs for given in (tokens, filled))
    torch.testing.assert_close(long[:, :4], short)
    assert short.abs().min() > 0
    assert not long[:, 4:].any()


def test_padding_is_nothing():
    torch.manual_seed(0)
    model = TextMLP(9, 3, padding_idx=2, width=8)
    with torch.no_grad():
        model.embedding.weight[2] = 5.0
    _check_padding(model, padding_idx=2)
    assert torch.equal(model(torch.full((1, 4), 2)), model.layers(torch.zeros(1, 8)))


def test_the_sum_is_over_the_root_of_the_number():
    model = TextMLP(3, 2, width=2, hidden=())
    with torch.no_grad():
        model.embedding.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 5.0]]))
        model.layers[0].weight.copy_(torch.eye(2))
        model.layers[0].bias.zero_()
    torch.testing.assert_close(model(torch.tensor([[1, 2, 2, 2, 0]])), torch.tensor([[5.0, 8.5]]))


def test_data_that_are_no_texts_are_refused(command):
    assert "text_mlp needs texts, as --data text reads them" in command("train", "--model", "text_mlp").sentence


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a small BERT, without a classifier."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=12, **sizes)).save_pretrained(folder)
    return folder


def test_a_classifier_of_hugging_face_gives_padding_no_attention(bert):
    torch.manual_seed(0)
    model = HuggingFaceText(str(bert), 3, vocabulary=12, padding_idx=2)
    assert model(torch.tensor([[4, 5], [6, 2]])).shape == (2, 3)
    _check_padding(model, padding_idx=2)


def test_a_classifier_of_hugging_face_that_does_not_fit_is_refused(bert, tmp_path):
    with pytest.raises(FeedpropError, match=r"knows 12 tokens, but the texts have 13; .* by --data.tokenizer"):
        HuggingFaceText(str(bert), 3, vocabulary=13)
    with pytest.raises(FeedpropError, match=r"--model.folder \S+ cannot be loaded: "):
        HuggingFaceText(str(tmp_path), 3, vocabulary=12)
