"""What must not appear where: host reads in stages, names of methods and models in core."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightkv
from lightkv import plugin

PACKAGE = Path(lightkv.__file__).parent
CORE = sorted((PACKAGE / "core").rglob("*.py"))
STRATEGIES = sorted((PACKAGE / "strategies").rglob("*.py"))

# Files whose tensors live on the device during a stage: none that a stage does not use.
HOST_CODE = {"plan.py"}
"""Of a stage, what works on host data."""
DEVICE_CODE = [
    PACKAGE / "core" / name
    for name in ("attention.py", "assignment.py", "contracts.py", "layout.py", "prompt.py")
]
DEVICE_CODE += [
    path for path in (PACKAGE / "core" / "stage").glob("*.py") if path.name not in HOST_CODE
]
DEVICE_CODE += STRATEGIES

SYNCHRONISING = {"item", "tolist", "nonzero", "masked_select", "cpu", "numpy", "unique", "argwhere"}
"""Tensor methods that wait for the device or whose result has a shape that depends on values."""

HOST_MODULES = {"np", "numpy"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node


def on_host(node):
    """Whether the call is a NumPy function (layouts are host data)."""
    owner = node.func.value
    return isinstance(owner, ast.Name) and owner.id in HOST_MODULES


def host_functions(tree):
    """Functions that handle NumPy arrays only, by their annotations."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            text = " ".join(
                ast.unparse(a.annotation) for a in node.args.args if a.annotation is not None
            )
            if "Tensor" not in text and "Input" not in text and "AttentionView" not in text:
                yield node


FACTORIES = {"zeros", "ones", "full", "empty", "eye", "tensor", "scalar_tensor", "as_tensor"}
FACTORIES |= {"rand", "randn", "randint", "randperm", "normal", "linspace", "logspace"}
"""Functions of torch that take `torch.get_default_dtype()`, for floats at least, if nobody says more."""


@pytest.mark.parametrize(
    "path",
    [
        file
        for part in ("core", "strategies", "adapters")
        for file in (PACKAGE / part).rglob("*.py")
    ],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_no_tensor_takes_the_default_dtype(path):
    found = [
        f"line {node.lineno}: torch.{node.func.attr}"
        for node in calls(ast.parse(path.read_text()))
        if ast.unparse(node.func.value) == "torch"
        and (node.func.attr in FACTORIES or (node.func.attr == "arange" and counts_floats(node)))
        and all(keyword.arg != "dtype" for keyword in node.keywords)
    ]
    assert found == []


def counts_floats(node):
    """Whether an `arange` has a fraction among its arguments; that of whole numbers is int64."""
    inside = [part for argument in node.args for part in ast.walk(argument)]
    return any(
        isinstance(part, ast.Div) or isinstance(getattr(part, "value", None), float)
        for part in inside
    )


WAITS = {
    ("step.py", "counts"),  # how many survive under a dynamic budget
    ("checks.py", "check_survivors"),  # of a window that broke the contract, for an error
    # For the report, of vision tokens where text takes part.
    ("cache_entries.py", "counts_by_modality"),
    ("layout.py", "_check_view"),  # NumPy, for an error
}
"""The functions that may wait for values."""


@pytest.mark.parametrize("path", DEVICE_CODE, ids=lambda path: path.name)
def test_stages_never_wait_for_the_device(path):
    tree = ast.parse(path.read_text())
    named = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and (path.name, function.name) in WAITS
        for node in ast.walk(function)
    ]
    found = [
        f"line {node.lineno}: .{node.func.attr}()"
        for node in calls(tree)
        if node.func.attr in SYNCHRONISING and not on_host(node) and node not in named
    ]
    assert found == []


def masks_in_indices(tree):
    """Subscripts whose index is a comparison, a negation or a logical combination."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript):
            continue
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            inverted = isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Invert)
            logical = isinstance(part, ast.BinOp) and isinstance(part.op, (ast.BitAnd, ast.BitOr))
            # `tuple[X | None, …]` is an annotation.
            logical = logical and "None" not in ast.unparse(part)
            named = isinstance(part, ast.Name) and re.search(r"mask|valid|alive|keep$", part.id)
            if isinstance(part, ast.Compare) or inverted or logical or named:
                yield node


@pytest.mark.parametrize("path", DEVICE_CODE, ids=lambda path: path.name)
def test_stages_never_index_with_masks(path):
    tree = ast.parse(path.read_text())
    host = [child for function in host_functions(tree) for child in ast.walk(function)]
    found = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in masks_in_indices(tree)
        if node not in host
    ]
    assert found == []


def test_core_names_no_method_and_no_model():
    """Words of the field are fine; names of what strategies and adapters bring are not."""
    from lightkv.core.plugins import registry

    names = {name for name in registry().presets if name != "lightkv"}
    names |= {name for name in registry().adapters if name not in ("generic", "auto")}
    names |= {"llava", "fastv", "tome", "qwen", "gemma", "llama", "clip", "siglip", "transformers"}
    names |= {"pyramiddrop", "sparsevlm", "prumerge", "bipartite"}
    words = re.compile(r"\b(" + "|".join(sorted(names)) + r")\b", re.IGNORECASE)
    found = []
    for path in CORE:
        tree = ast.parse(path.read_text())
        documentation = docstrings(tree)
        for node in ast.walk(tree):
            text = None
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = None if node in documentation else node.value
            elif isinstance(node, (ast.Name, ast.Attribute)):
                text = node.id if isinstance(node, ast.Name) else node.attr
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                text = ast.unparse(node).replace("lightkv", "")
            if text and words.search(text):
                found.append(f"{path.name}:{node.lineno}: {text}")
    assert found == []


def docstrings(tree):
    """Constants that are expression statements: what a docstring says does not bind the code."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


@pytest.mark.parametrize("folder", ["lightkv", "tests"])
def test_files_are_short(folder):
    root = PACKAGE.parent / folder
    long = {
        str(path): count
        for path in root.rglob("*.py")
        if (count := len(path.read_text().splitlines())) >= 600
    }
    assert long == {}


def test_one_file_of_the_adapters_knows_transformers():
    """What a release renames is then looked for in one place."""
    found = {
        path.name
        for path in (PACKAGE / "adapters").glob("**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (
            isinstance(node, ast.Import)
            and any(a.name.startswith("transformers") for a in node.names)
        )
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"))
    }
    assert found == {"contact.py"}


LAZY = {"transformers", "sklearn", "typer", "hypothesis", "pytest", "torchvision", "ray", "plotly"}


def test_importing_is_light():
    """Importing brings torch, and nothing that only models, tests or the command line need.

    That `lightkv` itself brings not even torch: `tests/cli/test_imports.py`.
    """
    code = f"import lightkv.plugin, lightkv.functional, sys; print({LAZY!r} & sys.modules.keys())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("module", [lightkv, plugin], ids=lambda module: module.__name__)
def test_public_names_exist_and_are_documented(module):
    for name in module.__all__:
        value = getattr(module, name)
        # A class has words of its own, not those of its base.
        assert vars(value).get("__doc__") if isinstance(value, type) else value.__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        plugin.nothing  # noqa: B018


DOCS = PACKAGE.parent / "docs"
FOR_AUTHORS = ("writing-a-strategy.md", "writing-an-adapter.md")


def test_pages_for_authors_name_all_that_they_may_import():
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in FOR_AUTHORS)
    assert [name for name in plugin.__all__ if f"`{name}`" not in text] == []


PUBLIC = {"lightkv", "lightkv.plugin", "lightkv.functional", "lightkv.testing", "lightkv.lab"}
"""All that an author imports."""
OF_USERS = ("lightkv.checkpoints.", "lightkv.demo.")
"""What pages for users show besides: opening pictures, and the bundled model."""
FOR_ENGINES = "lightkv.integrations.vllm"
"""What somebody who runs an engine imports."""


@pytest.mark.parametrize(
    "path",
    [*sorted(DOCS.glob("*.md")), *sorted((DOCS / "examples").rglob("*.py"))],
    ids=lambda path: path.name,
)
def test_documents_import_what_is_public(path):
    author = path.name in FOR_AUTHORS or "lightkv-outliers" in path.parts
    found = re.findall(r"^\s*(?:from|import) (lightkv[\w.]*)", path.read_text("utf-8"), re.M)
    private = {name for name in found if name not in {*PUBLIC, FOR_ENGINES}}
    assert {name for name in private if author or not name.startswith(OF_USERS)} == set()
