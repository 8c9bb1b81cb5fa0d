"""The house itself: rooms use only the rooms below them, and files stay short."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import segrefinery
from segrefinery.recipe import load_recipe, read_files
from segrefinery.refine import REFINERS

ROOT = Path(segrefinery.__file__).parent
FLOORS = [
    {"core"},
    {"labels", "losses", "spectrum"},
    {"models", "data"},
    {"refine", "evaluation"},
    {"stages"},
    {"engine"},
    {"reporting", "interchange"},
    {"recipe"},
    {"verbs"},
    {"terminal", "options"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
APART = {("models", "data"), ("data", "models"), ("refine", "evaluation"), ("evaluation", "refine")}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(parsed(path)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "segrefinery":
                names = [f"segrefinery.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("segrefinery.")}
    return found


def test_every_file_has_a_floor():
    assert {room_of(path) for path in ROOT.rglob("*.py")} <= set(FLOOR)


def test_no_room_reaches_upwards_or_across():
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = room_of(path)
        for other in imported_rooms(path) - {own}:
            if FLOOR[other] > FLOOR[own] or (own, other) in APART:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong, wrong


def test_settings_are_asked_for_what_they_declare():
    probes = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and room_of(path) != "core":
                whom, what = ast.unparse(node.args[0]), node.args[1]
                if whom.endswith(("stage", "settings")) and isinstance(what, ast.Constant):
                    probes.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not probes, probes


def test_files_stay_short():
    files = [*ROOT.rglob("*.py"), *(ROOT.parents[1] / "benchmarks").rglob("*.py")]
    long = {str(path): count for path in files if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long, long


def functions():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}: {node.name}", node


def test_functions_stay_short():
    long = [name for name, node in functions() if node.end_lineno - node.lineno >= 60]
    assert not long, long


def test_adapt_reads_in_one_look():
    """Its body, without the signature and the docstring."""
    (adapt,) = (node for name, node in functions() if name == "verbs/adapt.py: adapt")
    assert adapt.end_lineno - adapt.body[1].lineno + 1 < 40


def test_no_two_things_have_one_name():
    """Public classes and functions of modules; a verb is also a command, and other libraries have one door each."""
    places: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "cli.py" or path.parent == ROOT / "models/foreign" or path.parent.name == "scenes":
            continue
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert not shared, shared


def names_given(path: Path):
    """What a file calls its variables, fields, arguments, functions and classes, and the lines."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def test_names_say_what_a_thing_is():
    """Not how we came by it."""
    vague = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in ROOT.rglob("*.py")
        for name, line in names_given(path)
        if name.strip("_").lower() in ("found", "seen", "own")
    ]
    assert not vague, vague


# -- the verbs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(set(segrefinery.__all__) - {"RunEvents", "load"}))
def test_a_verb_is_a_file_and_a_public_name(verb):
    assert getattr(segrefinery, verb).__module__ == f"segrefinery.verbs.{verb}"
    assert not (ROOT / verb).exists()  # a room of that name would take its place once it is imported


def test_verbs_return_what_the_command_line_prints():
    printing = []
    for path in [*(ROOT / "verbs").glob("*.py"), *(ROOT / "engine").glob("*.py")]:
        tree = parsed(path)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if "print" in names or any(str(module).startswith("rich") for module in modules):
            printing.append(path.name)
    assert not printing, printing


# -- the reader's path -------------------------------------------------------------------------------------------------

METHODS = {
    "entropy_mixture": "uncerda",
    "self_labeling": "cpsl",
    "pixel_attention": "pixel_attention",
    "refinement_network": "prn",
    "implicit_rectification": "ir2f",
}
"""The five methods: the folder, named as the refiner's key, and the recipe."""


@pytest.mark.parametrize("key", METHODS)
def test_a_method_is_a_folder_named_as_its_key(key):
    assert (ROOT / "refine" / key / "formulas.py").exists()
    assert REFINERS[key].__module__ == f"segrefinery.refine.{key}.settings"
    assert key in (ROOT / "recipes" / f"{METHODS[key]}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", [*METHODS, "prototypes"])
def test_the_readme_links_a_methods_page(key):
    page = f"src/segrefinery/refine/{key}/README.md"
    assert (ROOT.parents[1] / page).exists()
    assert f"({page})" in (ROOT.parents[1] / "README.md").read_text(encoding="utf-8")


HOSTS = ("source_only", "self_training", "adaptsegnet", "dacs", "daformer", "hrda", "proda")
"""Recipes of what the five are plugged into, which has pages and files of its own."""


def imported_files(path: Path) -> set[Path]:
    """The files of ``refine`` and ``stages`` that a file imports, wherever in it; not what a package re-exports."""
    nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom)]
    names = [node.module.split(".")[1:] for node in nodes if node.module and node.module.startswith("segrefinery.")]
    files = {ROOT.joinpath(*name).with_suffix(".py") for name in names if name[0] in ("refine", "stages")}
    return {file for file in files if file.exists()}


USERS: dict[Path, set[Path]] = {}
"""A file of ``refine`` or ``stages`` -> the files that import it."""
for one in ROOT.rglob("*.py"):
    for imported in imported_files(one) if one.name != "__init__.py" else ():
        USERS.setdefault(imported, set()).add(one)


def refiners(recipe: str) -> set[Path]:
    """Where the refiners of a recipe are built from."""
    names = {name for stage in load_recipe(recipe).stages.values() for name in stage.chain}
    code = "".join(inspect.getsource(REFINERS[name].build) for name in names)
    return {ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in re.findall(r"from (\S+) import", code)}


def files_to_open(key: str) -> set[Path]:
    """All that is one method's: its folder (the page, settings, formulas, refiner and what else lies there), the
    refiners that its recipe has and no host's, what uses its formulas, and what only these import; the recipe with all
    that it extends; and the refiner's contract and the loop."""
    folder = ROOT / "refine" / key
    own = {path for path in folder.iterdir() if path.suffix in (".py", ".md")} - {folder / "__init__.py"}
    own |= refiners(METHODS[key]) - set().union(*map(refiners, HOSTS))
    own |= {user for user in USERS[folder / "formulas.py"] if user.parent in (ROOT / "refine", ROOT / "stages")}
    while more := {file for file, users in USERS.items() if users <= own} - own:
        own |= more
    recipe = {ROOT / "recipes" / place for place, _ in read_files(METHODS[key])}
    return own | recipe | {ROOT / "refine/base.py", ROOT / "stages/self_training.py"}


@pytest.mark.parametrize("key", METHODS)
def test_who_reads_one_method_opens_at_most_eight_files(key):
    files = files_to_open(key)
    assert all(path.exists() for path in files)
    assert len(files) <= 8, sorted(str(path.relative_to(ROOT)) for path in files)


def test_what_lies_outside_of_a_methods_folder_is_counted():
    assert ROOT / "stages/target_guided.py" in files_to_open("entropy_mixture")
    assert ROOT / "refine/contrastive.py" in files_to_open("refinement_network")
    assert ROOT / "refine/self_labeling/bank.py" in files_to_open("self_labeling")


@pytest.mark.parametrize("key", [*METHODS, "prototypes"])
def test_a_methods_door_only_re_exports(key):
    body = parsed(ROOT / "refine" / key / "__init__.py").body
    docstring, *rest = body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom | ast.If | ast.Assign) for node in rest)


@pytest.mark.parametrize("name", METHODS.values())
def test_a_methods_recipe_stands_alone_and_is_as_the_others_where_they_say_the_same(name):
    """Each says the budget of two cores itself; what every stage and image set has there is that of ``source_only``."""
    ((_, own),), ((_, common),) = read_files(name), read_files("source_only")
    small, shared = own["scales"]["small"], common["scales"]["small"]
    assert {key: value for key, value in small.items() if key != "stages"} == {
        key: value for key, value in shared.items() if key != "stages"
    }
    assert small["stages"]["*"] == shared["stages"]["*"]
    assert small["stages"]["source"].items() >= shared["stages"]["source"].items()


@pytest.mark.parametrize("key", [*METHODS, "prototypes"])
def test_formulas_are_functions_on_tensors(key):
    """No modules, settings or refiners among them."""
    for node in parsed(ROOT / "refine" / key / "formulas.py").body:
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            assert not bases & {"nn.Module", "Refiner", "Settings", "RefinerSettings"}, node.name
