"""The house itself: rooms use only the rooms below them, and files stay short."""

import ast
from pathlib import Path

import segrefinery

ROOT = Path(segrefinery.__file__).parent
FLOORS = [
    {"core"},
    {"labels", "losses", "spectrum"},
    {"models", "data"},
    {"refine", "evaluation"},
    {"stages"},
    {"engine"},
    {"report", "export"},
    {"recipe"},
    {"verbs"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
APART = {("models", "data"), ("data", "models"), ("refine", "evaluation"), ("evaluation", "refine")}


def room_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_files_stay_short():
    long = {str(path): count for path in ROOT.rglob("*.py") if (count := len(path.read_text().splitlines())) > 400}
    assert not long
