"""The autoencoder of Lightning's quickstart, trained by LFP: the lines marked with numbers are all that changed.

    pip install 'feedprop[test]'    # or lightning and scikit-learn
    python examples/lightning_autoencoder.py

Lightning calls `training_step`, not `forward`: attach the networks that `training_step` calls. Where it calls
`self(x)`, the LightningModule itself can be attached.
"""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import feedprop  # 1
from feedprop import rewards

encoder = nn.Sequential(nn.Linear(8 * 8, 64), nn.ReLU(), nn.Linear(64, 3))
decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 8 * 8))


class LitAutoEncoder(L.LightningModule):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder = feedprop.attach(encoder)  # 2
        self.decoder = feedprop.attach(decoder)
        self.reward = rewards.RegressionReward()  # 3: instead of nn.functional.mse_loss

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        z = self.encoder(x)
        x_hat = self.decoder(z)
        loss = self.reward(x_hat, x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        self.log("val_mse", nn.functional.mse_loss(self.decoder(self.encoder(x)), x), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def main():
    L.seed_everything(0)
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    data = TensorDataset(images.float() / 16, labels)
    train, val = torch.utils.data.random_split(data, [1500, len(data) - 1500])
    autoencoder = LitAutoEncoder(encoder, decoder)
    trainer = L.Trainer(
        max_epochs=8,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    loaders = DataLoader(train, batch_size=50, shuffle=True), DataLoader(val, batch_size=300)
    before = trainer.validate(autoencoder, loaders[1], verbose=False)[0]["val_mse"]
    trainer.fit(autoencoder, *loaders)
    after = trainer.callback_metrics["val_mse"].item()
    print(f"mean squared error of the reconstruction: {before:.3f} before, {after:.3f} after")
    return before, after


if __name__ == "__main__":
    main()
