"""Tables: what becomes of numbers, words and targets, and what is refused."""

from __future__ import annotations

import pytest
import torch

from feedprop.errors import FeedpropError
from feedprop.training.data.tables import table

ROWS = "size, colour, kind\n1,red,cat\n2,blue,dog\n3,red,cat\n4,red,dog\n5,blue,cat\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        return str(tmp_path / name)

    return write


def _all(source):
    """Return inputs and targets of the whole file, whose rows training and test data share."""
    return source.train.inputs, source.train.targets


def test_words_become_one_input_each(written):
    source = table(written(ROWS), target="kind")
    inputs, targets = _all(source)
    assert inputs.tolist() == [[1, 0, 1], [2, 1, 0], [3, 0, 1], [4, 0, 1], [5, 1, 0]]  # size, blue, red
    assert targets.tolist() == [0, 1, 0, 1, 0]
    assert source.classes == ("cat", "dog")
    assert source.task == "classification"
    assert source.notes == ("columns of words became one input per word: colour (2)",)
    assert len(source.train) + len(source.test) == 5
    assert not {*source.train.indices.tolist()} & {*source.test.indices.tolist()}


def test_classes_that_are_numbers_are_in_their_order(written):
    assert table(written("x,y\n1,10\n2,9\n3,10\n"), target="y").classes == ("9", "10")


def test_numbers_and_labels_as_targets(written):
    text = "x,a,b\n1,0,1\n2,1,1\n3,0,0\n4,1,0\n5,1,1\n"
    for task in ("regression", "multi_label"):
        source = table(written(text), target="b,a", task=task)
        assert source.classes == ("b", "a")
        assert _all(source)[1].tolist() == [[1, 0], [1, 1], [0, 0], [0, 1], [1, 1]]
        assert source.train.targets.dtype is torch.float32


def test_a_file_of_test_data(written):
    path, test = written(ROWS), written("size,colour,kind\n7,green,dog\n", "test.csv")
    source = table(path, target="kind", test=test)
    assert len(source.train) == 5
    assert source.test.inputs.tolist() == [[7, 0, 1, 0]]  # green is known from the test file
    assert source.train.inputs.shape == (5, 4)
    with pytest.raises(FeedpropError, match="must have the columns of"):
        table(path, target="kind", test=written("size,kind\n7,dog\n", "test.csv"))


BAD = {
    "x,y\n1,2,3\n": "row 2: 3 values, but there are 2 columns",
    "x,y\n1,\n": "row 2: column y is empty; fill it, or leave the row out",
    "x,x\n1,2\n": "must give each column a name of its own",
    "x,y\n": "has no rows below the names of its columns",
    "": "must give each column a name of its own|no rows",
    "y\n1\n": "has no columns beside the target",
    "a,b\n1,2\n": "has no column y; its columns are a, b",
    "x,y\n1,u\n2,v\nfoo,u\n": "column x of .* holds numbers, and 'foo' among them; correct that value",
    "x,y\n1,u\n2,u\n": "column y of .* must hold at least two classes, but holds u alone",
}


@pytest.mark.parametrize("text", BAD)
def test_a_table_that_cannot_be_read_is_refused(written, text):
    with pytest.raises(FeedpropError, match=BAD[text]):
        table(written(text), target="y")


def test_targets_that_do_not_fit_the_task_are_refused(written):
    path = written(ROWS)
    with pytest.raises(FeedpropError, match=r"column kind of .* holds words; --data.task regression takes numbers"):
        table(path, target="kind", task="regression")
    with pytest.raises(FeedpropError, match="holds other numbers than 0 and 1"):
        table(path, target="size", task="multi_label")
    with pytest.raises(FeedpropError, match="names several columns"):
        table(path, target="size,kind")
    with pytest.raises(FeedpropError, match=r"which would be as many classes; give --data.task regression"):
        table(written("x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(50))), target="y")
    with pytest.raises(FeedpropError, match="no file"):
        table("nowhere.csv", target="y")
