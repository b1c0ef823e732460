"""Small programs of torch functions: drawn line by line, each line tried in plain torch before it is kept."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fuzz.catalogue import CHAINS, Template

Choose = Callable[[int], int]  # returns a number from 0 to n - 1; hypothesis shrinks it towards 0

SEED = 7
LARGEST = 30.0  # values and numbers of values that programs may reach
APART = 1e-3  # from kinks


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Make float64 the default, and let torch deprecate what it likes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


def values(seed: int, *shape: int) -> Tensor:
    """Return numbers of both signs, none of them small."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 0.2 + 1.3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return sizes * (1 - 2 * torch.randint(2, shape, generator=generator))


def filled(module: nn.Module, seed: int) -> nn.Module:
    """Return `module` in float64 with such parameters."""
    with torch.no_grad():
        for number, parameter in enumerate(module.double().parameters()):
            parameter.copy_(values(seed + number, *parameter.shape) * 0.7)
    return module


PRELUDE = """\
import torch
from torch import nn
from torch.nn import functional as F
torch.set_default_dtype(torch.float64)

def values(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    sizes = 0.2 + 1.3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return sizes * (1 - 2 * torch.randint(2, shape, generator=generator))

def filled(module, seed):
    with torch.no_grad():
        for number, parameter in enumerate(module.double().parameters()):
            parameter.copy_(values(seed + number, *parameter.shape) * 0.7)
    return module
"""


@dataclass(frozen=True)
class Program:
    """A model, as source, and what calls it."""

    setup: tuple[str, ...]
    lines: tuple[str, ...]
    returned: tuple[str, ...]
    input_requires_grad: bool = False
    latent: bool = False  # a step of weights passes feedback although its derivative is 0: no identity there
    templates: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The class of the model."""
        setup = "".join(f"        {line}\n" for line in self.setup)
        lines = "".join(f"        {line}\n" for line in self.lines)
        return (
            f"class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n{setup}"
            f"    def forward(self, x):\n{lines}        return {', '.join(self.returned)},\n"
        )

    def model(self) -> nn.Module:
        """Return the model."""
        namespace = {"torch": torch, "nn": nn, "F": F, "values": values, "filled": filled}
        exec(compile(self.source, "<program>", "exec"), namespace)
        torch.manual_seed(SEED)
        built: nn.Module = namespace["Model"]()  # type: ignore[operator]
        return built

    def scope(self) -> dict[str, Any]:
        """Return what its lines see before the first one runs, for those who run them one by one."""
        torch.manual_seed(SEED)
        return {"self": self.model(), "x": self.inputs(), "torch": torch, "nn": nn, "F": F}

    def inputs(self) -> Tensor:
        """Return what it is called with."""
        return values(0, 3, 4).requires_grad_(self.input_requires_grad)

    def __str__(self) -> str:
        leaf = ".requires_grad_()" if self.input_requires_grad else ""
        return f"{PRELUDE}\n{self.source}\ntorch.manual_seed({SEED})\nmodel, x = Model(), values(0, 3, 4){leaf}\n"


SHAPES = re.compile(r"_like\(\{a\}\)|\{a\}\.new_\w+\(")  # of {a}, these take the shape alone


@dataclass
class _Value:
    reference: str
    from_input: bool


class Builder:
    """Writes one program.

    Args:
        choose: decides; called with the number of possibilities.
    """

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.setup: list[str] = []
        self.lines: list[str] = []
        self.used: list[str] = []
        self.seed = 10
        self.latent = False
        self.all_from_input = True  # whether all that the last line takes depends on the input
        self.leaf = choose(4) == 3
        self.known = [_Value("x", True)]
        self.read: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._restart()

    def _restart(self) -> None:
        module = nn.Module()
        self.scope: dict[str, Any] = {
            "torch": torch, "nn": nn, "F": F, "values": values, "filled": filled, "self": module,
            "x": values(0, 3, 4).requires_grad_(self.leaf),
        }  # fmt: skip
        torch.manual_seed(SEED)
        for line in self.setup:
            exec(line, self.scope)
        torch.manual_seed(SEED)
        for line in self.lines:
            exec(line, self.scope)

    def value(self, reference: str) -> Any:
        """Return what an expression is worth here."""
        return eval(reference, self.scope)

    def _declare(self, line: str) -> None:
        self.setup.append(line)
        exec(line, self.scope)

    def parameter(self, shape: tuple[int, ...]) -> str:
        """Return a parameter of this shape, perhaps one that was there before."""
        same = [name for name, kept in self.shapes.items() if kept == shape and name.startswith("self.p")]
        if same and self.choose(3) == 2:
            return same[self.choose(len(same))]
        self.seed += 10
        name = f"self.p{len(self.setup)}"
        frozen = ", requires_grad=False" if self.choose(12) == 11 else ""
        self._declare(f"{name} = nn.Parameter(values({', '.join(map(str, (self.seed, *shape)))}){frozen})")
        self.shapes[name] = shape
        self.known.append(_Value(name, False))
        return name

    def buffer(self, shape: tuple[int, ...]) -> str:
        """Return a constant of this shape."""
        self.seed += 10
        name = f"self.k{len(self.setup)}"
        self._declare(f'self.register_buffer("{name[5:]}", values({", ".join(map(str, (self.seed, *shape)))}))')
        self.shapes[name] = shape
        self.known.append(_Value(name, False))
        return name

    def module(self, expression: str) -> str:
        """Return a module made by this expression."""
        self.seed += 10
        name = f"self.m{len(self.setup)}"
        self._declare(f"{name} = filled({expression}, {self.seed})")
        return name

    def _fitting(self, fits: Callable[[Tensor], bool]) -> list[_Value]:
        return [
            known for known in reversed(self.known) if _floating(value := self.value(known.reference)) and fits(value)
        ]

    def operand(self, template: Template) -> tuple[str, bool]:
        """Return an expression for {a}, and whether it depends on the input."""
        wanted = template.shape

        def fits(value: Tensor) -> bool:
            if wanted is None:
                return value.ndim > 0
            return value.ndim == wanted if isinstance(wanted, int) else tuple(value.shape) == wanted

        found = self._fitting(fits)
        if found:
            chosen = found[self.choose(len(found))]
            return self._in_domain(chosen.reference, template.domain), chosen.from_input
        shape = (
            wanted
            if isinstance(wanted, tuple)
            else {0: (), 1: (4,), 2: (3, 4), 3: (2, 3, 4), 4: (2, 3, 4, 4)}.get(wanted or 2)
        )
        assert shape is not None
        size = torch.Size(shape).numel()
        sources = self._fitting(lambda value: value.numel() > 0)
        chosen = sources[self.choose(len(sources))]
        count = -(-size // max(self.value(chosen.reference).numel(), 1))
        repeated = f".repeat({count})" if count > 1 else ""
        cut = f"[:{size}]" if count * self.value(chosen.reference).numel() != size else ""
        name = f"h{len(self.lines)}"
        self._keep(f"{name} = {chosen.reference}.flatten(){repeated}{cut}.view({', '.join(map(str, shape))})")
        self.read.add(chosen.reference)
        self.known.append(_Value(name, chosen.from_input))
        return self._in_domain(name, template.domain), chosen.from_input

    def _in_domain(self, reference: str, domain: str) -> str:
        self.read.add(reference)
        value = self.value(reference)
        if domain == "positive" and not bool((value > 0.2).all()):
            return f"({reference}.square() + 1.1)"
        if domain == "fraction" and not bool(((value > 0.1) & (value < 0.9)).all()):
            return f"({reference}.tanh() * 0.4 + 0.5)"
        return reference

    def _keep(self, line: str) -> None:
        exec(line, self.scope)
        self.lines.append(line)

    def other(self, shape: tuple[int, ...]) -> tuple[str, bool]:
        """Return an expression that broadcasts to `shape`."""
        kind = self.choose(5)
        if kind < 2:
            shapes = [shape, shape[-1:], (1,) * len(shape), ()]
            return self.parameter(shapes[self.choose(4)]), False
        if kind == 2:
            return self.buffer([shape, shape[-1:], ()][self.choose(3)]), False
        found = self._fitting(lambda value: _broadcasts(tuple(value.shape), shape))
        if not found:
            return self.parameter(shape), False
        chosen = found[self.choose(len(found))]
        return chosen.reference, chosen.from_input

    def weight(self, shape: tuple[int, ...]) -> tuple[str, bool]:
        """Return a tensor of exactly this shape, mostly a parameter."""
        kind = self.choose(5)
        found = self._fitting(lambda value: tuple(value.shape) == shape) if kind > 2 else []
        if found:
            chosen = found[self.choose(len(found))]
            return chosen.reference, chosen.from_input
        return (self.buffer(shape), False) if kind == 2 else (self.parameter(shape), False)

    def add(self, template: Template, given: str | None = None) -> bool:
        """Add a line by this template, if plain torch runs it; returns whether it did. `given` is its {a}."""
        before = len(self.setup), len(self.lines), set(self.read), dict(self.shapes), self.seed
        known = [replace(value) for value in self.known]  # a line may write the input's values to what was there
        written = False
        try:
            line, name, from_input = self._line(template, given)
            written = template.writes or "_(" in template.source or "inplace" in template.source
            exec(line, self.scope)
            self.lines.append(line)
            self._take_in(name, from_input, written=written)
        except (
            UnfitError,
            RuntimeError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            NotImplementedError,
            AssertionError,
        ):
            setup, lines, self.read, self.shapes, self.seed = before
            shrunk = len(self.lines) > lines or len(self.setup) > setup
            del self.setup[setup:], self.lines[lines:]
            self.known = known
            if shrunk or written:
                self._restart()
            return False
        self.used.append(template.source)
        if template.steps and not self.all_from_input:
            self.latent = True
        return True

    def add_chain(self, chain: Sequence[str]) -> None:
        """Add lines of which each takes the result of the one before as {a}; {r0}, {r1}, ... are earlier results."""
        made: list[str] = []
        for source in chain:
            for index, name in enumerate(made):
                source = source.replace(f"{{r{index}}}", name)
            if not self.add(Template(source), made[-1] if made else None):
                return
            made.append(f"h{len(self.lines) - 1}")
            self.read.update(made[:-1])

    def _line(self, template: Template, given: str | None = None) -> tuple[str, str | None, bool]:
        main, from_input = (given, self._from_input(given)) if given is not None else self.operand(template)
        shape = tuple(self.value(main).shape)
        chosen: dict[str, str] = {"a": main}
        memory = _memory(self.value(main))
        if "_(" in template.source and _overlaps(self.value(main)):
            raise UnfitError  # nor does torch say what a write into an expanded tensor gives
        sources = [from_input and "{a}" in SHAPES.sub("", template.source)]

        def fill(match: re.Match[str]) -> str:
            kind, _, detail = match[1].partition(":")
            if kind.startswith("="):
                return str(eval(match[1][1:], {"s": shape, "tuple": tuple, "torch": torch, "int": int}))
            if kind in chosen:
                return chosen[kind]
            if kind == "n":
                return self.module(detail)
            wanted = tuple(eval(detail, {"s": shape})) if detail else shape
            if kind == "m":
                reference, depends = self.mask(shape)
            elif kind == "p":
                reference, depends = self.parameter(wanted), False
            elif kind == "k":
                reference, depends = self.buffer(wanted), False
            elif kind == "w":
                reference, depends = self.weight(wanted)
            else:
                reference, depends = self.other(shape)
                chosen[kind] = reference
            if "_(" in template.source and _memory(self.value(reference)) == memory:
                raise UnfitError  # torch says nothing about products that are written over their own factors
            self.read.add(reference)
            sources.append(depends)
            return reference

        text = SLOT.sub(fill, template.source)
        for kink in template.kinks:
            at = self.value(SLOT.sub(fill, template.at))
            if isinstance(at, Tensor) and at.numel() and bool(((at.detach() - kink).abs() < APART).any()):
                raise UnfitError
        depends, self.all_from_input = any(sources), all(sources)
        if template.writes:
            self._written(main, depends)
            return text, None, depends
        name = f"h{len(self.lines)}"
        return f"{name} = {text}", name, depends

    def _written(self, reference: str, depends: bool) -> None:
        if depends:
            memory = _memory(self.value(reference))
            for known in self.known:
                if _memory(self.value(known.reference)) == memory:
                    known.from_input = True

    def mask(self, shape: tuple[int, ...]) -> tuple[str, bool]:
        """Return a boolean mask of this shape."""
        reference, depends = self.weight(shape)
        return [f"({reference} > 0)", f"({reference}.detach() < 0.3)", f"torch.ge({reference}, -0.4)"][
            self.choose(3)
        ], depends

    def _from_input(self, reference: str) -> bool:
        return next((known.from_input for known in self.known if known.reference == reference), True)

    def _take_in(self, name: str | None, from_input: bool, *, written: bool) -> None:
        if name is not None:
            result = self.scope[name]
            references = [name]
            if isinstance(result, (tuple, list)):
                references = [f"{name}[{index}]" for index in range(len(result))]
            if not references:
                raise UnfitError
            for reference in references:
                value = self.value(reference)
                if not isinstance(value, Tensor) or not _tame(value):
                    raise UnfitError
                self.known.append(_Value(reference, from_input))
        for known in self.known:
            value = self.value(known.reference)
            if isinstance(value, Tensor) and not _tame(value):
                raise UnfitError
        module = self.scope["self"]
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.grad_fn is not None or tuple(tensor.shape) != self.shapes.get(
                f"self.{name}", tuple(tensor.shape)
            ):
                raise UnfitError  # what belongs to the model stays a leaf of its shape
        if written:
            self._refuse_broken_graph()

    def _refuse_broken_graph(self) -> None:
        """Raise if what was written to in place is still needed by the backward pass of plain torch."""
        roots = [v for known in self.known if isinstance(v := self.value(known.reference), Tensor) and v.requires_grad]
        leaves = [self.scope["x"], *(p for p in self.scope["self"].parameters())]
        leaves = [leaf for leaf in leaves if leaf.requires_grad]
        if roots and leaves:
            torch.autograd.grad(
                roots, leaves, [torch.ones_like(r) for r in roots], retain_graph=True, allow_unused=True
            )

    def finish(self) -> Program:
        """Return the program: it returns whatever no line has read."""
        made = [known.reference for known in self.known if not known.reference.startswith("self.")]
        returned = [reference for reference in made if reference not in self.read and reference != "x"] or made[-1:]
        if self.choose(6) == 5 and len(made) > 1:
            returned.append(made[self.choose(len(made))])
        return Program(
            tuple(self.setup),
            tuple(self.lines),
            tuple(dict.fromkeys(returned)),
            self.leaf,
            self.latent,
            tuple(self.used),
        )


class UnfitError(Exception):
    """A line that this program cannot have."""


SLOT = re.compile(r"\{([^{}]+)\}")


def _overlaps(value: Any) -> bool:
    """Whether elements of a tensor share their memory, as those of an expanded one do."""
    return (
        isinstance(value, Tensor)
        and not value.is_sparse
        and any(size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride(), strict=True))
    )


def _memory(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) and not value.is_sparse else -1


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.is_sparse


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return torch.broadcast_shapes(shape, to) == to
    except RuntimeError:
        return False


def _tame(value: Tensor) -> bool:
    if value.numel() == 0 or value.numel() > 400 or value.is_sparse:
        return False
    if not (value.is_floating_point() or value.is_complex()):
        return True
    sizes = value.detach().abs()
    return (
        bool(sizes.isfinite().all())
        and float(sizes.max()) < LARGEST
        and value.dtype in (torch.float64, torch.complex128)
    )


def build(choose: Choose, groups: Sequence[Sequence[Template]], *, most: int = 6) -> Program:
    """Write a program of at most so many lines, not counting those that change a shape; groups are equally likely."""
    with plain_torch():
        builder = Builder(choose)
        for _ in range(1 + choose(most)):
            if choose(8) == 7:
                builder.add_chain(CHAINS[choose(len(CHAINS))])
                continue
            group = groups[choose(len(groups))]
            builder.add(group[choose(len(group))])
        return builder.finish()


def single(template: Template, choose: Choose) -> Iterator[Program]:
    """Yield programs of one line by a template: of the input, of an activation, of a parameter."""
    with plain_torch():
        for start in ("{a}.clone()", "{a} * {p:(4,)}", "F.linear({a}, {p:(4, 4)}, {p:(4,)})", "{p:s}.clone()"):
            builder = Builder(choose)
            builder.add(Template(start))
            if builder.add(template):
                yield builder.finish()
