"""Pictures of relevance: colours by hand, files, text, spikes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feedprop import FeedpropError
from feedprop.inspection.heatmaps import COLOURS, heatmap, save, spikes, text_html, text_terminal, tiled

BLACK, RED, BLUE, WHITE = [0, 0, 0], [255, 0, 0], [0, 0, 255], [255, 255, 255]


def test_colours_by_hand() -> None:
    values = torch.tensor([[-3.0, -1.5, -0.75], [0.0, 1.0, 3.0]])
    assert heatmap(values).tolist() == [[[0, 255, 255], BLUE, [0, 0, 128]], [BLACK, RED, WHITE]]
    assert heatmap(values, colours="bwr").tolist()[1] == [WHITE, [255, 170, 170], RED]
    assert heatmap(values, colours="bwr", largest=1.0).tolist()[1] == [WHITE, RED, RED]
    assert heatmap(values, colours="gray").tolist()[0][0] == BLACK
    assert heatmap(torch.zeros(2, 2), colours="seismic").tolist() == [[WHITE, WHITE], [WHITE, WHITE]]


@pytest.mark.parametrize("colours", COLOURS)
def test_colours_are_those_of_zennit(colours: str) -> None:
    image = pytest.importorskip("zennit.image")
    if colours == "seismic":  # matplotlib's here
        pytest.importorskip("matplotlib")
        from matplotlib import colormaps

        expected = torch.from_numpy(colormaps["seismic"](torch.arange(256).numpy(), bytes=True)[:, :3].copy())
    else:
        expected = torch.from_numpy(image.palette(colours)).view(256, 3)
    found = heatmap(torch.linspace(-1, 1, 256)[None], colours=colours)[0]
    assert (found.int() - expected.int()).abs().max() <= 4  # theirs has its middle at 128 of 255


def test_each_image_has_its_own_scale_unless_given() -> None:
    values = torch.tensor([[[1.0]], [[2.0]]])
    assert heatmap(values).tolist() == [[[WHITE]], [[WHITE]]]
    assert heatmap(values, largest=torch.tensor([3.0, 6.0])).tolist() == [[[RED]], [[RED]]]


def test_tiles_and_files(tmp_path: Path) -> None:
    images = heatmap(torch.linspace(-1, 1, 36).view(3, 3, 4))
    sheet = tiled(images, columns=2, gap=1)
    assert sheet.shape == (7, 9, 3)
    assert torch.equal(sheet[4:, :4], images[2])
    assert (sheet[4:, 4:] == 255).all()
    picture = pytest.importorskip("PIL.Image")
    save(sheet, tmp_path / "sheet.png", enlarge=2)
    read = torch.tensor(list(picture.open(tmp_path / "sheet.png").tobytes())).view(14, 18, 3)
    assert torch.equal(read[::2, 1::2], sheet.long())


def test_text_shows_signs_and_escapes() -> None:
    page = text_html(["not", " <bad>"], torch.tensor([-2.0, 1.0]))
    assert 'background:#4c4cff;color:#000" title="-2">not</span>' in page
    assert 'background:#ffa6a6;color:#000" title="+1"> &lt;bad&gt;</span>' in page
    pytest.importorskip("rich")
    text = text_terminal(["not", " <bad>"], torch.tensor([-2.0, 1.0]))
    assert text.plain == "not <bad>"
    assert [str(span.style) for span in text.spans] == ["#000000 on #4c4cff", "#000000 on #ffa6a6"]


def test_spikes_have_the_colour_of_their_relevance() -> None:
    pytest.importorskip("matplotlib")
    fired = (torch.rand(6, 2, 5) < 0.4).float()
    figure = spikes(fired, fired * torch.randn(6, 2, 5), sample=1, title="layer 1")
    drawn = figure.axes[0].collections[0]
    assert len(drawn.get_offsets()) == int(fired[:, 1].sum())
    assert drawn.get_clim()[0] == -drawn.get_clim()[1]
    assert not len(spikes(0 * fired, fired).axes[0].collections[0].get_offsets())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: heatmap(torch.ones(3)), r"\(..., height, width\), got torch.float32 \(3,\)"),
        (lambda: heatmap(torch.ones(3, 3), colours="rainbow"), "must be one of coldnhot, bwr, .*, not 'rainbow'"),
        (lambda: tiled(torch.ones(2, 3, 3)), r"\(number, height, width, 3\)"),
        (lambda: save(torch.ones(2, 3, 3, 3, dtype=torch.uint8), "x.png"), r"tiled\(\) joins several"),
        (lambda: text_html(["a"], torch.ones(2)), r"1 tokens need relevance of shape \(1,\), one sample"),
        (lambda: spikes(torch.ones(2, 3, 4), torch.ones(2, 3)), "must have one shape"),
    ],
)
def test_wrong_shapes_are_refused(call: object, sentence: str) -> None:
    with pytest.raises(FeedpropError, match=sentence):
        call()


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import torch; from feedprop.inspection.heatmaps import heatmap, save\n"
        "try: save(heatmap(torch.ones(2, 2)), 'x.png')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs PIL, which is not installed; pip install 'feedprop[explain]'" in done.stdout


def test_what_has_no_colour_is_refused() -> None:
    for value in (torch.nan, torch.inf):
        with pytest.raises(FeedpropError, match="1 of 4 relevances are NaN or infinite"):
            heatmap(torch.tensor([[value, 1.0], [0.0, -1.0]]))
    with pytest.raises(FeedpropError, match="1 of 2 relevances"):
        text_html(["a", "b"], torch.tensor([torch.nan, 1.0]))
    with pytest.raises(FeedpropError, match=r"\(\.\.\., height, width\), got ndarray"):
        heatmap(torch.ones(2, 2).numpy())
    for largest in (-1.0, float("nan"), torch.ones(3)):
        with pytest.raises(FeedpropError, match=r"one for each image, shape \(2,\)"):
            heatmap(torch.ones(2, 3, 3), largest=largest)


def test_pictures_that_cannot_be_made(tmp_path) -> None:
    images = heatmap(torch.ones(2, 3, 3))
    for wrong in ({"columns": 0}, {"gap": -1}):
        with pytest.raises(FeedpropError, match="at least one column"):
            tiled(images, **wrong)
    with pytest.raises(FeedpropError, match="got 0 images"):
        tiled(images[:0])
    with pytest.raises(FeedpropError, match="tokens must be strings"):
        text_html([1, 2], torch.ones(2))
    with pytest.raises(FeedpropError, match="sample must be from 0 to 0"):
        spikes(torch.ones(3, 1, 2), torch.ones(3, 1, 2), sample=1)
    pytest.importorskip("PIL")
    with pytest.raises(FeedpropError, match="such as"):
        save(images[0], tmp_path / "heatmap.xyz")
    with pytest.raises(FeedpropError, match="enlarge >= 1"):
        save(images[0], tmp_path / "heatmap.png", enlarge=0)
