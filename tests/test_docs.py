"""What the documentation says, loads: commands, recipes, settings, data set descriptions, examples and links."""

import ast
import copy
import csv
import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image

import segrefinery
from segrefinery.cli import app
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.folder import FolderSettings, read_labelmap
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.settings import TrainingSettings
from segrefinery.labels import LabelSpace
from segrefinery.models import NETWORKS, ModelSettings, build_model
from segrefinery.models.networks import PATTERNS
from segrefinery.recipe import Recipe, layers, load_recipe, read_recipe, recipe_names, recipe_or_mistakes
from segrefinery.refine import REFINERS, PseudoLabels, parse_chain
from segrefinery.stages import STAGES
from segrefinery.stages.overlay import assign
from toys import ToySegmenter, labeled, toy_teacher, toy_view

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
READMES = sorted((ROOT / "src" / "segrefinery").rglob("README.md"))
PAGES = [*READMES, *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), BENCHMARKS / "README.md"]
NOTES = sorted((BENCHMARKS / "results").rglob("*.md"))
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in METHODS.split("\n## ")[1:]}
SECTIONS |= {page.parent.name: page.read_text(encoding="utf-8") for page in READMES}
COMMANDS = typer.main.get_command(app).commands


def blocks(page, language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def identifiers(cases):
    return [str(case[0].relative_to(ROOT)) + " " + str(case[1])[:60] for case in cases]


# -- commands ----------------------------------------------------------------------------------------------------------


def command_lines():
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        lines = re.findall(r"^(?:    )?(?:torchrun .*? -m )?(segrefinery .*)$", text, flags=re.M)
        lines += [f"segrefinery {cell}" for cell in re.findall(r"^\| `([^`]+)` \|", text, flags=re.M)
                  if page == ROOT / "README.md" and cell.split()[0] in COMMANDS]  # fmt: skip
        found += [(page, line) for line in lines]
    return found


def words_of(line):
    """The words of a command; of a usage such as ``adapt -s SOURCE [--seed N]`` with every option given."""
    usage = re.sub(r"\s#.*$", "", line).replace("a.b=c", "name=changed")
    usage = re.sub(r"\[(?=[-@ A-Z])|(?<=[A-Za-z0-9])\](?= |$)|\.\.\.", "", usage)
    return shlex.split(usage.replace("--seed N", "--seed 1"))


@pytest.mark.parametrize(("page", "line"), command_lines(), ids=identifiers(command_lines()))
def test_a_command_parses_and_names_a_recipe_that_loads(page, line):
    words = words_of(line)
    name, *arguments = words[1:]
    assert name in COMMANDS
    with COMMANDS[name].make_context(name, arguments) as context:
        values = context.params
    recipe = values.get("recipe", values.get("name"))
    if recipe in (None, "RECIPE", "NAME"):
        return
    overrides = [change for change in values.get("overrides") or () if not change.startswith("name=")]
    load_recipe(recipe, values.get("scale"), overrides)


def test_the_targets_of_make_exist():
    known = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for page in PAGES:
        assert set(re.findall(r"^    make (\w+)", page.read_text(encoding="utf-8"), flags=re.M)) <= known


def test_the_python_of_the_readme_calls_what_exists():
    for code in blocks(ROOT / "README.md", "python"):
        for call in [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]:
            name = ast.unparse(call.func).removeprefix("segrefinery.")
            if name in segrefinery.__all__:
                keywords = {keyword.arg: None for keyword in call.keywords}
                inspect.signature(getattr(segrefinery, name)).bind(*call.args, **keywords)


# -- links -------------------------------------------------------------------------------------------------------------


def links():
    found = []
    for page in [*PAGES, *NOTES]:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        found += [(page, link) for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return found


@pytest.mark.parametrize(("page", "link"), links(), ids=identifiers(links()))
def test_a_link_leads_somewhere(page, link):
    path, _, anchor = link.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists()
    if anchor:
        titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.M)
        assert anchor in [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.parent.name)
def test_an_equation_of_a_method_leads_to_its_function(page):
    """What a README links as code is defined in the file that the link opens."""
    found = re.findall(r"\[`(\w+)`\]\(([^)\s]+\.py)\)", page.read_text(encoding="utf-8"))
    assert len(found) > 4
    for name, path in found:
        code = (page.parent / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:def|class) {name}\b", code, flags=re.M), f"{name} is not in {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_the_text_exist(page):
    for name in re.findall(r"`([a-z_]+(?:/[a-z_0-9]+)*\.py)`", page.read_text(encoding="utf-8")):
        assert any((root / name).exists() for root in (ROOT, ROOT / "src" / "segrefinery")), name


# -- benchmarks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *NOTES], ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_named_in_the_text_exist(page):
    for name in re.findall(r"benchmarks/[\w/]+\.(?:py|yaml|jsonl)", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists() or "STUDY" in name, name


def test_the_readme_lists_every_script_and_study():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    scripts = [path for room in ("studies", "cost", "trust", "robustness") for path in (BENCHMARKS / room).glob("*.py")]
    assert set(re.findall(r"`python ([^\s`]+)", text)) == {str(path.relative_to(ROOT)) for path in scripts}
    studies = re.search(r"^\| study \|.*?\n\n", text, flags=re.M | re.S)[0]
    assert set(re.findall(r"`(\w+)`", studies)) == {path.stem for path in (BENCHMARKS / "studies").glob("*.yaml")}


def test_the_page_of_benchmarks_is_short():
    assert len((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_tables_are_as_the_results_have_them(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS / "studies"), *sys.path])
    import into_docs

    pages = into_docs.pages()
    assert ROOT / "docs" / "benchmarks.md" in pages
    assert sum(len(into_docs.PLACE.findall(page.read_text(encoding="utf-8"))) for page in pages) > 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert into_docs.filled(text) == text, f"{page.name}: run benchmarks/studies/into_docs.py"


# -- data sets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", blocks(ROOT / "docs" / "data.md", "yaml"))
def test_a_described_data_set_opens(text, tmp_path, monkeypatch):
    monkeypatch.delenv("DEPOT_DATA", raising=False)
    (tmp_path / "dataset.yaml").write_text(text)
    settings = FolderSettings(**yaml.safe_load(text))
    if settings.labelmap:
        (text,) = blocks(ROOT / "docs" / "data.md", "text")
        (tmp_path / settings.labelmap).write_text(text)
    names = ["one", "two/three"]
    for name in names:
        image, mask = (tmp_path / pattern.replace("{name}", name) for pattern in (settings.images, settings.masks))
        image.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        if image.suffix == ".tif":
            tifffile = pytest.importorskip("tifffile")
            white = np.uint16(settings.range[1]) if settings.range else np.uint8(255)
            bands = np.full((max(settings.bands), 2, 6), white)
            tifffile.imwrite(image, bands, photometric="minisblack")
        else:
            Image.new("RGB", (6, 2), (255, 255, 255)).save(image)
        mask_of(settings, tmp_path).save(mask)
    for rule in settings.splits.values():
        file = tmp_path / rule.file
        file.parent.mkdir(parents=True, exist_ok=True)
        if rule.column is None:
            file.write_text("\n".join(names))
            continue
        values = rule.value if isinstance(rule.value, list) else [rule.value]
        with file.open("w", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(["number", rule.name or "name", rule.column])
            rows.writerows([i, name, value] for i, (name, value) in enumerate(zip(names, values, strict=True)))
    for split in ("", *(f"@{name}" for name in settings.splits)):
        dataset = open_dataset(f"folder:{tmp_path}{split}")
        assert [dataset.name(index) for index in range(len(dataset))] == names
        assert dataset.label(0).shape == (2, 6)
        assert dataset.image(0).min() == 255
        assert (dataset.label(0) != 255).any()
    assert not set(settings.merge) & set(dataset.space.classes)


def mask_of(settings, folder):
    """A mask 6 wide, 2 high, with every id or colour that its description declares."""
    if settings.labelmap or settings.classes is None:
        colors = list(read_labelmap(folder / settings.labelmap).values()) if settings.labelmap else []
        pixels = [*colors, *settings.ignore]
        mask = Image.new("RGB", (6, 2), pixels[0])
    else:
        pixels = [*settings.classes, *settings.ignore]
        mask = Image.new("L", (6, 2), pixels[0])
    for place, value in enumerate(pixels):
        mask.putpixel((place % 6, place // 6), value)
    return mask


def annotated():
    """The formats of annotations on the page: (title, text)."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    chapter = text.partition("\n## Annotations")[2].partition("\n## ")[0]
    return [part.partition("\n")[::2] for part in chapter.split("\n### ")[1:]]


@pytest.mark.parametrize(("title", "text"), annotated())
def test_annotations_are_read_as_the_page_says(title, text, tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    monkeypatch.setenv("SEGREFINERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, width, height in re.findall(r"`([\w/]+\.png)` of (\d+) x (\d+) pixels", text):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (int(width), int(height))).save(name)
    for name, content in re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", text, flags=re.M | re.S):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    reference, above, top, below, under = re.search(
        r"^`([^`]+)` has (\d+) pixels of `(\w+)` on (\d+) of `(\w+)`", text, flags=re.M
    ).groups()
    dataset = open_dataset(reference)
    counts = dataset.label(0).flatten().bincount().tolist()
    assert counts[dataset.space.id_of(top)] == int(above)
    assert counts[dataset.space.id_of(under)] == int(below)
    assert {title.partition(" ")[0].lower() for title, _ in annotated()} == {"coco", "labelme", "yolo", "label", "cvat"}


# -- recipes, refiners and networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", blocks(ROOT / "docs" / "recipes.md", "yaml"))
def test_a_recipe_of_the_page_loads_at_every_scale(text, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    for scale in (None, *read_recipe(file)[0]["scales"]):
        if scale != "small":  # the small network's options belong to the shipped recipe
            load_recipe(file, scale)


def test_the_tables_of_the_page_name_every_refiner_and_stage_setting():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| refiner \|.*\n((?:\|.*\n)+)", text, flags=re.M)
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == set(REFINERS)
    for kind, settings in re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", text, flags=re.M):
        if kind in STAGES:
            assert set(re.findall(r"`(\w+)`", settings)) <= set(STAGES[kind].model_fields)


def test_the_gpu_scales_are_as_the_table_says():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(gpu_\w+)` \| `(\w+)` \| (\d+) x (\d+) \| (\d+) \| (yes|no) \|$", text, flags=re.M)
    assert {row[0] for row in rows} == {name for name in read_recipe("dinov2")[0]["scales"] if name.startswith("gpu")}
    for scale, network, height, width, batch, checkpointing in rows:
        recipe = load_recipe("dinov2", scale)
        assert (recipe.model.name, recipe.data.crop, recipe.data.batch) == (
            network, (int(height), int(width)), int(batch)
        )  # fmt: skip
        assert recipe.model.options.get("checkpointing", False) == (checkpointing == "yes")


@pytest.fixture
def examples(monkeypatch):
    """The two Python examples, run; what they add to the tables is taken out again."""
    for table in (REFINERS, NETWORKS):
        for name in list(table):
            monkeypatch.setitem(table, name, table[name])
    before = dict(REFINERS), dict(NETWORKS)
    spaces = []
    for code in blocks(ROOT / "docs" / "recipes.md", "python"):
        spaces.append({})
        exec(compile(code, "recipes.md", "exec"), spaces[-1])
    yield spaces
    for table, old in zip((REFINERS, NETWORKS), before, strict=True):
        for name in set(table) - set(old):
            del table[name]


def test_the_example_of_a_refiner_refines(examples):
    (settings,) = parse_chain([{"neighbour_vote": {"window": 5}}]).values()
    refiner = settings.build(ToySegmenter(), LabelSpace.of("toy", ["a", "b", "c", "d", "e"]))
    view = toy_view()
    found = refiner(view, PseudoLabels.from_view(view))
    torch.testing.assert_close(found.probs.sum(dim=1), torch.ones_like(found.weight))
    assert found.probs.shape == view.logits.shape
    assert 0 < float(found.weight.min()) <= float(found.weight.max()) < 1
    refiner.fit(toy_teacher(), [labeled()], [])
    assert load_recipe("self_training", None, ["stages.adapt.refine.neighbour_vote.window=5"])


def test_the_example_of_a_network_segments(examples):
    network = build_model(ModelSettings(name="tiny", options={"width": 8}), 5)
    seen = network(torch.zeros(2, 3, 32, 48))
    assert seen.logits.shape == (2, 5, 8, 12)
    assert seen.features.shape[1] == network.feature_channels == 8


# -- methods -----------------------------------------------------------------------------------------------------------


def named_recipes(section):
    line = re.search(r"^Recipes?: (.*)$", section, flags=re.M)
    return re.findall(r"`(\w+)`", line[1]) if line else []


def test_every_recipe_has_its_section():
    named = {name for section in SECTIONS.values() for name in named_recipes(section)}
    assert named == set(recipe_names())


@pytest.fixture(scope="module")
def plain():
    """(name, scale) -> every shipped recipe as a mapping, and what it resolves to; read once."""
    found = {}
    for name in recipe_names():
        for scale in ("paper", "small"):
            *_, (_, raw) = layers(name, scale, (), {})
            found[name, scale] = raw, resolved(raw)
    return found


def resolved(raw):
    """All settings of a recipe, or in words what is wrong with it."""
    result = recipe_or_mistakes(copy.deepcopy(raw))
    return result.model_dump(mode="json") if isinstance(result, Recipe) else "; ".join(map(str, result))


def outcomes(switch, names, plain):
    """(recipe, scale) -> True if the switch changes it, False if not, or why it is not valid with it. Left out are
    recipes without the stage, or without the refiner that one setting is named of (it would be appended)."""
    found = {}
    path = switch.partition("=")[0].split(".")
    for (name, scale), (raw, before) in plain.items():
        if name not in names:
            continue
        if path[0] == "stages" and len(path) > 2:
            stage = before["stages"].get(path[1])
            if stage is None or (path[2] == "refine" and len(path) > 4 and path[3] not in stage.get("refine", {})):
                continue
        changed = copy.deepcopy(raw)
        try:
            assign(changed, switch)
            after = resolved(changed)
            found[name, scale] = after if isinstance(after, str) else after != before
        except SegRefineryError as error:
            found[name, scale] = str(error)
    return found


@pytest.mark.parametrize("title", SECTIONS)
def test_every_switch_of_a_section_can_be_set(title, plain):
    """Each changes one of the section's recipes at least, at scale paper or small, and leaves it valid."""
    section = SECTIONS[title]
    for switch in re.findall(r"`((?:stages|model|data|target_data|training|window)[.\w]*=[^`]+)`", section):
        found = outcomes(switch, named_recipes(section), plain)
        assert True in found.values(), f"{switch} changes no recipe: {found or 'none has this stage or refiner'}"


@pytest.mark.parametrize(
    ("switch", "name"),
    [
        ("stages.adapt.refine.refinement_network=false", "stack"),  # it has none
        ("stages.adapt.refine.masked_consistency.block=16", "daformer"),  # it would be appended
        ("stages.adapt.mixing=classmix", "self_training"),  # so it is
        ("stages.no_stage.steps=1", "stack"),
        ("stages.adapt.no_setting=1", "stack"),
    ],
)
def test_a_switch_without_effect_is_noticed(switch, name, plain):
    assert True not in outcomes(switch, [name], plain).values()


SETTINGS = importlib.util.spec_from_file_location("write_settings", ROOT / "docs" / "write_settings.py")


@pytest.fixture(scope="module")
def settings_page():
    module = importlib.util.module_from_spec(SETTINGS)
    SETTINGS.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_up_to_date(settings_page):
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.text(), "run `make settings`"


def test_the_page_has_every_setting_of_a_recipe(settings_page):
    """Whatever class of settings a recipe or a data set is made of has its table."""
    told = set(re.findall(r"^\| `(\w+)` \|", settings_page.text(), flags=re.M))
    kinds = [Recipe, DataSettings, TrainingSettings, FolderSettings, *STAGES.values(), *REFINERS.values()]
    kinds += [row.settings for row in NETWORKS.values()]
    assert {field.alias or key for kind in kinds for key, field in kind.model_fields.items()} <= told
    assert set(settings_page.PATTERNS) == set(PATTERNS)  # networks whose names go on


def test_every_setting_has_a_sentence_that_says_what_it_does(settings_page):
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*) \| \*\*(?:ours|paper|code|rebuilt)\*\* \|$", settings_page.text(), flags=re.M
    )
    assert len(rows) > 300
    wrong = [row for row in rows if not re.fullmatch(r"[A-Z][a-z]+s\b.*\.\)?", row[2])]
    assert not wrong
