"""The trainers of Hugging Face and Lightning take the same step as a plain loop, under every setting tried."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import feedprop
from feedprop import FeedpropError, rewards
from test_examples import OTHERS

lightning = pytest.importorskip("lightning")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.filterwarnings(warning) for warning in OTHERS]

Parameters = dict[str, Tensor]


def _bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=8, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return feedprop.attach(
        transformers.BertForSequenceClassification(config), feedprop.rules.Composite(magnitude_floor=0.02)
    )


def _texts() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(20, (8,), generator=generator), "labels": torch.tensor(number % 3)}
        for number in range(8)
    ]


def _updates(model: nn.Module, before: Parameters) -> Tensor:
    return torch.cat([(p.detach() - before[name]).flatten() for name, p in model.named_parameters()])


@pytest.fixture(scope="module")
def plain() -> tuple[Parameters, Tensor]:
    """Return the parameters of the classifier, and their update in one step of a plain loop."""
    model = _bert()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    texts, labels = (torch.stack([text[key] for text in _texts()]) for key in ("input_ids", "labels"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rewards.SoftmaxReward()(model(texts).logits, labels).backward()
    optimizer.step()
    return before, _updates(model, before)


def _reward(outputs, labels: Tensor, num_items_in_batch=None) -> Tensor:
    return rewards.SoftmaxReward(reduction="sum")(outputs.logits, labels) / num_items_in_batch


class OwnLoss(transformers.Trainer):
    """The custom loss of the documentation, with a reward instead of CrossEntropyLoss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.get("logits")
        reward = rewards.SoftmaxReward()
        loss = reward(logits.view(-1, self.model.config.num_labels), labels.view(-1))
        return (loss, outputs) if return_outputs else loss


FLOAT32 = 5e-5  # of the update: a step of 1e-3 on weights of 0.1 keeps four to five digits
SETTINGS: dict[str, tuple[type[transformers.Trainer], dict, dict, float]] = {
    "compute_loss_func": (transformers.Trainer, {"compute_loss_func": _reward}, {}, FLOAT32),
    "compute_loss": (OwnLoss, {}, {}, FLOAT32),
    "the model's own loss": (transformers.Trainer, {}, {}, FLOAT32),  # cross-entropy, as SoftmaxReward
    "accumulated": (
        transformers.Trainer,
        {"compute_loss_func": _reward},
        {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2},
        FLOAT32,
    ),
    "checkpointed": (transformers.Trainer, {"compute_loss_func": _reward}, {"activation_checkpointing": True}, FLOAT32),
    "bfloat16": (transformers.Trainer, {"compute_loss_func": _reward}, {"bf16": True}, 2e-2),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_hugging_face_trainer(name: str, plain, tmp_path: Path) -> None:
    kind, given, settings, limit = SETTINGS[name]
    before, expected = plain
    usual = {
        "output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 0.1,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "use_cpu": True, "optim": "sgd",
    }  # fmt: skip
    model = _bert()
    kind(model=model, args=transformers.TrainingArguments(**usual | settings), train_dataset=_texts(), **given).train()
    found = _updates(model, before)
    assert (found - expected).norm() <= limit * expected.norm()


class Classifier(lightning.LightningModule):
    """As in Lightning's documentation: training_step calls self(x)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
        self.reward = rewards.SoftmaxReward()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch, batch_idx) -> Tensor:
        x, y = batch
        return self.reward(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize(
    ("settings", "limit"),
    [({}, FLOAT32), ({"accumulate_grad_batches": 4}, FLOAT32), ({"precision": "bf16-mixed"}, 2e-2)],
    ids=["plain", "accumulated", "bfloat16"],
)
def test_lightning_trainer(settings: dict, limit: float, inner: bool) -> None:
    module = Classifier()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    with feedprop.attached(module):
        module.reward(module(x), y).backward()
        expected = torch.cat([-0.1 * p.grad.flatten() for p in module.parameters()])
        module.zero_grad()
    feedprop.attach(module.layers if inner else module)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=8 // settings.get("accumulate_grad_batches", 1)))
    found = _updates(module, before)
    assert (found - expected).norm() <= limit * expected.norm()
    feedprop.detach(module.layers if inner else module)


class Autoencoder(lightning.LightningModule):
    """As in Lightning's quickstart: training_step calls the networks inside."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoders = nn.Linear(6, 3), nn.ModuleList([nn.Linear(3, 6)])

    def training_step(self, batch, batch_idx) -> Tensor:
        return self.decoders[0](self.encoder(batch)).square().mean()

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def test_networks_called_without_their_lightning_module_are_refused() -> None:
    module, x = feedprop.attach(Autoencoder()), torch.randn(4, 6)
    with pytest.raises(
        FeedpropError, match=r"encoder.weight, encoder.bias, .* of the attached Autoencoder: used outside"
    ):
        module.training_step(x, 0).backward()
    feedprop.detach(module)
    module.training_step(x, 0).backward()


def test_a_training_step_that_runs_under_rules_is_not_refused() -> None:
    module, x = feedprop.attach(Autoencoder(), methods=("training_step",)), torch.randn(4, 6)
    module.training_step(x, 0).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_networks_called_under_rules_do_not_warn() -> None:
    module, x = feedprop.attach(Autoencoder()), torch.randn(4, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(x).sum().backward()
        with torch.no_grad():
            module.training_step(x, 0)
        feedprop.attach(module.encoder), feedprop.attach(module.decoders[0])
        module.training_step(x, 0)
