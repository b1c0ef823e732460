"""Text classification with the Trainer of Hugging Face transformers, trained by LFP.

What differs from backprop is numbered.

    pip install transformers accelerate
    python examples/hugging_face_trainer.py

The data are made up, so that nothing is downloaded: two kinds of sentences, one of them with words of its own. With a
checkpoint, `AutoModelForSequenceClassification.from_pretrained(...)` replaces the small random BERT.
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

import feedprop  # 1
from feedprop import rewards

VOCABULARY, LENGTH = 60, 12


def sentences(count):
    """Words 2 to 59; in texts of class 1, each word is drawn from 40 to 59 with probability 0.5."""
    labels = torch.randint(2, (count,))
    words = torch.randint(2, VOCABULARY, (count, LENGTH))
    marked = torch.randint(40, VOCABULARY, (count, LENGTH))
    texts = torch.where((torch.rand(count, LENGTH) < 0.5) & (labels == 1)[:, None], marked, words)
    texts[:, 0] = 1  # [CLS]
    return [{"input_ids": text, "labels": label} for text, label in zip(texts, labels, strict=True)]


def reward(outputs, labels, num_items_in_batch=None):  # 2: instead of the model's own loss
    """Return the mean over all batches of a step: num_items_in_batch counts them together."""
    total = rewards.SoftmaxReward(reduction="sum")(outputs.logits, labels)
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(folder=None, **settings):
    set_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, num_labels=2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    feedprop.attach(model)  # 3: the default, whose magnitudes suit the Trainer's clipping
    arguments = TrainingArguments(
        output_dir=folder or tempfile.mkdtemp(), num_train_epochs=3, per_device_train_batch_size=32, learning_rate=5e-3,
        logging_steps=10, report_to="none", save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=sentences(1200), eval_dataset=sentences(300),
        compute_metrics=accuracy,
        compute_loss_func=reward,  # 4
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    print(f"accuracy on new sentences: {metrics['eval_accuracy']:.3f}")
    return metrics


if __name__ == "__main__":
    main()
