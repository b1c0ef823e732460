"""A text whose tokens stand on the colour of their relevance."""

from __future__ import annotations

from markupsafe import Markup
from torch import Tensor

from feedprop.training.data.tokens import Tokens
from feedprop.training.report.charts import COLD, WARM

DEEPEST = 70  # percent of the colour of the most relevant token, on which letters can be read in light and dark
_TOKEN = Markup('<span{}{} title="{:+.3g}{}">{}</span>')


def marked_text(text: str, ids: Tensor, relevance: Tensor, tokens: Tokens, *, largest: float | None = None) -> Markup:
    """Return a text as a paragraph, up to its last token; what stands between tokens has no colour.

    Args:
        text: as it was written.
        ids: of its tokens, then of padding, (length,).
        relevance: of each, (length,).
        tokens: that the ids are of; special ones stand nowhere in the text.
        largest: relevance of the deepest colour; that of the most relevant token shown unless given.
    """
    shown = [
        (piece, int(place), float(share))
        for piece, place, share in zip(tokens.split(text), ids, relevance, strict=False)
        if piece.end > piece.start
    ]
    largest = largest or max((abs(share) for _, _, share in shown), default=0.0) or 1.0
    parts, at = [], 0
    for piece, place, share in shown:
        percent = round(DEEPEST * min(abs(share) / largest, 1.0))
        colour = (WARM if share > 0 else COLD).replace(")", f" / {percent}%)")
        unknown = place == tokens.unknown
        parts += [
            Markup.escape(text[at : piece.start]),
            _TOKEN.format(
                Markup(' class="unknown"') if unknown else "",
                Markup(f' style="background:{colour}"') if percent else "",
                share,
                ", not in the vocabulary" if unknown else "",
                text[piece.start : piece.end],
            ),
        ]
        at = piece.end
    rest = text[at:].strip()
    ending = Markup(" <small>…</small>") if rest else ""
    return Markup('<p class="tokens">{}{}</p>').format(Markup("").join(parts), ending)
