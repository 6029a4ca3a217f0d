"""The measurement of the tree's structure, on a small tree whose figures can be counted by hand."""

import pytest

from benchmarks import structure

CARTS = """from shop.orders.models import Order


def _open():
    return Order()


def new():
    return _open()
"""
FILES = {
    "platform/core/errors.py": '"""Errors."""\n\n\nclass Failed(Exception):\n    pass\n',
    "shop/orders/models.py": "from core.errors import Failed\nfrom shop import carts\n\n\nclass Order:\n    pass\n",
    "shop/carts.py": CARTS,
    "shop/migrations/0001_initial.py": "class Order:\n    pass\n",
    "till/__main__.py": "import carts\nfrom core import errors\n",
    "till/carts.py": "import json\n\n\nclass Order:\n    pass\n",
    "tests/test_carts.py": "from shop import carts\n",
}


@pytest.fixture
def source(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return structure.Source(tmp_path)


def test_arrows_between_rooms_are_counted_by_import_lines(source):
    arrows = structure.arrows_in(source, "")
    assert arrows == {("shop", "platform"): 1, ("till", "platform"): 1}
    assert structure.floors(arrows) == 2
    assert structure.circles(arrows) == []


def test_a_circle_of_parts_is_found_with_its_arrow_back_up(source):
    arrows = structure.arrows_in(source, "shop")
    assert arrows == {("orders", "carts"): 1, ("carts", "orders"): 1}
    assert structure.circles(arrows) == [{"orders", "carts"}]
    assert len(structure.back_arrows(arrows)) == 1


def test_a_bare_import_in_a_program_means_the_module_beside_it(source):
    assert structure.arrows_in(source, "till") == {("__main__", "carts"): 1}


def test_of_all_orders_the_one_with_the_fewest_lines_back_up_is_taken():
    arrows = structure.Arrows({("a", "b"): 5, ("b", "c"): 4, ("c", "a"): 1, ("c", "d"): 2})
    assert structure.back_arrows(arrows) == {("c", "a"): 1}
    assert structure.floors(arrows) == 4


def test_names_that_stand_twice_are_listed_without_migrations(source):
    assert structure.repeated_classes(source) == ["Order"]
    assert structure.repeated_files(source) == ["carts"]


def test_functions_and_tested_modules_are_counted(source):
    assert structure.private_functions(source) == (1, 1)
    assert [structure.is_one_statement(node) for _module, node in structure.functions(source)] == [True, True]
    assert structure.modules_with_test(source) == (3, 2)  # errors, and carts twice
    assert structure.docstring_lines(source) == 1
