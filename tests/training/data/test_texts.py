"""Labelled texts: what is read, which ids tokens get, and what is refused or told."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component
from feedprop.training.data.splits import load
from feedprop.training.data.texts import text
from feedprop.training.data.tokens import PADDING, UNKNOWN, words

from ..conftest import write_texts


def _loaded(path, **arguments):
    return load(
        Component("data", "text", {"path": str(path), **arguments}), seed=0, validation_fraction=0.25, vocabulary=None
    )


def test_a_folder_has_a_class_for_each_folder(tmp_path):
    write_texts(tmp_path, number=10)
    (tmp_path / "ham/.hidden").write_bytes(b"\xff")
    (tmp_path / ".git").mkdir()
    source = text(str(tmp_path))
    assert (source.classes, source.notes, source.normalise) == (("ham", "spam"), (), False)
    assert (len(source.train), len(source.test)) == (16, 4)
    for part in (source.train, source.test):
        for place, words_of in enumerate(part.first_texts(len(part))):
            assert ("Lottery" in words_of) == bool(part[place][1])


def test_words_are_in_small_letters_and_punctuation_is_none():
    tokens = words(["It's GOOD, isn\u2019t it?"], length=10, size=5)
    assert tokens.names == (PADDING, UNKNOWN, "it's", "good", "isn\u2019t", "it")
    assert [piece[1:] for piece in tokens.split("It's GOOD")] == [(0, 4), (5, 9)]


def test_the_vocabulary_is_that_of_the_training_data_alone(tmp_path):
    """Words that occur twice in it, the most frequent first, then by the alphabet; --data.vocabulary limits them."""
    (tmp_path / "test.csv").write_text("text,kind\nelse else else red,a\n")
    rows = (f"red red Blue green seldom{row},a\nblue GREEN once red,b\n" for row in range(4))
    (tmp_path / "train.csv").write_text("text,kind\n" + "".join(rows))
    options = {"text": "text", "target": "kind", "test": str(tmp_path / "test.csv")}
    data = _loaded(tmp_path / "train.csv", **options)
    assert len(data.train) == 6
    assert data.tokens.names[2:] == ("red", "blue", "green", "once")
    assert data.test.inputs[data.test.indices].tolist() == [[1, 1, 1, 2, 0]]
    assert _loaded(tmp_path / "train.csv", vocabulary=2, **options).tokens.names[2:] == ("red", "blue")


def test_words_of_validation_data_do_not_count(tmp_path):
    write_texts(tmp_path, number=20)
    for mail in (tmp_path / "ham").iterdir():
        mail.write_text(f"{mail.stem}h {mail.stem}h")
    data = _loaded(tmp_path)
    for split in ("train", "validation", "test"):
        inputs, targets = data[split].__getitems__([*range(len(data[split]))])
        assert ((inputs[targets == 0, 0] == 1) == (split != "train")).all()


def test_texts_are_cut_and_filled(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,kind\n" + "a b c d,x\na b,y\n!!,y\n,x\n" * 3)
    source = text(str(path), text="text", target="kind", length=3)
    assert source.train.inputs[:4].tolist() == [[2, 3, 4], [2, 3, 0], [1, 0, 0], [1, 0, 0]]
    assert source.notes == (
        "3 of 12 texts are longer than 3 tokens and end there; --data.length changes that",
        "6 of 12 texts have no tokens and are read as one unknown token",
    )


def test_a_column_may_hold_long_texts_and_others_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("id,mail,kind\n" + f",{'word ' * 40000},x\n,short,y\n" * 2)
    source = text(str(tmp_path / "t.csv"), text="mail", target="kind")
    assert source.train.inputs.shape == (4, 256)


def test_bytes_of_another_encoding_are_told(tmp_path):
    write_texts(tmp_path, number=2)
    (tmp_path / "ham/0.txt").write_bytes("käse".encode("latin-1"))
    assert text(str(tmp_path)).notes == (
        "1 of 4 texts hold bytes that --data.encoding does not know, which are read as \ufffd",
    )
    assert text(str(tmp_path), encoding="latin-1").notes == ()
    assert "käse" in text(str(tmp_path), encoding="latin-1").tokens.names


def test_a_stored_vocabulary_gives_the_same_ids(tmp_path):
    data = _loaded(write_texts(tmp_path / "one", number=20))
    other = str(write_texts(tmp_path / "two", number=20, ending="lottery new new"))
    component = Component("data", "text", {"path": other})
    again = load(component, seed=0, validation_fraction=0.25, vocabulary=list(data.tokens.names))
    assert again.tokens.names == data.tokens.names
    first, second = (part.train.inputs[part.train.indices] for part in (data, again))
    assert torch.equal(second[:, :-3], first[:, :-1])
    assert second[:, -3:].tolist() == [[data.tokens.names.index("lottery"), 1, 1]] * len(second)


BAD = {
    "nowhere": "there is no folder or file nowhere",
    "empty": "must hold one folder of texts per class, but holds no folder",
    "one": "must hold at least two classes, but holds ham alone",
    "hollow": "the folder hollow/spam holds no texts, but each folder is a class",
    "nested": "nested/mails/ham is no file; name the folder whose folders are the classes",
}


@pytest.mark.parametrize("folder", BAD)
def test_folders_that_hold_no_classes_are_refused(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one/ham").mkdir(parents=True)
    (tmp_path / "one/ham/1").write_text("a")
    (write_texts(tmp_path / "hollow", number=0) / "ham/1").write_text("a")
    write_texts(tmp_path / "nested/mails", number=1)
    with pytest.raises(FeedpropError, match=BAD[folder]):
        text(folder)


OPTIONS = {
    '{"text": "text"}': "needs --data.text and --data.target, names of columns; its columns are text, kind",
    '{"text": "txt", "target": "kind"}': "has no column txt; its columns are text, kind",
    '{"text": "kind", "target": "kind"}': "are both kind; name two columns",
    '{"text": "kind", "target": "text"}': "holds 30 different values, .* name the column of classes by --data.target",
    '{"text": "text", "target": "kind", "length": 0}': "--data.length must be at least 1, but is 0",
    '{"text": "text", "target": "kind", "vocabulary": 0}': "--data.vocabulary must be at least 1, but is 0",
    '{"text": "text", "target": "kind", "encoding": "utf-9"}': "--data.encoding utf-9 is unknown; write utf-8 or",
    '{"text": "text", "target": "kind", "encoding": "hex"}': "--data.encoding hex is unknown",
    '{"text": "text", "target": "kind", "test": "folder"}': "folder has the class ham, which t.csv lacks",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_that_do_not_fit_are_refused(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "folder", number=2)
    (tmp_path / "t.csv").write_text("text,kind\n" + "".join(f"word{row},{'xy'[row % 2]}\n" for row in range(30)))
    with pytest.raises(FeedpropError, match=OPTIONS[options]):
        text("t.csv", **json.loads(options))


def test_columns_of_a_folder_are_refused(tmp_path):
    with pytest.raises(FeedpropError, match=r"--data.target names a column of a CSV file; leave it out, as "):
        text(str(write_texts(tmp_path, number=2)), target="kind")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a small tokenizer of Hugging Face."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lot", "##tery", "the", "day"]
    (folder / "vocab.txt").write_text("\n".join(names))
    made = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"))
    transformers.BertTokenizerFast(tokenizer_object=made._tokenizer).save_pretrained(folder)
    return folder


def test_tokens_of_a_tokenizer_keep_their_ids(tokenizer, tmp_path):
    data = _loaded(write_texts(tmp_path, number=4), tokenizer=str(tokenizer), length=7)
    assert data.tokens.names[5:7] == ("lot", "##tery")
    assert (data.tokens.padding, data.tokens.unknown, data.tokens.special) == (0, 1, (0, 2, 3, 4))
    place = data.train.indices[data.train.targets[data.train.indices] == 1][0]
    assert data.train.inputs[place].tolist() == [2, 7, 5, 6, 1, 1, 3]
    pieces = data.tokens.split(data.train.texts[place])
    assert [piece[1:] for piece in pieces[:4]] == [(0, 0), (0, 3), (4, 7), (7, 11)]
    with pytest.raises(FeedpropError, match=r"not those .* trained with; give the same --data.tokenizer"):
        data.tokens.renamed([*data.tokens.names[:-1], "night"])


def test_a_tokenizer_that_cannot_be_used_is_refused(tokenizer, tmp_path, monkeypatch):
    path = str(write_texts(tmp_path / "mails", number=2))
    with pytest.raises(FeedpropError, match=r"--data.tokenizer \S+ cannot be loaded: "):
        text(path, tokenizer=str(tmp_path))
    (tmp_path / "bare").mkdir()
    for file in tokenizer.iterdir():
        (tmp_path / "bare" / file.name).write_bytes(file.read_bytes())
    options = json.loads((tmp_path / "bare/tokenizer_config.json").read_text())
    (tmp_path / "bare/tokenizer_config.json").write_text(json.dumps({**options, "pad_token": None}))
    with pytest.raises(FeedpropError, match="has no padding token"):
        text(path, tokenizer=str(tmp_path / "bare"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(FeedpropError, match=r"needs transformers, .* pip install 'feedprop\[models\]'"):
        text(path, tokenizer=str(tokenizer))
