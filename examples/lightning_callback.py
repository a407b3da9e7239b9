"""Make a network smaller during the training by PyTorch Lightning: a callback.

Run ``pip install lightning``, then ``python examples/lightning_callback.py``: 8 by 8 pixels, seconds.
"""

import lightning
import torch
from compress_while_training import network
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from common import CompressionReport, compress


class CompressCallback(lightning.Callback):
    """Compress the network of a module before an epoch; its optimizers and schedules train the smaller network.

    For training in one process: every process would choose channels for itself.

    Args:
        epoch: The epoch, counted from 0, before which the network is compressed.
        attribute: Name of the module's attribute that holds the network.
        options: Arguments of :func:`common.compress`, such as ``target_macs=0.5``.
    """

    def __init__(self, epoch: int, attribute: str = "model", **options) -> None:
        self.epoch, self.attribute, self.options = epoch, attribute, options
        self.report: CompressionReport | None = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.current_epoch != self.epoch:
            return
        dense = getattr(module, self.attribute)
        small, self.report = compress(dense, trainer.train_dataloader, **self.options)
        small.to(module.device).train()
        for optimizer in trainer.optimizers:
            self.report.transfer_optimizer(optimizer, dense, small)
        setattr(module, self.attribute, small)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Module = network()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)}


def main(epochs: int = 6, compress_at: int = 3, **options) -> tuple[Classifier, lightning.Trainer]:
    """Train, and compress before the epoch ``compress_at``. options: of ``compress``."""
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.images[:, None] / 16).float(), torch.tensor(digits.target))
    lightning.seed_everything(0)
    module, callback = Classifier(), CompressCallback(compress_at, target_macs=0.5, **options)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[callback]
    )
    trainer.fit(module, DataLoader(data, batch_size=64, shuffle=True))
    print(callback.report)
    return module, trainer


if __name__ == "__main__":
    main()
