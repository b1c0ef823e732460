"""The networks named text_mlp and hugging_face_text, which take the ids of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.training.models.dense import activation_maker, dense_layers


class TextMLP(nn.Module):
    """Sum of the embeddings of a text's tokens over the root of their number, then fully connected layers.

    Without hidden layers and with a mean, this would be fastText (Joulin et al. 2016). The mean of n embeddings is so
    small that SGD would need a rate of its own; their sum over the root of n is as large as one of them.

    Args:
        vocabulary: number of ids; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        padding_idx: the id of padding, which has no part in the sum; taken from the data unless given
        width: of the embeddings
        hidden: width of each hidden layer
        activation: class in torch.nn, or import path of a class or function without arguments
        dropout: share of the hidden outputs dropped in training
    """

    def __init__(
        self,
        vocabulary: int | None,
        classes: int,
        *,
        padding_idx: int = 0,
        width: int = 64,
        hidden: Sequence[int] = (64,),
        activation: str = "ReLU",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.padding_idx = padding_idx
        self.embedding = nn.Embedding(check_vocabulary("text_mlp", vocabulary), width, padding_idx=padding_idx)
        self.layers = nn.Sequential(*dense_layers([width, *hidden], classes, activation_maker(activation), dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return a score for each class, (batch, classes), for tokens (batch, length)."""
        real = (tokens != self.padding_idx).unsqueeze(2)
        whole = (self.embedding(tokens) * real).sum(1) / real.sum(1).clamp(min=1).sqrt()
        outputs: Tensor = self.layers(whole)
        return outputs


class HuggingFaceText(nn.Module):
    """A sequence classifier of Hugging Face, such as BERT with a new last layer; needs transformers.

    Args:
        folder: of the model, or its name on the hub
        classes: number of outputs; taken from the data unless given
        vocabulary: number of ids; taken from the data unless given
        padding_idx: the id of padding, which gets no attention; taken from the data unless given
    """

    def __init__(self, folder: str, classes: int, *, vocabulary: int | None = None, padding_idx: int = 0) -> None:
        super().__init__()
        given, self.padding_idx = check_vocabulary("hugging_face_text", vocabulary), padding_idx
        try:
            from transformers import AutoModelForSequenceClassification
        except ImportError:
            raise FeedpropError(
                "--model hugging_face_text needs transformers, which is not installed; pip install 'feedprop[models]'"
            ) from None
        try:
            self.model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FeedpropError(f"--model.folder {folder} cannot be loaded: {reason}") from error
        known = self.model.get_input_embeddings().num_embeddings
        if known < given:
            raise FeedpropError(
                f"--model.folder {folder} knows {known} tokens, but the texts have {given}; give its own tokenizer by "
                f"--data.tokenizer {folder}"
            )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return a score for each class, (batch, classes), for tokens (batch, length)."""
        outputs: Tensor = self.model(input_ids=tokens, attention_mask=(tokens != self.padding_idx).long()).logits
        return outputs


def check_vocabulary(model: str, vocabulary: int | None) -> int:
    """Return the number of ids, or refuse data that are no texts."""
    if vocabulary is None:
        raise FeedpropError(f"{model} needs texts, as --data text reads them; --model mlp takes numbers")
    return vocabulary
